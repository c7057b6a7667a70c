"""Holds every artifact against the oracle: the same integers, or it fails and the first layer that differs is named."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.bundle.manifest import REFERENCE
from edge_mnist.bundle.reference import Reference, read_bundle
from edge_mnist.data.images import Images
from edge_mnist.export.proof.parity import ChangedImage, LayerSignal, ParityReport, VariantResult
from edge_mnist.export.proof.run_artifact import FLOAT_TOLERANCE, NOT_INSTALLED
from edge_mnist.formats.table import detect_format
from edge_mnist.graph.arithmetic import dequantize
from edge_mnist.graph.interpreter import Rounding, float_activations, quantized_activations, run_float, run_quantized
from edge_mnist.graph.operations import MaxPool2d
from edge_mnist.measure.significance import mcnemar_exact
from edge_mnist.runtime.tflite import import_micro_interpreter
from edge_mnist.system.child_processes import ChildProcess, describe_end, last_line, module_command
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import read_bytes

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class VerifyOptions:
    """How to verify.

    Attributes:
        max_drop: the largest accuracy drop from float to int8 allowed, in points.
        trust: open TorchScript archives although they were changed since the export.
        run_with: a command to start each artifact's process with, such as ("qemu-x86_64", "-cpu", "Haswell").
        jobs: artifacts that run at the same time.
        runtime: `runtime.MICRO` to run the TFLite artifacts in TensorFlow Lite Micro too, as variants of their own.
    """

    max_drop: float = 0.1
    trust: bool = False
    run_with: tuple[str, ...] = ()
    jobs: int = 2
    runtime: str = ""


def verify(folder: Path, images: Images, options: VerifyOptions | None = None) -> ParityReport:
    """Run every artifact of a bundle through its real runtime and hold it against the oracle.

    Args:
        folder: the bundle.
        images: to compare on, beside the bundle's golden images.
        options: how; None for the defaults.

    Raises:
        EdgeMnistError: the folder is no bundle, the images do not fit, or this machine's oracle does not reproduce the
            bundle's golden logits, or `options.runtime` is not installed or runs no artifact of the bundle.
    """
    options = options or VerifyOptions()
    start = time.perf_counter()
    manifest, reference = read_bundle(folder)
    runs = _runs(folder, manifest, options.runtime)
    _LOG.info("running the oracle on %s images", f"{len(reference.images) + len(images.pixels):,}")
    oracle = _Oracle(reference, images)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as pool:
        work = Path(scratch)
        stop = threading.Event()
        check = partial(_check, folder, work, oracle=oracle, options=options, stop=stop)
        started = threading.Barrier(options.jobs)
        try:
            # The pool does not wait for a thread that Ctrl-C finds half started, so none may have work by then.
            list(pool.map(lambda _: started.wait(), range(options.jobs)))
            np.save(work / "images.npy", oracle.images)
            variants = tuple(pool.map(lambda run: check(*run), runs))
        except BaseException:  # Ctrl-C included: the pool would wait for what still runs
            started.abort()
            stop.set()
            raise
    return _report(reference, images, oracle, variants, options.max_drop, start)


def _runs(folder: Path, manifest: dict[str, Any], runtime: str) -> list[tuple[str, dict[str, Any], str]]:
    """What to run: the name and the manifest's entry of an artifact, and the runtime, "" for its format's usual one."""
    runs = []
    for name, entry in manifest["files"].items():
        if "format" in entry:
            runs.append((name, entry, ""))
            if runtime and entry["format"] == "tflite":
                runs.append((name, entry, runtime))
    if runtime:
        import_micro_interpreter()
        if all(not chosen for *_, chosen in runs):
            raise EdgeMnistError(f"{folder}: holds no TFLite artifact, and {runtime} runs no other format")
    return runs


class _Oracle:
    """The oracle's logits over the golden images and the images after them."""

    def __init__(self, reference: Reference, images: Images) -> None:
        self.golden = len(reference.images)
        self.labels = images.labels
        pixels = images.pixels.reshape(len(images.pixels), *reference.images.shape[1:])
        self.images = np.concatenate([reference.images, pixels])
        self.float_logits = run_float(reference.float_graph, self.images)
        graph = reference.quantized_graph
        self.int8_logits: dict[str, NDArray[np.int8]] = {}
        self._graph = graph
        if graph is not None:
            self.int8_logits["float"] = run_quantized(graph, self.images)
            golden = self.int8_logits["float"][: self.golden]
            if reference.int8_logits is None or not np.array_equal(golden, reference.int8_logits):
                raise EdgeMnistError(
                    "the oracle does not reproduce the bundle's golden logits here: NumPy's float32 products are not "
                    "exact on this machine (check that its BLAS does not use reduced precision)"
                )

    def logits(self, precision: str, rounding: Rounding) -> NDArray[np.float32] | NDArray[np.int8]:
        """Logits of all images, (golden + N, classes)."""
        if precision == "float" or self._graph is None:
            return self.float_logits
        if rounding not in self.int8_logits:
            self.int8_logits[rounding] = run_quantized(self._graph, self.images, rounding)
        return self.int8_logits[rounding]

    def accuracy(self, logits: NDArray[Any]) -> float | None:
        """Share of the labels read right by logits of all images; None without labels."""
        if self.labels is None:
            return None
        return float((logits[self.golden :].argmax(axis=1) == self.labels).mean())


