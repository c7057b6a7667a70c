"""Fits the reader's confidence: `python -m benchmarks.fit_confidence CHECKPOINT --fonts DIR [--data DIR] [--count N]`.

On pages of the part "choose", from which neither network has learned. Prints the lines for
`demo/reading/digit_confidence.py`, and how often digits are right by the confidence that they were given.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist.demo.reading import digit_confidence
from edge_mnist.demo.reading.find_and_read import Reader
from edge_mnist.training.finder import judging, loop, pages, pyramid, sources
from edge_mnist.training.finder.network import FOUND
from edge_mnist.training.finder.pages import Picture

_Floats = NDArray[np.float64]

LEAST = 0.1
"""The confidence of the finder from which on its places are taken: the reader asks for no less."""
RIDGE = 1.0
"""Of the squares of the weights, so that a feature that tells little has a small weight."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Places that were found on pages.

    Attributes:
        features: float64 (N, F), see `digit_confidence.NAMES`.
        labels: int64 (N,), the digit that is there; -1 for none, -2 if it cannot be told which.
        classifier_logits, finder_logits: float32 (N, 10).
        weights: float64 (N,), 1 / square root of the places on the page: a page of a hundred is not a hundred pages.
    """

    features: _Floats
    labels: NDArray[np.int64]
    classifier_logits: NDArray[np.float32]
    finder_logits: NDArray[np.float32]
    weights: _Floats


@dataclass(frozen=True, eq=False)
class TrainedFinder:
    """A finder as it was trained, for `Reader`."""

    checkpoint: Path

    def __post_init__(self) -> None:
        """Open it."""
        object.__setattr__(self, "_network", loop.load(self.checkpoint))

    def find(self, grey: NDArray[np.uint8]) -> pyramid.Found:
        """The digits in a grey frame, uint8 (H, W)."""
        return pyramid.find(self._network, grey, LEAST)  # type: ignore[attr-defined]


def collect(reader: Reader, pictures: Iterable[Picture]) -> Samples:
    """What both networks say of the places that the reader's finder finds in pictures, and what is there."""
    parts = []
    for picture in pictures:
        places = reader.look(picture.frame, reader.finder.find(picture.frame))
        if not len(places.boxes):
            continue
        labels = np.full(len(places.boxes), -1, np.int64)
        small = np.zeros(len(labels), bool)
        if len(picture.boxes):
            overlaps = judging.intersection_over_union(places.boxes, picture.boxes)
            best = overlaps.argmax(1)
            matched = overlaps.max(1) >= judging.MATCH
            labels[matched] = np.where(picture.labels[best] >= 0, picture.labels[best], -2)[matched]
            small = matched & ((picture.boxes[best, 2:] - picture.boxes[best, :2]).max(1) < FOUND[0])
        kept = ~small  # whether these are found does not matter
        weights = np.full(len(labels), 1 / np.sqrt(len(labels)))
        rows = places.features, labels, places.classifier_logits, places.finder_logits, weights
        parts.append(tuple(row[kept] for row in rows))
    return Samples(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def fit_digit(samples: Samples) -> _Floats:
    """The weights of P(digit), by logistic regression with Newton's method: a constant, then one for each feature."""
    inputs = np.hstack([np.ones((len(samples.labels), 1)), samples.features])
    there = (samples.labels != -1).astype(np.float64)
    penalty = RIDGE * np.eye(inputs.shape[1])
    penalty[0, 0] = 0
    result = np.zeros(inputs.shape[1])
    for _ in range(50):
        chances = 1 / (1 + np.exp(-inputs @ result))
        slope = inputs.T @ (samples.weights * (there - chances)) - penalty @ result
        curve = (inputs * (samples.weights * chances * (1 - chances))[:, None]).T @ inputs + penalty
        step = np.linalg.solve(curve, slope)
        result += step
        if np.abs(step).max() < 1e-9:
            break
    return result


def fit_labels(samples: Samples) -> _Floats:
    """The weights of the logits of classifier and finder, by Newton's method on the likelihood of the true labels."""
    known = samples.labels >= 0
    truth, weights = samples.labels[known], samples.weights[known]
    logits = np.stack([samples.classifier_logits[known], samples.finder_logits[known]], 1).astype(np.float64)
    result = np.array([1.0, 0.0])
    rows = np.arange(len(truth))
    for _ in range(50):
        chances = digit_confidence.mix_labels(logits[:, 0], logits[:, 1], result)  # (N, 10)
        mean = (logits * chances[:, None]).sum(2)  # (N, 2)
        apart = logits - mean[:, :, None]
        spread = np.einsum("nac,nbc,nc,n->ab", apart, apart, chances, weights)
        slope = ((logits[rows, :, truth] - mean) * weights[:, None]).sum(0)
        step = np.linalg.solve(spread + 1e-9 * np.eye(2), slope)
        result = result + np.clip(step, -0.5, 0.5)  # far from the maximum Newton's steps are too long
        if np.abs(step).max() < 1e-9:
            break
    return result


def main() -> None:
    """Find, read, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--fonts", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--count", type=int, default=40, help="pages of each kind")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    reader = Reader(TrainedFinder(options.checkpoint))
    made_from = sources.load("choose", options.fonts, options.data)
    kinds = [kind for kind in pages.KINDS if kind != "photograph" or made_from.photographs]
    drawn = (
        pages.draw(np.random.RandomState([20, number, index]), made_from, kind)
        for number, kind in enumerate(kinds)
        for index in range(options.count)
    )
    samples = collect(reader, drawn)
    mix, weights = fit_labels(samples), fit_digit(samples)
    print(f"{len(samples.labels)} places, {np.mean(samples.labels != -1):.1%} of them digits")
    for name, values in (("LABEL_WEIGHTS", mix), ("DIGIT_WEIGHTS", weights)):
        print(f"{name} = np.array([{', '.join(f'{value:.3f}' for value in values)}])")
    labels = digit_confidence.mix_labels(samples.classifier_logits, samples.finder_logits, mix)
    confidence = digit_confidence.estimate_digit(samples.features, weights) * labels.max(1)
    told = samples.labels != -2
    right = labels.argmax(1) == samples.labels
    for low in np.arange(10) / 10:
        there = told & (confidence >= low) & (confidence < low + 0.1 + (low == 0.9))
        if there.any():
            mean, share = confidence[there].mean(), right[there].mean()
            print(
                f"{low:.1f} to {low + 0.1:.1f}: {there.sum():6d} places, mean confidence {mean:.3f}, right {share:.3f}"
            )


if __name__ == "__main__":
    main()
