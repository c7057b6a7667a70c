"""What a training run says on stderr while it goes on: a bar where there is a terminal, a line an epoch everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from edge_mnist.runs import Run


class TrainingProgress:
    """A context in which the steps and epochs of a run are shown."""

    def __init__(self, epochs: int) -> None:
        """For a run of so many epochs."""
        console = Console(stderr=True, highlight=False)
        self._epochs = epochs
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=epochs, epoch=f"1/{epochs}", figures="")

    def __enter__(self) -> TrainingProgress:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take the bar away."""
        self._progress.stop()

    def step(self, epochs_done: float, run: Run) -> None:
        """Move the bar; show what the present epoch has come to."""
        if self._progress.disable:
            return
        figures = f"loss {run.loss / run.seen:.4f}  accuracy {run.correct / run.seen:.2%}"
        figures += f"  {run.seen / run.seconds:,.0f} images/s"
        epoch = f"{math.ceil(epochs_done)}/{self._epochs}"
        self._progress.update(self._task, completed=epochs_done, epoch=epoch, figures=figures)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Write the line of an epoch that is over, a row of metrics.jsonl."""
        self._progress.update(self._task, completed=row["epoch"])
        validation, test = row["validation_accuracy"], row["test_accuracy"]
        self._progress.console.print(
            f"epoch {row['epoch']}/{self._epochs}  loss {row['loss']:.4f}  train {row['train_accuracy']:.2%}"
            + (f"  validation {validation:.2%}" if validation is not None else "")
            + (f"  test {test:.2%}" if test is not None else "")
            + f"  {row['images_per_second']:,.0f} images/s  {row['seconds']:.1f} s",
            soft_wrap=True,
        )

    def note(self, text: str) -> None:
        """Write a line."""
        self._progress.console.print(text, soft_wrap=True)

    def end(self, test_accuracy: float) -> None:
        """Write the accuracy (0 to 1) on the test images."""
        self._progress.console.print(f"test {test_accuracy:.2%}")
