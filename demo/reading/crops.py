"""Cuts a digit out of a frame as MNIST's makers did.

Fitted into 20x20 pixels with its aspect kept, anti-aliased, the contrast stretched, and placed in 28x28 with the centre
of mass in the middle (LeCun, Cortes, Burges, "The MNIST database").
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist.demo.reading.digit_images import place_digit
from edge_mnist.demo.reading.pieces import Piece

PAPER = 0.15
"""Ink weaker than this part of the digit's strongest is paper."""
LARGE = 80
"""Twice this many pixels are reduced to it before anything is done with them."""
THIN = 0.085
"""A stroke thinner than this part of the digit's longer side is thickened: MNIST's pens were about a tenth."""

_DISK = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))


def normalize(strength: NDArray[np.uint8], piece: Piece) -> NDArray[np.uint8]:
    """A piece as an image uint8 (28, 28), ink 255, paper 0.

    Args:
        strength: uint8 (H, W), of the ink in the frame.
        piece: where the digit is; ink around it that is not its own is left out.
    """
    x, y, height, width = piece.x, piece.y, piece.height, piece.width
    side = max(height, width)
    room = max(1, side // 40) + 1  # an edge is blurred beyond the mask
    top, left = max(y - room, 0), max(x - room, 0)
    ink = strength[top : piece.bottom + room, left : piece.right + room]
    own = np.zeros_like(ink)
    own[y - top : piece.bottom - top, x - left : piece.right - left] = piece.mask
    missing = THIN - piece.thickness / side
    if side > 2 * LARGE:
        size = max(1, round(ink.shape[1] * LARGE / side)), max(1, round(ink.shape[0] * LARGE / side))
        ink, own = (cv2.resize(array, size, interpolation=cv2.INTER_AREA) for array in (ink, own))
        side = LARGE
    ink = cv2.min(ink, cv2.dilate(own, _DISK))
    peak = _peak(ink, own)
    if missing * side > 0.5:
        grown = 1 + 2 * max(1, round(missing * side / 2))
        ink = cv2.dilate(ink, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (grown, grown)))
    low = PAPER * peak
    ink = cv2.convertScaleAbs(cv2.subtract(ink, round(low)), alpha=255 / max(peak - low, 1))
    left, top, width, height = cv2.boundingRect(ink)
    return place_digit(ink[top : top + height, left : left + width])


def _peak(ink: NDArray[np.uint8], own: NDArray[np.uint8]) -> float:
    """The strength that full ink has: what the strongest tenth of it reaches."""
    values = ink[own > 127]
    if not len(values):  # hairlines, reduced
        return float(ink.max(initial=1))
    place = len(values) * 9 // 10
    return float(np.partition(values, place)[place])
