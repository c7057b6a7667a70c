"""The named training recipes, and their schedules as pure functions of the step or the epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from edge_mnist.system.errors import UsageError


@dataclass(frozen=True)
class Augmentation:
    """The largest amounts by which an image is changed; each is drawn uniformly from both sides of zero."""

    rotation: float = 9.0
    """Degrees."""
    scale: float = 0.1
    """The relative change of height and of width, drawn separately: 0.1 gives factors from 0.9 to 1.1."""
    shear: float = 0.1
    """Pixels to the side for each pixel of height."""
    shift: float = 1.5
    """Pixels along each axis."""
    elastic: float = 0.0
    """Pixels by which the corners of a grid of 7 pixels are moved (after Simard, Steinkraus and Platt, "Best practices
    for convolutional neural networks applied to visual document analysis", ICDAR 2003)."""
    stroke: float = 0.0
    """How much thinner or thicker strokes become: 1 is a pixel on each side."""
    degradation: float = 0.0
    """The share of the images, 0 to 1, to which each of blur, noise, uneven light, faint ink and a hidden rectangle is
    applied; each effect draws its own share."""


NO_AUGMENTATION = Augmentation(rotation=0.0, scale=0.0, shear=0.0, shift=0.0)
"""Leaves images unchanged."""


@dataclass(frozen=True)
class Recipe:
    """Everything that a training run depends on besides the data, the network and the seed."""

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
    arXiv:1705.08741). It is smaller than a batch so that workers can share a batch without changing the result."""
    momentum: float = 0.9
    """SGD's momentum where the learning rate is fixed; OneCycle varies it, or Adam's beta1, between 0.85 and 0.95."""
    label_smoothing: float = 0.05
    augmentation: Augmentation | None = Augmentation()
    cooldown_epochs: int = 0
    """The number of last epochs that change the images half as much and degrade none."""
    outliers: float = 0.0
    """The number of outliers in a batch, relative to the digits. The network learns equal probabilities for them
    (outlier exposure: Hendrycks, Mazeika and Dietterich, ICLR 2019)."""
    user_digits: float = 0.0
    """The number of the user's own digits in an epoch, relative to the other images. If there are more, each epoch
    takes others of them; if there are fewer, they are repeated. 0 takes all of them, and repeats them up to 0.15."""
    distillation: float = 0.9
    """The weight of the teacher in the loss, 0 to 1, where there is one; the labels have the rest."""
    temperature: float = 3.0
    """What the logits of teacher and student are divided by before they are compared."""


FORMER_NAMES = {"wear": "degradation", "calm": "cooldown_epochs"}
"""Former names of fields, which `--set` and the settings in files of earlier versions may use."""

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
            augmentation=Augmentation(rotation=14.0, scale=0.15, shear=0.15, shift=2.0, stroke=0.3, degradation=0.08),
            cooldown_epochs=6,
            outliers=0.125,
        ),
        Recipe("tune", "adam", "onecycle", lr=0.0005, weight_decay=1e-4, epochs=3, label_smoothing=0.0, outliers=0.125),
        Recipe("quick", "adam", "onecycle", lr=0.02, weight_decay=1e-4, epochs=4, batch_size=256, augmentation=None),
    )
}


def find_recipe(name: str) -> Recipe:
    """Find a recipe by its name.

    Raises:
        UsageError: there is no recipe of this name.
    """
    if name not in RECIPES:
        raise UsageError(f"--recipe {name}: unknown, expected one of {', '.join(RECIPES)}")
    return RECIPES[name]


_MOST = 1_000_000
"""The largest value of a field that `_RANGES` does not name; its least is 0."""
_RANGES = {
    "lr": (1e-9, 1e38),
    "epochs": (1, _MOST),
    "batch_size": (2, _MOST),
    "ghost_batch": (2, _MOST),
    "momentum": (0, 0.999),
    "label_smoothing": (0, 1),
    "distillation": (0, 1),
    "temperature": (0.01, 1000),
    "scale": (0, 0.9),
    "degradation": (0, 1),
}
"""The least and the largest value of a field."""


def parse_changes(texts: Iterable[str]) -> dict[str, Any]:
    """Parse texts such as `elastic=1.5` into values for the fields of a recipe or of its augmentation.

    Raises:
        UsageError: a text is not NAME=VALUE, the recipe has no numeric field of this name, or the value is out of
            range.
    """
    types = {field.name: field.type for kind in (Recipe, Augmentation) for field in fields(kind)}
    types = {name: kind for name, kind in types.items() if kind in ("int", "float")}
    changes = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = FORMER_NAMES.get(name, name)
        if name not in types or not equals:
            raise UsageError(f"--set {text}: expected NAME=VALUE, NAME one of {', '.join(types)}")
        try:
            changes[name] = int(value) if types[name] == "int" else float(value)
        except ValueError as error:
            raise UsageError(f"--set {text}: {value!r} is not of type {types[name]}") from error
        least, most = _RANGES.get(name, (0, _MOST))
        if not least <= changes[name] <= most:
            raise UsageError(f"--set {text}: expected {least:,} to {most:,}")
    return changes


def parse_recipe(record: Mapping[str, Any]) -> Recipe:
    """Build a recipe from its fields as JSON holds them, under their present or former names.

    Raises:
        KeyError, TypeError: fields are missing or unknown.
    """
    values = _rename_former(record)
    if values["augmentation"] is not None:
        values["augmentation"] = Augmentation(**_rename_former(values["augmentation"]))
    return Recipe(**values)


def _rename_former(record: Mapping[str, Any]) -> dict[str, Any]:
    return {FORMER_NAMES.get(name, name): value for name, value in record.items()}


def change_recipe(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Replace fields of a recipe or of its augmentation, which begins with no change to the images if it is None."""
    inner = {name: value for name, value in changes.items() if name in Augmentation.__dataclass_fields__}
    outer = {name: value for name, value in changes.items() if name not in inner}
    if inner:
        outer["augmentation"] = replace(recipe.augmentation or NO_AUGMENTATION, **inner)
    return replace(recipe, **outer)


def augmentation_at(recipe: Recipe, epoch: int) -> Augmentation | None:
    """The augmentation of an epoch, counted from 0: the recipe's, or half of it in the cooldown epochs."""
    limits = recipe.augmentation
    if limits is None or epoch < recipe.epochs - recipe.cooldown_epochs:
        return limits
    halves = {name: value / 2 for name, value in vars(limits).items()}
    return replace(limits, **halves | {"degradation": 0.0})


# The defaults of PyTorch's OneCycleLR.
_RISE = 0.3
"""The share of the steps in which the learning rate rises."""
_DIVISOR = 25.0
"""The highest learning rate divided by the first one."""
_FINAL_DIVISOR = 1e4
"""The first learning rate divided by the last one."""
_MOMENTUM = (0.85, 0.95)
"""The momentum at the highest learning rate, and at the first and the last step."""


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of a step, 0 to steps - 1.

    OneCycle (Smith and Topin, "Super-convergence", arXiv:1708.07120, in the form of PyTorch's OneCycleLR): along half
    cosines from a 25th of the highest rate up to it over the first 30 % of the steps, then down to a 10,000th of the
    first rate.
    """
    if recipe.schedule == "fixed":
        return recipe.lr
    start = recipe.lr / _DIVISOR
    return _one_cycle(step, steps, start, recipe.lr, start / _FINAL_DIVISOR)


def momentum(recipe: Recipe, step: int, steps: int) -> float:
    """SGD's momentum or Adam's beta1 at a step, 0 to steps - 1: OneCycle lowers it while the learning rate is high."""
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


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (math.cos(math.pi * progress) + 1)
