"""Trains the network that finds digits: `python -m edge_mnist.training.finder --help`."""

from __future__ import annotations

import json
import sys
from dataclasses import fields, replace
from pathlib import Path

import click
import numpy as np

from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.training.finder import loop, pages

_FONTS = click.option(
    "--fonts",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    required=True,
    help="A folder with handwritten fonts in its folder hand, and printed ones in print.",
)
_DATA = click.option("--data", type=click.Path(path_type=Path), help="Where MNIST is.")


@click.command()
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@_FONTS
@_DATA
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes that draw pictures.")
@click.option(
    "--init",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="The checkpoint of a finder whose weights a new run begins with.",
)
@click.option(
    "--set", "changes", multiple=True, metavar="NAME=VALUE", help="Change a setting: steps, batch, width, ..."
)
@click.option("--without", type=click.Choice([*pages.KINDS]), help="Draw no pages of this kind.")
def main(
    run: Path,
    fonts: Path,
    data: Path | None,
    workers: int,
    init: Path | None,
    changes: tuple[str, ...],
    without: str | None,
) -> None:
    """Train a finder in the folder RUN, or go on with one that was interrupted."""
    settings = replace(_settings(changes), without=without or "")
    for record in loop.train(run, fonts, data, settings, workers, init):
        click.echo(json.dumps({name: round(value, 4) for name, value in record.items()}))


def _settings(changes: tuple[str, ...]) -> loop.Settings:
    """The settings with changes such as "steps=1000"."""
    kinds: dict[str, type] = {one.name: type(one.default) for one in fields(loop.Settings) if one.name != "without"}
    changed = {}
    for change in changes:
        name, _, value = change.partition("=")
        if name not in kinds:
            raise UsageError(f"--set {change}: no such setting, expected one of {', '.join(kinds)}")
        try:
            changed[name] = kinds[name](value)
        except ValueError:
            raise UsageError(f"--set {change}: expected a number, {name}=NUMBER") from None
        if not np.isfinite(changed[name]) or changed[name] < (0 if name == "seed" else 1e-12):
            raise UsageError(f"--set {change}: expected a number above 0")
    return loop.Settings(**changed)


if __name__ == "__main__":
    try:
        main()
    except EdgeMnistError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
