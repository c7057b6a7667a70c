"""The command that compares artifacts with the oracle: `verify`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_mnist.cli import options

if TYPE_CHECKING:
    from edge_mnist.export.proof.parity import ParityReport


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@options.inputs_to_test
@options.resize
@options.skip_bad
@options.images
@options.max_drop
@options.trust_changed
@click.option("--run-with", default="", help="Run each artifact with a command, such as 'qemu-x86_64 -cpu Haswell'.")
@click.option(
    "--runtime",
    type=click.Choice(["tflite-micro"]),
    help="Run the TFLite artifacts in TensorFlow Lite Micro too, the runtime for microcontrollers.",
)
@click.option("--layers", is_flag=True, help="Print signal, noise and bias correction of each layer too.")
@click.option("--json", "as_json", is_flag=True, help="Print parity.json instead of the table.")
def verify(folder: Path, layers: bool, as_json: bool, **others: Any) -> None:
    """Compare every artifact in DIR with the oracle.

    The int8 logits must be equal bit for bit, on the inputs of --data and on the golden inputs in DIR. The exit status
    is 1 if anything differs, or if int8 loses more accuracy than --max-drop allows.
    """
    from edge_mnist import pipeline

    show_parity(pipeline.verify(folder, **others), as_json=as_json, layers=layers)


def show_parity(report: ParityReport, *, as_json: bool = False, layers: bool = False) -> None:
    """Print a parity report; the exit status is 1 if it failed."""
    from edge_mnist.export.report import terminal
    from edge_mnist.system.tables import make_console

    if as_json:
        click.echo(report.to_json())
    else:
        if layers:
            terminal.print_layers(report, make_console())
        terminal.print_report(report, make_console())
        click.echo(f"report: {report.page or 'not kept'}")
    if not report.passed:
        sys.exit(1)
