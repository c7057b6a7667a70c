"""Draws what was read into a picture, as the window, the page, recordings and snapshots show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from edge_mnist.demo.live.recognition import FrameResult
from edge_mnist.demo.reading.reader import Digit
from edge_mnist.demo.sources.cameras import Image

GREEN, ORANGE = (60, 160, 0), (0, 110, 230)
"""Colours (blue, green, red) of the boxes of digits and of doubtful digits, dark enough for white letters on them."""
_WHITE, _LIGHT_GREEN, _RED = (255, 255, 255), (150, 230, 110), (60, 60, 220)
_LABEL_FONT, _BAR_FONT = cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX


def draw_digits(frame: Image, digits: Sequence[Digit], unsure: Sequence[Digit] = ()) -> Image:
    """Draw a box, the label and the confidence in percent of each digit.

    The label of a doubtful digit is its most probable one with a question mark behind it.

    Args:
        frame: uint8 (H, W, 3), BGR. It is not changed.
        digits: the digits that were read.
        unsure: the doubtful digits.

    Returns:
        A new picture, uint8 (H, W, 3), BGR.
    """
    picture = frame.copy()
    scale = max(0.4, min(frame.shape[:2]) / 1000)
    thickness = max(1, round(1.6 * scale))
    marked = [(digit, f"{digit.label}?", ORANGE) for digit in unsure] + [(d, str(d.label), GREEN) for d in digits]
    for digit, label, colour in marked:
        x, y, width, height = digit.box
        cv2.rectangle(picture, (x - 1, y - 1), (x + width, y + height), colour, thickness)
        # The confidence is smaller than the digit, so that a 6 with 90 % does not look like 690.
        percent, small, thin = f"{digit.confidence * 100:.0f}%", 0.55 * scale, max(1, thickness - 1)
        (label_width, label_height), descent = cv2.getTextSize(label, _LABEL_FONT, scale, thickness)
        (percent_width, _), _ = cv2.getTextSize(percent, _LABEL_FONT, small, thin)
        line_height = label_height + descent
        bottom = y - 2 if y > line_height + 2 else y + height + line_height + 2
        right = x + label_width + percent_width + 1
        cv2.rectangle(picture, (x - 1, bottom - line_height), (right, bottom), colour, cv2.FILLED)
        baseline = bottom - descent
        cv2.putText(picture, label, (x, baseline), _LABEL_FONT, scale, _WHITE, thickness, cv2.LINE_AA)
        cv2.putText(picture, percent, (x + label_width, baseline), _LABEL_FONT, small, _WHITE, thin, cv2.LINE_AA)
    return picture


def draw_result(result: FrameResult, *, mirror: bool = False, bar: bool = True) -> Image:
    """Draw the frame of a result with its digits; while the source is lost, darkened and without digits.

    Args:
        result: the frame and what was read in it.
        mirror: exchange left and right; text stays readable.
        bar: add a bar with the numbers, the frames per second and the milliseconds, and a line that says what is wrong
            with the source. The page shows these as text of its own.

    Returns:
        A new picture, uint8 (H, W, 3), BGR.
    """
    image = to_bgr(result.frame.image)
    picture = np.ascontiguousarray(cv2.flip(image, 1) if mirror else image, np.uint8)
    height, width = picture.shape[:2]
    unit = max(width, height) / 640  # sizes below are meant for a picture of 640 pixels
    is_lost = result.state.kind == "lost"
    digits, unsure = ((), ()) if is_lost else (result.reading.digits, result.reading.unsure)
    if mirror:
        digits, unsure = _mirror(digits, width), _mirror(unsure, width)
    picture = draw_digits(picture, digits, unsure)
    if is_lost:
        picture //= 3
    if is_lost and bar:
        cv2.rectangle(picture, (0, 0), (width, round(34 * unit)), _RED, cv2.FILLED)
        cv2.putText(picture, result.state.text, (10, round(23 * unit)), _BAR_FONT, 0.5 * unit, _WHITE, 1, cv2.LINE_AA)
    if bar:
        _draw_bar(picture, result, unit)
    return picture


def to_bgr(frame: Image) -> Image:
    """Convert a frame, uint8 (H, W, 3) BGR or (H, W) grey, to uint8 (H, W, 3) BGR."""
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR), np.uint8) if frame.ndim == 2 else frame


def _mirror(digits: tuple[Digit, ...], width: int) -> tuple[Digit, ...]:
    """Move the boxes of digits to where they are in the mirrored frame of a width in pixels."""
    return tuple(replace(digit, box=(width - digit.box[0] - digit.box[2], *digit.box[1:])) for digit in digits)


def _draw_bar(picture: Image, result: FrameResult, unit: float) -> None:
    """Draw the numbers and the speed at the bottom of a picture, with letters scaled by `unit`."""
    height, width = picture.shape[:2]
    picture[height - round(32 * unit) :] //= 4
    times = result.milliseconds
    speed = f"{result.rate:.0f} frames/s   {times.get('total', 0):.1f} ms   network {times.get('network', 0):.1f} ms"
    scale, margin = 0.45 * unit, round(10 * unit)
    baseline, thickness = height - margin, max(1, round(unit))
    (speed_width, _), _ = cv2.getTextSize(speed, _BAR_FONT, scale, 1)
    numbers = "   ".join(number.text for number in result.numbers)
    cv2.putText(picture, numbers, (margin, baseline), _BAR_FONT, 0.75 * unit, _LIGHT_GREEN, thickness, cv2.LINE_AA)
    cv2.putText(picture, speed, (width - speed_width - margin, baseline), _BAR_FONT, scale, _WHITE, 1, cv2.LINE_AA)
