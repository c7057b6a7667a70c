"""Ruled and squared paper, underlines, edges: long thin lines, which are taken out of the ink.

A line is what holds a run of ink longer than a stroke, thin for its length. Where strokes cross it they are repaired:
its pixels stay where there is ink right above and right below.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

RUN = 12
"""A line's runs are at least as long as this part of the frame's longer side."""
LONG = 0.3
"""A line is at least as long as this part of the frame's longer side."""
THIN = 30
"""A line is so many times as long as thick."""


def remove(mask: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Take the long lines out of a mask, uint8 (H, W), 255 where there is ink.

    Returns:
        The mask without them, and where they were, uint8 (H, W), 255; None if there are none.
    """
    level = _lines(mask)
    upright = _lines(np.ascontiguousarray(mask.T))
    if level is None and upright is None:
        return mask, None
    lines = np.zeros_like(mask)
    kept = np.zeros_like(mask)
    for found, thickness, axis in ((level, 0, 0), (upright, 0, 1)):
        if found is None:
            continue
        found, thickness = found
        if axis:
            found = np.ascontiguousarray(found.T)
        lines = cv2.max(lines, found)
        without = cv2.subtract(mask, found)
        reach = 2 * thickness + 3
        kernel = np.ones((reach, 1) if axis == 0 else (1, reach), np.uint8)
        closed = cv2.morphologyEx(without, cv2.MORPH_CLOSE, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        kept = cv2.max(kept, cv2.min(closed, found))
    return cv2.max(cv2.subtract(mask, lines), cv2.min(kept, mask)), lines


def _lines(mask: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int] | None:
    """The level lines of a mask, and the thickness of the thickest, in pixels."""
    size = max(mask.shape)
    run = max(14, size // RUN)
    runs = cv2.morphologyEx(cv2.dilate(mask, np.ones((3, 1), np.uint8)), cv2.MORPH_OPEN, np.ones((1, run), np.uint8))
    if not runs.any():
        return None
    joined = cv2.dilate(runs, np.ones((3, run // 2), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8, ltype=cv2.CV_32S)
    wide = np.flatnonzero(stats[1:, cv2.CC_STAT_WIDTH] >= LONG * size) + 1
    found = np.zeros_like(mask)
    thickest = 0
    for label in wide.tolist():
        x, y, w, h, _ = stats[label].tolist()
        own = cv2.min(mask[y : y + h, x : x + w], runs[y : y + h, x : x + w])
        own[labels[y : y + h, x : x + w] != label] = 0
        columns = np.count_nonzero(own, axis=0)
        length = np.count_nonzero(columns)
        if length < LONG * 0.6 * size:
            continue
        thickness = float(np.median(columns[columns > 0]))
        if thickness * THIN <= w or (thickness <= 3 and w >= 0.6 * size):
            part = found[y : y + h, x : x + w]
            np.maximum(part, own, out=part)
            thickest = max(thickest, int(np.ceil(thickness)))
    return (found, thickest) if thickest else None
