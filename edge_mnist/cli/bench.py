"""The command that measures speed, size and memory: `bench`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edge_mnist.cli import options


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("artifacts"))
@click.option(
    "--seconds",
    type=click.FloatRange(0.01, 3600),
    default=2.0,
    show_default=True,
    help="Run each artifact so long for each size of batch and number of threads.",
)
@options.trust_changed
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(folder: Path, seconds: float, trust: bool, as_json: bool) -> None:
    """Measure speed, memory and size of the artifacts in DIR.

    DIR is a folder that `edge-mnist export` wrote, [default: artifacts]. Those artifacts are measured that this machine
    can run: one image and 32 at a time, on one thread and on all, the artifacts taking turns. What is timed is the
    call of the runtime, from a prepared input to the output as an array; memory is that of a process that does nothing
    else. On a Raspberry Pi, the board, the governor of its clock and its throttling are printed too.
    """
    from edge_mnist import pipeline
    from edge_mnist.measure.bench import print_tables
    from edge_mnist.system.tables import make_console

    facts = pipeline.benchmark(folder, seconds=seconds, trust=trust)
    if as_json:
        click.echo(json.dumps(facts))
    else:
        print_tables(facts, make_console(highlight=False))
