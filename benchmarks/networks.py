"""Compares what edge-mnist makes of other people's networks with what other tools make of them: `make networks`.

ResNet-8 and MobileNetV1 of the MLPerf Tiny benchmark are measured with their weights (see `mlperf_tiny`), and
torchvision's ResNet-18, MobileNetV2 and SqueezeNet 1.1 with random weights. Each is exported with its proof;
quantized by ONNX Runtime's `quantize_static` from our float ONNX; and converted by litert-torch and quantized by
ai-edge-quantizer. All are calibrated with the same images. Each artifact runs in a process of its own, on one thread,
one image at a time, and the processes take turns. Instructions are counted in an emulated Raspberry Pi.

What has been measured is kept in a folder, and is not measured again: the script can be stopped and started anew.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent))

import edge_mnist
from benchmarks import peers
from benchmarks.peers import Array, Opened, Pixels
from benchmarks.pi import emulator, instructions
from edge_mnist import doctor
from edge_mnist.measure import bench
from edge_mnist.measure.significance import median_interval
from edge_mnist.measure.timing_worker import TimedModel, serve
from edge_mnist.system import progress
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import write_whole
from edge_mnist.system.stderr import quiet_stderr
from edge_mnist.system.tables import make_console, make_table, print_table

if TYPE_CHECKING:
    from torch import nn

FOLDER = Path(__file__).parent.parent / ".networks"
"""Where the artifacts and the measurements are kept."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The normalization of torchvision's networks."""

CPUS = ("cortex-a72", "cortex-a76")
"""The processors for which instructions are counted."""

PARTS = ("export", "tools", "logits", "times", "instructions")
"""What is measured of a network, in order."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """A network, and how it is measured.

    Attributes:
        title: its name in the tables.
        factory: MODULE:CLASS of torchvision.models or of `mlperf_tiny`.
        weights: the file of its weights in `mlperf_tiny.FOLDER`; "" for random ones.
        side: the height and the width of its input, which is RGB.
        mean: the network takes (pixel * scale - mean) / std.
        std: see mean.
        scale: see mean.
        images: how many images are compared; they have labels for it if it takes 32x32 pixels.
        calibration: how many images it is calibrated with.
    """

    title: str
    factory: str
    weights: str
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float
    images: int
    calibration: int

    @property
    def is_labelled(self) -> bool:
        """Whether the images are of the classes that the network was trained for."""
        return self.side == 32

    def normalize(self, images: Pixels) -> NDArray[np.float32]:
        """Normalize images uint8 (N, 3, height, width) as the network takes them: float32, of the same shape."""
        mean, std = (np.array(values)[:, None, None] for values in (self.mean, self.std))
        normalized: NDArray[np.float32] = ((images * self.scale - mean) / std).astype(np.float32)
        return normalized


def _torchvision(title: str, name: str, side: int) -> Network:
    images, calibration = (100, 64) if side < 200 else (32, 32)
    factory = f"torchvision.models:{name}"
    return Network(title, factory, "", side, IMAGENET_MEAN, IMAGENET_STD, 1 / 255, images, calibration)


_ZERO, _ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
_OURS = "benchmarks.mlperf_tiny:"

NETWORKS = {
    "resnet8": Network("ResNet-8", f"{_OURS}ResNet8", "resnet8.safetensors", 32, _ZERO, _ONE, 1.0, 2000, 500),
    "mobilenet_vww": Network(
        "MobileNetV1 0.25", f"{_OURS}MobileNetV1", "mobilenet_vww.safetensors", 96, _ZERO, _ONE, 1 / 255, 500, 500
    ),
    "resnet18-96": _torchvision("ResNet-18", "resnet18", 96),
    "mobilenet_v2-96": _torchvision("MobileNetV2", "mobilenet_v2", 96),
    "squeezenet1_1-96": _torchvision("SqueezeNet 1.1", "squeezenet1_1", 96),
    "resnet18-224": _torchvision("ResNet-18", "resnet18", 224),
    "mobilenet_v2-224": _torchvision("MobileNetV2", "mobilenet_v2", 224),
    "squeezenet1_1-224": _torchvision("SqueezeNet 1.1", "squeezenet1_1", 224),
}

REFERENCE = "PyTorch eager, float"
"""The side from whose logits those of the others differ."""

FILES = {
    REFERENCE: "",
    "quantize_static": "static.onnx",
    "quantize_static, per channel": "per_channel.onnx",
    "litert-torch, float": "peer_float.tflite",
    "ai-edge-quantizer, int8": "peer_int8.tflite",
    "edge-mnist, float ONNX": "model_float.onnx",
    "edge-mnist, int8 ONNX": "model_int8.onnx",
    "edge-mnist, float TFLite": "model_float.tflite",
    "edge-mnist, int8 TFLite": "model_int8.tflite",
    "the same, --weight-range 127": "wide/model_int8.tflite",
    "edge-mnist, int8 C": "model_int8.c",
}
"""The file of each side in a network's folder; PyTorch runs the module itself."""

