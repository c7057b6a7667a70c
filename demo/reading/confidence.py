"""How likely it is that a digit was read right, from what both networks say of it.

A logistic regression weighs four features (Hosmer, Lemeshow, "Applied Logistic Regression", 2000). Its weights were
fitted by `benchmarks/confidence.py` on drawn pages that neither network has seen, some of MNIST's images on them apart;
its result is a probability, the confidence that the reader gives.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_mnist.demo.reading.finder import Found
from edge_mnist.demo.reading.layout import find_neighbours

FEATURES = ("heat", "network", "both", "neighbours")
"""The names of the features, in the order of the columns of `measure`."""
ALONE = np.array([-0.328, 0.648, 1.027, 1.792])
"""A constant, then the weights of the first three features: a digit as it would be judged without its neighbours."""
WEIGHTS = np.array([-0.051, 0.515, 1.092, 1.495, 0.327])
"""A constant, then the weight of each feature."""
_LEAST_CHANCE = 1e-4
"""Probabilities are raised to at least this before their logarithm is taken."""
_MOST_ODDS = 4.0
"""The log odds of a neighbour are limited to this magnitude."""


def measure(found: Found, chances: NDArray[np.float64], labels: NDArray[np.intp]) -> NDArray[np.float64]:
    """Measure what speaks for and against each digit, float64 (N, len(FEATURES)).

    What is near a digit is mostly digits, and what is near a letter mostly letters: so neighbours are a context, as by
    Tu, "Auto-context and Its Application to High-level Vision Tasks", CVPR 2008.

    Args:
        found: what the finder found.
        chances: (N, 10), the probabilities that DigitNet gives.
        labels: (N,), the digit that each is taken for.

    Returns:
        In the order of `FEATURES`. heat: the log odds of the finder's confidence. network: the logarithm of the
        probability that DigitNet gives the label. both: the same of both networks together, by the geometric mean of
        their probabilities. neighbours: the mean log odds that the neighbours are digits and read right, each judged
        alone; 0 where there are none.
    """
    index = np.arange(len(labels))
    chance = found.confidence.astype(np.float64)
    heat = np.log(np.maximum(chance, 1e-9) / np.maximum(1 - chance, 1e-9))
    rows = np.stack([heat, _log(chances[index, labels]), _join(chances, found)[index, labels]], 1)
    odds = np.clip(ALONE[0] + rows @ ALONE[1:], -_MOST_ODDS, _MOST_ODDS)
    first, second = find_neighbours(found.boxes)
    sums, counts = (np.bincount(first, weights, len(labels)) for weights in (odds[second], None))
    return np.hstack([rows, (sums / np.maximum(counts, 1))[:, None]])


def choose_labels(chances: NDArray[np.float64], found: Found) -> NDArray[np.intp]:
    """Choose the digit (N,) that each is taken for: the most probable one for both networks together."""
    return np.asarray(_join(chances, found).argmax(1), np.intp)


def estimate(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Estimate the probability (N,) that each digit is there and read right, from its features (N, F)."""
    result: NDArray[np.float64] = 1 / (1 + np.exp(-(WEIGHTS[0] + rows @ WEIGHTS[1:])))
    return result


def _join(chances: NDArray[np.float64], found: Found) -> NDArray[np.float64]:
    """The logarithms (N, 10) of the geometric means of both networks' probabilities, which are made to add up to 1."""
    return _normalize((_log(chances) + _normalize(found.logits.astype(np.float64))) / 2)


def _normalize(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithms of the probabilities (N, 10) that are proportional to the exponentials of scores."""
    scores = scores - scores.max(1, keepdims=True, initial=-np.inf)
    return np.asarray(scores - np.log(np.exp(scores).sum(1, keepdims=True)))


def _log(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log(np.maximum(chances, _LEAST_CHANCE)))
