"""Fits the weights by which the reader believes a digit: `python benchmarks/credit.py [--scenes N] [--data DIR]`.

On the scenes and pictures to tune on, never on those to judge by. Prints the line for `demo/reading/confidence.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks import negatives, reading
from edge_mnist import runtime
from edge_mnist.demo.reading import confidence
from edge_mnist.demo.reading.reader import Digit, Reader
from edge_mnist.demo.sources.scenes import Scene

INVENTED = 2.0
"""A digit that is read where nobody wrote weighs so many times as much as one that is read wrong."""
RIDGE = 1.0
"""Of the weights' squares, so that a feature that tells little stays small."""


def matches(digit: Digit, scene: Scene) -> bool:
    """Whether a digit that was read stands where such a digit is written."""
    x, y, width, height = digit.box
    for label, corners in scene.digits:
        left, top = corners.min(0)
        right, bottom = corners.max(0)
        common = max(0, min(x + width, right) - max(x, left)) * max(0, min(y + height, bottom) - max(y, top))
        if common > 0.45 * (width * height + (right - left) * (bottom - top) - common) and label == digit.label:
            return True
    return False


def fit(rows: NDArray[np.float64], right: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logistic regression, by Newton's method: a constant and a weight for each feature of `rows` (N, F).

    Args:
        rows: the features.
        right: (N,), 1 or 0.
        weights: (N,), how much each counts.
    """
    inputs = np.hstack([np.ones((len(rows), 1)), rows])
    result = np.zeros(inputs.shape[1])
    penalty = RIDGE * np.eye(len(result))
    penalty[0, 0] = 0
    for _ in range(50):
        chances = 1 / (1 + np.exp(-inputs @ result))
        slope = inputs.T @ (weights * (right - chances)) - penalty @ result
        curve = (inputs * (weights * chances * (1 - chances))[:, None]).T @ inputs + penalty
        step = np.linalg.solve(curve, slope)
        result += step
        if np.abs(step).max() < 1e-9:
            break
    return result


def main() -> None:
    """Read, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=20, help="of each condition")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    reader = Reader(runtime.load(options.model) if options.model else None, threshold=0.0)
    rows: list[tuple[float, ...]] = []
    right: list[float] = []
    weights: list[float] = []
    for condition, scene in reading.scenes("train", options.scenes, options.data):
        if condition == "printed":  # strips, which the network judges alone
            continue
        for digit in reader.read(scene.frame).digits:
            rows.append(digit.features)
            right.append(matches(digit, scene))
            weights.append(1 / np.sqrt(len(scene.digits) + 1))
    for _, frame in negatives.make_frames("train"):
        digits = reader.read(frame).digits
        for digit in digits:
            rows.append(digit.features)
            right.append(0.0)
            weights.append(INVENTED / np.sqrt(len(digits)))  # a texture's hundred marks are not a hundred frames
    result = fit(np.array(rows), np.array(right), np.array(weights))
    chances = 1 / (1 + np.exp(-(result[0] + np.array(rows) @ result[1:])))
    loss = -np.average(np.log(np.where(right, chances, 1 - chances).clip(1e-9)), weights=weights)
    print(f"{len(rows)} digits, {sum(right):.0f} right, log loss {loss:.4f}")
    print("WEIGHTS = np.array([" + ", ".join(f"{weight:.3f}" for weight in result) + "])")
    for name, weight, spread in zip(confidence.NAMES, result[1:], np.std(rows, axis=0), strict=True):
        print(f"  {name:8s} {weight:8.3f} x {spread:.3f}")


if __name__ == "__main__":
    main()
