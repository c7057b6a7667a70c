"""Verifies a bundle: compares every artifact with the oracle, and names the first layer that differs."""

from __future__ import annotations

import json
import logging
import math
import reprlib
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.bundle.manifest import REFERENCE
from edge_mnist.bundle.reference import Reference, read_bundle
from edge_mnist.data.images import Images
from edge_mnist.export.proof.parity import (
    ChangedImage,
    LayerSignal,
    LayerWeights,
    ParityReport,
    VariantResult,
    WeightRounding,
)
from edge_mnist.export.proof.run_artifact import NOT_INSTALLED, compute_tolerance
from edge_mnist.formats.table import Format, detect_format, read_contract
from edge_mnist.graph.arithmetic import dequantize
from edge_mnist.graph.interpreter import (
    Rounding,
    float_activations,
    quantized_activations,
    run_float,
    run_quantized,
    split_batches,
)
from edge_mnist.graph.operations import (
    Conv2d,
    FloatGraph,
    Quantization,
    QuantizedConv2d,
    QuantizedGraph,
    arrange_inputs,
)
from edge_mnist.measure.significance import mcnemar_exact
from edge_mnist.runtime import MICRO, OTHER_RUNTIMES, SCALAR
from edge_mnist.runtime.tflite import import_micro_interpreter
from edge_mnist.system import progress
from edge_mnist.system.child_processes import ChildProcess, describe_end, last_line, module_command
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import read_bytes
from edge_mnist.system.hashes import sha256

_LOG = logging.getLogger(__name__)

_STRETCH = 12
"""The length in integer steps of the stretch of the number line that the report shows."""

_MEASURED = 64
"""The number of inputs over which the effect of quantization on each layer is measured."""

_MAX_DROP = 0.1
"""The largest accuracy drop in percentage points that is allowed where many images are compared."""

_CHANCE = 4
"""The number of images whose loss proves nothing: if int8 is as accurate as float, each image that only one of them
reads right is a fair coin's throw, and four throws of one side have a probability of 1/16, five of 1/32."""


@dataclass(frozen=True)
class VerifyOptions:
    """How a bundle is verified.

    Attributes:
        max_drop: the largest accuracy drop from float to int8 that is allowed, in percentage points; None for that of
            `choose_max_drop`.
        trust: run the code that an artifact carries even if the artifact was changed since the export.
        run_with: a command that runs its arguments, with which each artifact's process is started, such as
            ("qemu-x86_64", "-cpu", "Haswell").
        jobs: the number of artifacts that run at the same time.
        runtime: `runtime.MICRO` to run the TFLite artifacts in TensorFlow Lite Micro too, as additional variants.
    """

    max_drop: float | None = None
    trust: bool = False
    run_with: tuple[str, ...] = ()
    jobs: int = 2
    runtime: str = ""


def choose_max_drop(images: int) -> float:
    """Choose the largest accuracy drop that is allowed for a number of images, in percentage points.

    It is 0.1, or 4 images where that is more, which is below 4,000 images.
    """
    return max(_MAX_DROP, round(100 * _CHANCE / max(images, _CHANCE), 9))  # rounded as `accuracy_drop` is


def verify(folder: Path, images: Images, options: VerifyOptions | None = None) -> ParityReport:
    """Run every artifact of a bundle in its own runtime and compare it with the oracle.

    Args:
        folder: the bundle.
        images: the inputs on which they are compared, in addition to the bundle's golden inputs.
        options: how the bundle is verified; None for the defaults.

    Raises:
        EdgeMnistError: the folder is not a bundle, the inputs do not have the network's shape, the oracle does not
            reproduce the bundle's golden logits on this machine, or `options.runtime` is not installed or runs no
            artifact of the bundle.
    """
    options = options or VerifyOptions()
    start = time.perf_counter()
    manifest, reference = read_bundle(folder)
    runs = _list_runs(folder, manifest, options.runtime)
    oracle = _Oracle(reference, images)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as pool:
        context = _Context(folder, manifest["files"], reference, Path(scratch), oracle, options, threading.Event())
        started = threading.Barrier(options.jobs)
        try:
            # The pool does not wait for a thread that Ctrl-C interrupts while it starts: none may have work yet.
            list(pool.map(lambda _: started.wait(), range(options.jobs)))
            np.save(context.scratch / "images.npy", oracle.images)
            variants = tuple(pool.map(lambda run: _check_artifact(context, *run), runs))
        except (
            BaseException
        ):  # KeyboardInterrupt included: without an end of the processes, the pool would wait for them
            started.abort()
            context.stop.set()
            raise
    return _make_report(reference, images, oracle, variants, options.max_drop, start)


