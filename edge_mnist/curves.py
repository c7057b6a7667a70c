"""The learning curves of a run as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from edge_mnist.errors import missing_package


def draw(title: str, history: Sequence[Mapping[str, Any]]) -> bytes:
    """Loss and accuracy by epoch as a PNG.

    Args:
        title: what was trained.
        history: one mapping an epoch with epoch, loss, train_accuracy and validation_accuracy (or None), as in metrics.jsonl.

    Raises:
        EdgeMnistError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_package("matplotlib", "train") from error
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [row["loss"] for row in history], color="tab:blue")
    left.set(title=title, xlabel="epoch", ylabel="loss on the learning images", yscale="log")
    right.plot(epochs, [100 * row["train_accuracy"] for row in history], label="learning", color="tab:blue")
    if history and history[-1]["validation_accuracy"] is not None:
        values = [100 * row["validation_accuracy"] for row in history]
        right.plot(epochs, values, label=f"validation, last {values[-1]:.2f} %", color="tab:orange")
    right.set(xlabel="epoch", ylabel="accuracy, %")
    right.legend(loc="lower right")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