RIVALS = (
    ("edge-mnist, int8 TFLite", "ai-edge-quantizer, int8"),
    ("edge-mnist, int8 ONNX", "quantize_static"),
    ("edge-mnist, int8 ONNX", "quantize_static, per channel"),
    ("edge-mnist, int8 C", "edge-mnist, int8 TFLite"),
    ("edge-mnist, int8 C", "ai-edge-quantizer, int8"),
)
"""The sides whose times are compared: the first divided by the second."""


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        seconds: for how long each side is timed.
        part: the part of the images that is used, above 0 and up to 1.
        pi: whether to count instructions in an emulated Raspberry Pi.
    """

    seconds: float
    part: float
    pi: bool

    def count(self, images: int) -> int:
        """The number of images to use out of so many."""
        return max(8, round(images * self.part))


def load_module(network: Network, images: Pixels) -> nn.Module:
    """Make a network with its weights, or with random ones that are the same every time.

    With random weights, batch normalization gets the statistics of the images; without them no signal would be left
    after some layers.
    """
    import torch

    from benchmarks import mlperf_tiny
    from edge_mnist.training.torchvision_shim import import_torchvision

    torch.manual_seed(0)
    name = network.factory.partition(":")[2]
    if network.weights:
        return mlperf_tiny.load(getattr(mlperf_tiny, name)(), network.weights)
    module: nn.Module = getattr(import_torchvision().models, name)(weights=None)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the running statistics are then the mean over all batches
    module.train()
    with torch.no_grad():
        module(torch.from_numpy(network.normalize(images)))
    return module.eval()


def load_images(network: Network, effort: Effort) -> tuple[Pixels, Pixels, NDArray[np.int64] | None]:
    """Load images of CIFAR-10, enlarged for a network that takes larger ones.

    Returns:
        Images to calibrate with and images to compare on, uint8 (N, 3, side, side), and the labels of the latter, int64
        (N,), for a network of CIFAR-10's classes.
    """
    from benchmarks import mlperf_tiny

    learned, test, labels = mlperf_tiny.load_images()
    counts = effort.count(network.calibration), effort.count(network.images)
    chosen = [
        mlperf_tiny.resize(part[:: len(part) // count][:count], network.side)
        for part, count in zip((learned, test), counts, strict=True)
    ]
    every = len(test) // counts[1]
    return chosen[0], chosen[1], labels[::every][: counts[1]] if network.is_labelled else None


def open_eager(network: Network, path: Path) -> Opened:
    """Open the PyTorch module itself, which is in a network's folder."""
    import torch

    torch.set_num_threads(1)
    module = load_module(network, np.load(path / "calibration.npy"))

    def run(inputs: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(inputs)))

    return Opened(f"PyTorch {torch.__version__.partition('+')[0]}, eager", run, network.normalize)


def open_side(network: Network, name: str, folder: Path) -> Opened:
    """Open a side."""
    path = folder / FILES[name]
    if not FILES[name]:
        return open_eager(network, folder)
    if name.startswith(("litert-torch", "ai-edge-quantizer")):
        return peers.open_tflite(path, lambda images: _to_channels_last(network.normalize(images)))
    return peers.open_onnx(path) if name.startswith("quantize_static") else peers.open_artifact(path)


