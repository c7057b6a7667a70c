"""Ruled and squared paper, underlines, edges: long thin lines, which are taken out of the ink.

A line is what holds runs of ink longer than a stroke, one after the other, thin for its length. Where a stroke crosses
it, the ink is higher than the line is thick, and stays.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

RUN = 12
"""A line's runs are at least as long as this part of the frame's longer side,"""
LONG = 0.3
"""and together at least as long as this part."""
GAP = 7
"""A gap in a line may be as long, in pixels."""
FULL = 0.5
"""They leave no more of it open."""
THIN = 30
"""A line is so many times as long as thick."""


def remove(mask: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Take the long lines out of a mask, uint8 (H, W), 255 where there is ink.

    Returns:
        The mask without them, and what was taken out, uint8 (H, W), 255; None if there are none.
    """
    level = _lines(mask)
    upright = _lines(np.ascontiguousarray(mask.T))
    found = [
        lines for lines in (level, None if upright is None else np.ascontiguousarray(upright.T)) if lines is not None
    ]
    if not found:
        return mask, None
    lines = found[0] if len(found) == 1 else cv2.max(*found)
    return cv2.subtract(mask, lines), lines


def _lines(mask: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """The level lines of a mask without what crosses them, uint8 (H, W); None without any."""
    size = max(mask.shape)
    run = max(14, size // RUN)
    # a faint line has gaps, and slopes: it may move by a pixel, and miss a few
    near = cv2.morphologyEx(cv2.dilate(mask, np.ones((3, 1), np.uint8)), cv2.MORPH_CLOSE, np.ones((1, GAP), np.uint8))
    runs = cv2.morphologyEx(near, cv2.MORPH_OPEN, np.ones((1, run), np.uint8))
    if not cv2.countNonZero(runs):
        return None
    joined = cv2.dilate(runs, np.ones((3, run // 2), np.uint8))
    outlines, _ = cv2.findContours(joined, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    found = None
    for outline in outlines:
        x, y, width, height = cv2.boundingRect(outline)
        if width < LONG * size:
            continue
        place = np.s_[y : y + height, x : x + width]
        own = np.zeros((height, width), np.uint8)
        cv2.drawContours(own, [outline], 0, 255, cv2.FILLED, offset=(-x, -y))
        own = cv2.min(own, cv2.min(mask[place], runs[place]))
        columns = np.count_nonzero(own, axis=0)
        if np.count_nonzero(columns) < FULL * width:
            continue
        thickness = int(np.ceil(np.median(columns[columns > 0])))
        if thickness > max(3, size / 150) or thickness * THIN > width:
            continue
        room = 2 * thickness + 2
        top = max(y - room, 0)
        near = mask[top : y + height + room, x : x + width]
        crossing = cv2.morphologyEx(near, cv2.MORPH_OPEN, np.ones((room, 1), np.uint8))[y - top : y - top + height]
        found = np.zeros_like(mask) if found is None else found
        np.maximum(found[place], cv2.subtract(own, crossing), out=found[place])
    return found
