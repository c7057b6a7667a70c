"""Compares the artifacts with those that other tools make of the same network: `make peers`, from the checkout.

It needs MNIST and an environment of its own of 2 GB, which `make peers` installs into .venv-peers. The same weights are
run by PyTorch; quantized by ONNX Runtime's `quantize_static` from our float ONNX; converted by litert-torch and
quantized by ai-edge-quantizer; and exported by edge-mnist. All are calibrated with the same images. Each runs in a
process of its own, on one thread, one image at a time, and the processes take turns.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent))

from edge_mnist import doctor, runtime
from edge_mnist.data import mnist
from edge_mnist.export.c.writer import write_c
from edge_mnist.export.onnx_writer import write_onnx
from edge_mnist.export.tflite.writer import write_tflite
from edge_mnist.formats.contract import Contract
from edge_mnist.graph import calibration, checkpoint
from edge_mnist.graph.folding import fold
from edge_mnist.graph.quantization import quantize_graph
from edge_mnist.measure import bench
from edge_mnist.measure.timing_worker import TimedModel, serve
from edge_mnist.pretrained import SHIPPED
from edge_mnist.runtime import compiled_c
from edge_mnist.runtime.classifier import is_x86
from edge_mnist.system import progress
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.stderr import quiet_stderr
from edge_mnist.system.tables import make_console, make_table, print_table
from edge_mnist.training.network import MEAN, STD, DigitNet, set_weights

if TYPE_CHECKING:
    from torch import nn

Array = NDArray[Any]
Pixels = NDArray[np.uint8]

TOOLS = ("torch", "onnxruntime", "litert-torch", "ai-edge-quantizer")
"""The packages that are measured against."""


@dataclass(frozen=True)
class Side:
    """One way to run the network.

    Attributes:
        file: the name of its file.
        float_side: the side whose classes it should give; for a float side, itself.
        open: opens the file.
    """

    file: str
    float_side: str
    open: Callable[[Path], Opened]


@dataclass(frozen=True)
class Opened:
    """An opened side: its runtime's name, the call that is timed, and the preparation of images, which is not.

    See `timing_worker.TimedModel`.
    """

    runtime: str
    run: Callable[[Array], Array]
    prepare: Callable[[Pixels], Array]
    output: tuple[float, int] = 1.0, 0
    """The scale and the zero point of what `run` returns."""


def normalize(images: Pixels) -> NDArray[np.float32]:
    """Normalize images as in training: float32 (N, 1, 28, 28)."""
    return ((images.astype(np.float32) / 255 - MEAN) / STD).astype(np.float32)[:, None]


def open_eager(path: Path) -> Opened:
    """Open the PyTorch module."""
    import torch

    torch.set_num_threads(1)
    network = DigitNet()
    network.load_state_dict(torch.load(path, weights_only=True))
    network.eval()

    def run(inputs: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(network(torch.from_numpy(inputs)))

    return Opened(f"PyTorch {torch.__version__.partition('+')[0]}, eager", run, normalize)


def open_artifact(path: Path) -> Opened:
    """Open an artifact of edge-mnist."""
    classifier = runtime.load_bytes(path.read_bytes(), path.name)
    contract = classifier.contract
    output = contract.output_scale, contract.output_zero_point
    return Opened(classifier.runtime, classifier.run, contract.convert_images, output)


def open_c(*flags: str) -> Callable[[Path], Opened]:
    """Make a function that compiles C with other flags than those of this processor."""

    def open_with_flags(path: Path) -> Opened:
        library = compiled_c.open_library(path.read_bytes(), path.name, flags)
        return Opened(library.build, library.run, lambda images: np.ascontiguousarray(images[..., None]))

    return open_with_flags


def open_onnx(path: Path) -> Opened:
    """Open a file of quantize_static, which takes float pixels: images uint8 (N, channels, height, width)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Opened(
        f"ONNX Runtime {onnxruntime.__version__}",
        lambda inputs: np.asarray(session.run(None, {"pixels": inputs})[0]),
        lambda images: (images[:, None] if images.ndim == 3 else images).astype(np.float32),
    )


