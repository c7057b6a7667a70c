"""The commands that train and judge networks: `train`, `experiments` and `evaluate`."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_mnist import __version__
from edge_mnist.system import progress, signals
from edge_mnist.system.errors import UsageError, missing_package
from edge_mnist.system.files import read_bytes

if TYPE_CHECKING:
    from edge_mnist.runtime import Classifier

_LOG = logging.getLogger(__name__)


@click.command()
@click.option(
    "--recipe",
    help="adam-onecycle, sgd-onecycle, sgd-fixed, adamw-onecycle, best, tune or quick.  [default: adam-onecycle]",
)
@click.option("--epochs", type=click.IntRange(1), help="Other than the recipe's.")
@click.option("--batch-size", type=click.IntRange(2), help="Other than the recipe's.")
@click.option(
    "--lr", type=click.FloatRange(0, min_open=True), help="The highest learning rate, other than the recipe's."
)
@click.option("--set", "others", multiple=True, metavar="NAME=VALUE", help="Any other value of the recipe's.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="The same seed gives the same weights.  [default: 0]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="[default: auto]")
@click.option("--workers", type=click.IntRange(1), help="Processes that share each batch.  [default: physical cores]")
@click.option(
    "--precision",
    type=click.Choice(["bfloat16", "float32"]),
    help="Of convolutions.  [default: bfloat16 where the device has it]",
)
@click.option("--network", help="A factory of another network, package.module:factory.")
@click.option("--all", "everything", is_flag=True, help="Learn from all 60,000 images; nothing is validated.")
@click.option("--data", type=click.Path(path_type=Path), help="The folder with MNIST's files.")
@click.option(
    "--extra", type=click.Path(path_type=Path), help="Images of your own, in folders 0 to 9 and none, to learn besides."
)
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    is_flag=False,
    flag_value=Path(),
    help="A checkpoint to begin with; without a value, and with --extra, the shipped one.",
)
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A checkpoint, perhaps of a larger network, to learn from besides; several are averaged.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Where the run is written.  [default: runs/RECIPE]")
@click.option("--resume", is_flag=True, help="Go on with the stopped run in --out.")
def train(
    recipe: str | None,
    epochs: int | None,
    batch_size: int | None,
    lr: float | None,
    others: tuple[str, ...],
    seed: int | None,
    device: str | None,
    workers: int | None,
    precision: str | None,
    network: str | None,
    everything: bool,
    data: Path | None,
    extra: Path | None,
    init: Path | None,
    teachers: tuple[Path, ...],
    out: Path | None,
    resume: bool,
) -> None:
    """Train a network.

    Checkpoint, metrics, curves and state are written into a folder of its own.
    """
    from edge_mnist.data.mnist import load
    from edge_mnist.data.user_digits import read
    from edge_mnist.graph import checkpoint
    from edge_mnist.pretrained import SHIPPED
    from edge_mnist.training.recipes import named, parse_changes

    with _training_packages():
        from edge_mnist.training import loop, runs
        from edge_mnist.training.workers import join, launched_rank

    if launched_rank():  # torchrun started this process to follow another, which reads the options
        with join() as team:
            loop.follow(team)
        return
    if not resume:
        recipe = recipe or ("tune" if extra else "adam-onecycle")
    out = out or Path("runs") / (recipe or "adam-onecycle")
    own = read(extra) if extra else None
    start = SHIPPED if init == Path() or (own and init is None and not resume) else init
    settings = runs.choose_settings(
        recorded=runs.recorded_settings(out) if resume else None,
        recipe=named(recipe) if recipe else None,
        changes={**parse_changes(others), "epochs": epochs, "batch_size": batch_size, "lr": lr},
        seed=seed,
        device=device,
        bfloat16=None if precision is None else precision == "bfloat16",
        network=network,
        everything=everything or None,
        init=_digest(start) if start else None,
        teachers=",".join(map(_digest, teachers)) or None,
    )
    _LOG.info("reading checkpoints and images")
    first = checkpoint.load(start) if start else None
    known = [checkpoint.load(path) for path in teachers]
    parts = load("train", data), load("test", data)
    with progress.repeated():
        loop.train(
            settings,
            *parts,
            out,
            init=first,
            extra=own,
            teachers=known,
            resume=resume,
            size=workers,
            watch=signals.watch,
        )
    click.echo(out / loop.CHECKPOINT)


def _digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


@click.command()
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each experiment.")
@click.option("--readings/--no-readings", default=True, help="Run what the study may have meant instead, too.")
@click.option("--epochs", type=click.IntRange(1), help="Other than the recipes' 20.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="[default: auto]")
@click.option("--workers", type=click.IntRange(1), help="Processes that share each batch.  [default: physical cores]")
@click.option("--data", type=click.Path(path_type=Path), help="The folder with MNIST's files.")
@click.option(
    "--runs",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("runs/experiments"),
    show_default=True,
    help="Where each run has a folder.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("docs/experiments.md"),
    show_default=True,
    help="The report; its picture lies beside it.",
)
@click.option("--resume", is_flag=True, help="Go on with the runs in --runs.")
def experiments(
    seeds: int,
    readings: bool,
    epochs: int | None,
    device: str | None,
    workers: int | None,
    data: Path | None,
    folder: Path,
    out: Path,
    resume: bool,
) -> None:
    """Repeat the study that the network comes from.

    Its four experiments; a report sets the figures beside the study's.
    """
    from edge_mnist.data.mnist import load

    with _training_packages():
        import torch

        from edge_mnist.training import experiments_report
        from edge_mnist.training.experiments import run, trials
        from edge_mnist.training.runs import choose_settings
        from edge_mnist.training.workers import launched

    if launched():
        raise UsageError("experiments starts its own workers: run it without torchrun")
    base = choose_settings(changes={}, device=device)
    train_part = load("train", data)
    plan = trials(seeds, readings, base, epochs)
    histories = run(plan, train_part, load("test", data), folder, resume=resume, size=workers, watch=signals.watch)
    command = f"edge-mnist experiments --seeds {seeds}"
    command += ("" if readings else " --no-readings") + (f" --epochs {epochs}" if epochs else "")
    facts = {
        "command": command,
        "learned": len(train_part),
        "precision": "bfloat16" if base.bfloat16 else "float32",
        "versions": f"torch {torch.__version__}, edge-mnist {__version__}",
    }
    experiments_report.write(out, histories, seeds, facts)
    click.echo(out)


@contextmanager
def _training_packages() -> Iterator[None]:
    """Imports that need the extra `train`."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "matplotlib"):
            raise
        raise missing_package(error.name, "train") from error


