"""A frame as the reader looks at it: grey, of a size that it can work with, turned upright; and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

LARGEST = 2000
"""A frame's longer side, in pixels, beyond which it is reduced."""
SMALLEST = 64
"""A frame smaller than this, such as a digit cut to 28x28, is enlarged, and gets a margin."""
CUT = 140
"""A frame with a shorter side, in pixels, is a strip or a digit that somebody has cut out: its digits fill it."""
ENLARGED = 4
MARGIN = 8


@dataclass(frozen=True, eq=False)
class View:
    """What is read.

    Attributes:
        grey: uint8 (h, w).
        back: float64 (2, 3), takes a point (x, y, 1) of it to the frame.
    """

    grey: NDArray[np.uint8]
    back: NDArray[np.float64]


def view(frame: NDArray[np.uint8]) -> View:
    """A frame, uint8 (H, W) or (H, W, 3) BGR, as it is read."""
    grey = reduced(frame)
    size = max(frame.shape[:2])
    scale, margin = min(1.0, LARGEST / size), 0
    if size < SMALLEST:
        scale, margin = ENLARGED, MARGIN
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        grey = cv2.copyMakeBorder(grey, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    return View(grey, np.array([[1 / scale, 0, -margin / scale], [0, 1 / scale, -margin / scale]]))


def reduced(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame, uint8 (H, W) or (H, W, 3) BGR, in grey and no larger than `LARGEST`: uint8 (h, w)."""
    grey = frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    scale = LARGEST / max(grey.shape)
    if scale >= 1:
        return grey
    height, width = (max(1, round(side * scale)) for side in grey.shape)
    return np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def is_cut(shape: tuple[int, ...]) -> bool:
    """Whether a frame of a shape (H, W) shows no more than a line, or a digit, that somebody has cut out."""
    return min(shape[:2]) < CUT


def inverted(seen: View) -> View:
    """Light ink on a dark ground as dark ink on a light one."""
    return View(cv2.bitwise_not(seen.grey), seen.back)


def turned(seen: View, degrees: float) -> View:
    """The view turned clockwise, large enough to hold all of it; what comes in at the corners repeats its edge."""
    height, width = seen.grey.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1.0)
    cosine, sine = abs(turn[0, 0]), abs(turn[0, 1])
    size = round(width * cosine + height * sine), round(width * sine + height * cosine)
    turn[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    grey = cv2.warpAffine(seen.grey, turn, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    undone = np.vstack([cv2.invertAffineTransform(turn), [0, 0, 1]])
    return View(grey, seen.back @ undone)


def box(seen: View, x: int, y: int, width: int, height: int) -> tuple[int, int, int, int]:
    """The box in the frame, x, y, width, height, around a box of the view."""
    corners = np.array([[x, x + width, x, x + width], [y, y, y + height, y + height], [1, 1, 1, 1]])
    places = seen.back @ corners
    (left, top), (right, bottom) = places.min(1), places.max(1)
    return round(left), round(top), max(1, round(right - left)), max(1, round(bottom - top))
