"""What a finder finds, misses and invents on pictures of each kind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edge_mnist.training.finder import pages, pyramid
from edge_mnist.training.finder.network import FOUND
from edge_mnist.training.finder.pages import Sources

MATCH = 0.4
"""The least intersection over union of a box that was found with the true one."""


@dataclass
class Count:
    """Of the pictures of one kind: how many digits they hold, found, read right and invented.

    Digits whose longer side is below the smallest that are to be found count nowhere.

    Attributes:
        told: digits that were found and are not turned too far to be told from others.
    """

    pictures: int = 0
    digits: int = 0
    found: int = 0
    told: int = 0
    right: int = 0
    invented: int = 0


def judge(finder: nn.Module, made_from: Sources, count: int, least: float, seed: int = 0) -> dict[str, Count]:
    """Counts by kind, and of "all". Without photographs there is no such kind.

    Args:
        finder: the network, in evaluation mode.
        made_from: what pictures are made from.
        count: pictures of each kind.
        least: the confidence that what is found must have.
        seed: of the pictures.
    """
    counts: dict[str, Count] = {}
    kinds = [kind for kind in pages.KINDS if kind != "photograph" or made_from.photographs]
    for number, kind in enumerate(kinds):
        for index in range(count):
            picture = pages.draw(np.random.RandomState([seed, number, index]), made_from, kind)
            found = pyramid.find(finder, picture.frame, least)
            for name in (kind, "all"):
                compare(picture, found, counts.setdefault(name, Count()))
    return {name: counts[name] for name in (*kinds, "all")}


def compare(picture: pages.Picture, found: pyramid.Found, into: Count) -> None:
    """Add one picture to a count. Each digit is matched with the most confident box that covers it."""
    longer = (picture.boxes[:, 2:] - picture.boxes[:, :2]).max(1, initial=0)
    wanted = longer >= FOUND[0]
    overlaps = intersection_over_union(found.boxes, picture.boxes)  # (found, digits)
    taken = np.zeros(len(longer), bool)
    into.pictures += 1
    into.digits += int(wanted.sum())
    for row, logits in zip(overlaps, found.logits, strict=True):
        free = np.where(taken, 0, row)
        best = int(free.argmax()) if len(free) else -1
        if best < 0 or free[best] < MATCH:
            into.invented += 1
            continue
        taken[best] = True
        if wanted[best]:
            into.found += 1
            if picture.labels[best] >= 0:
                into.told += 1
                into.right += int(logits.argmax() == picture.labels[best])


def intersection_over_union(some: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of boxes (N, 4) with others (M, 4): float32 (N, M), 0 to 1."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    own, other = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (some, others))
    result: NDArray[np.float32] = shared / np.maximum(own[:, None] + other[None] - shared, 1e-6)
    return result
