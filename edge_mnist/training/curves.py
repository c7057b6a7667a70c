"""The learning curves of one run, or of several, as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def draw(title: str, history: Sequence[Mapping[str, Any]]) -> bytes:
    """Loss and errors by epoch as a PNG.

    Args:
        title: what was trained.
        history: one row an epoch, as in metrics.jsonl: epoch, loss, train_accuracy, validation_accuracy (or None).
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
            right.plot(epochs, errors, marker=".", color=color, label=f"{label}, at last {errors[-1]:.2f} %")
    right.set(title="images read wrongly", xlabel="epoch", ylabel="%")
    # accuracies crowd below 100 %: their distance from it, as a ratio, shows what still moves
    if right.dataLim.ymax > 0:
        right.set_yscale("log")
    right.yaxis.set_major_formatter("{x:g}")
    right.legend()
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    return _png(figure)


def draw_experiments(
    runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    points: Mapping[str, tuple[Sequence[int], Sequence[float]]],
) -> bytes:
    """Test errors by epoch of several experiments as a PNG.

    Args:
        runs: by experiment, the histories of its seeds; each has rows with epoch and test_accuracy (0 to 1).
        points: by experiment, epochs and test accuracies (percent) to compare with.
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
    axes.set(title="test images read wrongly, each seed", xlabel="epoch", ylabel="%", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="y", which="minor", labelsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return _png(figure)


def _png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
