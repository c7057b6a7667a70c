"""How well a model reads: accuracy, calibration, mistakes, corrupted digits, and images of what is no digit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.data import outliers
from edge_mnist.data.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from edge_mnist.measure.significance import wilson_interval
from edge_mnist.runtime import softmax

Logits = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Images uint8 (N, 28, 28) to logits float32 (N, 10)."""

_BINS = 15
_OUTLIERS = 1000  # of each kind
_SEED = 20  # other letters than training's first seeds draw


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model made of labelled images.

    Attributes:
        confusion: int64 (10, 10), images by class (row) and class read (column).
        interval: of the accuracy, 95 %, 0 to 1.
        nll: mean negative log likelihood of the right class, in nats.
        calibration_error: how far confidence and accuracy lie apart, 0 to 1; see `expected_calibration_error`.
        mistakes: indices of the images read wrongly, the most confident first, (M,) int64.
        read: the classes read, (N,) int64.
        confidences: the largest softmax probability of each image, (N,) float64.
    """

    confusion: NDArray[np.int64]
    interval: tuple[float, float]
    nll: float
    calibration_error: float
    mistakes: NDArray[np.int64]
    read: NDArray[np.int64]
    confidences: NDArray[np.float64]

    @property
    def accuracy(self) -> float:
        """The part of the images that was read rightly, 0 to 1."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    def facts(self) -> dict[str, Any]:
        """All as JSON holds it."""
        by_class = self.confusion.sum(1)
        return {
            "images": int(by_class.sum()),
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "nll": self.nll,
            "calibration_error": self.calibration_error,
            "classes": [
                {"class": digit, "images": int(count), "accuracy": float(self.confusion[digit, digit] / count)}
                for digit, count in enumerate(by_class)
                if count
            ],
            "confusion": self.confusion.tolist(),
            "mistakes": [
                {"index": int(index), "read": int(self.read[index]), "confidence": float(self.confidences[index])}
                for index in self.mistakes
            ],
        }


def evaluate(logits: Logits, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Evaluation:
    """Read images uint8 (N, 28, 28) of classes int64 (N,), N at least 1."""
    probabilities = softmax(logits(images))  # (N, 10)
    read, confidences = probabilities.argmax(1), probabilities.max(1)
    confusion = np.zeros((10, 10), np.int64)
    np.add.at(confusion, (labels, read), 1)
    wrong = np.flatnonzero(read != labels)
    return Evaluation(
        confusion,
        wilson_interval(int((read == labels).sum()), len(labels)),
        float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean()),
        expected_calibration_error(confidences, read == labels),
        wrong[np.argsort(-confidences[wrong], kind="stable")],
        read,
        confidences,
    )


def expected_calibration_error(confidences: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """The distance of confidence and accuracy in 15 bins of equal width, weighted by their images, 0 to 1.

    Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017.
    """
    bins = np.minimum((confidences * _BINS).astype(np.intp), _BINS - 1)
    gaps = np.bincount(bins, confidences - right, _BINS)
    return float(np.abs(gaps).sum() / len(confidences))


def auroc(higher: NDArray[np.float64], lower: NDArray[np.float64]) -> float:
    """How often one of `higher` lies above one of `lower`, ties counting half: the area under the ROC curve."""
    order = np.sort(lower)
    above, equal = np.searchsorted(order, higher, "left"), np.searchsorted(order, higher, "right")
    return float((above + equal).mean() / 2 / len(lower))


def read_corrupted(
    logits: Logits, images: NDArray[np.uint8], labels: NDArray[np.int64], note: Callable[[str], None]
) -> dict[str, list[float]]:
    """The part of the images read wrongly, 0 to 1, by corruption and strength 1 to 3; `note` hears of each."""
    errors = {}
    for name in CORRUPTIONS:
        note(name)
        read = (logits(corrupt(images, name, strength)).argmax(1) for strength in STRENGTHS)
        errors[name] = [float((classes != labels).mean()) for classes in read]
    return errors


def mean_error(errors: Mapping[str, Sequence[float]]) -> float:
    """The mean over corruptions and strengths, 0 to 1."""
    return float(np.mean(list(errors.values())))


def tell_apart(
    logits: Logits, confidences: NDArray[np.float64], kinds: Mapping[str, outliers.Kind], digits: NDArray[np.uint8]
) -> dict[str, float]:
    """How well the confidence tells digits from images of what is no digit: AUROC of each kind, 0.5 to 1.

    Args:
        logits: the model.
        confidences: of digits.
        kinds: what is no digit.
        digits: uint8 (N, 28, 28), of which some kinds are made.
    """
    drawn = outliers.draw(kinds, _OUTLIERS, _SEED, digits)
    return {name: auroc(confidences, softmax(logits(images)).max(1)) for name, images in drawn.items()}