def open_tflite(path: Path, normalize: Callable[[Pixels], NDArray[np.float32]] = normalize) -> Opened:
    """Open a file of litert-torch or ai-edge-quantizer, which takes normalized images, quantized if it is int8."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def prepare(images: Pixels) -> Array:
        values = normalize(images)
        if source["dtype"] != np.int8:
            return values
        scale, zero_point = source["quantization"]
        return np.asarray(np.clip(np.rint(values / scale) + zero_point, -128, 127), np.int8)

    def run(inputs: Array) -> Array:
        interpreter.set_tensor(source["index"], inputs)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(target["index"]))

    output = target["quantization"] if target["dtype"] == np.int8 else (1.0, 0)
    return Opened(f"LiteRT {version('ai-edge-litert')}", run, prepare, output)


OURS = "edge-mnist, int8 TFLite"
SIDES = {
    "PyTorch eager, float": Side("model.pth", "PyTorch eager, float", open_eager),
    "edge-mnist, float ONNX": Side("model_float.onnx", "edge-mnist, float ONNX", open_artifact),
    "quantize_static": Side("static.onnx", "edge-mnist, float ONNX", open_onnx),
    "quantize_static, per channel": Side("per_channel.onnx", "edge-mnist, float ONNX", open_onnx),
    "edge-mnist, int8 ONNX": Side("model_int8.onnx", "edge-mnist, float ONNX", open_artifact),
    "litert-torch, float": Side("peer_float.tflite", "litert-torch, float", open_tflite),
    "ai-edge-quantizer, int8": Side("peer_int8.tflite", "litert-torch, float", open_tflite),
    "edge-mnist, float TFLite": Side("model_float.tflite", "edge-mnist, float TFLite", open_artifact),
    OURS: Side("model_int8.tflite", "edge-mnist, float TFLite", open_artifact),
    "edge-mnist, int8 C": Side("model_int8.c", "edge-mnist, float TFLite", open_artifact),
    "the same, AVX2": Side("model_int8.c", "edge-mnist, float TFLite", open_c("-mavx2", "-mfma")),
    "the same, SSE2": Side("model_int8.c", "edge-mnist, float TFLite", open_c("-msse2")),
    "the same, portable": Side("model_int8.c", "edge-mnist, float TFLite", open_c("-DEDGE_MNIST_PORTABLE")),
}


def build(folder: Path) -> dict[str, str]:
    """Write the files of all sides into a folder; return the versions of the tools.

    Raises:
        EdgeMnistError: a tool is not installed, or MNIST cannot be read.
    """
    import torch

    check_tools()
    images = mnist.load("train", download=False).images[: calibration.IMAGES]
    source = checkpoint.load(SHIPPED)
    graph = fold(source)
    quantized, _ = quantize_graph(graph, source.statistics)
    for name, content in (
        ("model_float.onnx", write_onnx(graph)),
        ("model_int8.onnx", write_onnx(quantized)),
        ("model_float.tflite", write_tflite(graph)),
        ("model_int8.tflite", write_tflite(quantized)),
        ("model_int8.c", write_c(quantized)),
    ):
        (folder / name).write_bytes(content)
    np.save(folder / "images.npy", mnist.load("test", download=False).images[:64])

    network = DigitNet()
    set_weights(network, source.weights, f"{SHIPPED}: holds other weights")
    network.eval()
    torch.save(network.state_dict(), folder / "model.pth")

    write_static_onnx(folder, images[:, None])
    write_converted_tflite(folder, network, normalize(images))
    return {name: version(name) for name in TOOLS}


def check_tools() -> None:
    """Check that the other tools are here.

    Raises:
        EdgeMnistError: one is not.
    """
    for name in TOOLS:
        try:
            import_module(name.replace("-", "_"))
        except ImportError as error:
            raise EdgeMnistError(f"{name} is not installed: make peers installs it into .venv-peers") from error


def write_static_onnx(folder: Path, images: Pixels) -> None:
    """Quantize model_float.onnx by `quantize_static` into static.onnx and, per channel, into per_channel.onnx.

    Args:
        folder: the folder of the files.
        images: uint8 (N, channels, height, width), to calibrate with.
    """
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Returns the images one by one, as the float ONNX takes them."""

        def __init__(self) -> None:
            self._images = iter(images)

        def get_next(self) -> dict[str, Array] | None:
            image = next(self._images, None)
            return None if image is None else {"pixels": image[None].astype(np.float32)}

    quant_pre_process(str(folder / "model_float.onnx"), str(folder / "prepared.onnx"))
    for name, per_channel in (("static.onnx", False), ("per_channel.onnx", True)):
        quantize_static(str(folder / "prepared.onnx"), str(folder / name), Reader(), per_channel=per_channel)


def write_converted_tflite(folder: Path, network: nn.Module, inputs: NDArray[np.float32]) -> None:
    """Convert a network by litert-torch into peer_float.tflite, and quantize that by ai-edge-quantizer.

    The quantized file is peer_int8.tflite.

    Args:
        folder: the folder of the files.
        network: the module.
        inputs: float32 (N, ...), normalized images, to calibrate with.
    """
    import litert_torch
    import torch
    from ai_edge_quantizer import quantizer, recipe

    litert_torch.convert(network, (torch.from_numpy(inputs[:1]),)).export(str(folder / "peer_float.tflite"))
    tool = quantizer.Quantizer(str(folder / "peer_float.tflite"), recipe.static_wi8_ai8())
    signature, terms = next(iter(_read_signatures(folder / "peer_float.tflite").items()))
    batches = [{terms["inputs"][0]: inputs[index : index + 1]} for index in range(len(inputs))]
    tool.quantize(tool.calibrate({signature: batches})).export_model(str(folder / "peer_int8.tflite"))


