"""The stages joined: what the commands do, as functions.

Nothing here prints, exits or handles signals. Mistakes and failures are raised as `EdgeMnistError`. Progress is logged
to the logger "edge_mnist", which is silent unless the caller configures logging.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_mnist import __version__
from edge_mnist.bundle.manifest import FILE_NAMES, MANIFEST, REPORT, is_listed, read_manifest
from edge_mnist.bundle.reference import Reference, make_reference, read_bundle
from edge_mnist.data import mnist
from edge_mnist.data.images import Images, load_test_images, refuse_source
from edge_mnist.data.inputs import MNIST_SHAPE, InputOptions
from edge_mnist.data.user_inputs import open_inputs
from edge_mnist.export import bundle_writer, check_writers
from edge_mnist.export.proof import verification
from edge_mnist.export.proof.parity import ParityReport
from edge_mnist.export.proof.verification import VerifyOptions
from edge_mnist.exportable import (
    Model,
    StrPath,
    calibrate,
    describe_origin,
    limit_inputs,
    load_checkpoint,
    load_network,
)
from edge_mnist.formats.table import Format, choose_formats
from edge_mnist.graph import checkpoint
from edge_mnist.graph.checkpoint import Checkpoint
from edge_mnist.graph.folding import fold
from edge_mnist.graph.layers import Shape
from edge_mnist.graph.quantization import WEIGHT_RANGES, LayerReport, Method, quantize_graph
from edge_mnist.graph.tensor_file import is_safetensors
from edge_mnist.measure import evaluation
from edge_mnist.measure.evaluation import Evaluation
from edge_mnist.pretrained import SHIPPED, SHIPPED_INT8
from edge_mnist.runtime import Classifier, check_origin, check_runtime, load_bytes
from edge_mnist.system import progress
from edge_mnist.system.errors import (
    EdgeMnistError,
    NotInstalledError,
    UsageError,
    check_package,
    explain_missing_packages,
)
from edge_mnist.system.files import check_folder, lock, parse_json, read_bytes, write_whole

if TYPE_CHECKING:
    from edge_mnist.training.loop import SignalCollector

_LOG = logging.getLogger(__name__)

_COMPARED = 10_000
"""The number of inputs on which artifacts are compared, unless the user names one: that of MNIST's test images."""


@dataclass(frozen=True)
class Artifact:
    """An artifact that an export wrote.

    Attributes:
        path: the file.
        format: "torchscript", "onnx", "tflite", "c" or "wasm".
        precision: "float" or "int8".
        bytes: the size of the file.
        sha256: the SHA-256 of its content, hexadecimal.
    """

    path: Path
    format: str
    precision: str
    bytes: int
    sha256: str


@dataclass(frozen=True, eq=False)
class ExportResult:
    """What an export wrote.

    Attributes:
        folder: the folder, which holds manifest.json and reference.safetensors too.
        artifacts: the artifacts in the order of the formats, float before int8.
        replaced: the names of the files of an earlier export that this one wrote anew.
        removed: the names of the files of an earlier export that this one does not have and has removed.
        parity: how every artifact compared with the oracle; None if the export was not verified. A failed
            verification raises no error: look at `parity.passed`.
    """

    folder: Path
    artifacts: tuple[Artifact, ...]
    replaced: tuple[str, ...]
    removed: tuple[str, ...]
    parity: ParityReport | None


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """How well a model reads a set of images.

    Attributes:
        model: the name of its file.
        model_hash: the SHA-256 of its graph, hexadecimal, which is in its contract.
        runtime: the runtime that ran it, with its version.
        data: the images, such as "mnist test".
        evaluation: accuracy, confusion, calibration and mistakes.
        corruptions: the share of the images read wrongly, 0 to 1, by corruption and strength; None if not measured.
        outliers: the area under the ROC curve, 0 to 1, with which the confidence tells digits from other images: under
            "training" by the kinds that training may have shown, under "unseen" by the others; None if not measured.
    """

    model: str
    model_hash: str
    runtime: str
    data: str
    evaluation: Evaluation
    corruptions: Mapping[str, Sequence[float]] | None = None
    outliers: Mapping[str, Mapping[str, float]] | None = None

    @property
    def accuracy(self) -> float:
        """The share of the images that was read rightly, 0 to 1."""
        return self.evaluation.accuracy

    def to_json(self) -> str:
        """The result as one JSON object."""
        facts: dict[str, Any] = {"model": self.model, "hash": self.model_hash, "runtime": self.runtime}
        facts |= {"data": self.data, **self.evaluation.to_dict()}
        if self.corruptions is not None:
            facts["corruptions"] = {"errors": self.corruptions, "mean": evaluation.mean_error(self.corruptions)}
        if self.outliers is not None:
            facts["outliers"] = self.outliers
        return json.dumps(facts)


