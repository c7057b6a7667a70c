"""How far a digit can be believed: what the network says of it, and how it stands on the paper.

A network for digits is sure of many a shadow, leaf and fold. Ink on paper is sharp, stands apart from what surrounds
it, is thin for its height, and does not stand alone among a hundred other marks. A logistic regression weighs these
(Hosmer, Lemeshow, "Applied Logistic Regression", 2000); `benchmarks/credit.py` fits its weights on rendered scenes and
on pictures without digits. Its result is a probability, the confidence that the reader gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist.demo.reading import levels
from edge_mnist.demo.reading.ink import Ink
from edge_mnist.demo.reading.pieces import Piece

NAMES = (
    "network", "sharp", "clutter", "thick", "border", "company", "line", "skipped", "marks", "faint", "low", "hair",
)  # fmt: skip
"""The features, each 0 to about 1: see `features`."""
HAIR = 0.07
"""Strokes thinner than this part of a digit are rare."""
WEIGHTS = np.array([-9.845, 1.992, 3.936, -3.224, 0.552, -1.619, 4.972, 5.350, -5.819, -3.599, -3.284, -2.942, -3.064])
"""A constant, then one for each feature."""


def features(
    ink: Ink,
    digits: Sequence[Piece],
    chances: NDArray[np.float64],
    height: float,
    skipped: float,
    marks: int,
    strongest: float,
) -> NDArray[np.float64]:
    """What speaks for and against the digits of a line, float64 (N, features).

    Args:
        ink: of the frame.
        digits: the line's, N of them.
        chances: (N,), 0 to 1, the largest probability that the network gives each.
        height: of the line, in pixels.
        skipped: the part of the line's ink that is in no digit.
        marks: how many components the frame has.
        strongest: strength of the strongest line's ink, 0 to 255.

    Returns:
        In the order of `NAMES`. network: log odds of `chances`, over 8. sharp: 1 - strength around the digit / its own.
        clutter: the part of what is around it that is ink. thick: of its strokes, over its longer side. border: 1 if it
        touches the frame's. company: 1 - 1 / (digits in the line). line: mean of `network` in the line. skipped: as
        given. marks: log10(1 + marks) / 3. faint: 1 - its strength / `strongest`. low: by how much it is lower than the
        line. hair: by how much `thick` falls short of `HAIR`, as a part of it.
    """
    odds = np.log(np.clip(chances, 1e-4, 1 - 1e-4) / np.clip(1 - chances, 1e-4, 1)) / 8
    rows = np.empty((len(digits), len(NAMES)))
    for row, piece in zip(rows, digits, strict=True):
        thick = piece.thickness
        own, around, clutter = _surroundings(ink, piece, thick)
        rows_, columns = ink.mask.shape
        border = piece.x <= 1 or piece.y <= 1 or piece.right >= columns - 1 or piece.bottom >= rows_ - 1
        row[1:5] = 1 - around / max(own, 1), clutter, thick / max(piece.height, piece.width), border
        row[9:] = (
            1 - own / max(strongest, 1),
            max(0, 1 - piece.height / height),
            max(0, 1 - row[3] / HAIR),
        )
    rows[:, 0] = odds
    rows[:, 5] = 1 - 1 / max(len(digits), 1)
    rows[:, 6] = odds.mean() if len(digits) else 0
    rows[:, 7] = skipped
    rows[:, 8] = np.log10(1 + marks) / 3
    return rows


def confidence(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probability (N,) that each is the digit it is taken for, by its features (N, features)."""
    result: NDArray[np.float64] = 1 / (1 + np.exp(-(WEIGHTS[0] + rows @ WEIGHTS[1:])))
    return result


def chance(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the network alone says: the probability (N,) that each is a digit, by its features (N, features)."""
    result: NDArray[np.float64] = 1 / (1 + np.exp(-8 * rows[:, 0]))
    return result


def line_strength(ink: Ink, pieces: Sequence[Piece]) -> float:
    """The mean strength of a line's digits, 0 to 255; 0 without any."""
    return float(np.mean([strength(ink, piece) for piece in pieces])) if pieces else 0.0


def strength(ink: Ink, piece: Piece) -> float:
    """The mean strength of a piece's ink, 0 to 255."""
    part = ink.strength[piece.y : piece.bottom, piece.x : piece.right]
    return float(cv2.mean(part, piece.mask)[0])


def _surroundings(ink: Ink, piece: Piece, thick: float) -> tuple[float, float, float]:
    """Strength of a piece, the median strength in a band around it, and the part of that band that is ink."""
    step = max(1, round(piece.height / 40))  # a large digit needs no more points than a small one
    gap = max(2, round(0.4 * thick))
    band = gap + max(2, round(0.8 * thick))
    top, left = max(piece.y - band, 0), max(piece.x - band, 0)
    place = np.s_[top : piece.bottom + band : step, left : piece.right + band : step]
    around = ink.strength[place]
    own = np.zeros((piece.bottom + band - top, piece.right + band - left), np.uint8)
    own[piece.y - top : piece.bottom - top, piece.x - left : piece.right - left] = piece.mask
    own = np.ascontiguousarray(own[::step, ::step][: around.shape[0], : around.shape[1]])
    near, far = (cv2.dilate(own, np.ones((2 * (n // step) + 1,) * 2, np.uint8)) for n in (gap, band))
    ring = cv2.subtract(far, near)
    values = around[ring > 0]
    if not len(values):
        return strength(ink, piece), 0.0, 0.0
    return (
        strength(ink, piece),
        float(levels.median(values)),
        float(np.count_nonzero(ink.mask[place][ring > 0])) / len(values),
    )
