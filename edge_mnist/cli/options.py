"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edge_mnist.system import progress
from edge_mnist.system.progress import Verbosity


def accept_former_names(names: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of a command that accepts former names of its options, which its help does not show.

    Args:
        names: the present names by the former ones, without dashes at the beginning.
    """
    return {"token_normalize_func": lambda token: names.get(token, token)}


def add_verbosity(command: click.Command) -> None:
    """Give a command the options that choose how much it writes to stderr."""
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_choose_verbosity,
        help="Print details too: steps with their times, files read and written, runtimes.",
    )(command)
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=_choose_verbosity,
        help="Print results and errors only, neither progress nor notes.",
    )(command)


def _choose_verbosity(context: click.Context, option: click.Parameter, is_given: bool) -> None:
    chosen: Verbosity = "quiet" if option.name == "quiet" else "verbose"
    if not is_given:
        return
    if context.meta.setdefault(__name__, chosen) != chosen:
        raise click.UsageError("--verbose and --quiet exclude each other: leave one out")
    progress.choose_verbosity(chosen)


data = click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Read MNIST's files from this folder.  [default: EDGE_MNIST_DATA or the cache]",
)
"""The option of commands that read MNIST."""

device = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Compute on this device.  [default: auto]"
)
"""An option of commands that train."""

workers = click.option(
    "--workers", type=click.IntRange(1), help="Share each batch among so many processes.  [default: physical cores]"
)
"""An option of commands that train."""

trust_changed = click.option(
    "--trust", is_flag=True, help="Run TorchScript archives and C that were changed since the export: they carry code."
)
"""The option of commands that run the artifacts in a folder."""

reading_model = click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="Read with this artifact, float or int8, model.c included.  [default: the shipped int8 TFLite]",
)
"""An option of commands that read numbers."""

trust_model = click.option(
    "--trust",
    is_flag=True,
    help="Open --model although no manifest beside it holds its hash: TorchScript archives and C carry code.",
)
"""An option of commands that read numbers."""

threshold = click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    # reader.THRESHOLD, without importing OpenCV
    help="Take no digit whose confidence is lower.  [default: 0.65]",
)
"""An option of commands that read numbers; None stands for the reader's threshold."""
