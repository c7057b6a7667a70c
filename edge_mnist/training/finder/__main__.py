"""Trains and judges the network that finds digits: `python -m edge_mnist.training.finder train|judge --help`."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.training.finder import judging, loop, sources

_FONTS = click.option(
    "--fonts",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    required=True,
    help="A folder with handwritten fonts in its folder hand, and printed ones in print.",
)
_DATA = click.option("--data", type=click.Path(path_type=Path), help="Where MNIST is.")


@click.group()
def main() -> None:
    """Train and judge the network that finds digits."""


@main.command()
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@_FONTS
@_DATA
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes that draw pictures.")
@click.option(
    "--set", "changes", multiple=True, metavar="NAME=VALUE", help="Change a setting: steps, batch, width, ..."
)
def train(run: Path, fonts: Path, data: Path | None, workers: int, changes: tuple[str, ...]) -> None:
    """Train a finder in the folder RUN, or go on with one that was interrupted."""
    for record in loop.train(run, fonts, data, _settings(changes), workers):
        click.echo(json.dumps({name: round(value, 4) for name, value in record.items()}))


@main.command()
@click.argument("checkpoint", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@_FONTS
@_DATA
@click.option("--part", type=click.Choice(["choose", "judge"]), default="choose", show_default=True)
@click.option("--count", type=click.IntRange(1), default=20, show_default=True, help="Pictures of each kind.")
@click.option("--least", type=click.FloatRange(0, 1), default=0.4, show_default=True, help="The confidence needed.")
def judge(checkpoint: Path, fonts: Path, data: Path | None, part: str, count: int, least: float) -> None:
    """Print, by kind of picture, how many digits the finder in CHECKPOINT finds, reads and invents."""
    finder = loop.load(checkpoint)
    table = Table("kind", "pictures", "digits", "found", "of these read right", "invented a picture")
    for kind, row in judging.judge(finder, sources.load(part, fonts, data), count, least).items():
        numbers = [f"{row.found / row.digits:.1%}", f"{row.right / max(row.told, 1):.1%}"] if row.digits else ["-", "-"]
        table.add_row(kind, str(row.pictures), str(row.digits), *numbers, f"{row.invented / row.pictures:.2f}")
    Console(width=100).print(table)


def _settings(changes: tuple[str, ...]) -> loop.Settings:
    """The settings with changes such as "steps=1000"."""
    kinds: dict[str, type] = {one.name: type(one.default) for one in fields(loop.Settings)}
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
