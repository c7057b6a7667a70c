"""The command that measures how well a model reads: `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edge_mnist.cli import options


@click.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option(
    "--data",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Read these labelled inputs: a folder of pictures in folders named after their classes, a .npz of images and "
    "labels, or a folder with MNIST's files.  [default: EDGE_MNIST_DATA or the cache]",
)
@options.resize
@options.skip_bad
@click.option(
    "--part",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="Read MNIST's test images, or the training images that training validates on.",
)
@click.option("--corruptions", is_flag=True, help="Read the images rotated, blurred, faint and so on too.")
@click.option(
    "--outliers",
    is_flag=True,
    help="Measure how well the confidence tells digits from letters, lines, blobs and so on too.",
)
@click.option(
    "--confusion", type=click.Path(path_type=Path), help="Draw the confusion matrix and the mistakes into this PNG."
)
@options.trust_model
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(model: Path | None, confusion: Path | None, as_json: bool, **others: Any) -> None:
    """Measure how well MODEL classifies labelled images.

    The images are MNIST's, unless --data names others. MODEL is an artifact or a checkpoint. Without it, the shipped
    int8 artifact is measured.
    """
    from edge_mnist import pipeline
    from edge_mnist.measure import evaluation
    from edge_mnist.system.tables import make_console

    result = pipeline.evaluate(model, confusion=confusion, **others)
    if as_json:
        click.echo(result.to_json())
        return
    console = make_console()
    what = f"{len(result.evaluation.predicted):,} images of {result.data}"
    console.print(f"{result.model}, {result.runtime}, on {what}", highlight=False, soft_wrap=True)
    evaluation.print_evaluation(result.evaluation, console)
    if result.corruptions is not None:
        evaluation.print_corruption_errors(result.corruptions, console)
    if result.outliers is not None:
        areas = {"yes": result.outliers["training"], "no": result.outliers["unseen"]}
        evaluation.print_outlier_detection(areas, console)
    if confusion is not None:
        click.echo(confusion)
