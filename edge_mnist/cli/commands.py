"""The `edge-mnist` command: the only place where the stages are joined.

Each command imports what it needs when it runs, so that `--help` is instant and a machine without torch can use every
command that needs no torch.
"""

from __future__ import annotations

import errno
import json
import logging
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import click

from edge_mnist import __version__
from edge_mnist.cli import options as cli_options
from edge_mnist.cli.bench import bench
from edge_mnist.cli.demo import demo
from edge_mnist.cli.doctor import doctor
from edge_mnist.cli.predict import predict
from edge_mnist.cli.train import evaluate, experiments, train
from edge_mnist.system import progress
from edge_mnist.system.errors import EdgeMnistError, UsageError

if TYPE_CHECKING:
    from edge_mnist.data.images import Images


_LOG = logging.getLogger(__name__)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edge-mnist")
def commands() -> None:
    """Train a small digit network, export it as int8, prove that every format is the same model."""


@commands.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(file: Path | None, as_json: bool) -> None:
    """Say what FILE is: checkpoint, artifact, bundle.

    A bundle is named by its folder; without FILE, it is the shipped checkpoint.
    """
    from edge_mnist.inspect import summary, summary_text
    from edge_mnist.pretrained import SHIPPED

    facts = summary.describe(file or SHIPPED)
    if as_json:
        click.echo(json.dumps(facts))
    else:
        summary_text.show(facts)


@commands.command()
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option("--int8", is_flag=True, help="The int8 variants too: quantized after training.")
@click.option(
    "--format",
    "formats",
    multiple=True,
    help="torchscript, onnx, tflite or c (with --int8); may be repeated.  [default: all but c]",
)
@click.option("--network", help="A factory's network, package.module:factory; CHECKPOINT then holds its state_dict.")
@click.option("--calibration", type=click.Choice(["mse", "minmax"]), default="mse", show_default=True)
@click.option("--weight-range", type=click.IntRange(8, 127), default=64, show_default=True, help="Of int8 weights.")
@click.option("--recalibrate", is_flag=True, help="Take activation statistics from --data, not from the checkpoint.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="The folder with MNIST's files, to verify and recalibrate on."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("artifacts"),
    show_default=True,
    help="Where they are written.",
)
@click.option(
    "--bundle",
    "standalone",
    type=click.Path(path_type=Path),
    metavar="FILE.zip",
    help="Write no folder but this: the int8 TFLite, golden vectors, and a script that needs no edge-mnist.",
)
@click.option("--no-verify", is_flag=True, help="Write the artifacts without proving that they are the same model.")
@click.option("--force", is_flag=True, help="Write into a folder that holds other files too; they stay.")
def export(
    checkpoint: Path | None,
    int8: bool,
    formats: tuple[str, ...],
    network: str | None,
    calibration: Literal["mse", "minmax"],
    weight_range: int,
    recalibrate: bool,
    data: Path | None,
    out: Path,
    standalone: Path | None,
    no_verify: bool,
    force: bool,
) -> None:
    """Write CHECKPOINT as TorchScript, ONNX and TFLite.

    Without CHECKPOINT, the shipped one; and prove that all are the same model.

    Batch normalisation is folded into the convolutions; with --int8 the network is quantized after training.
    """
    from edge_mnist.bundle.reference import make_reference
    from edge_mnist.data.images import test_images
    from edge_mnist.export import bundle_writer
    from edge_mnist.formats.table import choose_formats
    from edge_mnist.graph.folding import fold
    from edge_mnist.graph.quantization import LayerReport, quantize_graph
    from edge_mnist.pipeline import calibrated, origin, trained
    from edge_mnist.system.files import locked

    kinds = choose_formats(formats)
    if standalone is not None:
        if set(formats) - {"tflite"}:
            raise UsageError(f"--bundle {standalone}: holds TFLite only: leave out --format")
        int8 = True
    else:
        bundle_writer.check_bundle_folder(out, force)
    if not int8 and (only := [kind.name for kind in kinds if "float" not in kind.precisions]):
        raise UsageError(f"--format {only[0]}: it is written from the quantized network only: add --int8")
    with locked(standalone or out):
        with progress.status("reading the network"):
            source = trained(checkpoint, network)
            graph = fold(source)
            quantized = None
            layers: tuple[LayerReport, ...] = ()
            if int8:
                _LOG.info("calibrating and quantizing")
                source = calibrated(source, graph, data, recalibrate)
                quantized, layers = quantize_graph(
                    graph, source.statistics, weight_range=weight_range, method=calibration
                )
            _LOG.info("running the golden images")
            reference = make_reference(graph, quantized, layers, source.metadata.get("accuracies", {}).get("test"))
        if standalone is not None:
            from edge_mnist.export.standalone import write_standalone
            from edge_mnist.system.files import write_whole

            write_whole(standalone, write_standalone(reference))
            size = f"{standalone.stat().st_size:,}"
            _LOG.warning("%s: %s bytes: model, 64 golden images, classify.py", standalone, size)
            return
        details = {
            "checkpoint": origin(checkpoint, network, source),
            "calibration": {"method": calibration, "weights": weight_range},
        }
        with progress.status("writing the artifacts"):
            # Images that cannot be read show before anything is replaced.
            images = None if no_verify else test_images(graph.input_shape, data, 10_000)
            gone = bundle_writer.write_bundle(out, bundle_writer.make_bundle(reference, kinds, details))
        if gone:
            text = "%s: the bundle that was here also held %s; a bundle is one export, so that is gone: "
            _LOG.warning(text + "name every --format at once to have them together", out, ", ".join(gone))
        if images is not None:
            _verify(out, images)


