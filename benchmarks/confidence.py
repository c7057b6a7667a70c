"""Fits the weights of the confidence: `python -m benchmarks.confidence --fonts FONTS [--data DIR] [--count N]`.

They are fitted on drawn pages of the part "choose", which neither network has seen, although DigitNet knows some of the
images of MNIST on them, and on every third of the frames without digits that are kept for tuning. Prints the lines for
`demo/reading/confidence.py`, and how well the confidence is calibrated.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks import negatives, run_command
from benchmarks.finding import LEAST_OVERLAP, intersection_over_union
from edge_mnist.demo.reading import confidence
from edge_mnist.demo.reading.reader import Digit, Reader
from edge_mnist.training.finder import pages, sources

RIDGE = 1.0
"""The weight of the weights' squares, so that a feature that says little has a small one."""


def fit(rows: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logistic regression, by Newton's method: a constant and a weight for each feature of `rows` (N, F).

    Args:
        rows: the features.
        right: (N,), 1 or 0.
    """
    inputs = np.hstack([np.ones((len(rows), 1)), rows])
    result = np.zeros(inputs.shape[1])
    penalty = RIDGE * np.eye(len(result))
    penalty[0, 0] = 0
    for _ in range(50):
        chances = 1 / (1 + np.exp(-inputs @ result))
        slope = inputs.T @ (right - chances) - penalty @ result
        curve = (inputs * (chances * (1 - chances))[:, None]).T @ inputs + penalty
        step = np.linalg.solve(curve, slope)
        result += step
        if np.abs(step).max() < 1e-9:
            break
    return result


def judge(picture: pages.Picture, digits: tuple[Digit, ...]) -> list[float]:
    """For each digit that was read: 1 if it is right, 0 if it is not, -1 if the page does not say which digit it is."""
    if not len(picture.boxes):
        return [0.0] * len(digits)
    boxes = np.array([(*digit.box[:2], digit.box[0] + digit.box[2], digit.box[1] + digit.box[3]) for digit in digits])
    overlaps = intersection_over_union(boxes.reshape(-1, 4).astype(np.float32), picture.boxes)
    verdicts = []
    for digit, row in zip(digits, overlaps, strict=True):
        best = int(row.argmax())
        if row[best] < LEAST_OVERLAP:
            verdicts.append(0.0)
        elif picture.labels[best] < 0:
            verdicts.append(-1.0)
        else:
            verdicts.append(float(digit.label == picture.labels[best]))
    return verdicts


def read(drawn: list[pages.Picture], empty: list[NDArray[np.uint8]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read pages and frames without digits; the features (N, F) of what was read, and whether it is right (N,)."""
    reader = Reader(threshold=0.0)
    rows: list[tuple[float, ...]] = []
    right: list[float] = []
    for picture in drawn:
        digits = reader.read(picture.frame).digits
        for digit, verdict in zip(digits, judge(picture, digits), strict=True):
            if verdict >= 0:
                rows.append(digit.features)
                right.append(verdict)
    for frame in empty:
        for digit in reader.read(frame).digits:
            rows.append(digit.features)
            right.append(0.0)
    return np.array(rows), np.array(right)


def main() -> None:
    """Read all pages without a threshold, fit, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fonts", type=Path, required=True, help="a folder with fonts in its folders hand and print")
    parser.add_argument("--data", type=Path, help="the folder with MNIST's files")
    parser.add_argument("--count", type=int, default=30, help="pages of each kind")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    made_from = sources.load("choose", options.fonts, options.data)
    drawn = [
        pages.draw(np.random.RandomState([2, number, index]), made_from, kind)
        for number, kind in enumerate(pages.KINDS)
        for index in range(options.count)
    ]
    empty = [frame for _, frame in list(negatives.make_frames("train"))[::3]]
    alone, verdicts = read(drawn, empty)
    confidence.ALONE = fit(alone[:, :3], verdicts)
    features, verdicts = read(drawn, empty)
    result = confidence.WEIGHTS = fit(features, verdicts)
    for name in ("ALONE", "WEIGHTS"):
        print(f"{name} = np.array([{', '.join(f'{value:.3f}' for value in getattr(confidence, name))}])")
    chances: NDArray[np.float64] = 1 / (1 + np.exp(-(result[0] + features @ result[1:])))
    edges = np.array([0, 0.05, 0.2, 0.4, 0.65, 0.8, 0.9, 0.95, 0.99, 1.0001])
    for low, high in pairwise(edges):
        within = (chances >= low) & (chances < high)
        if within.any():
            print(f"{low:.2f} to {high:.2f}: {within.sum():6} digits, {verdicts[within].mean():.3f} of them right")
    print("features:", ", ".join(confidence.FEATURES))


if __name__ == "__main__":
    run_command(main)