def _list_runs(folder: Path, manifest: dict[str, Any], runtime: str) -> list[tuple[str, dict[str, Any], str]]:
    """List what is run: the name of an artifact, its entry in the manifest, and its runtime ("" for the usual one)."""
    others = [SCALAR, *filter(None, [runtime])]
    runs = []
    for name, entry in manifest["files"].items():
        if "format" in entry:
            runs += [(name, entry, ""), *((name, entry, o) for o in others if OTHER_RUNTIMES[o][0] == entry["format"])]
    if runtime:
        import_micro_interpreter()
        if all(chosen != MICRO for *_, chosen in runs):
            raise EdgeMnistError(f"{folder}: holds no TFLite artifact, and {runtime} runs no other format")
    return runs


class _Oracle:
    """The oracle's logits of the golden inputs and of the other inputs, which follow them.

    Attributes:
        golden: the number of golden inputs.
        labels: int64 (N,), the labels of the other inputs; None if they have none.
        has_classes: whether the outputs are classes.
        images: uint8 pixels or float32 features (golden + N, *input_shape).
        float_logits: float32 (golden + N, outputs).
        int8_logits: int8 (golden + N, outputs) by the rounding; empty without an int8 graph.
    """

    def __init__(self, reference: Reference, images: Images) -> None:
        self.golden = len(reference.images)
        self.labels = images.labels
        self.has_classes = _gives_classes(reference.float_graph, images)
        shape = reference.float_graph.input_shape
        pixels = arrange_inputs(images.pixels, shape, is_pixels=reference.float_graph.is_pixels)
        self.images = np.concatenate([reference.images, pixels])
        report = progress.count_images("running the oracle in float", len(self.images))
        with np.errstate(over="ignore", invalid="ignore"):
            self.float_logits = run_float(reference.float_graph, self.images, report)
        if overflowing := int((~np.isfinite(self.float_logits).all(axis=1)).sum()):
            raise EdgeMnistError(
                f"{images.name}: for {overflowing:,} of {len(self.images):,} inputs, the float network's outputs are "
                "not finite, and cannot be compared: leave these inputs out"
            )
        golden_logits = self.float_logits[: self.golden]
        if not (np.abs(golden_logits - reference.float_logits) <= compute_tolerance(golden_logits)).all():
            raise EdgeMnistError(
                "the float network of the bundle does not give the bundle's golden logits: its reference was changed, "
                "or NumPy computes wrongly on this machine; export again"
            )
        graph = reference.quantized_graph
        self.int8_logits: dict[str, NDArray[np.int8]] = {}
        self._graph = graph
        if graph is not None:
            report = progress.count_images("running the oracle in int8", len(self.images))
            self.int8_logits["float"] = run_quantized(graph, self.images, report=report)
            golden = self.int8_logits["float"][: self.golden]
            if reference.int8_logits is None or not np.array_equal(golden, reference.int8_logits):
                raise EdgeMnistError(
                    "the oracle does not reproduce the bundle's golden logits here: its reference was changed, or "
                    "NumPy's float32 products are not exact on this machine (check that its BLAS does not use reduced "
                    "precision)"
                )

    def compute_logits(self, precision: str, rounding: Rounding) -> NDArray[np.float32] | NDArray[np.int8]:
        """Compute the logits of all images, float32 or int8 (golden + N, classes)."""
        if precision == "float" or self._graph is None:
            return self.float_logits
        if rounding not in self.int8_logits:
            self.int8_logits[rounding] = run_quantized(self._graph, self.images, rounding)
        return self.int8_logits[rounding]

    def measure_accuracy(self, logits: NDArray[Any]) -> float | None:
        """Measure the accuracy 0..1 of logits of all images, (golden + N, classes); None without labels."""
        if self.labels is None:
            return None
        return float((logits[self.golden :].argmax(axis=1) == self.labels).mean())


