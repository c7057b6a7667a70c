"""The `edge-mnist` command: the only place where the stages are joined.

Each command imports what it needs when it runs, so that `--help` is instant and a machine without torch can use every
command that needs no torch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edge_mnist import __version__
from edge_mnist.errors import EdgeMnistError, missing_package


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edge-mnist")
def commands() -> None:
    """Train a small digit network, export it as int8, prove that every format is the same model."""


@commands.command()
@click.option(
    "--recipe", help="adam-onecycle, sgd-onecycle, sgd-fixed, adamw-onecycle or quick.  [default: adam-onecycle]"
)
@click.option("--epochs", type=click.IntRange(1), help="Other than the recipe's.")
@click.option("--batch-size", type=click.IntRange(2), help="Other than the recipe's.")
@click.option(
    "--lr", type=click.FloatRange(0, min_open=True), help="The highest learning rate, other than the recipe's."
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="The same seed gives the same weights.  [default: 0]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="[default: auto]")
@click.option("--network", help="A factory of another network, package.module:factory.")
@click.option("--all", "everything", is_flag=True, help="Learn from all 60,000 images; nothing is validated.")
@click.option("--data", type=click.Path(path_type=Path), help="The folder with MNIST's files.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the run is written.  [default: runs/RECIPE]")
@click.option("--resume", is_flag=True, help="Go on with the stopped run in --out.")
def train(
    recipe: str | None,
    epochs: int | None,
    batch_size: int | None,
    lr: float | None,
    seed: int | None,
    device: str | None,
    network: str | None,
    everything: bool,
    data: Path | None,
    out: Path | None,
    resume: bool,
) -> None:
    """Train a network; write checkpoint, metrics, curves and state into a folder of its own."""
    from edge_mnist.data import load
    from edge_mnist.recipes import named

    try:
        from edge_mnist import runs, training
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "matplotlib"):
            raise
        raise missing_package(error.name, "train") from error

    out = out or Path("runs") / (recipe or "adam-onecycle")
    settings = runs.choose_settings(
        recorded=runs.recorded_settings(out) if resume else None,
        recipe=named(recipe) if recipe else None,
        changes={"epochs": epochs, "batch_size": batch_size, "lr": lr},
        seed=seed,
        device=device,
        network=network,
        everything=everything or None,
    )
    training.train(settings, load("train", data), load("test", data), out, resume=resume)
    click.echo(out / training.CHECKPOINT)


def main() -> None:
    """Run the command line; a user's mistake becomes one line on stderr and an exit status."""
    try:
        commands.main(prog_name="edge-mnist", standalone_mode=False)
    except EdgeMnistError as error:
        click.echo(f"edge-mnist: {error}", err=True)
        sys.exit(error.exit_status)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("edge-mnist: stopped", err=True)
        sys.exit(130)
