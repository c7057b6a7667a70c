"""Draws the learning curves of one run or of several."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def draw_run(title: str, history: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw loss and errors by epoch.

    Args:
        title: what was trained.
        history: a row for each epoch, as in metrics.jsonl: epoch, loss, train_accuracy, validation_accuracy (or None).

    Returns:
        A PNG file.
    """
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [row["loss"] for row in history], marker=".", color="tab:blue")
    left.set(title=title, xlabel="epoch", ylabel="loss on the learning images")
    for part, label, color in (("train", "learning", "tab:blue"), ("validation", "validation", "tab:orange")):
        accuracies = [row[f"{part}_accuracy"] for row in history]
        if None not in accuracies:
            errors = [100 * (1 - accuracy) for accuracy in accuracies]
            right.plot(epochs, errors, marker=".", color=color, label=f"{label}, {errors[-1]:.2f} % at the end")
    right.set(title="misclassified images", xlabel="epoch", ylabel="%")
    # all accuracies are close to 100 %: a logarithmic scale of the errors still shows their changes
    if right.dataLim.ymax > 0:
        right.set_yscale("log")
    right.yaxis.set_major_formatter("{x:g}")
    right.legend()
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    return _encode_png(figure)


def draw_experiments(
    runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    points: Mapping[str, tuple[Sequence[int], Sequence[float]]],
) -> bytes:
    """Draw the test errors by epoch of several experiments.

    Args:
        runs: the histories of each experiment's seeds, by title; their rows hold epoch and test_accuracy (0 to 1).
        points: the epochs and test accuracies (percent) to compare with, by title.

    Returns:
        A PNG file.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for number, (title, histories) in enumerate(runs.items()):
        color = f"C{number}"
        for seed, history in enumerate(histories):
            errors = [100 * (1 - row["test_accuracy"]) for row in history]
            label = title if seed == 0 else None
            axes.plot([row["epoch"] for row in history], errors, color=color, linewidth=1, alpha=0.8, label=label)
        epochs, accuracies = points[title]
        axes.plot(epochs, [100 - value for value in accuracies], "o", color=color, markerfacecolor="none")
    axes.plot([], [], "o", color="black", markerfacecolor="none", label="the study")
    axes.set(title="misclassified test images, each seed", xlabel="epoch", ylabel="%", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="y", which="minor", labelsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return _encode_png(figure)


def _encode_png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()
