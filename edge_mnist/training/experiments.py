"""Runs the four experiments of the published study, and their other interpretations.

Only here is the accuracy on the test images measured after each epoch, because the study did so. Nothing is chosen by
it.
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
from edge_mnist.training.published_study import EXPERIMENTS, INTERPRETATIONS, History
from edge_mnist.training.recipes import RECIPES, Recipe
from edge_mnist.training.runs import STATE, TrainingSettings, recorded_settings

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedRun:
    """One of the runs: the name of its folder, and its settings."""

    folder_name: str
    settings: TrainingSettings


def plan_runs(seeds: int, interpretations: bool, base: TrainingSettings, epochs: int | None = None) -> list[PlannedRun]:
    """Plan the runs in their order: each seed of all four experiments, and the interpretations after the first seed.

    Args:
        seeds: each experiment is run with the seeds 0 to `seeds` - 1.
        interpretations: whether the other interpretations are run too, with seed 0.
        base: gives device and precision.
        epochs: the number of epochs, if other than the recipes'.
    """

    def plan_run(folder_name: str, recipe: Recipe, seed: int) -> PlannedRun:
        recipe = dataclasses.replace(recipe, epochs=epochs or recipe.epochs)
        settings = dataclasses.replace(base, recipe=recipe, seed=seed, everything=True, watch_test=True)
        return PlannedRun(folder_name, settings)

    plan = []
    for seed in range(seeds):
        plan += [plan_run(item.folder_name(seed), RECIPES[item.recipe], seed) for item in EXPERIMENTS]
        if interpretations and seed == 0:
            changed = ((item, dataclasses.replace(RECIPES[item.recipe], **item.changes)) for item in INTERPRETATIONS)
            plan += [plan_run(item.folder_name, recipe, 0) for item, recipe in changed]
    return plan


def find_recorded_precision(out: Path) -> bool | None:
    """Find whether the first of the runs in a folder is trained in bfloat16; None if it has not been started."""
    folder = out / EXPERIMENTS[0].folder_name(0)
    return recorded_settings(folder).bfloat16 if (folder / STATE).is_file() else None


def run_experiments(
    plan: Sequence[PlannedRun],
    train_part: Digits,
    test_part: Digits,
    out: Path,
    *,
    resume: bool,
    worker_count: int | None = None,
    collect_signals: loop.SignalCollector | None = None,
) -> dict[str, History]:
    """Train the runs that are not finished, each in its own folder in `out`.

    Args:
        plan: the runs.
        train_part: the images uint8 (N, 28, 28) and labels int64 (N,) to learn from.
        test_part: the images and labels to test on.
        out: the folder of all runs.
        resume: continue the runs that are there.
        worker_count: the number of workers, see `loop.train`.
        collect_signals: see `loop.train`.

    Returns:
        The history of each run, by the name of its folder.

    Raises:
        UsageError: there are runs in `out` and `resume` is false, or they were started with other settings.
        EdgeMnistError: see `loop.train`.
    """
    if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: holds runs, or other files: go on with them with --resume, or name another --runs")
    histories = {}
    for number, planned in enumerate(plan, 1):
        folder = out / planned.folder_name
        started = (folder / STATE).is_file()
        if started and (recorded := recorded_settings(folder)) != planned.settings:
            raise UsageError(
                f"{folder}: was started with other settings ({recorded}): delete it, or name another --runs"
            )
        is_finished = started and _is_finished(folder, train_part.sha256)
        _LOG.warning("run %s of %s: %s%s", number, len(plan), planned.folder_name, ", done" if is_finished else "")
        if not is_finished:
            loop.train(
                planned.settings,
                train_part,
                test_part,
                folder,
                resume=started,
                worker_count=worker_count,
                collect_signals=collect_signals,
            )
        histories[planned.folder_name] = read_tensors(folder / STATE)[1]["history"]
    return histories


def _is_finished(folder: Path, data_hash: str) -> bool:
    """Whether the run in a folder is finished.

    Raises:
        UsageError: it is, but it was trained with other images.
    """
    if not (folder / loop.CHECKPOINT).is_file():
        return False
    metadata = checkpoint.load(folder / loop.CHECKPOINT).metadata
    if metadata["data"]["sha256"] != data_hash:
        raise UsageError(f"{folder}: was trained with other images: name its --data, or another --runs")
    return metadata["accuracies"]["test"] is not None
