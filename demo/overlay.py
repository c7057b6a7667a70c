"""Draws what was read into a picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist.demo.reader import Digit

COLOUR = (60, 160, 0)
"""Of boxes, BGR: green, dark enough for white letters."""
WHITE = (255, 255, 255)


def draw(frame: NDArray[np.uint8], digits: Sequence[Digit]) -> NDArray[np.uint8]:
    """A copy of a frame, uint8 (H, W, 3) BGR, in which each digit has a box, its label and its confidence."""
    picture = frame.copy()
    scale = max(0.35, min(frame.shape[:2]) / 1100)
    thick = max(1, round(1.6 * scale))
    for digit in digits:
        x, y, width, height = digit.box
        cv2.rectangle(picture, (x - 1, y - 1), (x + width, y + height), COLOUR, thick)
        text = f"{digit.label} {digit.confidence * 100:.0f}"
        (wide, high), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
        bottom = y - 2 if y > high + below + 2 else y + height + high + below + 2
        cv2.rectangle(picture, (x - 1, bottom - high - below), (x + wide, bottom), COLOUR, cv2.FILLED)
        cv2.putText(picture, text, (x, bottom - below), cv2.FONT_HERSHEY_SIMPLEX, scale, WHITE, thick, cv2.LINE_AA)
    return picture
