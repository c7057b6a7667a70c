"""An evaluation as tables in the terminal, and as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from statistics import mean

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from edge_mnist.measure.evaluation import Evaluation, mean_error
from edge_mnist.measure.significance import wilson_interval
from edge_mnist.system.tables import make_table, print_table

_SHOWN = 40


def show(found: Evaluation, console: Console) -> None:
    """Accuracy, calibration, and a row for each class."""
    low, high = found.interval
    wrong, count = len(found.mistakes), found.confusion.sum()
    console.print(f"accuracy           {found.accuracy:.2%} (95 % interval {100 * low:.2f} to {100 * high:.2f})")
    console.print(f"mistakes           {wrong:,} of {count:,} images")
    console.print(f"calibration error  {found.calibration_error:.2%}, mean confidence {found.confidences.mean():.2%}")
    console.print(f"log likelihood     {-found.nll:.4f} nats an image")
    table = make_table("", ("class",), ("images", "read rightly", "95 % interval"))
    table.add_column("read as")
    for digit, row in enumerate(found.confusion):
        if not row.sum():
            continue
        low, high = wilson_interval(int(row[digit]), int(row.sum()))
        others = [(times, other) for other, times in enumerate(row) if other != digit and times]
        said = ", ".join(f"{other} {times}x" for times, other in sorted(others, reverse=True))
        interval = f"{100 * low:.2f}-{100 * high:.2f}"
        table.add_row(str(digit), f"{row.sum():,}", f"{row[digit] / row.sum():.2%}", interval, said)
    console.print()
    print_table(table, console)


def show_corruptions(errors: Mapping[str, Sequence[float]], console: Console) -> None:
    """The error by corruption and strength, and the mean."""
    table = make_table("", ("read wrongly, %",), ("weak", "medium", "strong", "mean"))
    for name, values in errors.items():
        table.add_row(name, *(f"{100 * value:.2f}" for value in (*values, mean(values))))
    table.add_section()
    by_strength = (mean(values) for values in zip(*errors.values(), strict=True))
    table.add_row("mean", *(f"{100 * value:.2f}" for value in (*by_strength, mean_error(errors))))
    console.print()
    print_table(table, console)


def show_outliers(areas: Mapping[str, Mapping[str, float]], console: Console) -> None:
    """How well confidence tells digits from what is no digit, by whether training may have seen the kind."""
    table = make_table("", ("no digit", "training saw it"), ("AUROC",))
    for seen, kinds in areas.items():
        for name, area in kinds.items():
            table.add_row(name, seen, f"{area:.4f}")
        table.add_row("mean", seen, f"{mean(kinds.values()):.4f}", end_section=True)
    console.print()
    print_table(table, console)


def draw(found: Evaluation, images: NDArray[np.uint8], labels: NDArray[np.int64], title: str) -> bytes:
    """The confusion matrix and the most confident mistakes as a PNG.

    Args:
        found: what the model made of the images.
        images: uint8 (N, 28, 28).
        labels: int64 (N,).
        title: what was evaluated.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), layout="constrained")
    figure.suptitle(title)
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=(1, 1.2)))
    axes = left.subplots()
    off = found.confusion * (1 - np.eye(10, dtype=np.int64))
    axes.imshow(off, cmap="Oranges", vmin=0, vmax=max(1, off.max()))
    for (row, column), times in np.ndenumerate(found.confusion):
        if times:
            color = "white" if off[row, column] > 0.6 * off.max() else "black"
            axes.text(column, row, f"{times}", ha="center", va="center", fontsize=8, color=color)
    axes.set(xlabel="read as", ylabel="class", xticks=range(10), yticks=range(10))
    cells = np.atleast_1d(right.subplots(5, _SHOWN // 5)).ravel()
    for cell in cells:
        cell.axis("off")
    right.suptitle("most confident mistakes: class > read as, confidence", fontsize=9)
    for cell, index in zip(cells, found.mistakes, strict=False):
        cell.imshow(images[index], cmap="gray_r", vmin=0, vmax=255)
        cell.set_title(f"{labels[index]} > {found.read[index]}  {found.confidences[index]:.0%}", fontsize=8)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()
