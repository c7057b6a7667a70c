"""The four experiments and their readings as Markdown tables and one picture, beside the study's figures."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from edge_mnist.system.files import write_whole
from edge_mnist.training import curves
from edge_mnist.training.published_study import CHOSEN, EPOCHS, EXPERIMENTS, READINGS, WHY, Experiment, History

_TEXT = """\
# The four experiments

    {command}

Made by this command; do not edit. {seeds} runs of each experiment, with other seeds; {learned:,} images to learn from;
{precision}; {versions}. The test images are looked at after each epoch, because the study did; nothing
is chosen by them. Train accuracy is measured while training, on augmented images, before each step. All in percent.

## Test accuracy

{summary}

±: standard deviation over the seeds. The study gives its best epoch, chosen on the test images; ours beside it is
chosen in the same way, for the comparison only.

![Test error by epoch]({picture})

## Train / test accuracy by epoch, mean of the seeds

{by_epoch}

## How the study was read

{why}"""

_READINGS = """
Train / test accuracy with seed 0, and their distance from the study's: the root mean square of the differences.

{readings}
"""


def write(path: Path, histories: Mapping[str, History], seeds: int, facts: Mapping[str, object]) -> None:
    """Write the tables as Markdown and, beside them with the suffix .png, the curves.

    Args:
        path: the Markdown file.
        histories: the history of each run, by its folder's name.
        seeds: how many runs there are of each experiment.
        facts: command, learned (the number of images), precision and versions, for the head.
    """
    runs = {item.recipe: [histories[item.folder(seed)] for seed in range(seeds)] for item in EXPERIMENTS}
    picture = path.with_suffix(".png")
    text = _TEXT.format(
        **facts, seeds=seeds, summary=_summary(runs), by_epoch=_by_epoch(runs), why=WHY, picture=picture.name
    )
    if any(item.folder in histories for item in READINGS):
        text += _READINGS.format(readings=_readings(runs, histories))
    points = {item.title: (EPOCHS, item.test) for item in EXPERIMENTS}
    write_whole(picture, curves.draw_experiments({item.title: runs[item.recipe] for item in EXPERIMENTS}, points))
    write_whole(path, text.encode())


def _summary(runs: Mapping[str, Sequence[History]]) -> str:
    """One row an experiment: its last epoch, its best one, how soon it reached 99 %."""
    head = "experiment", "last epoch", "each seed", "best epoch", "the study's", "epochs to 99", "the study's"
    rows = []
    for item in EXPERIMENTS:
        tests = [[100 * row["test_accuracy"] for row in history] for history in runs[item.recipe]]
        last, best = [test[-1] for test in tests], [max(test) for test in tests]
        to_99 = [next((str(epoch) for epoch, value in enumerate(test, 1) if value >= 99), "-") for test in tests]
        each = ", ".join(f"{value:.2f}" for value in last)
        figures = f"**{_spread(last)}**", each, _spread(best), f"{item.best:.2f}", ", ".join(to_99), item.epochs_to_99
        rows.append((f"`{item.recipe}`", *figures))
    return _table(head, rows)


def _by_epoch(runs: Mapping[str, Sequence[History]]) -> str:
    """One row an epoch: the mean of the seeds of each experiment, and the study's figures."""
    rows = []
    for place, epoch in enumerate(EPOCHS):
        cells = [str(epoch)]
        for item in EXPERIMENTS:
            pairs = [_pair(history, epoch) for history in runs[item.recipe] if len(history) >= epoch]
            cells.append(" / ".join(f"{statistics.mean(values):.2f}" for values in zip(*pairs, strict=True)) or "-")
            cells.append(f"{item.train[place]:.2f} / {item.test[place]:.2f}")
        rows.append(cells)
    return _table(("epoch", *(cell for item in EXPERIMENTS for cell in (f"`{item.recipe}`", "the study's"))), rows)


def _readings(runs: Mapping[str, Sequence[History]], histories: Mapping[str, History]) -> str:
    """The readings that were run, under the one that the recipe takes, by their distance from the study's figures."""
    rows = []
    for item in EXPERIMENTS:
        others = [other for other in READINGS if other.recipe == item.recipe and other.folder in histories]
        if others:
            rows.append(_reading(item, f"{CHOSEN[item.recipe]} (taken)", runs[item.recipe][0]))
        rows += [_reading(item, other.title, histories[other.folder]) for other in others]
    return _table(("recipe", "reading", *(f"epoch {epoch}" for epoch in EPOCHS), "difference"), rows)


def _reading(item: Experiment, title: str, history: History) -> list[str]:
    cells = [f"`{item.recipe}`", title]
    squares = []
    for epoch, *study in zip(EPOCHS, item.train, item.test, strict=True):
        if epoch > len(history):
            cells.append("-")
            continue
        ours = _pair(history, epoch)
        cells.append(f"{ours[0]:.2f} / {ours[1]:.2f}")
        squares += [(value - other) ** 2 for value, other in zip(ours, study, strict=True)]
    return [*cells, f"{statistics.mean(squares) ** 0.5:.2f}"]


def _pair(history: History, epoch: int) -> tuple[float, float]:
    """Train and test accuracy of an epoch, percent."""
    return 100 * history[epoch - 1]["train_accuracy"], 100 * history[epoch - 1]["test_accuracy"]


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def _table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * (lines[0].count("|") - 1), *lines[1:]])