def export_model(
    model: Model = None,
    out: StrPath = "artifacts",
    *,
    int8: bool = True,
    formats: Sequence[str] | None = None,
    network: str | None = None,
    input_shape: Shape | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    scale: float | None = None,
    features: bool = False,
    calibration: NDArray[np.generic] | StrPath | None = None,
    resize: int | tuple[int, int] | None = None,
    skip_bad: bool = False,
    method: Method = "mse",
    weight_range: int = 64,
    recalibrate: bool = False,
    data: StrPath | None = None,
    verify: bool = True,
    images: int | None = None,
    max_drop: float | None = None,
    force: bool = False,
) -> ExportResult:
    """Write a network in several formats, and prove that all of them are the same model.

    BatchNorm is folded into the convolutions; the int8 artifacts are quantized after training.

    Args:
        model: a checkpoint's path, a `torch.nn.Module`, or None for the shipped network. A module takes float32
            (N, *input_shape) and gives logits. Before anything is written, it is run and compared with what would be
            exported.
        out: the folder to write. It may hold an earlier export, which is replaced as a whole.
        int8: write the int8 artifacts too.
        formats: one or several of "torchscript", "onnx", "tflite", "c" and "wasm"; None for all but the last two.
        network: a factory of the network, "package.module:factory"; `model` is then the path of its state_dict, or
            None for the weights that the factory gives it.
        input_shape: the shape of a module's input: (channels, height, width), (channels, length) or (features,). None
            for its attribute `input_shape`, else that of the calibration data, else (1, 28, 28).
        mean: the network takes (pixel * scale - mean) / std: one number, or one for each channel. If neither mean, std
            nor scale is named, they are 0.1307, 0.3081 and 1/255 for (1, 28, 28), as for MNIST, else 0, 1 and 1/255.
        std: see mean.
        scale: see mean; 1 for a network that takes pixels from 0 to 255 as they are.
        features: the inputs are numbers that the network takes as they are, and not pixels. So are floating-point
            calibration data, and inputs of the shapes (channels, length) and (features,).
        calibration: the inputs from which the int8 scales of activations are chosen: uint8 pixels, 0 to 255, or float32
            features, (N, *input_shape), for images also (N, height, width, channels); or a folder of pictures, a .npy,
            a .npz, or a folder with MNIST's files. At most 4,096 are used. None for the statistics in the checkpoint;
            if it has none and takes (1, 28, 28), for training images of MNIST, or drawn digits where MNIST is not
            available.
        resize: to how many pixels the shorter side of a picture is resized, or to which (height, width); None for the
            smallest size that covers the input. Then the middle is cut out, as torchvision's Resize and CenterCrop do.
        skip_bad: skip pictures that cannot be opened.
        method: how the scales of activations are chosen: "mse" for the least squared error, "minmax" for the range.
        weight_range: the largest absolute value of an int8 weight, 8 to 127.
        recalibrate: collect statistics although the checkpoint has some.
        data: what to verify on: a folder of pictures in folders named after their classes, whose sorted names are the
            labels, a .npz of images and labels, or the folder with MNIST's files, which may serve to calibrate too.
            None for MNIST in EDGE_MNIST_DATA or the cache, else drawn digits, for (1, 28, 28); for others noise.
        verify: run every artifact and compare it with the oracle, as `verify` does.
        images: the number of inputs to verify on; None for 10,000, or fewer if the network is large.
        max_drop: the largest accuracy drop from float to int8 that passes, in percentage points; None for 0.1, or for 4
            images where that is more.
        force: write into a folder that holds other files too, which stay.

    Returns:
        The paths and hashes of the artifacts, what was replaced, and the parity report.

    Raises:
        UsageError: an argument is wrong, or the folder holds other files.
        EdgeMnistError: the network cannot be exported, or the folder cannot be written.

    Examples:
        >>> import edge_mnist
        >>> result = edge_mnist.export_model(out=folder / "artifacts", formats=["tflite"], images=100)
        >>> [artifact.path.name for artifact in result.artifacts]
        ['model_float.tflite', 'model_int8.tflite']
        >>> result.parity.passed
        True
    """
    folder = Path(out)
    kinds = choose_formats((formats,) if isinstance(formats, str) else tuple(formats or ()))
    bundle_writer.check_bundle_folder(folder, force)
    for kind in kinds:
        if not int8 and "float" not in kind.precisions:
            text = f"{kind.title} is written from the quantized network only: add --int8"
            raise UsageError(f"--format {kind.name}: {text}")
    _check_count(images)
    _check_range("max_drop", max_drop, 0, 100)
    with lock(folder):
        check_folder(folder.resolve(), "--out")
        if network is not None:
            check_package("torch")  # without it, leaving TorchScript out would not help
        source, reference, calibrated = _prepare(
            model,
            network,
            InputOptions(input_shape, mean, std, scale, features, resize, skip_bad),
            int8=int8,
            calibration=calibration,
            method=method,
            weight_range=weight_range,
            recalibrate=recalibrate,
            data=data,
        )
        details = {
            "checkpoint": describe_origin(model, network, source),
            "calibration": {"method": method, "weights": weight_range, **calibrated},
        }
        if resize is not None:  # only then, so that other manifests keep their bytes
            details["pictures"] = {"resize": resize}
        with progress.show_step("writing the artifacts"):
            # Images that cannot be read are reported before anything is replaced.
            compared = _load_test_images(reference, data, images, resize, skip_bad=skip_bad) if verify else None
            # What is not installed is said after mistakes in what is given, and before anything takes minutes.
            check_writers(kinds)
            if verify:
                _check_runtimes(kinds)
            files = bundle_writer.make_bundle(reference, kinds, details)
            before = {name for name in FILE_NAMES if name.startswith("model_") and (folder / name).exists()}
            removed = bundle_writer.write_bundle(folder, files)
        if removed:
            text = "%s: the bundle that was here also held %s; a bundle is one export, so that is gone: "
            _LOG.warning(text + "name every --format at once to have them together", folder, ", ".join(removed))
        entries = parse_json(files[MANIFEST])["files"]
        artifacts = tuple(
            Artifact(folder / name, entry["format"], entry["precision"], entry["bytes"], entry["sha256"])
            for name, entry in entries.items()
            if "format" in entry
        )
        parity = None if compared is None else _verify(folder, compared, VerifyOptions(max_drop=max_drop))
    replaced = tuple(artifact.path.name for artifact in artifacts if artifact.path.name in before)
    return ExportResult(folder, artifacts, replaced, tuple(removed), parity)


