"""Runs the study's four experiments, and the other readings of them.

The one place where test images are looked at after each epoch, because the study did; nothing is chosen by it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_mnist.data.mnist import Digits
from edge_mnist.graph import checkpoint
from edge_mnist.graph.tensor_file import read_tensors
from edge_mnist.system.errors import UsageError
from edge_mnist.training import loop
from edge_mnist.training.published_study import EXPERIMENTS, READINGS, History
from edge_mnist.training.recipes import RECIPES, Recipe
from edge_mnist.training.runs import STATE, Settings, recorded_settings

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One run of many."""

    folder: str
    settings: Settings


def trials(seeds: int, readings: bool, base: Settings, epochs: int | None = None) -> list[Trial]:
    """The runs in the order in which they go: each seed of all four experiments, the readings after the first.

    Args:
        seeds: seeds 0 to `seeds` - 1 of each experiment.
        readings: whether the other readings are run too, with seed 0.
        base: device and precision.
        epochs: other than the recipes'.
    """

    def trial(folder: str, recipe: Recipe, seed: int) -> Trial:
        recipe = dataclasses.replace(recipe, epochs=epochs or recipe.epochs)
        return Trial(folder, dataclasses.replace(base, recipe=recipe, seed=seed, everything=True, watch_test=True))

    plan = []
    for seed in range(seeds):
        plan += [trial(item.folder(seed), RECIPES[item.recipe], seed) for item in EXPERIMENTS]
        if readings and seed == 0:
            changed = ((item, dataclasses.replace(RECIPES[item.recipe], **item.changes)) for item in READINGS)
            plan += [trial(item.folder, recipe, 0) for item, recipe in changed]
    return plan


def run(
    plan: Sequence[Trial],
    train_part: Digits,
    test_part: Digits,
    out: Path,
    *,
    resume: bool,
    size: int | None = None,
    watch: loop.Watch | None = None,
) -> dict[str, History]:
    """Train what is left to train; one folder for each run in `out`.

    Returns:
        The history of each run, by its folder's name.

    Raises:
        UsageError: there are runs in `out` and they are not to be resumed, or they were started otherwise.
        EdgeMnistError: as `training.train`.
    """
    if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: holds runs, or other files: go on with them with --resume, or name another --runs")
    histories = {}
    for number, trial in enumerate(plan, 1):
        folder = out / trial.folder
        started = (folder / STATE).is_file()
        if started and (recorded := recorded_settings(folder)) != trial.settings:
            raise UsageError(f"{folder}: was started otherwise ({recorded}): delete it, or name another --runs")
        ended = started and _ended(folder, train_part.sha256)
        _LOG.warning("run %s of %s: %s%s", number, len(plan), trial.folder, ", done" if ended else "")
        if not ended:
            loop.train(trial.settings, train_part, test_part, folder, resume=started, size=size, watch=watch)
        histories[trial.folder] = read_tensors(folder / STATE)[1]["history"]
    return histories


def _ended(folder: Path, data_hash: str) -> bool:
    """Whether the run in a folder is over.

    Raises:
        UsageError: it is, but with other images.
    """
    if not (folder / loop.CHECKPOINT).is_file():
        return False
    metadata = checkpoint.load(folder / loop.CHECKPOINT).metadata
    if metadata["data"]["sha256"] != data_hash:
        raise UsageError(f"{folder}: was trained with other images: name its --data, or another --runs")
    return metadata["accuracies"]["test"] is not None
