"""How sure the reader is of a digit, from what two networks say of it.

The finder says how likely a digit is at a place, and which one it takes it for; the classifier says which digit its
image shows. Two logistic models, fitted by `benchmarks/fit_confidence.py` on pictures that neither network has learned
from, turn this into probabilities (Platt, "Probabilistic Outputs for Support Vector Machines", 1999; Guo et al., "On
Calibration of Modern Neural Networks", 2017):

    P(label) = softmax(LABEL_WEIGHTS[0] * logits of the classifier + LABEL_WEIGHTS[1] * logits of the finder)
    P(digit) = 1 / (1 + exp(-(1, features) . DIGIT_WEIGHTS))
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_mnist.runtime import softmax

_Floats: TypeAlias = NDArray[np.float64]

NAMES = ("finder", "label", "agreement", "contrast")
"""The features of P(digit), see `measure_features`."""
LABEL_WEIGHTS = np.array([1.0, 0.0])
"""The weights of the two networks' logits. Before they are fitted, the classifier alone decides."""
DIGIT_WEIGHTS = np.array([0.0, 8.0, 0.0, 0.0, 0.0])
"""A constant, then a weight for each feature. Before they are fitted, the finder alone decides."""
_LEAST = 1e-4
"""Probabilities are kept so far from 0 and 1: what networks say beyond that means nothing."""


def mix_labels(
    classifier_logits: NDArray[np.float32], finder_logits: NDArray[np.float32], weights: _Floats = LABEL_WEIGHTS
) -> _Floats:
    """The probabilities (N, 10) of each label, if a digit is there, from the logits (N, 10) of both networks."""
    return softmax(weights[0] * classifier_logits.astype(np.float64) + weights[1] * finder_logits.astype(np.float64))


def measure_features(
    found: NDArray[np.float32],
    finder_logits: NDArray[np.float32],
    classifier_logits: NDArray[np.float32],
    contrasts: NDArray[np.float32],
) -> _Floats:
    """What speaks for and against a digit at each place, float64 (N, 4), each about -1 to 1.

    Args:
        found: (N,), 0 to 1, the finder's confidence.
        finder_logits: (N, 10).
        classifier_logits: (N, 10).
        contrasts: (N,), 0 to 1, of the ink with the paper.

    Returns:
        In the order of `NAMES`. finder: the log odds of its confidence, over 8. label: the log odds of the classifier's
        most probable label, over 8. agreement: the logarithm of the probability, over 8, that the finder gives to that
        label. contrast: its logarithm, over 4.
    """
    certain = softmax(classifier_logits)  # (N, 10)
    opinion = softmax(finder_logits)
    label = certain.argmax(1)
    agreement = opinion[np.arange(len(label)), label]
    return np.stack(
        [
            _log_odds(found.astype(np.float64)) / 8,
            _log_odds(certain.max(1, initial=_LEAST)) / 8,
            np.log(np.maximum(agreement, _LEAST)) / 8,
            np.log(np.maximum(contrasts.astype(np.float64), 1 / 255)) / 4,
        ],
        1,
    )


def estimate_digit(features: _Floats, weights: _Floats = DIGIT_WEIGHTS) -> _Floats:
    """The probability (N,) that a digit is there, by its features (N, 4)."""
    probability: _Floats = 1 / (1 + np.exp(-(weights[0] + features @ weights[1:])))
    return probability


def _log_odds(probability: _Floats) -> _Floats:
    clipped = np.clip(probability, _LEAST, 1 - _LEAST)
    result: _Floats = np.log(clipped / (1 - clipped))
    return result
