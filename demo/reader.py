"""Reads the numbers that are written in a frame.

frame -> ink -> components -> lines -> possible digits -> 28x28 images -> one batch through the network -> the best path
through each line.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist import runtime
from edge_mnist.demo import credit, crops, ink, lines, paper, pieces, segmentation, view
from edge_mnist.demo.ink import Ink
from edge_mnist.demo.pieces import Piece
from edge_mnist.demo.view import View
from edge_mnist.runtime import Classifier
from edge_mnist.sources import SHIPPED_INT8

THRESHOLD = 0.5
LEAST_HEIGHT = 12
LEAST_AREA = 8
MOST_COMPONENTS = 400
TILT = 14.0
WIDE = 0.3
"""A piece whose box takes this part of the frame, and of which its ink"""
FILLS = 0.04
"""fills no more, is the outline of something."""
LARGE = 0.12
"""A piece longer than this part of the frame's shorter side may be a shadow:"""
SOFT = 0.45
"""its edge is softer than a pen's, see `ink.sharpness`."""
HUGS = 0.4
"""What lies along the frame's edge by this part of its longer side is the edge of something, not a digit."""


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
    features: tuple[float, ...] = ()


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
        seen = view.view(frame)
        sheet = paper.sheet(seen.grey)
        if self.invert == "yes" or (self.invert == "auto" and sheet is None and ink.is_light(seen.grey)):
            seen = view.inverted(seen)
        found, components = _marks(seen, sheet)
        clock.tick("ink")
        tilt = lines.tilt(components, LEAST_HEIGHT)
        if abs(tilt) > TILT:
            seen = view.turned(seen, -tilt)
            found, components = _marks(seen, None if sheet is None else paper.sheet(seen.grey))
        clock.tick("tilt")
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
        paths, start = [], 0
        for line, line_parts, line_candidates in zip(grouped, cut, possible, strict=True):
            here = chances[start : start + len(line_candidates)]
            path = segmentation.best_path(line_parts, line_candidates, here.max(1, initial=0), line.height)
            paths.append([start + index for index in path])
            start += len(line_candidates)
        clock.tick("path")
        digits = self._believed(seen, found, grouped, cut, flat, paths, chances, images, len(components))
        texts = [
            "".join(str(digit.label) for digit in digits if digit.line == line)
            for line in range(1 + max((digit.line for digit in digits), default=-1))
        ]
        clock.tick("credit")
        return Reading(tuple(digits), tuple(texts), clock.milliseconds())

    def _believed(self, seen, found, grouped, cut, flat, paths, chances, images, marks) -> list[Digit]:
        """The digits of all paths that are sure enough."""
        means = [
            float(np.mean([credit.strength(found, flat[index].piece) for index in path])) if path else 0.0
            for path in paths
        ]
        strongest = max(means, default=0.0)
        digits: list[Digit] = []
        texts = 0
        for line, parts, path in zip(grouped, cut, paths, strict=True):
            if not path:
                continue
            used = [flat[index].piece for index in path]
            ink_of_parts = sum(part.piece.area for part in parts)
            skipped = 1 - sum(piece.area for piece in used) / max(ink_of_parts, 1)
            rows = credit.features(found, used, chances[path].max(1), line.height, skipped, marks, strongest)
            sure = credit.confidence(rows)
            chosen = [
                Digit(
                    int(chances[index].argmax()),
                    float(confidence),
                    _box(seen, flat[index].piece),
                    texts,
                    images[index],
                    tuple(row),
                )
                for index, confidence, row in zip(path, sure, rows, strict=True)
                if confidence >= self.threshold
            ]
            digits += chosen
            texts += bool(chosen)
        return digits

    def _chances(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Probabilities (N, 10) of images uint8 (N, 28, 28)."""
        logits = self.classifier.logits(images).astype(np.float64) if len(images) else np.zeros((0, 10))
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)


def _marks(seen: View, sheet: NDArray[np.float32] | None) -> tuple[Ink, list[Piece]]:
    """The ink of a view, on its sheet if it shows one, and its components."""
    found = ink.find(seen.grey)
    if sheet is not None:
        found = replace(found, mask=cv2.min(found.mask, paper.within(sheet, seen.grey.shape)))
    marks = pieces.components(found.mask, LEAST_AREA, MOST_COMPONENTS)
    large = LARGE * min(seen.grey.shape)
    return found, [
        piece
        for piece in marks
        if pieces.contact(piece, found.mask.shape) < HUGS
        and (piece.width * piece.height < WIDE * found.mask.size or piece.area > FILLS * piece.width * piece.height)
        and (max(piece.width, piece.height) < large or ink.sharpness(found, piece) > SOFT)
    ]


def _box(seen: View, piece: Piece) -> tuple[int, int, int, int]:
    return view.box(seen, piece.x, piece.y, piece.width, piece.height)


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
