"""Options that several commands take, in the same words."""

from __future__ import annotations

from pathlib import Path

import click

from edge_mnist.system import progress
from edge_mnist.system.progress import Verbosity


def add_verbosity(command: click.Command) -> None:
    """Give a command the options that say how much it writes to stderr."""
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_choose_verbosity,
        help="Say what is done in detail too: steps and their times, files read and written, runtimes.",
    )(command)
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=_choose_verbosity,
        help="Print results and errors only: no progress, no notes.",
    )(command)


def _choose_verbosity(context: click.Context, option: click.Parameter, is_given: bool) -> None:
    chosen: Verbosity = "quiet" if option.name == "quiet" else "verbose"
    if not is_given:
        return
    if context.meta.setdefault(__name__, chosen) != chosen:
        raise click.UsageError("--verbose and --quiet exclude each other: leave one out")
    progress.choose_verbosity(chosen)


trust_changed = click.option(
    "--trust", is_flag=True, help="Run TorchScript archives and C that were changed since the export: they carry code."
)
"""Of commands that open a bundle."""

reading_model = click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="An artifact, float or int8, a model.c too.  [default: the shipped int8 TFLite]",
)
"""Of commands that read numbers: the network."""

trust_model = click.option(
    "--trust",
    is_flag=True,
    help="Open a TorchScript archive or a model.c that no manifest beside it knows as --model: they carry code.",
)
"""Of the same."""

threshold = click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="The least confidence that a digit needs.  [default: 0.65]",  # reader.THRESHOLD, without importing OpenCV
)
"""Of the same; None without it."""