@commands.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="The folder with MNIST's files.")
@click.option(
    "--images", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True, help="How many test images."
)
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 100),
    default=0.1,
    show_default=True,
    help="Accuracy drop allowed, in points.",
)
@cli_options.trust_changed
@click.option("--run-with", default="", help="A command to run each artifact with, such as 'qemu-x86_64 -cpu Haswell'.")
@click.option(
    "--runtime",
    type=click.Choice(["tflite-micro"]),
    help="Run the TFLite artifacts in this runtime too: TensorFlow Lite Micro, for microcontrollers.",
)
@click.option("--layers", is_flag=True, help="Print signal, noise and bias correction of each layer too.")
@click.option("--json", "as_json", is_flag=True, help="Print parity.json rather than the table.")
def verify(
    folder: Path,
    data: Path | None,
    images: int,
    max_drop: float,
    trust: bool,
    run_with: str,
    runtime: str | None,
    layers: bool,
    as_json: bool,
) -> None:
    """Hold every artifact in DIR against the oracle.

    Its int8 logits must be equal bit for bit. On MNIST's test images where they are to be had, on drawn digits
    elsewhere, and on the golden images in DIR. Exit status 1 if anything differs.
    """
    from edge_mnist.bundle.reference import read_bundle
    from edge_mnist.data.images import test_images
    from edge_mnist.system.files import locked

    try:
        command = tuple(shlex.split(run_with))
    except ValueError as error:
        raise UsageError(f"--run-with {run_with}: {error}") from error
    with locked(folder):
        _, reference = read_bundle(folder)
        shown = test_images(reference.float_graph.input_shape, data, images)
        options = {"max_drop": max_drop, "trust": trust, "run_with": command, "runtime": runtime or ""}
        _verify(folder, shown, as_json=as_json, layers=layers, **options)


def _verify(folder: Path, images: Images, *, as_json: bool = False, layers: bool = False, **options: Any) -> None:
    """Verify a bundle, tell the result, keep it in the bundle; exit status 1 if it failed."""
    from edge_mnist.bundle.manifest import REPORT
    from edge_mnist.bundle.reference import read_bundle
    from edge_mnist.export import bundle_writer
    from edge_mnist.export.proof.verification import VerifyOptions, verify
    from edge_mnist.export.report import terminal
    from edge_mnist.export.report.page import render_html
    from edge_mnist.system.tables import make_console

    manifest, _ = read_bundle(folder)
    with progress.status(f"verifying on {len(images.pixels):,} images ({images.name})"):
        found = verify(folder, images, VerifyOptions(**options))
    text = found.to_json()
    try:
        bundle_writer.write_report(folder, render_html(found, manifest), text)
        kept = f"report: {folder / REPORT}"
    except EdgeMnistError as error:
        kept = "report: not kept"
        click.echo(f"edge-mnist: the report is not kept: {error}", err=True)
    if as_json:
        click.echo(text)
    else:
        if layers:
            terminal.print_layers(found, make_console())
        terminal.print_report(found, make_console())
        click.echo(kept)
    if not found.passed:
        sys.exit(1)


for _command in (train, experiments, evaluate, bench, predict, demo, doctor):
    commands.add_command(_command)
for _command in commands.commands.values():
    cli_options.add_verbosity(_command)


def main() -> None:
    """Run the command line; a user's mistake becomes one line on stderr and an exit status."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with progress.report():
            commands.main(prog_name="edge-mnist", standalone_mode=False)
        click.echo(nl=False)  # what is left to be written meets a full disk here
    except EdgeMnistError as error:
        click.echo(f"edge-mnist: {_printable(str(error))}", err=True)
        sys.exit(error.exit_status)
    except OSError as error:  # a full disk under stdout, a folder that may not be looked into, no scratch space
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"edge-mnist: {where}{error.strerror or error}", err=True)
        sys.exit(2 if error.errno in (errno.ENAMETOOLONG, errno.ELOOP) else 1)  # such a path is wrong in itself
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("edge-mnist: stopped", err=True)
        sys.exit(130)
    except Exception as error:
        if not _is_memory(error):
            raise
        click.echo("edge-mnist: there is too little memory: end other programs, or add swap", err=True)
        sys.exit(1)


def _printable(text: str) -> str:
    """A text on one line: what a terminal would obey, in a file's or a layer's name, is written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _is_memory(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, is of memory that was not to be had: Python's, OpenCV's, a loader's."""
    signs = (
        "Insufficient memory",
        "Cannot allocate memory",
        "cannot allocate memory",
        "failed to map segment",
        "bad_alloc",
    )
    while error is not None:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in signs):
            return True
        error = error.__cause__ or error.__context__
    return False


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends the command as Ctrl-C does, so that scratch files go and processes end."""
    click.echo("edge-mnist: stopped", err=True)
    sys.exit(128 + number)
