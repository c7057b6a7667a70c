"""The command that trains a network: `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edge_mnist.cli import options
from edge_mnist.system import signals


@click.command(context_settings=options.accept_former_names({"extra": "user-digits"}))
@click.option(
    "--recipe",
    help="Train by this recipe: adam-onecycle, sgd-onecycle, sgd-fixed, adamw-onecycle, best, tune or quick.  "
    "[default: adam-onecycle]",
)
@click.option("--epochs", type=click.IntRange(1), help="Train for this many epochs instead of the recipe's.")
@click.option("--batch-size", type=click.IntRange(2), help="Put this many images into a batch instead of the recipe's.")
@click.option(
    "--lr",
    type=options.FloatRange(0, min_open=True),
    help="Use this as the highest learning rate instead of the recipe's.",
)
@click.option(
    "--set", "changes", multiple=True, metavar="NAME=VALUE", help="Change any number of the recipe; may be repeated."
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    help="Draw all random numbers from this seed; the same seed gives the same weights.  [default: 0]",
)
@options.device
@options.workers
@click.option(
    "--precision",
    type=click.Choice(["auto", "bfloat16", "float32"]),
    help="Compute the convolutions in this precision; auto takes the faster one.  [default: auto]",
)
@click.option(
    "--network",
    help="Train the network of a factory, package.module:factory, in a module of the current folder or of an installed "
    "package.",
)
@click.option("--all", "everything", is_flag=True, help="Learn from all 60,000 images and validate with none.")
@options.data
@click.option(
    "--user-digits",
    type=click.Path(path_type=Path),
    help="Learn from your images too, which are in folders 0 to 9 and none of this folder.",
)
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    is_flag=False,
    flag_value=Path(),
    help="Begin with the weights of a checkpoint; without a value, of the shipped one, as --user-digits does where no "
    "other recipe and no network is named.",
)
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Learn from a checkpoint too, perhaps of a larger network; may be repeated, and several are averaged.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write the run into this folder.  [default: runs/RECIPE]")
@click.option("--resume", is_flag=True, help="Continue the stopped run in --out.")
def train(changes: tuple[str, ...], init: Path | None, **others: Any) -> None:
    """Train a network.

    Checkpoint, metrics, curves and state are written into a folder for this run.
    """
    from edge_mnist import pipeline
    from edge_mnist.pretrained import SHIPPED
    from edge_mnist.training.recipes import parse_changes

    first = SHIPPED if init == Path() else init
    path = pipeline.train(changes=parse_changes(changes), init=first, collect_signals=signals.collect, **others)
    if path is not None:
        click.echo(path)
