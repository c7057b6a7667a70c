"""Which pieces of ink stand in one line of writing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_mnist.demo.reading.pieces import Piece, join

OVERLAP = 0.45
"""Neighbours in a line share so much of the lower one's height."""
RATIO = 2.3
"""Neighbours in a line differ in height by no more."""
FEWEST = 3
"""Fewer pieces show no direction."""
AGREE = 9.0
"""Directions, in degrees, that differ by less agree."""
MAJORITY = 0.6
"""The part of all directions that must agree."""
STEEPEST = 50.0
"""Beyond so many degrees it is a column, not a line."""
PART = 0.5
"""What is lower than this part of a line's height, and stands at it, is no line but a part of it."""
SPECK = 0.15
"""But for what is lower than this part: it has nothing to do with it."""
GAP = 3.0
"""And stand no farther apart than so many heights."""


@dataclass(frozen=True)
class Line:
    """A line of writing.

    Attributes:
        pieces: from left to right.
        height: of its digits, in pixels.
        top: of its first piece, in pixels.
    """

    pieces: tuple[Piece, ...]
    height: float
    top: float


def group(pieces: list[Piece], least: int, tilt: float = 0.0) -> list[Line]:
    """The lines of a frame, from the top down.

    Args:
        pieces: connected components.
        least: a piece of that many pixels' height may be a digit by itself; lower ones belong to what they stand at.
        tilt: how far lines fall to the right, in degrees: of two, the one is above that would be were they level.
    """
    slope = float(np.tan(np.radians(tilt)))
    tall = [piece for piece in pieces if piece.height >= least]
    if not tall:
        return []
    boxes = np.array([(piece.x, piece.y, piece.right, piece.bottom) for piece in tall], np.float64)
    left, top, right, bottom = boxes.T
    height = bottom - top
    lower = np.minimum(height[:, None], height)
    higher = np.maximum(height[:, None], height)
    shared = np.minimum(bottom[:, None], bottom) - np.maximum(top[:, None], top)
    apart = np.maximum(left[:, None], left) - np.minimum(right[:, None], right)
    linked = (shared >= OVERLAP * lower) & (higher <= RATIO * lower) & (apart <= GAP * higher)
    groups = sorted(_connected(linked), key=lambda members: -float(np.median(height[members])))
    small = [piece for piece in pieces if piece.height < least]
    found: list[tuple[float, list[Piece]]] = []
    for members in groups:
        own = [tall[index] for index in members]
        typical = float(np.median(height[members]))
        # commas, dots and parts of a digit may be tall enough for a line of their own
        home = None
        if len(own) < FEWEST:
            homes = (
                line for above, line in found if SPECK < typical / above < PART and _stands_at(join(own), line, above)
            )
            home = next(homes, None)
        if home is not None:
            home += own
        else:
            found.append((typical, own))
    lines = []
    for typical, own in found:
        own += [piece for piece in small if _stands_at(piece, own, typical)]
        ordered = sorted(own, key=lambda piece: piece.x + piece.width / 2)
        top = min(piece.y for piece in own if piece.height >= PART * typical)
        lines.append(Line(tuple(ordered), typical, float(top)))
    return sorted(lines, key=lambda line: line.top - slope * line.pieces[0].x)


def _stands_at(piece: Piece, line: list[Piece], height: float) -> bool:
    """Whether a small piece is within a line's band, beside or over one of its pieces."""
    room = 0.3 * height
    return any(
        piece.x <= other.right + room
        and piece.right >= other.x - room
        and piece.y <= other.bottom + room
        and piece.bottom >= other.y - room
        for other in line
    )


def _connected(linked: np.ndarray) -> list[list[int]]:
    """The groups of a symmetric relation, bool (N, N)."""
    groups = []
    left = set(range(len(linked)))
    while left:
        reached, front = set(), [left.pop()]
        while front:
            index = front.pop()
            reached.add(index)
            new = set(np.flatnonzero(linked[index]).tolist()) & left
            left -= new
            front += new
        groups.append(sorted(reached))
    return groups


def tilt(pieces: list[Piece], least: int) -> float:
    """How far the lines of a frame fall to the right, in degrees, -45 to 45; 0 where they do not agree.

    By the directions from each piece to the nearest ones (O'Gorman, "The Document Spectrum for Page Layout Analysis",
    PAMI 1993).
    """
    tall = [piece for piece in pieces if piece.height >= least]
    if len(tall) < FEWEST:
        return 0.0
    sizes = np.array([max(piece.height, piece.width) for piece in tall], np.float64)
    places = np.array([(piece.x + piece.width / 2, piece.y + piece.height / 2) for piece in tall])
    best, agreeing = 0.0, FEWEST - 1
    among = np.sort(sizes)  # grain and digits, each apart
    for typical in dict.fromkeys(among[(np.linspace(0.1, 0.95, 8) * (len(sizes) - 1)).astype(int)].tolist()):
        angle, votes = _common_direction(places[(sizes > 0.6 * typical) & (sizes < 1.7 * typical)], 3 * typical)
        if votes > agreeing:
            best, agreeing = angle, votes
    return float(np.clip(best, -45, 45)) if abs(best) < STEEPEST else 0.0


def _common_direction(places: np.ndarray, reach: float) -> tuple[float, int]:
    """The direction, in degrees, in which most places (N, 2) have their nearest one, and how many; 0 without one."""
    if len(places) < FEWEST:
        return 0.0, 0
    steps = places[None] - places[:, None]
    distances = np.hypot(*np.moveaxis(steps, -1, 0))
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(1)
    rows = np.flatnonzero(distances[np.arange(len(places)), nearest] < reach)
    if len(rows) < FEWEST:
        return 0.0, 0
    across, down = steps[rows, nearest[rows]].T
    angles = np.degrees(np.arctan2(down, across))
    apart = (angles[:, None] - angles + 90) % 180 - 90  # a direction and its opposite are one
    near = np.abs(apart) < AGREE
    middle = int(near.sum(1).argmax())
    if near[middle].mean() < MAJORITY:
        return 0.0, 0
    mean = angles[middle] - apart[middle][near[middle]].mean()
    return float((mean + 90) % 180 - 90), int(near[middle].sum())