def export_zip(
    model: Model = None,
    out: StrPath = "edge-mnist.zip",
    *,
    network: str | None = None,
    input_shape: Shape | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    scale: float | None = None,
    features: bool = False,
    calibration: NDArray[np.generic] | StrPath | None = None,
    resize: int | tuple[int, int] | None = None,
    skip_bad: bool = False,
    method: Method = "mse",
    weight_range: int = 64,
    recalibrate: bool = False,
    data: StrPath | None = None,
) -> Path:
    """Write a zip for a device without this package: the int8 TFLite, golden vectors, and a script that runs them.

    Args:
        model: as in `export_model`, as are the other arguments.
        out: the zip file.
        network: a factory of the network.
        input_shape: the shape of a module's input.
        mean: the network takes (pixel * scale - mean) / std.
        std: see mean.
        scale: see mean.
        features: the inputs are not pixels.
        calibration: the inputs from which the int8 scales of activations are chosen.
        resize: how pictures are resized.
        skip_bad: skip pictures that cannot be opened.
        method: how they are chosen.
        weight_range: the largest absolute value of an int8 weight, 8 to 127.
        recalibrate: collect statistics although the checkpoint has some.
        data: the folder with MNIST's files.

    Returns:
        The path of the zip file.

    Raises:
        UsageError: there is another file, which is not a zip.
        EdgeMnistError: the network cannot be exported, or the file cannot be written.

    Examples:
        >>> import edge_mnist, zipfile
        >>> path = edge_mnist.export_zip(out=folder / "pi.zip")
        >>> zipfile.ZipFile(path).namelist()
        ['classify.py', 'model_int8.tflite', 'golden_images.npy', 'golden_logits.npy']
    """
    from edge_mnist.export.standalone import write_standalone

    path = Path(out)
    with lock(path):
        check_folder(path.parent, "--zip")
        if path.exists() and not (path.is_file() and zipfile.is_zipfile(path)):
            raise UsageError(f"{path}: is not a zip, and is not replaced by one: name another file")
        _, reference, _ = _prepare(
            model,
            network,
            InputOptions(input_shape, mean, std, scale, features, resize, skip_bad),
            int8=True,
            calibration=calibration,
            method=method,
            weight_range=weight_range,
            recalibrate=recalibrate,
            data=data,
        )
        write_whole(path, write_standalone(reference))
    return path