def _gives_classes(graph: FloatGraph, images: Images) -> bool:
    """Whether the outputs of a network are classes.

    Without labels, they are taken for classes unless they are maps, a single value, or as many values as the input has,
    which an autoencoder gives.

    Raises:
        EdgeMnistError: the labels are not those of the network's outputs.
    """
    outputs, *size = graph.shapes()[-1]
    if images.labels is None:
        return size == [1, 1] and outputs not in (1, math.prod(graph.input_shape))
    if size != [1, 1]:
        raise EdgeMnistError(
            f"{images.name}: has labels, but the network gives maps of {outputs}x{size[0]}x{size[1]} rather than one "
            "value for each class: give the inputs without labels"
        )
    if len(images.labels) and not 0 <= images.labels.min() <= images.labels.max() < outputs:
        raise EdgeMnistError(
            f"{images.name}: has labels {images.labels.min()} to {images.labels.max()}, but the network gives "
            f"{outputs} values, for the classes 0 to {outputs - 1}"
        )
    return True


@dataclass(frozen=True)
class _Context:
    """What the checks of all artifacts share.

    Attributes:
        folder: the bundle.
        files: the entries of its files in the manifest, by name.
        reference: the graphs.
        scratch: a temporary folder, which contains images.npy.
        oracle: what the artifacts are compared with.
        options: how the bundle is verified.
        stop: is set to end the processes of all artifacts.
    """

    folder: Path
    files: dict[str, Any]
    reference: Reference
    scratch: Path
    oracle: _Oracle
    options: VerifyOptions
    stop: threading.Event


def _check_artifact(context: _Context, name: str, entry: dict[str, Any], runtime: str) -> VariantResult:
    """Run one artifact in one runtime and compare it with the oracle."""
    start = time.perf_counter()
    kind, precision = entry["format"], entry["precision"]
    title = f"{kind} {precision} ({runtime})" if runtime else f"{kind} {precision}"
    _LOG.info("running %s%s", name, f" in {runtime}" if runtime else "")
    variant = VariantResult(title, kind, precision, "", name, 0, "", None, None, 0, 0, None, "failed")
    path = context.folder / name
    if path.exists() and not (path.is_file() or path.is_dir()):  # nobody may write to a pipe
        return replace(variant, reason=f"{path}: is a device, a pipe or a socket, expected a file")
    try:
        data = read_bytes(path)
    except EdgeMnistError as error:
        return replace(variant, reason=str(error))
    variant = replace(variant, bytes=len(data), sha256=sha256(data))
    # All processes get the same content, even if the file changes meanwhile.
    copy = context.scratch / runtime / name
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(data)
    detected = detect_format(data)
    if detected is None or detected.name != kind:
        return replace(variant, reason=f"changed since the export: it holds {len(data):,} bytes that are not {kind}")
    if variant.sha256 != entry["sha256"]:
        if runtime:
            return replace(variant, status="not run", reason="changed since the export, see the other runtime")
        layer, difference = _locate(context, copy, precision, "", trust=context.options.trust)
        return replace(variant, layer=layer, reason=": ".join(filter(None, ["changed since the export", difference])))
    if difference := _describe_differing_entry(context, data, entry, detected):
        return replace(variant, reason=difference)
    outputs_file = copy.with_name(f"{name}.npy")
    command = module_command(
        "edge_mnist.export.proof.run_artifact", copy, context.scratch / "images.npy", outputs_file, runtime
    )
    status, output, errors = _run_process(context, name, command)
    variant = replace(variant, seconds=time.perf_counter() - start)
    if status:
        reason = last_line(errors, describe_end(status))
        return replace(variant, status="not run" if status == NOT_INSTALLED else "failed", reason=reason)
    result = _parse_result(output)
    _LOG.debug("%s ran in %s in %.1f s", name, result["runtime"], variant.seconds)
    outputs, oracle = np.load(outputs_file), context.oracle
    expected = oracle.compute_logits(precision, result["rounding"])
    variant = replace(variant, runtime=result["runtime"], **_compare(outputs, expected, oracle))
    if not result["single_equals_batch"]:
        return replace(variant, status="failed", reason="single images give other logits than batches of them")
    if variant.status == "failed":
        layer, difference = _locate(context, copy, precision, runtime, trust=True)  # it is what the export wrote
        return replace(variant, layer=layer, reason=": ".join(filter(None, ["logits differ", difference])))
    if entry["bytes"] != len(data):
        reason = f"the manifest states {entry['bytes']:,} bytes, found {len(data):,}: export again"
        return replace(variant, status="failed", reason=reason)
    if result["rounding"] != "float" and precision == "int8":
        distances = np.abs(outputs.astype(np.int16) - oracle.compute_logits(precision, "float"))
        note = f"requantizes in fixed point, as the oracle's mode {result['rounding']!r}; from the others' logits "
        return replace(variant, reason=f"{note}{np.count_nonzero(distances):,} differ, by at most {distances.max()}")
    return variant


