"""Which ink makes which digit: over-segmentation, and the best path through what the network says of each part.

Pieces of a line are cut where digits may touch; each part alone, and neighbouring ones together, are possible digits;
of all ways to divide the line, the one with the highest score is taken, by dynamic programming (Casey and Lecolinet,
"A Survey of Methods and Strategies in Character Segmentation", PAMI 1996).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist.demo.reading.lines import Line
from edge_mnist.demo.reading.pieces import Piece, cut, join, slant

WIDE = 0.8
"""A component wider than this part of the line's height may be several digits."""
LOW = 0.45
"""What is lower than this part of the line's height is no digit."""
HIGH = 2.3
"""Nor what is higher."""
BROAD = 1.35
"""Nor what is wider, but for"""
WIDEST = 1.9
"""a component by itself."""
SPECK = 0.22
"""What is smaller than this part of the line's height, either way, is a dot or grain."""
BRIDGE = 2.2
"""Where digits touch, a cut goes through no more than so many strokes' thickness."""
NOTCH = 0.85
"""Or where their ink is lower than this part of the line's height, and lower than beside it."""
COMMA, DEEPER = 0.7, 0.12
"""What is lower than the first part of a line's height, and ends by the second below its neighbours, is no 1."""
SPAN = 7
"""A digit has no more parts than so many."""
CUT = 0.8
"""How probable it is that a digit begins or ends where a component was cut."""
SKIPPED = np.log(0.25)
"""What a path gives for ink of which it makes nothing; a digit of that probability is as good."""
SKIPPED_LOW = np.log(0.8)
"""The same for commas, dots and dashes."""


@dataclass(frozen=True, eq=False)
class Part:
    """A piece in a line, cut as finely as may be; `whole` numbers the component that it is of."""

    piece: Piece
    whole: int


@dataclass(frozen=True, eq=False)
class Candidate:
    """What may be a digit: the parts from `first` up to but not including `end` of a line."""

    first: int
    end: int
    piece: Piece


def parts(line: Line) -> list[Part]:
    """The pieces of a line, those that may hold several digits cut, from left to right."""
    leaning = [
        slant(piece) for piece in line.pieces if LOW * line.height <= piece.height and piece.width < 1.5 * line.height
    ]
    shear = float(np.clip(np.median(leaning), -0.8, 0.8)) if leaning else 0.0
    found = []
    for whole, piece in enumerate(line.pieces):
        if max(piece.width, piece.height) < SPECK * line.height:
            continue
        columns = (
            _cuts(piece, line.height, shear)
            if piece.width > WIDE * line.height and piece.height >= LOW * line.height
            else []
        )
        found += [Part(part, whole) for part in (cut(piece, columns, shear) if columns else [piece])]
    middle = line.top + line.height / 2
    return sorted(found, key=lambda part: _centre(part.piece) + (part.piece.y + part.piece.height / 2 - middle) * shear)


def candidates(line: list[Part], height: float) -> list[Candidate]:
    """What may be a digit in a line of that height."""
    last = {part.whole: index for index, part in enumerate(line)}
    found = []
    for first in range(len(line)):
        for end in range(first + 1, min(first + SPAN, len(line)) + 1):
            group = line[first:end]
            if end - first > 1 and not _belongs(group[-1], group[:-1], height):
                if group[-1].piece.height >= LOW * height:
                    break
                continue
            piece = join([part.piece for part in group])
            is_whole = len({part.whole for part in group}) == 1 and last[group[0].whole] == end - 1
            if piece.width > (WIDEST if is_whole else BROAD) * max(height, piece.height):
                if piece.width > WIDEST * max(height, piece.height):
                    break
                continue
            alone = end - first == 1
            if LOW * height <= piece.height <= HIGH * height and not (alone and _is_comma(line, first, height)):
                found.append(Candidate(first, end, piece))
    return found


