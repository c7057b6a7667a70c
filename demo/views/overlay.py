"""Draws what was read into a picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist.demo.reading.reader import Digit

COLOUR, UNSURE = (60, 160, 0), (0, 110, 230)
"""Of boxes, BGR: green, and orange for doubtful digits; dark enough for white letters."""
WHITE = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(frame: NDArray[np.uint8], digits: Sequence[Digit], unsure: Sequence[Digit] = ()) -> NDArray[np.uint8]:
    """A copy of a frame, uint8 (H, W, 3) BGR; in it each digit has a box, its label and its confidence in percent.

    The label of a doubtful digit is the most probable one, with a question mark.
    """
    picture = frame.copy()
    scale = max(0.4, min(frame.shape[:2]) / 1000)
    thick = max(1, round(1.6 * scale))
    for digit in [*unsure, *digits]:
        doubt = any(digit is other for other in unsure)
        colour = UNSURE if doubt else COLOUR
        x, y, width, height = digit.box
        cv2.rectangle(picture, (x - 1, y - 1), (x + width, y + height), colour, thick)
        # the digit large, how sure it is small: 6 at 90 % is not 690
        label, percent = f"{digit.label}?" if doubt else str(digit.label), f"{digit.confidence * 100:.0f}%"
        (wide, high), below = cv2.getTextSize(label, _FONT, scale, thick)
        small, fine = 0.55 * scale, max(1, thick - 1)
        (more, _), _ = cv2.getTextSize(percent, _FONT, small, fine)
        bottom = y - 2 if y > high + below + 2 else y + height + high + below + 2
        cv2.rectangle(picture, (x - 1, bottom - high - below), (x + wide + more + 1, bottom), colour, cv2.FILLED)
        cv2.putText(picture, label, (x, bottom - below), _FONT, scale, WHITE, thick, cv2.LINE_AA)
        cv2.putText(picture, percent, (x + wide, bottom - below), _FONT, small, WHITE, fine, cv2.LINE_AA)
    return picture