def _describe_differing_entry(context: _Context, data: bytes, entry: dict[str, Any], kind: Format) -> str:
    """Describe where an artifact's contract, its entry in the manifest or its companion is not what an export writes.

    Args:
        context: what the checks of all artifacts share.
        data: the content of the artifact, whose hash is that of the manifest.
        entry: its entry in the manifest.
        kind: its format.

    Returns:
        The difference, or "" if there is none.
    """
    reference = context.reference
    graph = reference.float_graph if entry["precision"] == "float" else reference.quantized_graph
    if graph is None:
        return "the bundle's reference holds no int8 network"
    expected = json.loads(kind.make_contract(graph).to_json())
    try:
        found = json.loads(read_contract(data, "it").to_json())
    except EdgeMnistError as error:
        return str(error)
    for where, fields in (("its contract", found), ("the manifest", entry.get("contract", expected))):
        for name in expected.keys() | (fields.keys() if isinstance(fields, dict) else ()):
            stated = fields.get(name) if isinstance(fields, dict) else fields
            if stated != expected.get(name):
                return f"{where} states {name} {reprlib.repr(stated)}, expected {expected.get(name)}: export again"
    companion = kind.companion_name
    if companion in context.files:
        path = context.folder / companion
        if not path.is_file() or sha256(read_bytes(path)) != context.files[companion]["sha256"]:
            return f"{companion}, which belongs to it, is missing or changed since the export"
    return ""


def _compare(outputs: NDArray[Any], expected: NDArray[Any], oracle: _Oracle) -> dict[str, Any]:
    """Compare logits of all inputs with the oracle's, and return the fields of a `VariantResult` that result."""
    if outputs.shape != expected.shape or outputs.dtype != expected.dtype:
        return {"logits_compared": 0, "status": "failed"}
    error = np.abs(outputs.astype(np.float64) - expected)  # (golden + N, outputs)
    limit = compute_tolerance(expected)
    differing = int((~(error <= limit)).sum())  # NaN counts as a difference
    # The oracle's logit of the class that is predicted, against its largest; both artifacts' logits may be off.
    rows = np.arange(len(outputs))
    behind = expected.max(axis=1).astype(np.float64) - expected[rows, outputs.argmax(axis=1)]
    same_class = outputs.argmax(axis=1) == expected.argmax(axis=1)
    same_class |= (behind <= 2 * limit[:, 0]) & (limit[:, 0] > 0)
    return {
        "accuracy": oracle.measure_accuracy(outputs),
        "agreement": float(same_class.mean()) if oracle.has_classes else None,
        "logits_compared": outputs.size,
        "logits_differing": differing,
        "max_abs_difference": float(error.max()),
        "status": "failed" if differing else "passed",
    }