@click.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--data", type=click.Path(path_type=Path), help="The folder with MNIST's files.")
@click.option(
    "--part",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="Which images; validation is what training keeps apart, to choose by.",
)
@click.option("--corruptions", is_flag=True, help="Read the images rotated, blurred, faint ... too.")
@click.option("--outliers", is_flag=True, help="Show letters, lines, blobs ... too: is the confidence lower?")
@click.option("--confusion", type=click.Path(path_type=Path), help="Draw confusion matrix and mistakes into a PNG.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(
    model: Path | None,
    data: Path | None,
    part: str,
    corruptions: bool,
    outliers: bool,
    confusion: Path | None,
    as_json: bool,
) -> None:
    """Measure how well MODEL reads MNIST's images.

    MODEL is an artifact or a checkpoint; without it, the shipped int8 one.
    """
    from edge_mnist.data.mnist import learn_validate, load
    from edge_mnist.data.outliers import TRAINING, UNSEEN
    from edge_mnist.measure import evaluation, evaluation_report
    from edge_mnist.system.files import write_whole
    from edge_mnist.system.tables import make_console

    if confusion is not None:
        with _training_packages():
            import matplotlib  # noqa: F401  # missing, it is missed now, not after the work
    classifier, name = _open(model)
    if classifier.contract.input_shape != (1, 28, 28):
        raise UsageError(f"{name}: takes images of {classifier.contract.input_shape}, MNIST's are (1, 28, 28)")
    digits = load("test" if part == "test" else "train", data, download=False)
    images, labels = digits.images, digits.labels
    if part == "validation":
        _, kept = learn_validate(labels)
        images, labels = images[kept], labels[kept]
    with progress.status(f"reading {len(labels):,} images"):
        found = evaluation.evaluate(classifier.logits, images, labels)
    facts: dict[str, Any] = {"model": name, "hash": classifier.contract.model, "runtime": classifier.runtime}
    facts |= {"data": f"{digits.source} {part}", **found.facts()}
    errors, areas = {}, {}
    with progress.status("reading"):
        if corruptions:
            errors = evaluation.read_corrupted(classifier.logits, images, labels, _LOG.info)
            facts["corruptions"] = {"errors": errors, "mean": evaluation.mean_error(errors)}
        if outliers:
            for seen, kinds in (("yes", TRAINING), ("no", UNSEEN)):
                _LOG.info("reading what is no digit")
                areas[seen] = evaluation.tell_apart(classifier.logits, found.confidences, kinds, images)
            facts["outliers"] = {"training": areas["yes"], "unseen": areas["no"]}
    if confusion is not None:
        title = f"{name}: {found.accuracy:.2%} of {len(labels):,} images"
        write_whole(confusion, evaluation_report.draw(found, images, labels, title))
    if as_json:
        click.echo(json.dumps(facts))
        return
    console = make_console()
    what = f"{len(labels):,} images of {digits.source} {part}"
    console.print(f"{name}, {classifier.runtime}, on {what}", highlight=False, soft_wrap=True)
    evaluation_report.show(found, console)
    if errors:
        evaluation_report.show_corruptions(errors, console)
    if areas:
        evaluation_report.show_outliers(areas, console)
    if confusion is not None:
        click.echo(confusion)


def _open(model: Path | None) -> tuple[Classifier, str]:
    """An artifact, or a checkpoint as the float artifact that it becomes; and its name."""
    from edge_mnist import runtime
    from edge_mnist.export.tflite.writer import write_tflite
    from edge_mnist.graph import checkpoint
    from edge_mnist.graph.folding import fold
    from edge_mnist.pretrained import SHIPPED_INT8

    path = model or SHIPPED_INT8
    if path.suffix != ".safetensors":
        return runtime.load(path), path.name
    return runtime.load_bytes(write_tflite(fold(checkpoint.load(path))), str(path)), path.name
