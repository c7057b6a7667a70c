"""The command that repeats the study that the network comes from: `experiments`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edge_mnist.cli import options
from edge_mnist.system import signals


@click.command(
    context_settings=options.accept_former_names({"readings": "interpretations", "no-readings": "no-interpretations"})
)
@click.option(
    "--seeds", type=click.IntRange(1), default=3, show_default=True, help="Run each experiment this many times."
)
@click.option(
    "--interpretations/--no-interpretations",
    default=True,
    help="Run the other interpretations of the study's text too, or leave them out.",
)
@click.option("--epochs", type=click.IntRange(1), help="Train for this many epochs instead of the recipes' 20.")
@options.device
@options.workers
@options.data
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=Path("runs/experiments"),
    show_default=True,
    help="Keep each run in a folder of this folder.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("docs/experiments.md"),
    show_default=True,
    help="Write the report into this file, and its picture beside it.",
)
@click.option("--resume", is_flag=True, help="Continue the runs in --runs.")
def experiments(**chosen: Any) -> None:
    """Repeat the study that the network comes from.

    Its four experiments are run; a report sets the figures beside those of the study.
    """
    from edge_mnist import pipeline

    click.echo(pipeline.run_experiments(collect_signals=signals.collect, **chosen))