def verify(
    folder: StrPath,
    *,
    data: StrPath | None = None,
    resize: int | tuple[int, int] | None = None,
    skip_bad: bool = False,
    images: int | None = None,
    max_drop: float | None = None,
    trust: bool = False,
    run_with: str | Sequence[str] = (),
    runtime: Literal["tflite-micro"] | None = None,
) -> ParityReport:
    """Run every artifact in a folder and compare it with the oracle: int8 logits must be equal bit for bit.

    The report is written into the folder too, as report.html and parity.json.

    Args:
        folder: the folder that an export wrote.
        data: what to compare on, as in `export_model`.
        resize: how pictures are resized, as in `export_model`; None for how they were for the export.
        skip_bad: skip pictures that cannot be opened.
        images: the number of inputs to compare on, besides the golden ones in the folder; None for 10,000, or fewer if
            the network is large.
        max_drop: the largest accuracy drop from float to int8 that passes, in percentage points; None for 0.1, or for 4
            images where that is more.
        trust: run TorchScript archives and C that were changed since the export; they carry code.
        run_with: a command to start each artifact's process with, such as "qemu-x86_64 -cpu Haswell".
        runtime: "tflite-micro" to run the TFLite artifacts in TensorFlow Lite Micro too.

    Returns:
        The report. A difference raises no error: look at `passed`.

    Raises:
        UsageError: there is no such folder, or an argument is wrong.
        EdgeMnistError: the folder was not written by an export, or the data cannot be read.

    Examples:
        >>> import edge_mnist
        >>> _ = edge_mnist.export_model(out=folder / "artifacts", formats=["onnx"], verify=False)
        >>> report = edge_mnist.verify(folder / "artifacts", images=100)
        >>> report.passed, [variant.logits_differing for variant in report.variants]
        (True, [0, 0])
    """
    folder = Path(folder)
    _check_count(images)
    _check_range("max_drop", max_drop, 0, 100)
    try:
        command = tuple(shlex.split(run_with) if isinstance(run_with, str) else map(os.fspath, run_with))
    except (ValueError, TypeError) as error:
        raise UsageError(f"--run-with {run_with}: {error}") from error
    if runtime not in (None, "tflite-micro"):
        raise UsageError(f"--runtime {runtime}: expected tflite-micro")
    with lock(folder):
        manifest, reference = read_bundle(folder)
        resize = _choose_resize(manifest, resize, data)
        compared = _load_test_images(reference, data, images, resize, skip_bad=skip_bad)
        options = VerifyOptions(max_drop=max_drop, trust=trust, run_with=command, runtime=runtime or "")
        return _verify(folder, compared, options)


def train(
    recipe: str | None = None,
    out: StrPath | None = None,
    *,
    data: StrPath | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    changes: Mapping[str, float] | None = None,
    seed: int | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    workers: int | None = None,
    precision: Literal["auto", "bfloat16", "float32"] | None = None,
    network: str | None = None,
    everything: bool = False,
    user_digits: StrPath | None = None,
    init: StrPath | None = None,
    teachers: Sequence[StrPath] = (),
    resume: bool = False,
    collect_signals: SignalCollector | None = None,
) -> Path | None:
    """Train a network; checkpoint, metrics, curves and state are written into a folder.

    None stands for the recipe's value, and for the recorded one if a run is resumed.

    Args:
        recipe: the name of a recipe, such as "best" or "quick"; None for "adam-onecycle", or "tune" with `user_digits`.
        out: the folder of the run; None for runs/RECIPE.
        data: the folder with MNIST's files; None for EDGE_MNIST_DATA or the cache, to which they are downloaded.
        epochs: the number of epochs.
        batch_size: the number of images in a batch, at least 2.
        lr: the highest learning rate.
        changes: other values for numbers of the recipe, by their names.
        seed: the same seed gives the same weights on a CPU.
        device: "cpu", "cuda", or "auto" for CUDA where there is a GPU.
        workers: the number of processes that share each batch; None for the number of physical cores.
        precision: of the convolutions. "auto", or None for a new run, takes bfloat16 where the device multiplies it
            and is clearly faster with it; this is measured once and remembered, and the logger says what was chosen.
            A resumed run keeps its precision.
        network: a factory of another network, "package.module:factory".
        everything: learn from all 60,000 images and validate with none.
        user_digits: a folder with images of the user's own, in folders 0 to 9 and none, to learn from as well.
        init: the checkpoint to begin with; None for the network's initial weights, or, with `user_digits` and without
            another recipe or network, for the shipped checkpoint.
        teachers: checkpoints to learn from besides; several are averaged.
        resume: continue the stopped run in `out`.
        collect_signals: makes a context whose value holds the numbers of the signals that have come; after one the run
            saves its state and stops. The command passes `edge_mnist.system.signals.collect`. None: no signal is
            handled, and after a KeyboardInterrupt the run can be resumed from its last whole epoch.

    Returns:
        The path of the checkpoint; None in the processes that torchrun started to train along with the first one.

    Raises:
        UsageError: an argument is wrong, or the folder holds other files.
        EdgeMnistError: the data cannot be read, or the network cannot be trained or exported.
        Stopped: `collect_signals` has collected a signal; the state is saved.
    """
    from edge_mnist.data.user_digits import read_user_digits
    from edge_mnist.training.recipes import find_recipe, parse_changes

    with explain_missing_packages():
        from edge_mnist.training import loop, runs
        from edge_mnist.training import workers as processes

    if processes.read_torchrun_rank():  # the first process sends settings, images and state
        with processes.join_torchrun() as group:
            loop.train_as_worker(group, collect_signals)
        return None
    if not resume:
        recipe = recipe or ("tune" if user_digits else "adam-onecycle")
    folder = Path(out) if out is not None else Path("runs") / (recipe or "adam-onecycle")
    own_digits = read_user_digits(Path(user_digits)) if user_digits else None
    is_tuning = own_digits is not None and not resume and recipe == "tune" and network is None
    first = _path(init) or (SHIPPED if is_tuning else None)
    start = load_checkpoint(first) if first else None
    loaded = [load_checkpoint(Path(path)) for path in teachers]
    named = dict(changes or {}) | runs.drop_none({"epochs": epochs, "batch_size": batch_size, "lr": lr})
    settings = runs.choose_settings(
        recorded=runs.recorded_settings(folder) if resume else None,
        recipe=find_recipe(recipe) if recipe else None,
        changes=parse_changes(f"{name}={value}" for name, value in named.items()),
        seed=seed,
        device=device,
        bfloat16=None if precision in (None, "auto") else precision == "bfloat16",
        network=network,
        everything=everything or None,
        init=start.sha256 if start else None,
        teachers=",".join(teacher.sha256 for teacher in loaded) or None,
    )
    with progress.show_step("reading images"):
        parts = mnist.load("train", _path(data)), mnist.load("test", _path(data))
    with progress.repeat_steps():
        loop.train(
            settings,
            *parts,
            folder,
            init=start,
            user_digits=own_digits,
            teachers=loaded,
            resume=resume,
            choose_precision=precision in (None, "auto"),
            worker_count=workers,
            collect_signals=collect_signals,
        )
    return folder / loop.CHECKPOINT


