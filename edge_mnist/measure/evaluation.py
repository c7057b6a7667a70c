"""Evaluates a model on labelled images, corrupted images and outliers, and reports the results.

The measures are accuracy with its interval, confusion, calibration, the error on corrupted images, and how well the
confidence separates digits from images that show no digit.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from edge_mnist.data import outliers
from edge_mnist.data.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from edge_mnist.measure.significance import wilson_interval
from edge_mnist.runtime import softmax
from edge_mnist.system.errors import UsageError
from edge_mnist.system.tables import make_table, print_table

Logits = Callable[[NDArray[np.generic]], NDArray[np.float32]]
"""Maps images, uint8 (N, ...), or other inputs, float32 (N, ...), to logits float32 (N, classes)."""

_BINS = 15
"""The number of bins of the calibration error, as in Guo et al., "On calibration of modern neural networks"."""
_OUTLIERS_PER_KIND = 1000
"""How many outliers of each kind are drawn: an AUROC of 0.99 then has a standard error of about 0.001."""
_OUTLIER_SEED = 20
"""The seed of the outliers; training draws its own with its own seed, so they are other images of the same kinds."""
_CLASSES_SHOWN = 20
"""The largest number of classes that a table lists, and whose numbers are written into the picture of the confusion."""
_MISTAKES_DRAWN = 40
"""How many mistakes the picture shows, in five rows."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The predictions of a model for labelled images, and their measures.

    Attributes:
        confusion: int64 (classes, classes), the number of images by label (row) and predicted class (column).
        interval: the 95 % interval of the accuracy, 0 to 1.
        nll: the mean negative log likelihood of the label, in nats.
        calibration_error: 0 to 1, see `expected_calibration_error`.
        mistakes: int64 (M,), the indices of the misclassified images, the most confident first.
        predicted: int64 (N,), the predicted classes.
        confidences: float64 (N,), the largest softmax probability of each image.
    """

    confusion: NDArray[np.int64]
    interval: tuple[float, float]
    nll: float
    calibration_error: float
    mistakes: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidences: NDArray[np.float64]

    @property
    def accuracy(self) -> float:
        """The share of the images whose predicted class is their label, 0 to 1."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        by_class = self.confusion.sum(1)
        return {
            "images": int(by_class.sum()),
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "nll": self.nll,
            "calibration_error": self.calibration_error,
            "classes": [
                {"class": digit, "images": int(count), "accuracy": float(self.confusion[digit, digit] / count)}
                for digit, count in enumerate(by_class)
                if count
            ],
            "confusion": self.confusion.tolist(),
            "mistakes": [
                {"index": int(index), "read": int(self.predicted[index]), "confidence": float(self.confidences[index])}
                for index in self.mistakes
            ],
        }


def evaluate(logits: Logits, images: NDArray[np.generic], labels: NDArray[np.int64]) -> Evaluation:
    """Classify images, or other inputs, (N, ...) with labels int64 (N,), N at least 1.

    Raises:
        UsageError: the labels are those of other classes.
    """
    probabilities = softmax(logits(images))  # (N, classes)
    classes = probabilities.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise UsageError(f"labels from {labels.min()} to {labels.max()}, but the model has {classes} outputs")
    predicted, confidences = probabilities.argmax(1), probabilities.max(1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    wrong = np.flatnonzero(predicted != labels)
    return Evaluation(
        confusion,
        wilson_interval(int((predicted == labels).sum()), len(labels)),
        float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean()),
        expected_calibration_error(confidences, predicted == labels),
        wrong[np.argsort(-confidences[wrong], kind="stable")],
        predicted,
        confidences,
    )


def expected_calibration_error(confidences: NDArray[np.float64], is_correct: NDArray[np.bool_]) -> float:
    """Compute the mean distance between confidence and accuracy over 15 bins of equal width, weighted by size, 0 to 1.

    Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017.

    Args:
        confidences: (N,), 0 to 1.
        is_correct: (N,), whether each prediction is the label.
    """
    bins = np.minimum((confidences * _BINS).astype(np.intp), _BINS - 1)
    gaps = np.bincount(bins, confidences - is_correct, _BINS)
    return float(np.abs(gaps).sum() / len(confidences))


def auroc(higher: NDArray[np.float64], lower: NDArray[np.float64]) -> float:
    """Compute the area under the ROC curve: the share of pairs with `higher` above `lower`, ties counting half."""
    order = np.sort(lower)
    above, equal = np.searchsorted(order, higher, "left"), np.searchsorted(order, higher, "right")
    return float((above + equal).mean() / 2 / len(lower))


def measure_corruption_errors(
    logits: Logits, images: NDArray[np.uint8], labels: NDArray[np.int64], report: Callable[[str], None]
) -> dict[str, list[float]]:
    """Measure the share of misclassified images, 0 to 1, by corruption and strength 1 to 3.

    Args:
        logits: the model.
        images: uint8 (N, 28, 28), not corrupted.
        labels: int64 (N,).
        report: is called with the name of each corruption before it is measured.
    """
    errors = {}
    for name in CORRUPTIONS:
        report(name)
        predictions = (logits(corrupt(images, name, strength)).argmax(1) for strength in STRENGTHS)
        errors[name] = [float((classes != labels).mean()) for classes in predictions]
    return errors


def mean_error(errors: Mapping[str, Sequence[float]]) -> float:
    """Compute the mean error over all corruptions and strengths, 0 to 1."""
    return float(np.mean(list(errors.values())))