def _locate(context: _Context, artifact: Path, precision: str, runtime: str, *, trust: bool) -> tuple[str | None, str]:
    """Find the first layer of an artifact that differs, in a process of its own; return it and what differs."""
    arguments = (artifact, context.folder / REFERENCE, precision, "trust" if trust else "distrust", runtime)
    command = module_command("edge_mnist.export.proof.localize", *arguments)
    status, output, errors = _run_process(context, artifact.name, command)
    if status:
        return None, f"it cannot be run: {last_line(errors, describe_end(status))}"
    result = _parse_result(output)
    return result["layer"], result["difference"]


def _run_process(context: _Context, name: str, command: list[str]) -> tuple[int, bytes, bytes]:
    """Run a command in a process of its own; return its exit status and what it wrote to stdout and to stderr."""
    pipe = subprocess.PIPE
    # A session, because a compiler that the process has started must end with it.
    started = ChildProcess(
        name, [*context.options.run_with, *command], stdout=pipe, stderr=pipe, start_new_session=True
    )
    with started as process:
        output, errors = process.finish(context.stop)
    return process.returncode, output, errors


def _parse_result(output: bytes) -> dict[str, Any]:
    """Parse the JSON object that a process printed last."""
    try:
        result: dict[str, Any] = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise EdgeMnistError(
            "an artifact's process ended without an error but printed no result: --run-with expects a command that "
            "runs its arguments"
        ) from error
    return result


def _make_report(
    reference: Reference,
    images: Images,
    oracle: _Oracle,
    variants: tuple[VariantResult, ...],
    max_drop: float | None,
    start: float,
) -> ParityReport:
    """Compare int8 with float, and join all results in a report."""
    int8 = oracle.int8_logits.get("float")
    float_only = int8_only = 0
    p_value = snr_db = None
    changed: tuple[ChangedImage, ...] = ()
    if int8 is not None and not oracle.has_classes and reference.quantized_graph is not None:
        output = reference.quantized_graph.quantizations()[-1]
        snr_db = _to_decibels(*_measure_noise(oracle.float_logits[oracle.golden :], int8[oracle.golden :], output))
    elif int8 is not None:
        before, after = (logits[oracle.golden :].argmax(axis=1) for logits in (oracle.float_logits, int8))
        labels = images.labels
        if labels is not None:
            float_only = int(((before == labels) & (after != labels)).sum())
            int8_only = int(((before != labels) & (after == labels)).sum())
            p_value = mcnemar_exact(float_only, int8_only)
        changed = tuple(
            ChangedImage(
                int(i),
                _to_picture(oracle.images[oracle.golden + i]),
                None if labels is None else int(labels[i]),
                int(before[i]),
                int(after[i]),
            )
            for i in np.flatnonzero(before != after)
        )
    return ParityReport(
        images.name,
        len(images.pixels),
        oracle.golden,
        variants,
        oracle.measure_accuracy(oracle.float_logits),
        None if int8 is None else oracle.measure_accuracy(int8),
        reference.recorded_accuracy,
        float_only,
        int8_only,
        p_value,
        choose_max_drop(len(images.pixels)) if max_drop is None else max_drop,
        changed,
        _measure_layers(reference, oracle.images[oracle.golden :][:_MEASURED]),
        time.perf_counter() - start,
        is_pixels=reference.float_graph.is_pixels,
        has_classes=oracle.has_classes,
        output_snr_db=snr_db,
        weights=_list_weights(reference.quantized_graph),
        rounding=_choose_rounding(reference),
    )


def _list_weights(graph: QuantizedGraph | None) -> tuple[LayerWeights, ...]:
    """List the int8 weights of each convolution."""
    operations = () if graph is None else graph.operations
    return tuple(LayerWeights(o.name, o.weight.reshape(-1)) for o in operations if isinstance(o, QuantizedConv2d))