def run_experiments(
    out: StrPath = "docs/experiments.md",
    *,
    runs: StrPath = "runs/experiments",
    seeds: int = 3,
    interpretations: bool = True,
    epochs: int | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    workers: int | None = None,
    data: StrPath | None = None,
    resume: bool = False,
    collect_signals: SignalCollector | None = None,
) -> Path:
    """Repeat the four experiments of the study that the network comes from, and write a report.

    Args:
        out: the Markdown file of the report; its picture is written beside it.
        runs: the folder in which each run has a folder.
        seeds: the number of runs of each experiment.
        interpretations: run the other interpretations of the study's text too.
        epochs: the number of epochs of each run; None for the recipes' 20.
        device: "cpu", "cuda", or "auto" for CUDA where there is a GPU.
        workers: the number of processes that share each batch; None for the number of physical cores.
        data: the folder with MNIST's files.
        resume: continue the runs in `runs`.
        collect_signals: as in `train`.

    Returns:
        The path of the report.

    Raises:
        UsageError: there are runs already, or they were started with other settings.
        EdgeMnistError: as in `train`.
    """
    with explain_missing_packages():
        import torch

        from edge_mnist.training import experiments, experiments_report
        from edge_mnist.training.precision import choose_bfloat16
        from edge_mnist.training.runs import choose_settings
        from edge_mnist.training.workers import is_under_torchrun

    if is_under_torchrun():
        raise UsageError("experiments starts its own workers: run it without torchrun")
    base = choose_settings(changes={}, device=device)
    train_part = mnist.load("train", _path(data))
    recorded = experiments.find_recorded_precision(Path(runs))
    base = dataclasses.replace(base, bfloat16=choose_bfloat16(base) if recorded is None else recorded)
    plan = experiments.plan_runs(seeds, interpretations, base, epochs)
    histories = experiments.run_experiments(
        plan,
        train_part,
        mnist.load("test", _path(data)),
        Path(runs),
        resume=resume,
        worker_count=workers,
        collect_signals=collect_signals,
    )
    command = f"edge-mnist experiments --seeds {seeds}"
    command += ("" if interpretations else " --no-interpretations") + (f" --epochs {epochs}" if epochs else "")
    facts = {
        "command": command,
        "learned": len(train_part),
        "precision": "bfloat16" if base.bfloat16 else "float32",
        "versions": f"torch {torch.__version__}, edge-mnist {__version__}",
    }
    experiments_report.write_report(Path(out), histories, seeds, facts)
    return Path(out)