def _check(
    folder: Path,
    work: Path,
    name: str,
    entry: dict[str, Any],
    runtime: str,
    *,
    oracle: _Oracle,
    options: VerifyOptions,
    stop: threading.Event,
) -> VariantResult:
    """Run one artifact in one runtime and compare it; end its process when `stop` is set."""
    start = time.perf_counter()
    kind, precision = entry["format"], entry["precision"]
    title = f"{kind} {precision} ({runtime})" if runtime else f"{kind} {precision}"
    _LOG.info("running %s%s", name, f" in {runtime}" if runtime else "")
    blank = VariantResult(title, kind, precision, "", name, 0, "", None, None, 0, 0, None, "failed")
    try:
        data = read_bytes(folder / name)
    except EdgeMnistError as error:
        return replace(blank, reason=str(error))
    variant = replace(blank, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    changed = variant.sha256 != entry["sha256"]
    # Runs and comparisons see one and the same content, whatever happens to the file meanwhile.
    copy = work / runtime / name
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(data)
    found = detect_format(data)
    if found is None or found.name != kind:
        return replace(variant, reason=f"changed since the export: it holds {len(data):,} bytes that are not {kind}")
    if changed and runtime:
        return replace(variant, status="not run", reason="changed since the export, see the other runtime")
    if changed:
        layer, difference = _locate(copy, folder, precision, "", options, stop)
        return replace(variant, layer=layer, reason=f"changed since the export{_described(difference)}")
    outputs_file = copy.with_name(f"{name}.npy")
    run = module_command("edge_mnist.export.proof.run_artifact", copy, work / "images.npy", outputs_file, runtime)
    status, output, errors = _run(name, run, options, stop)
    variant = replace(variant, seconds=time.perf_counter() - start)
    if status:
        reason = last_line(errors, describe_end(status))
        return replace(variant, status="not run" if status == NOT_INSTALLED else "failed", reason=reason)
    told = _last_object(output)
    _LOG.debug("%s ran in %s in %.1f s", name, told["runtime"], variant.seconds)
    outputs = np.load(outputs_file)
    expected = oracle.logits(precision, told["rounding"])
    variant = replace(variant, runtime=told["runtime"], **_compare(outputs, expected, oracle))
    if not told["same_alone"]:
        return replace(variant, status="failed", reason="one image at a time gives other logits than many")
    if variant.status == "failed":
        layer, difference = _locate(copy, folder, precision, runtime, replace(options, trust=True), stop)
        return replace(variant, layer=layer, reason=f"logits differ{_described(difference)}")
    if told["rounding"] != "float" and precision == "int8":
        apart = np.abs(outputs.astype(np.int16) - oracle.logits(precision, "float"))
        note = f"requantizes in fixed point, as the oracle's mode {told['rounding']!r}; from the others' logits "
        return replace(variant, reason=f"{note}{np.count_nonzero(apart)} differ, by at most {apart.max()}")
    return variant


def _compare(outputs: NDArray[Any], expected: NDArray[Any], oracle: _Oracle) -> dict[str, Any]:
    """The fields of a VariantResult that come of comparing logits of all images."""
    if outputs.shape != expected.shape or outputs.dtype != expected.dtype:
        return {"logits_compared": 0, "status": "failed"}
    error = np.abs(outputs.astype(np.float64) - expected)
    limit = 0.0 if expected.dtype == np.int8 else FLOAT_TOLERANCE
    differing = int((~(error <= limit)).sum())  # NaN counts
    same_class = outputs.argmax(axis=1) == expected.argmax(axis=1)
    return {
        "accuracy": oracle.accuracy(outputs),
        "agreement": float(same_class.mean()),
        "logits_compared": outputs.size,
        "logits_differing": differing,
        "max_abs_difference": float(error.max()),
        "status": "failed" if differing or not same_class.all() else "passed",
    }


def _locate(
    artifact: Path, folder: Path, precision: str, runtime: str, options: VerifyOptions, stop: threading.Event
) -> tuple[str | None, str]:
    """The first layer of an artifact that differs, found in a process of its own."""
    trust = "trust" if options.trust else "distrust"
    arguments = (artifact, folder / REFERENCE, precision, trust, runtime)
    command = module_command("edge_mnist.export.proof.localize", *arguments)
    status, output, errors = _run(artifact.name, command, options, stop)
    if status:
        return None, f"it cannot be run: {last_line(errors)}"
    told = _last_object(output)
    return told["layer"], told["difference"]


def _run(name: str, command: list[str], options: VerifyOptions, stop: threading.Event) -> tuple[int, bytes, bytes]:
    """Run a command in a process of its own; return its exit status and what it wrote to stdout and to stderr."""
    pipe = subprocess.PIPE
    with ChildProcess(name, [*options.run_with, *command], stdout=pipe, stderr=pipe) as process:
        output, errors = process.finish(stop)
    return process.returncode, output, errors


def _last_object(output: bytes) -> dict[str, Any]:
    """Parse the JSON object that a process printed last."""
    try:
        parsed: dict[str, Any] = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise EdgeMnistError(
            "an artifact's process ended well but told nothing: --run-with expects a command that runs its arguments"
        ) from error
    return parsed


def _described(difference: str) -> str:
    """What is known of a difference, to follow a clause."""
    return f": {difference}" if difference else ""


def _report(
    reference: Reference,
    images: Images,
    oracle: _Oracle,
    variants: tuple[VariantResult, ...],
    max_drop: float,
    start: float,
) -> ParityReport:
    """Join what was found; hold float against int8."""
    int8 = oracle.int8_logits.get("float")
    float_only = int8_only = 0
    p_value = None
    changed: tuple[ChangedImage, ...] = ()
    if int8 is not None:
        before, after = (logits[oracle.golden :].argmax(axis=1) for logits in (oracle.float_logits, int8))
        labels = images.labels
        if labels is not None:
            float_only = int(((before == labels) & (after != labels)).sum())
            int8_only = int(((before != labels) & (after == labels)).sum())
            p_value = mcnemar_exact(float_only, int8_only)
        pixels = oracle.images[oracle.golden :, 0]
        changed = tuple(
            ChangedImage(int(i), pixels[i], None if labels is None else int(labels[i]), int(before[i]), int(after[i]))
            for i in np.flatnonzero(before != after)
        )
    return ParityReport(
        images.name,
        len(images.pixels),
        oracle.golden,
        variants,
        oracle.accuracy(oracle.float_logits),
        None if int8 is None else oracle.accuracy(int8),
        reference.recorded_accuracy,
        float_only,
        int8_only,
        p_value,
        max_drop,
        changed,
        _signals(reference),
        time.perf_counter() - start,
    )


def _signals(reference: Reference) -> tuple[LayerSignal, ...]:
    """Signal and noise of each convolution's output over the golden images."""
    graph = reference.quantized_graph
    if graph is None:
        return ()
    reports = {layer.name: layer for layer in reference.layers}
    steps = zip(
        graph.operations,
        graph.shapes()[1:],
        islice(float_activations(reference.float_graph, reference.images), 1, None),
        islice(quantized_activations(graph, reference.images), 1, None),
        strict=True,
    )
    signals = []
    for operation, shape, real, integers in steps:
        if isinstance(operation, MaxPool2d):
            continue
        noise = dequantize(integers, operation.output.scale, operation.output.zero_point) - real
        power, error = float((real.astype(np.float64) ** 2).mean()), float((noise**2).mean())
        layer = reports[operation.name]
        signals.append(
            LayerSignal(
                operation.name,
                shape,
                layer.scale,
                layer.zero_point,
                10 * math.log10(power / error) if power and error else math.inf,
                layer.shift_before,
                layer.shift_after,
                layer.clipped,
            )
        )
    return tuple(signals)
