"""The picture of a moment, as the window, the page and the recording show it."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from edge_mnist.demo.live.loop import Moment
from edge_mnist.demo.reading.reader import Digit
from edge_mnist.demo.sources.cameras import Image
from edge_mnist.demo.views import overlay

_LIGHT, _RED, _WHITE = (150, 230, 110), (60, 60, 220), (255, 255, 255)  # BGR
_FONT = cv2.FONT_HERSHEY_DUPLEX


def paint(moment: Moment, *, mirror: bool = False, bar: bool = True) -> Image:
    """A new picture, uint8 (H, W, 3) BGR, of a frame with boxes, digits and confidences.

    Args:
        moment: the frame and what was read.
        mirror: left and right change places; text stays readable.
        bar: add a bar with the numbers that stand, frames a second and milliseconds, and what is wrong with the source.
            The page says these in its own letters.
    """
    image = coloured(moment.frame.image)
    picture = np.ascontiguousarray(cv2.flip(image, 1) if mirror else image, np.uint8)
    height, width = picture.shape[:2]
    unit = max(width, height) / 640  # of letters
    lost = moment.state.kind == "lost"
    digits, unsure = ((), ()) if lost else (moment.reading.digits, moment.reading.unsure)
    if mirror:
        digits, unsure = _mirrored(digits, width), _mirrored(unsure, width)
    picture = overlay.draw(picture, digits, unsure)
    if lost:
        picture //= 3
    if lost and bar:
        cv2.rectangle(picture, (0, 0), (width, round(34 * unit)), _RED, cv2.FILLED)
        cv2.putText(picture, moment.state.text, (10, round(23 * unit)), _FONT, 0.5 * unit, _WHITE, 1, cv2.LINE_AA)
    if bar:
        _bar(picture, moment, unit)
    return picture


def _mirrored(digits: tuple[Digit, ...], width: int) -> tuple[Digit, ...]:
    """Digits of a frame that many pixels wide, where they are when left and right change places."""
    return tuple(replace(digit, box=(width - digit.box[0] - digit.box[2], *digit.box[1:])) for digit in digits)


def coloured(frame: Image) -> Image:
    """A frame, uint8 (H, W, 3) BGR or (H, W), as uint8 (H, W, 3) BGR."""
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR), np.uint8) if frame.ndim == 2 else frame


def _bar(picture: Image, moment: Moment, unit: float) -> None:
    """At the bottom: the numbers that stand, and how fast it goes."""
    height, width = picture.shape[:2]
    picture[height - round(32 * unit) :] //= 4
    times = moment.milliseconds
    speed = f"{moment.rate:.0f} frames/s   {times.get('total', 0):.1f} ms   network {times.get('network', 0):.1f} ms"
    scale, base = 0.45 * unit, height - round(10 * unit)
    (length, _), _ = cv2.getTextSize(speed, _FONT, scale, 1)
    text = "   ".join(number.text for number in moment.numbers)
    cv2.putText(picture, text, (round(10 * unit), base), _FONT, 0.75 * unit, _LIGHT, max(1, round(unit)), cv2.LINE_AA)
    cv2.putText(picture, speed, (width - length - round(10 * unit), base), _FONT, scale, _WHITE, 1, cv2.LINE_AA)