def best_path(line: list[Part], found: list[Candidate], chances: NDArray[np.float64], height: float) -> list[int]:
    """Which candidates make up a line.

    Args:
        line: the parts, M of them.
        found: the candidates, N of them.
        chances: (N,), the largest probability that the network gives to each.
        height: of the line's digits.

    Returns:
        Indices of candidates, from left to right.
    """
    weights = [np.sqrt(part.piece.area) for part in line]
    scores = [0.0] + [-np.inf] * len(line)
    steps: list[tuple[int, int | None]] = [(0, None)] * (len(line) + 1)
    ending: dict[int, list[int]] = {}
    for index, candidate in enumerate(found):
        ending.setdefault(candidate.end, []).append(index)
    for end in range(1, len(line) + 1):
        low = line[end - 1].piece.height < LOW * height
        scores[end] = scores[end - 1] + weights[end - 1] * (SKIPPED_LOW if low else SKIPPED)
        steps[end] = (end - 1, None)
        for index in ending.get(end, ()):
            first = found[index].first
            chance = max(chances[index], 1e-6)
            for at in (first, end):
                if 0 < at < len(line) and line[at - 1].whole == line[at].whole:
                    chance *= CUT
            score = scores[first] + sum(weights[first:end]) * float(np.log(chance))
            if score > scores[end]:
                scores[end], steps[end] = score, (first, index)
    path: list[int] = []
    end = len(line)
    while end:
        end, chosen = steps[end]
        if chosen is not None:
            path.append(chosen)
    return path[::-1]


def _is_comma(line: list[Part], index: int, height: float) -> bool:
    """Whether a part is low and narrow, and stands deeper than its neighbours: a comma that is no 1."""
    piece = line[index].piece
    if piece.height > COMMA * height or piece.width > 0.5 * height:
        return False
    tall = [
        next((part.piece for part in side if part.piece.height > COMMA * height), None)
        for side in (line[:index][::-1], line[index + 1 :])
    ]
    return any(tall) and all(
        piece.y > other.y + 0.4 * other.height and piece.bottom > other.bottom + DEEPER * height
        for other in tall
        if other is not None
    )


def _centre(piece: Piece) -> float:
    return piece.x + piece.width / 2


def _belongs(part: Part, others: list[Part], height: float) -> bool:
    """Whether a part may be of one digit with others: cut from the same component, or near."""
    if any(part.whole == other.whole for other in others):
        return True
    near = 0.12 * height
    return any(
        part.piece.x <= other.piece.right + near
        and part.piece.right >= other.piece.x - near
        and part.piece.y <= other.piece.bottom + 2 * near
        and part.piece.bottom >= other.piece.y - 2 * near
        for other in others
    )


def _cuts(piece: Piece, height: float, shear: float) -> list[float]:
    """Where a wide piece may be cut: columns, along the slant, where it is thin, or low between higher parts."""
    reach = int(abs(shear) * piece.height / 2) + 1
    matrix = np.array([[1, shear, reach - shear * (piece.height - 1) / 2], [0, 1, 0]], np.float64)
    upright = cv2.warpAffine(piece.mask, matrix, (piece.width + 2 * reach, piece.height), flags=cv2.INTER_NEAREST) > 0
    ink = upright.sum(0).astype(np.float32)
    # from the highest to the lowest ink of a column: two rings that touch have most ink where they do, but a notch
    extent = np.where(upright.any(0), piece.height - upright.argmax(0) - upright[::-1].argmax(0), 0).astype(np.float32)
    room = max(2, round(0.12 * height))
    thick = piece.thickness
    columns: list[float] = []
    for profile, bound in ((ink, BRIDGE * thick), (extent, NOTCH * height)):
        for column in _minima(profile, max(1, round(height / 20)), room, bound):
            place = column - reach
            if room < place < piece.width - room and all(abs(place - other) > room for other in columns):
                columns.append(place)
    return sorted(columns)


def _minima(profile: NDArray[np.float32], smooth: int, room: int, bound: float) -> list[float]:
    """The columns where a profile (W,) is lowest within `room`, and no higher than `bound`; middles of flat ones."""
    profile = np.convolve(profile, np.ones(smooth, np.float32) / smooth, "same").astype(np.float32)
    lowest = cv2.erode(profile[None], np.ones((1, 2 * room + 1), np.uint8))[0]
    flat = np.flatnonzero((profile <= lowest + 1e-6) & (profile <= bound))
    return [float(run.mean()) for run in np.split(flat, np.flatnonzero(np.diff(flat) > 1) + 1) if len(run)]
