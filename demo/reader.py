"""Reads the numbers that are written in a frame.

frame -> ink -> components -> lines -> possible digits -> 28x28 images -> one batch through the network -> the best path
through each line.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist import runtime
from edge_mnist.demo import crops, ink, lines, pieces, segmentation
from edge_mnist.runtime import Classifier
from edge_mnist.sources import SHIPPED_INT8

THRESHOLD = 0.6
LEAST_HEIGHT = 12
MOST_COMPONENTS = 400


@dataclass(frozen=True, eq=False)
class Digit:
    """A digit that was read.

    Attributes:
        label: 0 to 9.
        confidence: 0 to 1, the probability that it is this digit.
        box: x, y, width, height in pixels of the frame.
        line: number of its line, from 0.
        image: uint8 (28, 28), what the network was given.
    """

    label: int
    confidence: float
    box: tuple[int, int, int, int]
    line: int
    image: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Reading:
    """What a frame says.

    Attributes:
        digits: in reading order.
        lines: their labels, a string a line.
        milliseconds: by stage, and "total".
    """

    digits: tuple[Digit, ...]
    lines: tuple[str, ...]
    milliseconds: dict[str, float]


class Reader:
    """A network, and how much it must be sure of what it reads."""

    def __init__(
        self, classifier: Classifier | None = None, *, threshold: float = THRESHOLD, invert: str = "auto"
    ) -> None:
        """With any int8 or float artifact of ten classes; the shipped int8 TFLite model is the default."""
        self.classifier = classifier or runtime.load(SHIPPED_INT8)
        self.threshold = threshold
        self.invert = invert

    def read(self, frame: NDArray[np.uint8]) -> Reading:
        """Read a frame, uint8 (H, W) grey or (H, W, 3) BGR."""
        clock = _Clock()
        grey = frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        if max(grey.shape) < 64:
            grey = cv2.resize(grey, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
        found = ink.find(grey)
        clock.tick("ink")
        components = pieces.components(found.mask, 8, MOST_COMPONENTS)
        grouped = lines.group(components, LEAST_HEIGHT)
        cut = [segmentation.parts(line) for line in grouped]
        possible = [
            segmentation.candidates(line_parts, line.height) for line_parts, line in zip(cut, grouped, strict=True)
        ]
        clock.tick("segmentation")
        flat = [candidate for line in possible for candidate in line]
        images = (
            np.stack([crops.normalize(found.strength, candidate.piece) for candidate in flat])
            if flat
            else np.zeros((0, 28, 28), np.uint8)
        )
        clock.tick("crops")
        chances = self._chances(images)
        clock.tick("network")
        digits: list[Digit] = []
        texts = []
        start = 0
        for line, line_parts, line_candidates in zip(grouped, cut, possible, strict=True):
            end = start + len(line_candidates)
            here = chances[start:end]
            path = segmentation.best_path(
                line_parts, line_candidates, here.max(1) if len(here) else here[:, 0], line.height
            )
            chosen = [
                Digit(
                    int(here[i].argmax()),
                    float(here[i].max()),
                    _box(line_candidates[i].piece),
                    len(texts),
                    images[start + i],
                )
                for i in path
                if here[i].max() >= self.threshold
            ]
            if chosen:
                digits += chosen
                texts.append("".join(str(digit.label) for digit in chosen))
            start = end
        clock.tick("path")
        return Reading(tuple(digits), tuple(texts), clock.milliseconds())

    def _chances(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Probabilities (N, 10) of images uint8 (N, 28, 28)."""
        logits = self.classifier.logits(images).astype(np.float64) if len(images) else np.zeros((0, 10))
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)


def _box(piece: pieces.Piece) -> tuple[int, int, int, int]:
    return piece.x, piece.y, piece.width, piece.height


class _Clock:
    """Milliseconds by stage."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._stages: dict[str, float] = {}

    def tick(self, stage: str) -> None:
        """A stage is over."""
        now = time.perf_counter()
        self._stages[stage] = (now - self._last) * 1e3
        self._last = now

    def milliseconds(self) -> dict[str, float]:
        """Of each stage, and of all."""
        return {**self._stages, "total": (self._last - self._start) * 1e3}