def evaluate(
    model: StrPath | Classifier | None = None,
    *,
    data: StrPath | None = None,
    part: Literal["test", "validation"] = "test",
    corruptions: bool = False,
    outliers: bool = False,
    confusion: StrPath | None = None,
    resize: int | tuple[int, int] | None = None,
    skip_bad: bool = False,
    trust: bool = False,
) -> EvaluationResult:
    """Measure how well a model classifies MNIST's images, or labelled inputs of the user's.

    Args:
        model: an artifact's or a checkpoint's path, an opened artifact, or None for the shipped int8 TFLite.
        data: a folder of pictures in folders named after their classes, whose sorted names are the labels; a .npz of
            images and labels; or the folder with MNIST's files. None for MNIST in EDGE_MNIST_DATA or the cache.
        part: MNIST's test images, or the part of its training images that training validates on.
        corruptions: read the images rotated, blurred, faint and so on too.
        outliers: measure how well the confidence tells digits from letters, lines, blobs and so on too.
        confusion: a PNG file to draw the confusion matrix and the most confident mistakes into.
        resize: how pictures are resized, as in `export_model`; None for how they were for the export of an artifact.
        skip_bad: skip pictures that cannot be opened.
        trust: open an artifact that carries code even if its origin is unknown.

    Raises:
        UsageError: there is no such file, or the model takes inputs of another shape.
        EdgeMnistError: the model or the data cannot be read.
    """
    from edge_mnist.data.outliers import TRAINING, UNSEEN

    if part not in ("test", "validation"):
        raise UsageError(f"part {part!r}: expected test or validation")
    if confusion is not None:
        check_folder(Path(confusion).parent, "--confusion")
        with explain_missing_packages():
            import matplotlib  # noqa: F401  # if it is missing, that is an error now and not after the work
    classifier, name = _open(model, trust=trust)
    if classifier.contract.output_shape is not None:
        raise UsageError(f"{name}: gives maps, expected one value for each class")
    is_mnist = classifier.contract.input_shape == MNIST_SHAPE and classifier.contract.is_pixels
    if (corruptions or outliers) and not is_mnist:
        raise UsageError(f"{name}: corruptions and outliers are measured on images of 28x28 pixels in grey only")
    if isinstance(model, str | os.PathLike):
        resize = _choose_resize(_read_manifest_beside(Path(model)), resize, data)
    images, labels, source = _load_labelled(classifier, data, part, InputOptions(resize=resize, skip_bad=skip_bad))
    with progress.show_step(f"reading {len(labels):,} images"):
        found = evaluation.evaluate(classifier.logits, images, labels)
    result = EvaluationResult(name, classifier.contract.model, classifier.runtime, source, found)
    with progress.show_step("reading"):
        digits = images.astype(np.uint8, copy=False)
        if corruptions:
            errors = evaluation.measure_corruption_errors(classifier.logits, digits, labels, _LOG.info)
            result = dataclasses.replace(result, corruptions=errors)
        if outliers:
            _LOG.info("reading what is no digit")
            areas = {
                seen: evaluation.measure_outlier_detection(classifier.logits, found.confidences, kinds, digits)
                for seen, kinds in (("training", TRAINING), ("unseen", UNSEEN))
            }
            result = dataclasses.replace(result, outliers=areas)
    if confusion is not None:
        title = f"{name}: {found.accuracy:.2%} of {len(labels):,} images"
        write_whole(Path(confusion), evaluation.draw_mistakes(found, images, labels, title))
    return result


