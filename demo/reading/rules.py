"""Ruled and squared paper, underlines, edges: long thin lines, which are taken out of the ink.

A line is what holds runs of ink longer than a stroke, one after the other, thin for its length. Where a stroke crosses
it, the ink is higher than the line is thick, and stays.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist.demo.reading import view

RUN = 12
"""A line's runs are at least as long as this part of the frame's longer side,"""
LONG, CUT_LONG = 0.3, 0.7
"""and together at least as long as this part; the second in a line that somebody has cut out, whose digits are as large
as it."""
GAP = 7
"""A gap in a line may be as long, in pixels."""
FULL = 0.5
"""They leave no more of it open."""
CELL = 4
"""Runs are looked for in cells of so many pixels."""
OPEN = 0.5
"""Nothing crosses so much of it, within"""
STRAY = 1.0
"""so many pixels of a curve."""
THIN = 30
"""A line is so many times as long as thick."""


def remove(mask: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Take the long lines out of a mask, uint8 (H, W), 255 where there is ink.

    Returns:
        The mask without them, and what was taken out, uint8 (H, W), 255; None if there are none.
    """
    height, width = mask.shape
    if height % CELL or width % CELL:
        mask = cv2.copyMakeBorder(mask, 0, -height % CELL, 0, -width % CELL, cv2.BORDER_REPLICATE)
    level = _lines(mask)
    upright = _lines(np.asarray(cv2.transpose(mask), np.uint8))
    found = [lines for lines in (level, None if upright is None else cv2.transpose(upright)) if lines is not None]
    mask = mask[:height, :width]
    if not found:
        return mask, None
    lines = (found[0] if len(found) == 1 else cv2.max(*found))[:height, :width]
    return cv2.subtract(mask, lines), lines


def _lines(mask: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """The level lines of a mask without what crosses them, uint8 (H, W); None without any."""
    size = max(mask.shape)
    run = max(14, size // RUN)
    # a faint line has gaps, and slopes: it may move by a pixel, and miss a few
    near = cv2.morphologyEx(cv2.dilate(mask, np.ones((3, 1), np.uint8)), cv2.MORPH_CLOSE, np.ones((1, GAP), np.uint8))
    cells = _full(near)
    runs = cv2.erode(cells, np.ones((1, (run + 1) // CELL - 1), np.uint8))  # cells that any run of that length fills
    if not cv2.countNonZero(runs):
        return None
    runs = cv2.dilate(runs, np.ones((1, (run + 1) // CELL + 1), np.uint8))  # and the two that it may fill in part
    joined = cv2.dilate(runs, np.ones((3, run // (2 * CELL) | 1), np.uint8))
    long = (CUT_LONG if view.is_cut(mask.shape) else LONG) * size
    outlines, _ = cv2.findContours(joined, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    found = None
    for outline in outlines:
        x, y, width, height = cv2.boundingRect(outline)
        if CELL * width < long:
            continue
        cell_place = np.s_[y : y + height, x : x + width]
        own = np.zeros((height, width), np.uint8)
        cv2.drawContours(own, [outline], 0, 255, cv2.FILLED, offset=(-x, -y))
        x, width = CELL * x, CELL * width
        place = np.s_[y : y + height, x : x + width]
        own = cv2.min(np.repeat(cv2.min(own, runs[cell_place]), CELL, axis=1), mask[place])
        columns = np.count_nonzero(own, axis=0)
        if np.count_nonzero(columns) < FULL * width:
            continue
        thickness = int(np.ceil(np.median(columns[columns > 0])))
        if thickness > max(3, size / 150) or thickness * THIN > width:
            continue
        room = thickness + 2
        top = max(y - room, 0)
        around = mask[top : y + height + room, x : x + width]
        crossing = cv2.morphologyEx(around, cv2.MORPH_OPEN, np.ones((room, 1), np.uint8))[y - top : y - top + height]
        own = cv2.subtract(own, crossing)
        if not _is_straight(own, thickness):
            continue
        found = np.zeros_like(mask) if found is None else found
        np.maximum(found[place], own, out=found[place])
    return found


def _is_straight(own: NDArray[np.uint8], thickness: int) -> bool:
    """Whether ink, uint8 (h, w), that nothing crosses is a line: the feet of a row of digits are not on a curve."""
    rows, columns = np.nonzero(own)
    width = own.shape[1]
    if len(np.unique(columns)) < OPEN * width:
        return False
    curve = np.polynomial.Polynomial.fit(columns, rows, 2)  # paper bends
    near = np.abs(rows - curve(columns)) <= thickness / 2 + STRAY
    return bool(len(np.unique(columns[near])) >= OPEN * width)


def _full(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Where all of four neighbours in a row are ink, uint8 (H, W // 4), 255: a quarter of the work for what follows."""
    cells = np.ascontiguousarray(mask).view(np.uint32) == np.uint32(0xFFFFFFFF)
    return np.asarray(cells.view(np.uint8) * np.uint8(255))
