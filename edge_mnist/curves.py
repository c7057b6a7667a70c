"""The learning curves of a run as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure


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
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