def benchmark(
    folder: StrPath = "artifacts",
    *,
    seconds: float = 2.0,
    trust: bool = False,
    data: StrPath | None = None,
    images: int | None = None,
    accuracy_seconds: float = 10.0,
    resize: int | tuple[int, int] | None = None,
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Measure the latency, throughput, loading time, memory, size and accuracy of every artifact in a folder.

    Each artifact runs in a process of its own, one image and 32 at a time, on one thread and on all, taking turns.

    Args:
        folder: the folder that an export wrote.
        seconds: how long each artifact runs for each size of batch and number of threads.
        trust: run TorchScript archives and C that were changed since the export; they carry code.
        data: labelled inputs for the accuracy, as in `evaluate`. None for MNIST in EDGE_MNIST_DATA or the cache, if it
            is there and the network has MNIST's ten classes; otherwise no accuracy is measured.
        images: the largest number of inputs for the accuracy; None for 10,000, or fewer if the network is large.
        accuracy_seconds: how long all artifacts together may classify them; 0 measures no accuracy.
        resize: how pictures are resized, as in `export_model`; None for how they were for the export.
        skip_bad: skip pictures that cannot be opened.

    Returns:
        What `edge-mnist bench --json` prints: "machine" and "machine_after", what the speed depends on; "seconds" and
        "accuracy_seconds"; and the measurements, see `edge_mnist.measure.bench.measure_artifacts`.

    Raises:
        EdgeMnistError: the folder holds no artifact, or one that cannot be run.
    """
    _check_count(images)
    _check_range("seconds", seconds, 0.01, 3600)
    _check_range("accuracy_seconds", accuracy_seconds, 0, 3600)
    from edge_mnist import doctor
    from edge_mnist.measure.bench import measure_artifacts

    folder = Path(folder)
    manifest, reference = read_bundle(folder)
    paths = [folder / name for name, entry in manifest["files"].items() if "format" in entry]
    if not paths:
        raise EdgeMnistError(f"{folder}: holds no artifact: export again")
    if missing := [path for path in paths if not path.is_file()]:
        raise EdgeMnistError(f"{missing[0]}: is missing, though the manifest names it: export again")
    for path in paths:
        if not is_listed(path, read_bytes(path)):
            _LOG.warning("note: %s: was changed after the export, and is measured as it is now", path)
    labelled, graph = None, reference.float_graph
    is_mnist_at_hand = graph.input_shape == MNIST_SHAPE and graph.is_pixels and mnist.is_available(None, "test")
    if accuracy_seconds > 0 and (data is not None or is_mnist_at_hand):
        with progress.show_step("reading labelled images"):
            resize = _choose_resize(manifest, resize, data)
            labelled = _load_test_images(reference, data, images, resize, skip_bad=skip_bad)
    before = [asdict(finding) for finding in doctor.examine_machine()]
    with progress.show_fraction() as report:
        facts = measure_artifacts(
            paths,
            reference.images,
            report,
            seconds,
            trust=trust,
            labelled=labelled,
            accuracy_seconds=accuracy_seconds,
        )
    after = [asdict(finding) for finding in doctor.examine_machine()]
    limits = {"seconds": seconds, "accuracy_seconds": accuracy_seconds}
    return {"machine": before, **facts, **limits, "machine_after": after}


def _check_runtimes(kinds: Sequence[Format]) -> None:
    """Say which formats cannot be verified here, so that this is not found out after minutes of computation.

    Raises:
        NotInstalledError: none of them can be verified.
    """
    missing: dict[str, NotInstalledError] = {}
    for kind in kinds:
        try:
            check_runtime(kind.name)
        except NotInstalledError as error:
            missing[kind.title] = error
    if len(missing) == len(kinds):
        reasons = "; ".join(f"{title}: {error}" for title, error in missing.items())
        raise NotInstalledError(f"nothing could be verified here: {reasons}; or write without verifying: --no-verify")
    for title, reason in missing.items():
        _LOG.warning("note: %s is written, but cannot be verified here: %s", title, reason)


def _prepare(
    model: Model,
    network: str | None,
    options: InputOptions,
    *,
    int8: bool,
    calibration: NDArray[np.generic] | StrPath | None,
    method: Method,
    weight_range: int,
    recalibrate: bool,
    data: StrPath | None,
) -> tuple[Checkpoint, Reference, dict[str, Any]]:
    """Load a network, fold it, quantize it and run the golden images; the arguments are those of `export_model`.

    Returns:
        The network, its graphs and golden images, and what the manifest says of the calibration inputs.
    """
    _check_range("weight_range", weight_range, *WEIGHT_RANGES)
    if method not in ("mse", "minmax"):
        raise UsageError(f"method {method}: expected mse or minmax")
    with progress.show_step("reading the network"):
        inputs = None if calibration is None else open_inputs(calibration, "calibration")
        if inputs is None and isinstance(calibration, str | os.PathLike) and not Path(calibration).is_dir():
            raise UsageError(f"--calibrate {calibration}: expected a folder of pictures, a .npy or a .npz")
        source = load_network(model, network, options, inputs)
        graph = fold(source)
        quantized = None
        layers: tuple[LayerReport, ...] = ()
        calibrated: dict[str, Any] = {}
        if int8:
            _LOG.info("calibrating and quantizing")
            named = calibration if isinstance(calibration, str | os.PathLike) and inputs is None else None
            source, calibrated = calibrate(
                source, graph, inputs, calibration=named, data=data, recalibrate=recalibrate, options=options
            )
            quantized, layers = quantize_graph(graph, source.statistics, weight_range=weight_range, method=method)
            if inputs is not None:
                _report_saturation(layers, inputs.name)
        _LOG.info("running the golden images")
        accuracy = source.metadata.get("accuracies", {}).get("test")
        return source, make_reference(graph, quantized, layers, accuracy), calibrated


def _report_saturation(layers: Sequence[LayerReport], name: str) -> None:
    """Log a note of the layer with the largest share of calibration values outside the int8 range."""
    worst = max(layers, key=lambda layer: layer.clipped)
    if not worst.clipped:
        _LOG.warning("note: calibrated on %s: no value of any layer saturates", name)
        return
    text = "note: calibrated on %s: the layer %s saturates most, in %.2g %% of its values"
    _LOG.warning(text, name, worst.name, 100 * worst.clipped)


def _read_manifest_beside(artifact: Path) -> Mapping[str, Any]:
    """Read the manifest of the export that wrote an artifact; it is empty if none is there that names the artifact."""
    try:
        manifest = read_manifest(artifact.parent)
    except EdgeMnistError:
        return {}
    return manifest if artifact.name in manifest["files"] else {}


def _choose_resize(
    manifest: Mapping[str, Any], resize: int | tuple[int, int] | None, data: StrPath | None
) -> int | tuple[int, int] | None:
    """Choose how pictures are resized: as the caller says, else as for the export that wrote the manifest."""
    exported = manifest.get("pictures", {}).get("resize")
    exported = tuple(exported) if isinstance(exported, list) else exported
    if exported is None or data is None or not Path(data).is_dir() or mnist.is_available(Path(data), "test"):
        return resize
    if resize is None:
        _LOG.warning("note: pictures are resized to %s, as for the export: say otherwise with --resize", exported)
    elif InputOptions(resize=resize).resize != exported:
        _LOG.warning("note: pictures are resized to %s, although the export resized them to %s", resize, exported)
    return exported if resize is None else resize


def _load_test_images(
    reference: Reference,
    data: StrPath | None,
    count: int | None,
    resize: int | tuple[int, int] | None,
    *,
    skip_bad: bool,
) -> Images:
    """Load the inputs on which the artifacts of a bundle are compared; the arguments are those of `verify`."""
    graph = reference.float_graph
    features = None
    if not graph.is_pixels:
        quantization = reference.quantized_graph.features if reference.quantized_graph is not None else None
        features = (-1.0, 1.0) if quantization is None else quantization.range
    if count is None:
        count = limit_inputs(graph, _COMPARED)
        if count < _COMPARED and data is not None:
            text = "note: the network is large, so that at most %s inputs are compared: name more with --images"
            _LOG.warning(text, f"{count:,}")
    outputs, *size = graph.shapes()[-1]
    return load_test_images(
        graph.input_shape,
        _path(data),
        count,
        features=features,
        classes=outputs if size == [1, 1] else None,
        options=InputOptions(resize=resize, skip_bad=skip_bad),
    )


def _load_labelled(
    classifier: Classifier, data: StrPath | None, part: Literal["test", "validation"], options: InputOptions
) -> tuple[NDArray[np.generic], NDArray[np.int64], str]:
    """Load inputs, their labels, and what they are called; the arguments are those of `evaluate`."""
    contract = classifier.contract
    inputs = None if data is None else open_inputs(data, "test")
    if inputs is not None:
        if part != "test":
            raise UsageError(f"part {part}: is a part of MNIST, but {inputs.name} is read as a whole")
        values, labels = inputs.read(contract.input_shape, len(inputs), options, is_pixels=contract.is_pixels)
        if labels is None:
            raise UsageError(f"{inputs.name}: has no labels: expected folders named after their classes, or labels")
        return (values[:, 0] if contract.input_shape == MNIST_SHAPE else values), labels, inputs.name
    if contract.input_shape != MNIST_SHAPE or not contract.is_pixels:
        if data is not None:
            raise refuse_source(Path(data), contract.input_shape)
        raise UsageError(
            f"{classifier.name}: takes inputs of {contract.input_shape}, MNIST's are {MNIST_SHAPE}: name labelled ones "
            "with --data"
        )
    digits = mnist.load("test" if part == "test" else "train", _path(data), download=False)
    images, labels = digits.images, digits.labels  # (N, 28, 28), (N,)
    if part == "validation":
        _, validation = mnist.split_for_validation(labels)
        images, labels = images[validation], labels[validation]
    return images, labels, f"{digits.source} {part}"


def _verify(folder: Path, images: Images, options: VerifyOptions) -> ParityReport:
    """Verify a bundle and write the report into it, as a page and as JSON."""
    from edge_mnist.export.report.page import render_html

    manifest, _ = read_bundle(folder)
    with progress.show_step(f"verifying on {len(images.pixels):,} images ({images.name})"):
        report = verification.verify(folder, images, options)
    try:
        bundle_writer.write_report(folder, render_html(report, manifest), report.to_json())
    except EdgeMnistError as error:  # the result is worth more than the file
        _LOG.error("edge-mnist: the report is not kept: %s", error)
        return report
    return dataclasses.replace(report, page=folder / REPORT)


def _open(model: StrPath | Classifier | None, *, trust: bool) -> tuple[Classifier, str]:
    """Open an artifact, or a checkpoint as the float artifact that it becomes; and give its name."""
    if isinstance(model, Classifier):
        return model, model.name
    path = Path(model) if model is not None else SHIPPED_INT8
    data = read_bytes(path)
    if not is_safetensors(data):
        check_origin(path, data, trust=trust)
        return load_bytes(data, str(path)), path.name
    from edge_mnist.export.tflite.writer import write_tflite

    return load_bytes(write_tflite(fold(checkpoint.decode(data, path))), str(path)), path.name


def _check_range(name: str, value: float | None, least: float, most: float) -> None:
    """Check a number that is given; no comparison holds for nan."""
    if value is not None and not (isinstance(value, int | float) and least <= value <= most):
        raise UsageError(f"{name} {value}: expected {least} to {most}")


def _check_count(images: int | None) -> None:
    if images is not None and not (isinstance(images, int) and images >= 1 and images is not True):
        raise UsageError(f"images {images}: expected a whole number of at least 1")


def _path(path: StrPath | None) -> Path | None:
    return None if path is None else Path(path)
