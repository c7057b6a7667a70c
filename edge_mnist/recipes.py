"""The named training recipes, and the schedule of learning rate and momentum as pure functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from edge_mnist.errors import UsageError


@dataclass(frozen=True)
class Augmentation:
    """How far an image is moved at most, each amount drawn uniformly on both sides of nothing."""

    rotation: float = 9.0
    """Degrees."""
    scale: float = 0.1
    """Relative: 0.1 draws from 0.9 to 1.1, apart for height and width."""
    shear: float = 0.1
    """Pixels across for one pixel up."""
    shift: float = 1.5
    """Pixels, along each axis."""


@dataclass(frozen=True)
class Recipe:
    """Everything that a training run depends on beside the data, the network and the seed."""

    name: str
    optimizer: Literal["sgd", "adam", "adamw"]
    schedule: Literal["onecycle", "fixed"]
    lr: float
    """The highest learning rate of the run."""
    weight_decay: float
    epochs: int = 20
    batch_size: int = 128
    ghost_batch: int = 64
    """Images over which BatchNorm takes its statistics (Hoffer, Hubara and Soudry, "Train longer, generalize better",
    arXiv:1705.08741): smaller than a batch, so that workers can share one and the result not depend on how many do."""
    momentum: float = 0.9
    """SGD's momentum where the rate is fixed; OneCycle moves momentum, or Adam's beta1, between 0.95 and 0.85."""
    label_smoothing: float = 0.05
    augmentation: Augmentation | None = Augmentation()


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("adam-onecycle", "adam", "onecycle", lr=0.01, weight_decay=1e-4),
        Recipe("sgd-onecycle", "sgd", "onecycle", lr=0.02, weight_decay=1e-4),
        Recipe("sgd-fixed", "sgd", "fixed", lr=0.006, weight_decay=1e-4, momentum=0.0),
        Recipe("adamw-onecycle", "adamw", "onecycle", lr=0.02, weight_decay=1e-4),
        Recipe("quick", "adam", "onecycle", lr=0.02, weight_decay=1e-4, epochs=4, batch_size=256, augmentation=None),
    )
}


def named(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        UsageError: there is none.
    """
    if name not in RECIPES:
        raise UsageError(f"--recipe {name}: unknown, expected one of {', '.join(RECIPES)}")
    return RECIPES[name]


# PyTorch's defaults for OneCycleLR.
_RISE = 0.3
_DIVISOR = 25.0
_FINAL_DIVISOR = 1e4
_MOMENTUM = (0.85, 0.95)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of step 0 .. steps - 1.

    OneCycle (Smith and Topin, "Super-convergence", arXiv:1708.07120, in the form of PyTorch's OneCycleLR): on half
    cosines from a 25th of the highest rate up to it over the first 30 % of the steps, then down to a 10,000th of the
    start.
    """
    if recipe.schedule == "fixed":
        return recipe.lr
    start = recipe.lr / _DIVISOR
    return _one_cycle(step, steps, start, recipe.lr, start / _FINAL_DIVISOR)


def momentum(recipe: Recipe, step: int, steps: int) -> float:
    """SGD's momentum, or Adam's beta1, at step 0 .. steps - 1: OneCycle lowers it while the rate is high."""
    if recipe.schedule == "fixed":
        return recipe.momentum
    low, high = _MOMENTUM
    return _one_cycle(step, steps, high, low, high)


def _one_cycle(step: int, steps: int, start: float, middle: float, end: float) -> float:
    """Half a cosine from `start` to `middle`, then half a cosine to `end`."""
    peak = _RISE * steps - 1
    if step <= peak:
        return _half_cosine(start, middle, step / peak)
    return _half_cosine(middle, end, (step - peak) / (steps - 1 - peak))


def _half_cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2 * (math.cos(math.pi * part) + 1)