def _to_channels_last(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def export(network: Network, effort: Effort, folder: Path) -> Record:
    """Export a network in all formats with its proof.

    Returns:
        "seconds", how long it took; "variants", "layers" and the accuracies of the proof; "parameters", the number of
        weights.
    """
    calibration, images, labels = load_images(network, effort)
    np.save(folder / "calibration.npy", calibration)
    np.save(folder / "images.npy", images)
    if labels is None:
        np.savez(folder / "data.npz", images=images)
    else:
        np.savez(folder / "data.npz", images=images, labels=labels)
    module = load_module(network, calibration)
    export_model = functools.partial(
        edge_mnist.export_model,
        module,
        input_shape=(3, network.side, network.side),
        mean=network.mean,
        std=network.std,
        scale=network.scale,
        calibration=calibration,
        force=True,
    )
    start = time.perf_counter()
    result = export_model(
        folder,
        formats=["torchscript", "onnx", "tflite", "c"],
        data=folder / "data.npz",
        images=len(images),
        max_drop=100,
    )
    seconds = time.perf_counter() - start
    export_model(folder / "wide", formats=["tflite"], weight_range=127, verify=False)
    assert result.parity is not None
    facts = json.loads(result.parity.to_json())
    kept = ("variants", "layers", "images", "float_accuracy", "int8_accuracy", "passed")
    return {
        "seconds": seconds,
        "parameters": sum(values.numel() for values in module.parameters()),
        **{name: facts[name] for name in kept},
    }


def convert(network: Network, folder: Path) -> Record:
    """Make the files of the other tools; return the tools' versions."""
    from importlib.metadata import version

    import litert_torch

    calibration = np.load(folder / "calibration.npy")
    with quiet_stderr(), contextlib.redirect_stdout(io.StringIO()):  # the tools print a lot
        peers.write_static_onnx(folder, calibration)
        module = litert_torch.to_channel_last_io(load_module(network, calibration), args=[0])
        peers.write_converted_tflite(folder, module, _to_channels_last(network.normalize(calibration)))
    return {name: version(name) for name in peers.TOOLS}


def compare_logits(network: Network, effort: Effort, folder: Path) -> Record:
    """Run each side on the images.

    Returns:
        For each side "accuracy", None without labels; "agreement", the share of the images that get the class of
        PyTorch's float network; "snr_db", the power of PyTorch's logits over that of the differences from them.
    """
    _, images, labels = load_images(network, effort)
    found: dict[str, NDArray[np.float64]] = {}
    for name, file in FILES.items():
        if (folder / file).exists():
            opened = open_side(network, name, folder)
            scale, zero_point = opened.output
            inputs = opened.prepare(images)
            outputs = [opened.run(inputs[index : index + 1]).reshape(1, -1) for index in range(len(inputs))]
            found[name] = (np.concatenate(outputs).astype(np.float64) - zero_point) * scale
    expected = found[REFERENCE]
    return {
        name: {
            "accuracy": None if labels is None else float((logits.argmax(axis=1) == labels).mean()),
            "agreement": float((logits.argmax(axis=1) == expected.argmax(axis=1)).mean()),
            "snr_db": 10 * float(np.log10((expected**2).sum() / max(((logits - expected) ** 2).sum(), 1e-30))),
        }
        for name, logits in found.items()
    }


def time_sides(key: str, effort: Effort, folder: Path) -> Record:
    """Time each side, and compare neighbours in time.

    Returns:
        "machine" and "machine_after", the doctor's findings; "sides", for each side "runtime", "bytes" and what
        `bench.summarize_latency` returns; "ratios", for each of `RIVALS` the median over the turns of the ratio of
        both medians, and its interval.
    """
    before = [asdict(finding) for finding in doctor.examine_machine()]
    names = [name for name, file in FILES.items() if (folder / file).exists()]
    commands = {name: [sys.executable, __file__, "worker", key, name, str(folder)] for name in names}
    with progress.show_fraction() as report:
        timed, _ = bench.time_in_turns(commands, report, effort.seconds, (1,))
    ratios = []
    for first, second in RIVALS:
        if first in timed and second in timed:
            pairs = zip(timed[first].turn_medians[1], timed[second].turn_medians[1], strict=True)
            ratios.append([first, second, *median_interval([ours / theirs for ours, theirs in pairs])])
    return {
        "machine": before,
        "machine_after": [asdict(finding) for finding in doctor.examine_machine()],
        "sides": {
            name: {
                "runtime": timing.runtime,
                "bytes": (folder / FILES[name]).stat().st_size if FILES[name] else None,
                **timing.latency[1],
            }
            for name, timing in timed.items()
        },
        "ratios": ratios,
    }


def count_instructions(pi: emulator.Pi, folder: Path) -> Record:
    """Count the instructions of an inference: for each side, by processor."""
    counts: Record = {}
    with tempfile.TemporaryDirectory() as scratch:
        for cpu in CPUS:
            for name in ("ai-edge-quantizer, int8", "edge-mnist, int8 TFLite"):
                if (folder / FILES[name]).exists():
                    found = instructions.measure_inference(pi, folder / FILES[name], cpu, Path(scratch))
                    counts.setdefault(name, {})[cpu] = found["one"]
            name = "edge-mnist, int8 C"
            count = instructions.measure_c_inference(pi, folder / FILES[name], cpu, Path(scratch))
            counts.setdefault(name, {})[cpu] = count
    return counts


def measure(
    keys: Sequence[str], folder: Path, effort: Effort, anew: Sequence[str], note: Callable[[str], None]
) -> dict[str, Record]:
    """Measure networks, and keep what is measured in the folder, a file for each network.

    Args:
        keys: the networks.
        folder: where artifacts and measurements are kept.
        effort: how much is measured.
        anew: which of `PARTS` are measured although they were.
        note: is called with what cannot be measured.

    Returns:
        For each network what its parts returned, by their names.
    """
    try:
        peers.check_tools()
        has_tools = True
    except EdgeMnistError as error:
        note(f"not compared with other tools: {error}")
        has_tools = False
    records: dict[str, Record] = {}
    with contextlib.ExitStack() as stack:
        pi: emulator.Pi | None = None
        for key in keys:
            network, place = NETWORKS[key], folder / key
            place.mkdir(parents=True, exist_ok=True)
            kept = place / "measured.json"
            record: Record = json.loads(kept.read_text()) if kept.exists() else {}
            if record.get("effort") != [effort.seconds, effort.part]:
                record = {"effort": [effort.seconds, effort.part]}
            for part in PARTS if "export" in anew else anew:
                record.pop(part, None)
            parts: dict[str, Callable[[], Record]] = {"export": functools.partial(export, network, effort, place)}
            if has_tools:
                parts["tools"] = functools.partial(convert, network, place)
            parts["logits"] = functools.partial(compare_logits, network, effort, place)
            parts["times"] = functools.partial(time_sides, key, effort, place)
            if effort.pi and network.weights and "instructions" not in record:
                try:
                    pi = pi or stack.enter_context(_prepare_pi())
                    parts["instructions"] = functools.partial(count_instructions, pi, place)
                except emulator.EmulationError as error:
                    note(f"instructions are not counted: {error}")
            for name, measure_part in parts.items():
                if name not in record:
                    with progress.show_step(f"{key}: {name}"):
                        record[name] = measure_part()
                    write_whole(kept, json.dumps(record, indent=1).encode())
            records[key] = record
    return records


@contextlib.contextmanager
def _prepare_pi() -> Iterator[emulator.Pi]:
    """Prepare an emulated Pi with the LiteRT of this environment.

    Raises:
        EmulationError: this machine cannot emulate a Pi, or has no compiler for it.
    """
    import shutil
    from importlib.metadata import version

    if shutil.which(instructions.CROSS_COMPILER) is None:
        raise emulator.EmulationError("apt install gcc-aarch64-linux-gnu")
    with emulator.prepare("bookworm") as pi:
        packages = (f"ai-edge-litert=={version('ai-edge-litert')}", f"numpy=={version('numpy')}")
        pi.check("python3", "-m", "pip", "install", "--quiet", *packages, cwd=pi.folder)
        yield pi


def show(records: Mapping[str, Record], console: Console) -> None:
    """Print the tables."""
    last = list(records.values())[-1]
    bench.print_machine(last["times"], console)
    if "tools" in last:
        console.print(", ".join(f"{name} {version}" for name, version in last["tools"].items()), soft_wrap=True)
    show_proofs(records, console)
    for key, record in records.items():
        show_sides(NETWORKS[key], record, console)
    show_ratios(records, console)
    show_instructions(records, console)


def _describe(key: str) -> str:
    return f"{NETWORKS[key].title}, {NETWORKS[key].side}x{NETWORKS[key].side}"


def show_proofs(records: Mapping[str, Record], console: Console) -> None:
    """Print how many logits differ in each format, and how long the export took."""
    formats = list(dict.fromkeys(v["format"] for r in records.values() for v in r["export"]["variants"]))
    headings = ("weights", "images", *formats, "seconds")
    table = make_table("\nint8 logits that differ from the oracle's; export with proof", ("network",), headings)
    for key, record in records.items():
        facts = record["export"]
        cells = {
            variant["format"]: f"{variant['logits_differing']:,} of {variant['logits_compared']:,}"
            if variant["status"] != "not run"
            else "not run"
            for variant in facts["variants"]
            if variant["precision"] == "int8"
        }
        counts = (f"{facts['parameters']:,}", f"{facts['images']:,}")
        table.add_row(_describe(key), *counts, *(cells.get(name, "") for name in formats), f"{facts['seconds']:.0f}")
    print_table(table, console)


def show_sides(network: Network, record: Record, console: Console) -> None:
    """Print the bytes, the times and the accuracy of each side of a network."""
    images = f"{record['export']['images']:,} images"
    title = f"\n{network.title}, 3x{network.side}x{network.side}: microseconds on 1 thread; {images}"
    numbers = ("bytes", "median", "p5", "p99", "accuracy", "as float", "SNR dB")
    table = make_table(title, ("made by", "runs in"), numbers, wraps=("runs in",))
    for name, row in record["times"]["sides"].items():
        logits = record["logits"][name]
        times = (f"{row[column]:,.1f}" for column in ("median_us", "p5_us", "p99_us"))
        snr = f"{logits['snr_db']:.1f}" if name != REFERENCE else ""
        size = "" if row["bytes"] is None else f"{row['bytes']:,}"
        accuracy = "" if logits["accuracy"] is None else f"{logits['accuracy']:.2%}"
        table.add_row(name, row["runtime"], size, *times, accuracy, f"{logits['agreement']:.2%}", snr)
    print_table(table, console)


def show_ratios(records: Mapping[str, Record], console: Console) -> None:
    """Print how the times of rivals compare, each as the median of the turns with its 95 % interval."""
    title = "\nTime of the first divided by that of the second: median of the turns (95 % interval)"
    headings = [_describe(key).replace(", ", "\n") for key in records]
    table = make_table(title, ("first", "second"), headings)
    for first, second in RIVALS:
        cells = []
        for record in records.values():
            found = next((row[2:] for row in record["times"]["ratios"] if row[:2] == [first, second]), None)
            cells.append("" if found is None else "{:.2f} ({:.2f}-{:.2f})".format(*found))
        if any(cells):
            table.add_row(first, second, *cells)
    print_table(table, console)


def show_instructions(records: Mapping[str, Record], console: Console) -> None:
    """Print the instructions of an inference on each processor."""
    title = "\nMillion instructions of an inference on one thread, in an emulated Raspberry Pi"
    table = make_table(title, ("network", "made by"), CPUS)
    for key, record in records.items():
        for name, counts in record.get("instructions", {}).items():
            table.add_row(_describe(key), name, *(f"{counts[cpu] / 1e6:.2f}" for cpu in CPUS))
    if table.row_count:
        print_table(table, console)


@click.group(invoke_without_command=True)
@click.option("--network", "keys", multiple=True, type=click.Choice(list(NETWORKS)), help="Measure only this network.")
@click.option("--seconds", type=click.FloatRange(0.01), default=5.0, show_default=True, help="Time each side so long.")
@click.option("--quick", is_flag=True, help="Use a tenth of the images and of the time, and no emulator.")
@click.option("--pi/--no-pi", default=True, show_default=True, help="Count instructions in an emulated Raspberry Pi.")
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, help="Keep artifacts and measurements here.")
@click.option("--anew", multiple=True, type=click.Choice(PARTS), help="Measure this part again; export: all of them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def main(
    context: click.Context,
    keys: tuple[str, ...],
    seconds: float,
    quick: bool,
    pi: bool,
    folder: Path,
    anew: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compare what is made of other people's networks with what other tools make of them."""
    if context.invoked_subcommand:
        return
    from benchmarks import mlperf_tiny

    if not mlperf_tiny.FOLDER.is_dir():
        raise click.ClickException(
            f"{mlperf_tiny.FOLDER}: is not there; benchmarks/mlperf_tiny.py says what belongs there"
        )
    effort = Effort(seconds / 10, 0.1, False) if quick else Effort(seconds, 1.0, pi)
    chosen = keys or tuple(NETWORKS)
    notes: list[str] = []
    logging.getLogger("edge_mnist").propagate = False  # the tools write the log of all packages to stderr
    try:
        with progress.report_to_stderr():
            records = measure(chosen, folder, effort, anew, notes.append)
    except EdgeMnistError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(records))
        return
    console = make_console(highlight=False)
    show(records, console)
    for note in dict.fromkeys(notes):
        console.print(note, soft_wrap=True)


@main.command(hidden=True)
@click.argument("key")
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
def worker(key: str, name: str, folder: Path) -> None:
    """Serve a side, see edge_mnist.measure.timing_worker."""
    images = np.load(folder / "images.npy")[:64]

    def load() -> TimedModel:
        opened = open_side(NETWORKS[key], name, folder)
        return TimedModel(opened.runtime, opened.run, opened.prepare(images))

    serve(load)


if __name__ == "__main__":
    main()
