"""Random numbers that depend on nothing but their key.

Each number is a hash of (seed, epoch, index of the image, purpose). So an image changes in the same way however the
batches are cut and in whatever order and process the numbers are drawn, and a training run that is resumed draws the
numbers that it would have drawn without the interruption.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_mnist.graph.arithmetic import splitmix64

_ORDER = 6
"""The purpose of the numbers that `draw_permutation` sorts by; the affine augmentation uses purposes 0 to 5."""


def draw_permutation(seed: int, epoch: int, count: int, purpose: int = _ORDER) -> NDArray[np.int64]:
    """Draw a permutation of 0 to count - 1, int64 (count,), from the seed, the epoch and what it is for."""
    return np.argsort(_draw_bits(seed, epoch, np.arange(count), purpose), kind="stable")


def draw_uniform(
    seed: int, epoch: int, indices: NDArray[np.int64], purpose: int | NDArray[np.int64]
) -> NDArray[np.float64]:
    """Draw the numbers of the given keys, uniform in [0, 1) on a grid of 2^-53.

    Args:
        seed: at least 0.
        epoch: at least 0; or the step, where numbers are drawn for each step.
        indices: int64, of any shape: the indices of the images.
        purpose: what the numbers are for; of a shape that broadcasts to that of `indices`.

    Returns:
        float64, of the shape of `indices`.
    """
    mantissas = _draw_bits(seed, epoch, indices, purpose) >> np.uint64(11)
    numbers: NDArray[np.float64] = mantissas.astype(np.float64) * 2.0**-53
    return numbers


def _draw_bits(
    seed: int, epoch: int, indices: NDArray[np.int64], purpose: int | NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Hash the words of the key one after the other with SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    state = np.zeros(indices.shape, np.uint64)
    for word in (seed, epoch, purpose, indices):
        state = splitmix64(state ^ np.asarray(word, np.uint64))
    return state
