"""Pieces of ink: connected components, the parts that they are cut into, and what is joined from them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

MOST_RUNS = 30_000
"""A mask with more runs of ink in its rows, as a texture has, is labelled: the time that outlines with holes take grows
with the square of their number, which is at most about that of the runs. Photographs of pages have up to 27,000."""
MOST_OVERLAP = 8
"""The boxes of a frame's components take no more than so many times its area; those of photographs take 1.2 times."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Some ink of a frame.

    Attributes:
        x, y: of the upper left corner of its box, in pixels of the frame.
        mask: uint8 (h, w), 255 where the box holds its ink.
        area: how many pixels of ink.
    """

    x: int
    y: int
    mask: NDArray[np.uint8]
    area: int

    @property
    def width(self) -> int:
        """Of its box."""
        return int(self.mask.shape[1])

    @property
    def height(self) -> int:
        """Of its box."""
        return int(self.mask.shape[0])

    @cached_property
    def thickness(self) -> float:
        """Of its strokes, in pixels: twice the area, over the length of the outline."""
        outlines, _ = cv2.findContours(self.mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        return 2 * self.area / max(sum(map(len, outlines)), 1)

    @property
    def right(self) -> int:
        """The first column beyond it."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """The first row below it."""
        return self.y + self.height


def components(mask: NDArray[np.uint8], least_area: int, most: int) -> list[Piece]:
    """The connected components of a mask, uint8 (H, W), the largest first.

    By their outlines (Suzuki, Abe, "Topological Structural Analysis of Digitized Binary Images by Border Following",
    1985): filled but for their holes they are the component, in a fourth of the time that labelling all pixels takes.

    Args:
        mask: not 0 where there is ink; touching corners connect.
        least_area: smaller ones are grain.
        most: no more than so many, those with the longest outlines, of a texture the largest.
    """
    runs = cv2.countNonZero(cv2.compare(mask[:, 1:], mask[:, :-1], cv2.CMP_GT))
    found = _labelled(mask, most) if runs > MOST_RUNS else _outlined(mask, least_area, most)
    pieces = []
    room = MOST_OVERLAP * mask.size
    for piece in found:
        room -= piece.mask.size
        if room < 0:
            break
        if piece.area >= least_area:
            pieces.append(piece)
    return sorted(pieces, key=lambda piece: -piece.area)


def _labelled(mask: NDArray[np.uint8], most: int) -> Iterator[Piece]:
    """The `most` largest components of a mask, by labelling its pixels."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask)
    areas = statistics[1:, cv2.CC_STAT_AREA]  # without the ground
    for label in (1 + np.argsort(-areas, kind="stable")[:most]).tolist():
        x, y, width, height, area = statistics[label].tolist()
        own = labels[y : y + height, x : x + width] == label
        yield Piece(x, y, own * np.uint8(255), area)


def _outlined(mask: NDArray[np.uint8], least_area: int, most: int) -> Iterator[Piece]:
    """The `most` components of a mask with the longest outlines, without many of those that are too small."""
    outlines, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        return
    after, _, hole, around = np.moveaxis(hierarchy[0], 1, 0)
    lengths = np.fromiter(map(len, outlines), int, len(outlines))
    # of all outlines of n points a diamond's holds most: n / 4 = r steps from its middle, 2 r^2 + 2 r + 1 pixels
    outer = np.flatnonzero((around < 0) & (lengths * (lengths / 8 + 0.5) + 1 >= least_area))
    order = outer[np.argsort(-lengths[outer], kind="stable")[:most]]
    for index in order.tolist():
        x, y, width, height = cv2.boundingRect(outlines[index])
        own, inner = [outlines[index]], hole[index]
        while inner >= 0:
            own.append(outlines[inner])
            inner = after[inner]
        filled = np.zeros((height, width), np.uint8)
        cv2.fillPoly(filled, own, 255, offset=(-x, -y))
        yield Piece(x, y, filled, cv2.countNonZero(filled))


def join(pieces: Sequence[Piece]) -> Piece:
    """All ink of some pieces as one."""
    if len(pieces) == 1:
        return pieces[0]
    x, y = min(piece.x for piece in pieces), min(piece.y for piece in pieces)
    right, bottom = max(piece.right for piece in pieces), max(piece.bottom for piece in pieces)
    mask = np.zeros((bottom - y, right - x), np.uint8)
    for piece in pieces:
        part = mask[piece.y - y : piece.bottom - y, piece.x - x : piece.right - x]
        np.maximum(part, piece.mask, out=part)
    return Piece(x, y, mask, sum(piece.area for piece in pieces))


def cut(piece: Piece, columns: Sequence[float], shear: float) -> list[Piece]:
    """Cut a piece along slanting lines.

    Args:
        piece: what is cut.
        columns: where, in ascending order, in columns of its box at half its height.
        shear: columns to the right for each row up.

    Returns:
        The parts that hold ink, from left to right.
    """
    rows = np.arange(piece.height)[:, None] - (piece.height - 1) / 2
    places = np.arange(piece.width)[None, :] + rows * shear  # (h, w): the column where a pixel's line meets half height
    bounds = [-np.inf, *columns, np.inf]
    reach = abs(shear) * piece.height / 2 + 1
    parts = []
    for left, right in itertools.pairwise(bounds):
        first, end = (int(np.clip(column, 0, piece.width)) for column in (left - reach, right + reach + 1))
        near = places[:, first:end]
        part = trimmed(piece.x + first, piece.y, piece.mask[:, first:end] * ((near >= left) & (near < right)))
        if part is not None:
            parts.append(part)
    return parts


def trimmed(x: int, y: int, mask: NDArray[np.uint8]) -> Piece | None:
    """A mask at (x, y), uint8 (h, w), as a piece whose box fits; None without ink."""
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return None
    own = np.ascontiguousarray(mask[top : top + height, left : left + width])
    return Piece(x + left, y + top, own, cv2.countNonZero(own))


def slant(piece: Piece) -> float:
    """How a piece leans: columns to the right for each row up, by its second moments."""
    moments = cv2.moments(piece.mask, binaryImage=True)
    mass, x, y = (moments[name] for name in ("m00", "m10", "m01"))
    if not mass:
        return 0.0
    # of integers, so that ARM and x86 agree; OpenCV's central moments differ in the last bit
    spread = moments["m02"] - y * y / mass
    return (x * y / mass - moments["m11"]) / spread if spread else 0.0


def contact(piece: Piece, shape: tuple[int, ...]) -> float:
    """The part of a piece's longer side by which it touches the border of a frame of a shape (H, W)."""
    rows, columns = shape[:2]
    sides = (
        piece.mask[:, 0] if piece.x == 0 else None,
        piece.mask[:, -1] if piece.right == columns else None,
        piece.mask[0] if piece.y == 0 else None,
        piece.mask[-1] if piece.bottom == rows else None,
    )
    return max(np.count_nonzero(side) for side in (*sides, ()) if side is not None) / max(piece.height, piece.width)
