"""Quantiles of levels of grey, counted rather than sorted: in a fraction of the time."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def quantile(levels: NDArray[np.uint8], part: float) -> int:
    """The level, 0 to 255, up to which there are `part`, 0 to 1, of some: uint8 (N,) or (H, W), not empty."""
    return _reached(_counts(levels), part)


def median(levels: NDArray[np.uint8]) -> int:
    """The lower median."""
    return quantile(levels, 0.5)


def spread(levels: NDArray[np.uint8]) -> tuple[int, float]:
    """The median, and what the standard deviation would be, were they normally distributed.

    By the median distance from the median.
    """
    counts = _counts(levels)
    middle = _reached(counts, 0.5)
    below, above = counts[middle::-1], counts[middle:]
    apart = np.zeros(256, np.float32)  # how many are so far from the middle
    apart[: len(below)] += below
    apart[1 : len(above)] += above[1:]
    return middle, 1.4826 * _reached(apart, 0.5)


def _counts(levels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(cv2.calcHist([np.ascontiguousarray(levels)], [0], None, [256], [0, 256]), np.float32).ravel()


def _reached(counts: NDArray[np.float32], part: float) -> int:
    """Of whole numbers from 0, of which there are so many each, the one up to which there are `part` of all."""
    sums = counts.cumsum()
    return int(np.searchsorted(sums, max(1.0, part * float(sums[-1]))))