def _choose_rounding(reference: Reference) -> WeightRounding | None:
    """Choose an example of rounding: a stretch of the number line on which about nine weights of one channel are.

    It is in the first channel of the first layer that has at least 30 weights in a channel.
    """
    real = {o.name: o for o in reference.float_graph.operations if isinstance(o, Conv2d)}
    for operation in reference.quantized_graph.operations if reference.quantized_graph else ():
        if not isinstance(operation, QuantizedConv2d) or operation.weight[0].size < 30 or operation.name not in real:
            continue
        scale = float(operation.weight_scale[0])
        steps = real[operation.name].weight[0].reshape(-1).astype(np.float64) / scale
        integers = operation.weight[0].reshape(-1).astype(int)
        starts = range(integers.min(), max(integers.max() - _STRETCH, integers.min()) + 1)
        counts = [int(((integers >= start) & (integers <= start + _STRETCH)).sum()) for start in starts]
        first = min(zip(starts, counts, strict=True), key=lambda pair: (not pair[1], abs(pair[1] - 9), abs(pair[0])))[0]
        shown = (integers >= first) & (integers <= first + _STRETCH)
        pairs = zip(steps[shown].tolist(), integers[shown].tolist(), strict=True)
        return WeightRounding(operation.name, 0, scale, first, first + _STRETCH, tuple(pairs))
    return None


def _to_picture(values: NDArray[np.generic]) -> NDArray[np.uint8] | None:
    """An input as a picture: (height, width) of its first channel, or (height, width, 3) of three.

    Args:
        values: uint8 pixels or float32 features, of the network's input shape.

    Returns:
        The picture, or None if the input is not an image of pixels.
    """
    if values.dtype != np.uint8 or values.ndim != 3:
        return None
    return np.asarray(values.transpose(1, 2, 0) if len(values) == 3 else values[0], np.uint8)


def _measure_layers(reference: Reference, images: NDArray[np.generic]) -> tuple[LayerSignal, ...]:
    """Measure what quantization did to the output of each layer that computes new values.

    Args:
        reference: the graphs.
        images: uint8 pixels or float32 features (N, *input_shape), over which it is measured.
    """
    graph = reference.quantized_graph
    if graph is None:
        return ()
    totals = [np.zeros(2) for _ in graph.operations]
    for inputs in split_batches(images):
        steps = zip(
            totals,
            graph.operations,
            islice(float_activations(reference.float_graph, inputs), 1, None),
            islice(quantized_activations(graph, inputs), 1, None),
            strict=True,
        )
        for total, operation, real, integers in steps:
            output = getattr(operation, "output", None)
            if output is not None:
                total += _measure_noise(real, integers, output)
    reports = {layer.name: layer for layer in reference.layers}
    signals = []
    for operation, shape, total in zip(graph.operations, graph.shapes()[1:], totals, strict=True):
        layer = reports.get(operation.name)
        if layer is None:  # a max pool, or another operation that computes nothing
            continue
        has_weights = isinstance(operation, QuantizedConv2d)
        signals.append(
            LayerSignal(
                operation.name,
                shape,
                layer.scale,
                layer.zero_point,
                _to_decibels(*total),
                layer.shift_before if has_weights else None,
                layer.shift_after if has_weights else None,
                layer.clipped,
            )
        )
    return tuple(signals)


def _measure_noise(real: NDArray[np.float32], integers: NDArray[np.int8], output: Quantization) -> tuple[float, float]:
    """The sums of the squares of float values, and of the error of the int8 values that represent them."""
    noise = dequantize(integers, output.scale, output.zero_point) - real
    return float((real.astype(np.float64) ** 2).sum()), float((noise**2).sum())


def _to_decibels(power: float, error: float) -> float:
    """The ratio of a power to an error's, in decibels; infinite where one of them is 0."""
    return 10 * math.log10(power / error) if power and error else math.inf