def _read_signatures(path: Path) -> dict[str, Any]:
    from ai_edge_litert.interpreter import Interpreter

    signatures: dict[str, Any] = Interpreter(str(path)).get_signature_list()
    return signatures


def measure(
    sides: dict[str, Side], folder: Path, seconds: float, count: int, report: bench.ReportProgress
) -> list[Any]:
    """Time the sides, then classify `count` test images with each."""
    commands = {name: [sys.executable, __file__, "worker", name, str(folder)] for name in sides}
    timed, missing = bench.time_in_turns(commands, report, seconds, (1,))
    test = mnist.load("test", download=False)
    images, labels = test.images[:count], test.labels[:count]
    classes: dict[str, Array] = {}
    for name, side in sides.items():
        if name not in missing:
            report(f"reading test images: {name}", 1.0)
            opened = side.open(folder / side.file)
            inputs = opened.prepare(images)
            outputs = (Contract.to_signed(opened.run(inputs[i : i + 1])) for i in range(len(inputs)))
            classes[name] = np.concatenate([output.reshape(1, -1).argmax(axis=1) for output in outputs])
    return [
        {
            "side": name,
            "runtime": timed[name].runtime,
            "bytes": (folder / sides[name].file).stat().st_size,
            **timed[name].latency[1],
            "ratio": timed[name].latency[1]["median_us"] / timed[OURS].latency[1]["median_us"],
            "accuracy": float((found == labels).mean()),
            "same_class_as_float": float((found == classes[sides[name].float_side]).mean()),
        }
        for name, found in classes.items()
    ]


def show(facts: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    bench.print_machine(facts, console)
    console.print(", ".join(f"{name} {version}" for name, version in facts["versions"].items()), soft_wrap=True)
    numbers = ("bytes", "median", "p5", "p99", "ratio", "accuracy", "as its\nfloat")
    title = f"\n1 image at a time, 1 thread, microseconds; {facts['images']:,} test images"
    made = make_table(title, ("made by", "runs in"), numbers, wraps=("runs in",))
    for row in facts["sides"]:
        times = (f"{row[name]:,.1f}" for name in ("median_us", "p5_us", "p99_us"))
        shares = (f"{row[name]:.2%}" for name in ("accuracy", "same_class_as_float"))
        made.add_row(row["side"], row["runtime"], f"{row['bytes']:,}", *times, f"{row['ratio']:.2f}", *shares)
    print_table(made, console)


@click.group(invoke_without_command=True)
@click.option(
    "--seconds", type=click.FloatRange(0.01), default=5.0, show_default=True, help="Run each side for so many seconds."
)
@click.option(
    "--images", type=click.IntRange(1), default=10_000, show_default=True, help="Classify so many test images."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def main(context: click.Context, seconds: float, images: int, as_json: bool) -> None:
    """Compare the exported network with what other tools make of it."""
    if context.invoked_subcommand:
        return
    sides = {name: side for name, side in SIDES.items() if is_x86() or name not in ("the same, AVX2", "the same, SSE2")}
    facts: dict[str, Any] = {"machine": [asdict(finding) for finding in doctor.examine_machine()], "images": images}
    try:
        with tempfile.TemporaryDirectory() as scratch, progress.report_to_stderr(), progress.show_fraction() as report:
            report("building", 0.0)
            with quiet_stderr(), contextlib.redirect_stdout(io.StringIO()):  # the tools print a lot
                facts["versions"] = build(Path(scratch))
            facts["sides"] = measure(sides, Path(scratch), seconds, images, report)
    except EdgeMnistError as error:
        raise click.ClickException(str(error)) from error
    facts["machine_after"] = [asdict(finding) for finding in doctor.examine_machine()]
    if as_json:
        click.echo(json.dumps(facts))
    else:
        show(facts, make_console(highlight=False))


@main.command(hidden=True)
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
def worker(name: str, folder: Path) -> None:
    """Serve a side, see edge_mnist.measure.timing_worker."""
    images = np.load(folder / "images.npy")

    def load() -> TimedModel:
        opened = SIDES[name].open(folder / SIDES[name].file)
        return TimedModel(opened.runtime, opened.run, opened.prepare(images))

    serve(load)


if __name__ == "__main__":
    main()