def measure_outlier_detection(
    logits: Logits, confidences: NDArray[np.float64], kinds: Mapping[str, outliers.Kind], digits: NDArray[np.uint8]
) -> dict[str, float]:
    """Measure how well the confidence separates digits from outliers: the AUROC of each kind, 0 to 1.

    Args:
        logits: the model.
        confidences: (N,), the model's confidences for digits.
        kinds: the kinds of outliers.
        digits: uint8 (N, 28, 28), from which some kinds are made.
    """
    drawn = outliers.draw(kinds, _OUTLIERS_PER_KIND, _OUTLIER_SEED, digits)
    return {name: auroc(confidences, softmax(logits(images)).max(1)) for name, images in drawn.items()}


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print accuracy, calibration, and a table with a row for each class, of many for those that are read worst."""
    low, high = evaluation.interval
    wrong, count = len(evaluation.mistakes), evaluation.confusion.sum()
    console.print(f"accuracy           {evaluation.accuracy:.2%} (95 % interval {100 * low:.2f} to {100 * high:.2f})")
    console.print(f"mistakes           {wrong:,} of {count:,} images")
    console.print(
        f"calibration error  {evaluation.calibration_error:.2%}, mean confidence {evaluation.confidences.mean():.2%}"
    )
    console.print(f"log likelihood     {-evaluation.nll:.4f} nats an image")
    table = make_table("", ("class",), ("images", "read rightly", "95 % interval"))
    table.add_column("read as")
    rights = evaluation.confusion.diagonal() / np.maximum(evaluation.confusion.sum(1), 1)
    present = np.flatnonzero(evaluation.confusion.sum(1))
    for digit in sorted(present[np.argsort(rights[present], kind="stable")][:_CLASSES_SHOWN]):
        row = evaluation.confusion[digit]
        low, high = wilson_interval(int(row[digit]), int(row.sum()))
        others = [(times, other) for other, times in enumerate(row) if other != digit and times]
        confused = ", ".join(f"{other} {times}x" for times, other in sorted(others, reverse=True))
        interval = f"{100 * low:.2f}-{100 * high:.2f}"
        table.add_row(str(digit), f"{row.sum():,}", f"{row[digit] / row.sum():.2%}", interval, confused)
    console.print()
    print_table(table, console)


def print_corruption_errors(errors: Mapping[str, Sequence[float]], console: Console) -> None:
    """Print the error by corruption and strength, and the means."""
    table = make_table("", ("read wrongly, %",), ("weak", "medium", "strong", "mean"))
    for name, values in errors.items():
        table.add_row(name, *(f"{100 * value:.2f}" for value in (*values, mean(values))))
    table.add_section()
    by_strength = (mean(values) for values in zip(*errors.values(), strict=True))
    table.add_row("mean", *(f"{100 * value:.2f}" for value in (*by_strength, mean_error(errors))))
    console.print()
    print_table(table, console)


def print_outlier_detection(areas: Mapping[str, Mapping[str, float]], console: Console) -> None:
    """Print the AUROC of each kind of outliers, by whether training draws this kind ("yes") or not ("no")."""
    table = make_table("", ("no digit", "training saw it"), ("AUROC",))
    for is_trained_on, kinds in areas.items():
        for name, area in kinds.items():
            table.add_row(name, is_trained_on, f"{area:.4f}")
        table.add_row("mean", is_trained_on, f"{mean(kinds.values()):.4f}", end_section=True)
    console.print()
    print_table(table, console)


def draw_mistakes(evaluation: Evaluation, images: NDArray[np.generic], labels: NDArray[np.int64], title: str) -> bytes:
    """Draw the confusion matrix and the most confident mistakes.

    Args:
        evaluation: the predictions for the images.
        images: uint8 (N, height, width) or (N, channels, height, width); other inputs are drawn as maps of grey.
        labels: int64 (N,).
        title: the title of the picture.

    Returns:
        A PNG file.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), layout="constrained")
    figure.suptitle(title)
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=(1, 1.2)))
    axes = left.subplots()
    off_diagonal = evaluation.confusion * (1 - np.eye(len(evaluation.confusion), dtype=np.int64))
    axes.imshow(off_diagonal, cmap="Oranges", vmin=0, vmax=max(1, off_diagonal.max()))
    for (row, column), times in np.ndenumerate(evaluation.confusion):
        if times and len(evaluation.confusion) <= _CLASSES_SHOWN:
            color = "white" if off_diagonal[row, column] > 0.6 * off_diagonal.max() else "black"
            axes.text(column, row, f"{times}", ha="center", va="center", fontsize=8, color=color)
    ticks = range(0, len(evaluation.confusion), math.ceil(len(evaluation.confusion) / _CLASSES_SHOWN))
    axes.set(xlabel="read as", ylabel="class", xticks=ticks, yticks=ticks)
    cells = np.atleast_1d(right.subplots(5, _MISTAKES_DRAWN // 5)).ravel()
    for cell in cells:
        cell.axis("off")
    right.suptitle("most confident mistakes: class > read as, confidence", fontsize=9)
    for cell, index in zip(cells, evaluation.mistakes, strict=False):
        _draw_input(cell, images[index])
        cell.set_title(
            f"{labels[index]} > {evaluation.predicted[index]}  {evaluation.confidences[index]:.0%}", fontsize=8
        )
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()


def _draw_input(cell: Any, values: NDArray[np.generic]) -> None:
    """Draw an input into matplotlib's axes: dark ink on white for grey images, as in MNIST."""
    if values.ndim == 3 and values.shape[0] == 3 and values.dtype == np.uint8:
        cell.imshow(values.transpose(1, 2, 0))
    elif values.dtype == np.uint8:
        cell.imshow(values.reshape(-1, values.shape[-1]), cmap="gray_r", vmin=0, vmax=255)
    else:
        cell.imshow(values.reshape(-1, values.shape[-1]), cmap="gray_r", aspect="auto")
