"""The sheet of paper in a scene: the largest bright area with straight sides, on something darker."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist.demo.reading import levels

SMALL = 160
"""The frame's longer side when the sheet is looked for, in pixels."""
NARROW = 32
"""A reduced frame with a shorter side than this shows no sheet."""
AREA = 0.06, 0.97
"""The part of the frame that a sheet may take."""
LEVELS = 8
"""How many levels of brightness are tried."""
SAME = 0.01
"""Levels between which lies no more than this part of the frame show the same."""
DARKER = 0.74
"""What lies around a sheet has no more than this part of its brightness."""
BEYOND = 0.9
"""Nor is most of what lies beyond brighter than this part: a thick stroke is dark, but has paper on both sides."""
CONVEX = 0.9
"""The part of its convex hull that a sheet fills."""


def sheet(grey: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """The corners of a sheet's convex hull, float32 (K, 2) x and y, in a grey frame uint8 (H, W); None without one."""
    scale = SMALL / max(grey.shape)
    if scale > 0.6 or scale * min(grey.shape) < NARROW:
        return None
    small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    small = cv2.medianBlur(small, 5)
    middle, _ = cv2.threshold(small, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    # A sheet may lie half in a shadow, or on a glossy table: the level decides where it is large and its edge clear.
    found, last = [], -small.size
    for bound in np.linspace(0.4 * middle, 0.9 * float(small.max()), LEVELS):
        bright = cv2.compare(small, float(bound), cv2.CMP_GT)
        count = cv2.countNonZero(bright)
        if not 0.5 * AREA[0] < count / small.size < AREA[1] or abs(count - last) < SAME * small.size:
            continue
        if (area := _bright_area(small, bright)) is not None:
            found.append(area)
            last = count
    # of two, one may be what a shadow has left of the other
    clearest = min(found, key=lambda area: area[0] / cv2.contourArea(area[1]) ** 0.5, default=None)
    if clearest is None:
        return None
    corners: NDArray[np.float32] = ((clearest[1][:, 0] + 0.5) / scale).astype(np.float32)
    return corners


def _bright_area(small: NDArray[np.uint8], bright: NDArray[np.uint8]) -> tuple[float, NDArray[np.int32]] | None:
    """The largest bright area, if it may be a sheet: how bright its surroundings are, as a part of it; its hull.

    The convex hull is int32 (K, 1, 2), x and y.
    """
    for shape in (cv2.MORPH_CLOSE, cv2.MORPH_OPEN):
        bright = cv2.morphologyEx(bright, shape, np.ones((5, 5), np.uint8))
    outlines, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not outlines:
        return None
    outline = max(outlines, key=cv2.contourArea)
    hull = np.asarray(cv2.convexHull(outline))
    area = cv2.contourArea(hull)
    if not AREA[0] <= area / small.size <= AREA[1] or cv2.contourArea(outline) < CONVEX * area:
        return None
    if not 4 <= len(cv2.approxPolyDP(hull, 0.04 * cv2.arcLength(hull, True), True)) <= 6:
        return None
    inside = np.zeros_like(small)
    cv2.fillConvexPoly(inside, hull, 255)
    wide, wider = (cv2.dilate(inside, np.ones((size, size), np.uint8)) for size in (3, 9))
    around = small[cv2.subtract(wider, wide) > 0]
    along = small[cv2.subtract(inside, cv2.erode(inside, np.ones((7, 7), np.uint8))) > 0]
    beyond = small[wider == 0]
    if not len(around) or (len(beyond) and levels.median(beyond) > BEYOND * levels.median(along)):
        return None
    # nearly all of what lies around it: neither a shadow nor a thick stroke makes a sheet of its neighbourhood
    darker = levels.quantile(around, 0.8) / max(levels.median(along), 1)
    return (darker, hull) if darker <= DARKER else None


def within(corners: NDArray[np.float32], shape: tuple[int, ...], margin: float = 0.006) -> NDArray[np.uint8]:
    """A mask uint8 (H, W), 255 on the sheet but for a margin, a part of the frame's longer side, along its edge."""
    mask = np.zeros(shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, np.rint(corners).astype(np.int32), 255)
    width = max(1, round(margin * max(shape)))
    cv2.polylines(mask, [np.rint(corners).astype(np.int32)], True, 0, 2 * width + 1)
    return mask
