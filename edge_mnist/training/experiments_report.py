"""Reports the experiments and their other interpretations beside the study's figures, as Markdown and a picture."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from edge_mnist.system.files import write_whole
from edge_mnist.training import curves
from edge_mnist.training.published_study import (
    CHOSEN_INTERPRETATIONS,
    EPOCHS,
    EXPERIMENTS,
    INTERPRETATIONS,
    REASONS,
    Experiment,
    History,
)

_TEXT = """\
# The four experiments

    {command}

This command writes this document; do not edit it. Each experiment was run {seeds} times, with other seeds, on
{learned:,} training images, in {precision}, with {versions}. The accuracy on the test images is measured
after each epoch, because the study did so; nothing is chosen by it. The accuracy on the training images is measured
during training, on augmented images, before each step. All accuracies are in percent.

## Test accuracy

{summary}

± is the standard deviation over the seeds. The study reports its best epoch, chosen by the test images; ours beside it
is chosen in the same way, only for this comparison.

![Test error by epoch]({picture})

## Train / test accuracy by epoch, mean of the seeds

{by_epoch}

## How the study is interpreted

{reasons}"""

_INTERPRETATIONS = """
The train / test accuracy of each interpretation with seed 0, and the root mean square of the differences from the
study's accuracies:

{interpretations}
"""


def write_report(path: Path, histories: Mapping[str, History], seeds: int, facts: Mapping[str, object]) -> None:
    """Write the tables as Markdown, and the curves beside them in a file with the suffix .png.

    Args:
        path: the Markdown file.
        histories: the history of each run, by the name of its folder.
        seeds: the number of runs of each experiment.
        facts: "command", "learned" (the number of images), "precision" and "versions", for the introduction.
    """
    runs = {item.recipe: [histories[item.folder_name(seed)] for seed in range(seeds)] for item in EXPERIMENTS}
    picture = path.with_suffix(".png")
    text = _TEXT.format(
        **facts,
        seeds=seeds,
        summary=_tabulate_summary(runs),
        by_epoch=_tabulate_epochs(runs),
        reasons=REASONS,
        picture=picture.name,
    )
    if any(item.folder_name in histories for item in INTERPRETATIONS):
        text += _INTERPRETATIONS.format(interpretations=_tabulate_interpretations(runs, histories))
    points = {item.title: (EPOCHS, item.test) for item in EXPERIMENTS}
    write_whole(picture, curves.draw_experiments({item.title: runs[item.recipe] for item in EXPERIMENTS}, points))
    write_whole(path, text.encode())


def _tabulate_summary(runs: Mapping[str, Sequence[History]]) -> str:
    """Make a table with a row for each experiment: its last epoch, its best one, and the epochs until 99 %."""
    head = "experiment", "last epoch", "each seed", "best epoch", "the study's", "epochs to 99", "the study's"
    rows = []
    for item in EXPERIMENTS:
        tests = [[100 * row["test_accuracy"] for row in history] for history in runs[item.recipe]]
        last, best = [test[-1] for test in tests], [max(test) for test in tests]
        to_99 = [next((str(epoch) for epoch, value in enumerate(test, 1) if value >= 99), "-") for test in tests]
        each = ", ".join(f"{value:.2f}" for value in last)
        figures = (
            f"**{_format_spread(last)}**",
            each,
            _format_spread(best),
            f"{item.best:.2f}",
            ", ".join(to_99),
            item.epochs_to_99,
        )
        rows.append((f"`{item.recipe}`", *figures))
    return _format_table(head, rows)


def _tabulate_epochs(runs: Mapping[str, Sequence[History]]) -> str:
    """Make a table with a row for each epoch: the mean of the seeds of each experiment, and the study's figures."""
    rows = []
    for place, epoch in enumerate(EPOCHS):
        cells = [str(epoch)]
        for item in EXPERIMENTS:
            pairs = [_accuracies(history, epoch) for history in runs[item.recipe] if len(history) >= epoch]
            cells.append(" / ".join(f"{statistics.mean(values):.2f}" for values in zip(*pairs, strict=True)) or "-")
            cells.append(f"{item.train[place]:.2f} / {item.test[place]:.2f}")
        rows.append(cells)
    return _format_table(
        ("epoch", *(cell for item in EXPERIMENTS for cell in (f"`{item.recipe}`", "the study's"))), rows
    )


def _tabulate_interpretations(runs: Mapping[str, Sequence[History]], histories: Mapping[str, History]) -> str:
    """Make a table of the interpretations that were run, each after the one that its recipe takes."""
    rows = []
    for item in EXPERIMENTS:
        others = [other for other in INTERPRETATIONS if other.recipe == item.recipe and other.folder_name in histories]
        if others:
            rows.append(_make_row(item, f"{CHOSEN_INTERPRETATIONS[item.recipe]} (taken)", runs[item.recipe][0]))
        rows += [_make_row(item, other.title, histories[other.folder_name]) for other in others]
    return _format_table(("recipe", "interpretation", *(f"epoch {epoch}" for epoch in EPOCHS), "difference"), rows)


def _make_row(item: Experiment, title: str, history: History) -> list[str]:
    """Make the row of an interpretation: its accuracies, and their root mean square distance from the study's."""
    cells = [f"`{item.recipe}`", title]
    squares = []
    for epoch, *study in zip(EPOCHS, item.train, item.test, strict=True):
        if epoch > len(history):
            cells.append("-")
            continue
        ours = _accuracies(history, epoch)
        cells.append(f"{ours[0]:.2f} / {ours[1]:.2f}")
        squares += [(value - other) ** 2 for value, other in zip(ours, study, strict=True)]
    return [*cells, f"{statistics.mean(squares) ** 0.5:.2f}"]


def _accuracies(history: History, epoch: int) -> tuple[float, float]:
    """Return train and test accuracy of an epoch, in percent."""
    return 100 * history[epoch - 1]["train_accuracy"], 100 * history[epoch - 1]["test_accuracy"]


def _format_spread(values: Sequence[float]) -> str:
    """Format mean and standard deviation."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def _format_table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * (lines[0].count("|") - 1), *lines[1:]])
