"""Prints what the emulated Pi executes and holds in memory, beside the committed figures: `python -m benchmarks.pi`."""

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
from benchmarks.pi.emulator import CPUS, Pi, Unable, build_wheel, prepared
from edge_mnist.pretrained import SHIPPED_INT8

FIGURES = Path(__file__).with_name("figures.json")
"""What was measured last and is committed; a test fails on a rise of 2 %."""

Figures = dict[str, Any]


def figures(pi: Pi, scratch: Path) -> Figures:
    """Everything that is measured, on a Pi where this checkout is installed.

    Returns:
        "inference": by processor, instructions of one int8 TFLite inference; "frame": by frame and stage, instructions
        on cortex-a72; "memory": KiB.
    """
    inference = {cpu: _rounded(measure.inference(pi, SHIPPED_INT8, cpu, scratch)) for cpu in CPUS}
    frames = {}
    for name in measure.FRAMES:
        image, lines = measure.frame(name)
        found, frames[name] = measure.reading(pi, image, "cortex-a72", scratch)
        if found != lines:
            click.echo(f"{name}: reads {found}, {lines} is written there", err=True)
    return {"inference": inference, "frame": frames, "memory": measure.memory(pi, SHIPPED_INT8, scratch)}


def _rounded(counts: dict[str, float]) -> dict[str, int]:
    return {name: round(count) for name, count in counts.items()}


def show(found: Figures, console: Console) -> None:
    """Print the tables, with what is committed behind a slash where it is another number."""
    kept = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    _table(console, "Thousand instructions of an inference, int8 TFLite, one thread", 1e3, found, kept, "inference")
    _table(
        console,
        "Million instructions of reading a frame of 640x480 with ten digits, cortex-a72",
        1e6,
        found,
        kept,
        "frame",
    )
    table = Table(title="\nMemory (Rss) in MiB", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("a process of")
    table.add_column("MiB", justify="right")
    for name, value in found["memory"].items():
        table.add_row(name, _cell(value, kept.get("memory", {}).get(name), 1024))
    console.print(table)


def _table(console: Console, title: str, unit: float, found: Figures, kept: Figures, part: str) -> None:
    table = Table(title=f"\n{title}", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("")
    columns = list(dict.fromkeys(name for row in found[part].values() for name in row))
    for name in columns:
        table.add_column(name, justify="right")
    for row, values in found[part].items():
        old = kept.get(part, {}).get(row, {})
        table.add_row(row, *(_cell(values.get(name, 0), old.get(name), unit) for name in columns))
    console.print(table)


def _cell(value: float, old: float | None, unit: float) -> str:
    text = f"{value / unit:,.1f}"
    return text if old is None or text == f"{old / unit:,.1f}" else f"{text} / {old / unit:,.1f}"


@click.command()
@click.option("--suite", type=click.Choice(["bookworm", "trixie"]), default="bookworm", show_default=True)
@click.option("--calls", metavar="FRAME", help="Only list what reading webcam, sheet or desk costs by place and call.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--write", is_flag=True, help=f"Keep the figures in {FIGURES.name}, to be committed.")
def main(suite: str, calls: str | None, as_json: bool, write: bool) -> None:
    """Measure this checkout in the emulated Pi; it is installed there first. Takes three minutes, as root."""
    try:
        with prepared(suite) as pi, tempfile.TemporaryDirectory() as name:
            scratch = Path(name)
            pi.install(build_wheel(scratch), "headless")
            if calls is not None:
                counts = measure.calls(pi, measure.frame(calls)[0], "cortex-a72", scratch)
                for place, count in counts.most_common(40):
                    click.echo(f"{count / 1e6:8.2f} M  {place}")
                click.echo(f"{counts.total() / 1e6:8.2f} M  in all")
                return
            found = figures(pi, scratch)
    except Unable as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        show(found, Console(width=120))
    if write:
        FIGURES.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
