"""Shows the progress of a training run: a bar on the terminal of a command, and a log record for each epoch."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edge_mnist.system import progress

if TYPE_CHECKING:
    from edge_mnist.training.runs import TrainingState

_LOG = logging.getLogger(__name__)


class TrainingProgress:
    """A context in which the steps and epochs of a run are shown."""

    def __init__(self, epochs: int) -> None:
        """Make the bar of a run with `epochs` epochs."""
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

        self._epochs = epochs
        self._progress = progress.make_bar(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
        )
        self._task = self._progress.add_task("", total=epochs, epoch=f"1/{epochs}", figures="")
        self._written = time.monotonic()

    def __enter__(self) -> TrainingProgress:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the bar."""
        self._progress.stop()

    def step(self, epochs_done: float, state: TrainingState) -> None:
        """Show the present epoch so far: in the bar, or without a bar in a log record every ten seconds."""
        if self._progress.disable and time.monotonic() - self._written < progress.INTERVAL:
            return
        figures = f"loss {state.loss / state.images:.4f}  accuracy {state.correct / state.images:.2%}"
        figures += f"  {state.images / state.seconds:,.0f} images/s"
        epoch = f"{math.ceil(epochs_done)}/{self._epochs}"
        if self._progress.disable:
            self._written = time.monotonic()
            _LOG.info("epoch %s, %.0f%% done  %s", epoch, 100 * (epochs_done - math.ceil(epochs_done) + 1), figures)
        else:
            self._progress.update(self._task, completed=epochs_done, epoch=epoch, figures=figures)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Log the line of a completed epoch, given as a row of metrics.jsonl."""
        self._progress.update(self._task, completed=row["epoch"])
        validation, test = row["validation_accuracy"], row["test_accuracy"]
        self.note(
            f"epoch {row['epoch']}/{self._epochs}  loss {row['loss']:.4f}  train {row['train_accuracy']:.2%}"
            + (f"  validation {validation:.2%}" if validation is not None else "")
            + (f"  test {test:.2%}" if test is not None else "")
            + f"  {row['images_per_second']:,.0f} images/s  {row['seconds']:.1f} s"
        )

    def note(self, text: str) -> None:
        """Log a line that a command shows."""
        self._written = time.monotonic()
        _LOG.warning("%s", text)

    def end(self, test_accuracy: float) -> None:
        """Log the accuracy on the test images, 0 to 1."""
        self.note(f"test {test_accuracy:.2%}")
