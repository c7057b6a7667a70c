"""The sheet of paper in a scene: the largest bright area with straight sides, on something darker."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SMALL = 160
"""The frame's longer side when the sheet is looked for, in pixels."""
NARROW = 32
"""A reduced frame with a shorter side than this shows no sheet."""
AREA = 0.06, 0.97
"""The part of the frame that a sheet may take."""
LEVELS = 8
"""How many levels of brightness are tried."""
DARKER = 0.72
"""What lies around a sheet has no more than this part of its brightness."""
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
    # From below, so that a sheet is seen whole that lies half in a shadow; up to a sheet on a glossy table.
    for bound in np.linspace(0.4 * middle, 0.9 * float(small.max()), LEVELS):
        hull = _bright_area(small, float(bound))
        if hull is not None:
            return (hull[:, 0].astype(np.float32) + 0.5) / scale
    return None


def _bright_area(small: NDArray[np.uint8], bound: float) -> NDArray[np.int32] | None:
    """The convex hull, int32 (K, 1, 2), of the largest area above a level, if it may be a sheet."""
    bright = cv2.compare(small, bound, cv2.CMP_GT)
    for shape in (cv2.MORPH_CLOSE, cv2.MORPH_OPEN):
        bright = cv2.morphologyEx(bright, shape, np.ones((5, 5), np.uint8))
    outlines, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not outlines:
        return None
    outline = max(outlines, key=cv2.contourArea)
    hull = cv2.convexHull(outline)
    area = cv2.contourArea(hull)
    if not AREA[0] <= area / small.size <= AREA[1] or cv2.contourArea(outline) < CONVEX * area:
        return None
    sheet = np.zeros_like(small)
    cv2.fillConvexPoly(sheet, hull, 255)
    edge, beyond, inner = (
        cv2.dilate(sheet, np.ones((n, n), np.uint8)) if n > 0 else cv2.erode(sheet, np.ones((-n, -n), np.uint8))
        for n in (5, 13, -9)
    )
    around = cv2.subtract(beyond, edge)
    within = cv2.subtract(sheet, inner)
    if not cv2.countNonZero(around):
        return None
    corners = cv2.approxPolyDP(hull, 0.04 * cv2.arcLength(hull, True), True)
    if not 4 <= len(corners) <= 6:
        return None
    # all along the edge, so that neither a shadow nor a thick stroke makes a sheet of its neighbourhood
    darker = np.quantile(small[around > 0], 0.75) <= DARKER * np.median(small[within > 0])
    return np.asarray(hull) if darker else None


def within(corners: NDArray[np.float32], shape: tuple[int, ...], margin: float = 0.006) -> NDArray[np.uint8]:
    """A mask uint8 (H, W), 255 on the sheet but for a margin, a part of the frame's longer side, along its edge."""
    mask = np.zeros(shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, np.rint(corners).astype(np.int32), 255)
    width = max(1, round(margin * max(shape)))
    cv2.polylines(mask, [np.rint(corners).astype(np.int32)], True, 0, 2 * width + 1)
    return mask
