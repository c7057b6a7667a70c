"""Prints instructions and memory in the emulated Pi beside the committed figures: `python -m benchmarks.pi`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.pi import measure
from benchmarks.pi.emulator import CPUS, EmulationError, Pi, build_wheel, prepare
from benchmarks.pi.instructions import measure_inference
from edge_mnist.pretrained import SHIPPED_INT8

FIGURES = Path(__file__).with_name("figures.json")
"""The committed figures of the last measurement; a test fails if one has risen by 2 %."""

Figures = dict[str, Any]


def measure_all(pi: Pi, scratch: Path) -> Figures:
    """Measure everything in a Pi in which this checkout is installed.

    Returns:
        "inference", the instructions of one int8 TFLite inference by processor; "frame", instructions on cortex-a72 by
        frame and stage; "memory", in KiB.
    """
    inference = {cpu: _round(measure_inference(pi, SHIPPED_INT8, cpu, scratch)) for cpu in CPUS}
    frames = {}
    for name in measure.FRAMES:
        image, lines = measure.make_frame(name)
        read, frames[name] = measure.measure_reading(pi, image, "cortex-a72", scratch)
        if read != lines:
            click.echo(f"{name}: reads {read}, expected {lines}", err=True)
    return {"inference": inference, "frame": frames, "memory": measure.measure_memory(pi, SHIPPED_INT8, scratch)}


def _round(counts: dict[str, float]) -> dict[str, int]:
    return {name: round(count) for name, count in counts.items()}


def show(figures: Figures, console: Console) -> None:
    """Print the tables; a committed figure that differs follows after a slash."""
    committed = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    _print_table(
        console, "Thousand instructions of an inference, int8 TFLite, one thread", 1e3, figures, committed, "inference"
    )
    _print_table(
        console,
        "Million instructions of reading a frame of 640x480 with ten digits, cortex-a72",
        1e6,
        figures,
        committed,
        "frame",
    )
    table = Table(title="\nMemory (Rss) in MiB", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("a process of")
    table.add_column("MiB", justify="right")
    for name, value in figures["memory"].items():
        table.add_row(name, _format_cell(value, committed.get("memory", {}).get(name), 1024))
    console.print(table)


def _print_table(console: Console, title: str, unit: float, figures: Figures, committed: Figures, part: str) -> None:
    table = Table(title=f"\n{title}", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("")
    columns = list(dict.fromkeys(name for row in figures[part].values() for name in row))
    for name in columns:
        table.add_column(name, justify="right")
    for row, values in figures[part].items():
        old = committed.get(part, {}).get(row, {})
        table.add_row(row, *(_format_cell(values.get(name, 0), old.get(name), unit) for name in columns))
    console.print(table)


def _format_cell(value: float, old: float | None, unit: float) -> str:
    text = f"{value / unit:,.1f}"
    return text if old is None or text == f"{old / unit:,.1f}" else f"{text} / {old / unit:,.1f}"


@click.command()
@click.option("--suite", type=click.Choice(["bookworm", "trixie"]), default="bookworm", show_default=True)
@click.option(
    "--calls", metavar="FRAME", help="List only the costs of reading webcam, sheet or desk by place and call."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--write", is_flag=True, help=f"Write the figures into {FIGURES.name}, to be committed.")
def main(suite: str, calls: str | None, as_json: bool, write: bool) -> None:
    """Install this checkout in the emulated Pi and measure it there. This needs root and takes three minutes."""
    try:
        with prepare(suite) as pi, tempfile.TemporaryDirectory() as name:
            scratch = Path(name)
            pi.install(build_wheel(scratch), "headless")
            if calls is not None:
                counts = measure.measure_calls(pi, measure.make_frame(calls)[0], "cortex-a72", scratch)
                for place, count in counts.most_common(40):
                    click.echo(f"{count / 1e6:8.2f} M  {place}")
                click.echo(f"{counts.total() / 1e6:8.2f} M  in all")
                return
            figures = measure_all(pi, scratch)
    except EmulationError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(figures, indent=1))
    else:
        show(figures, Console(width=120))
    if write:
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
