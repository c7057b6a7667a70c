"""The named training recipes, and their schedules as pure functions of the step or the epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from edge_mnist.system.errors import UsageError


@dataclass(frozen=True)
class Augmentation:
    """How much an image is changed at most, each amount drawn uniformly on both sides of nothing."""

    rotation: float = 9.0
    """Degrees."""
    scale: float = 0.1
    """Relative: 0.1 draws from 0.9 to 1.1, apart for height and width."""
    shear: float = 0.1
    """Pixels across for one pixel up."""
    shift: float = 1.5
    """Pixels, along each axis."""
    elastic: float = 0.0
    """Pixels by which the corners of a grid of 7 pixels are moved (after Simard, Steinkraus and Platt, "Best practices
    for convolutional neural networks applied to visual document analysis", ICDAR 2003)."""
    stroke: float = 0.0
    """How much thinner or thicker strokes become: 1 is a pixel on each side."""
    wear: float = 0.0
    """The part of the images that meets each of blur, noise, uneven light, faint ink and a hidden corner, 0 to 1."""


NOTHING = Augmentation(rotation=0.0, scale=0.0, shear=0.0, shift=0.0)
"""Images as they are."""


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
    calm: int = 0
    """So many last epochs change the images half as much, and wear none."""
    outliers: float = 0.0
    """Images of what is no digit in a batch, as a part of the digits, learned towards equal probabilities (outlier
    exposure: Hendrycks, Mazeika and Dietterich, ICLR 2019)."""
    distillation: float = 0.9
    """The share of the target that a teacher gives, where there is one; label smoothing is in the rest, 0 to 1."""
    temperature: float = 3.0
    """What a teacher's logits and the student's are divided by to be compared."""


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("adam-onecycle", "adam", "onecycle", lr=0.01, weight_decay=1e-4),
        Recipe("sgd-onecycle", "sgd", "onecycle", lr=0.02, weight_decay=1e-4),
        Recipe("sgd-fixed", "sgd", "fixed", lr=0.006, weight_decay=1e-4, momentum=0.0),
        Recipe("adamw-onecycle", "adamw", "onecycle", lr=0.02, weight_decay=1e-4),
        Recipe(
            "best",
            "adam",
            "onecycle",
            lr=0.01,
            weight_decay=1e-4,
            epochs=120,
            augmentation=Augmentation(rotation=14.0, scale=0.15, shear=0.15, shift=2.0, stroke=0.3, wear=0.08),
            calm=6,
            outliers=0.125,
        ),
        Recipe("tune", "adam", "onecycle", lr=0.0005, weight_decay=1e-4, epochs=3, label_smoothing=0.0, outliers=0.125),
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


def parse_changes(texts: Iterable[str]) -> dict[str, Any]:
    """Other values for a recipe's fields, or its augmentation's, from texts as `elastic=1.5`.

    Raises:
        UsageError: a text is no NAME=VALUE, or the recipe has no such number.
    """
    numbers = {field.name: field.type for kind in (Recipe, Augmentation) for field in fields(kind)}
    numbers = {name: kind for name, kind in numbers.items() if kind in ("int", "float")}
    changes = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in numbers:
            raise UsageError(f"--set {text}: expected NAME=VALUE, NAME one of {', '.join(numbers)}")
        try:
            changes[name] = int(value) if numbers[name] == "int" else float(value)
        except ValueError as error:
            raise UsageError(f"--set {text}: {value!r} is no {numbers[name]}") from error
    return changes


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with other values for some of its fields, or of its augmentation's, which is then switched on."""
    inner = {name: value for name, value in changes.items() if name in Augmentation.__dataclass_fields__}
    outer = {name: value for name, value in changes.items() if name not in inner}
    if inner:
        outer["augmentation"] = replace(recipe.augmentation or NOTHING, **inner)
    return replace(recipe, **outer)


def augmentation(recipe: Recipe, epoch: int) -> Augmentation | None:
    """How much the images of an epoch, counted from 0, are changed."""
    amount = recipe.augmentation
    if amount is None or epoch < recipe.epochs - recipe.calm:
        return amount
    halves = {name: value / 2 for name, value in vars(amount).items()}
    return replace(amount, **halves | {"wear": 0.0})


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
