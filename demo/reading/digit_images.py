"""Cuts the digits that were found in a frame out of it, as MNIST's makers did.

box in the frame -> square window of a fixed size -> strength of the ink -> mask -> the digit's own ink -> 28x28 pixels.

The digit is fitted into 20x20 pixels with its aspect kept, anti-aliased, its contrast stretched, and placed in 28x28
pixels with its centre of mass in the middle (LeCun, Cortes, Burges, "The MNIST database").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_Floats = NDArray[np.float32]

SIZE = 28
"""The width and height of a digit's image, in pixels."""
FIT = 20
"""The longer side of the digit in its image, in pixels."""
_OFF_MIDDLE = 1 / 512
"""What is added before rounding: far more than the last bits in which processors differ, far less than matters."""
_DISK = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))


@dataclass(frozen=True)
class CropParameters:
    """How digits are cut out. Lengths are parts of the longer side of the digit's box, strengths parts of full ink's.

    Attributes:
        resolution: the longer side of a digit's box while it is worked on, in pixels; at least 20, which its image has.
        reach: how far the window extends beyond the box on each side. It must show what the digit's ink belongs to.
        error: how far the digit's ink may lie beyond its box, as the finder's boxes are not exact.
        stroke: strokes are thinner than this; the paper's brightness is that of the lightest paper so near.
        ink: the strength, 0 (paper) to 1, above which a pixel is ink. At a half an edge stays where it was before blur.
        blank: the strength, 0 to 1, up to which a pixel of the image is blank.
        shared: the part, 0 to 1, of a component's ink that another digit must have so that it is divided between them.
        speck: the part, 0 to 1, of a digit's ink that a component must have to belong to it.
        pen: strokes thinner than this are thickened: the pens of MNIST's writers were about a tenth.
        margin: a straight line that runs beyond the box so far on two opposite sides is a rule or the edge of a cell.
        thin: lines are thinner than this.
        solid: the part, 0 to 1, of a line that must be ink.
        slope: the tangent of the angle by which lines may be turned.
        dark: paper darker than this part, 0 to 1, of the brightest in the window counts as that bright.
    """

    resolution: int = 40
    reach: float = 0.35
    error: float = 0.08
    stroke: float = 0.5
    ink: float = 0.5
    blank: float = 0.15
    shared: float = 0.25
    speck: float = 0.03
    pen: float = 0.085
    dark: float = 0.3
    margin: float = 0.2
    thin: float = 0.2
    solid: float = 0.8
    slope: float = 0.2


@dataclass(frozen=True, eq=False)
class DigitImage:
    """A digit that was cut out of a frame.

    Attributes:
        image: uint8 (28, 28), ink 255, paper 0; all 0 where there is no ink.
        box: float32 (4,), left, top, right, bottom of its ink, in pixels of the frame.
        contrast: 0 to 1, the strength of its ink: 0 is paper, 1 black ink on white paper.
    """

    image: _Bytes
    box: _Floats
    contrast: float


@dataclass(frozen=True, eq=False)
class _Window:
    """A square part of a frame around a box.

    Attributes:
        pixels: uint8 (W, W), grey.
        inside: the rows and columns, (top, bottom, left, right), between which the frame lies.
        corner: x and y of its upper left corner, in pixels of the frame.
        scale: its pixels per pixel of the frame.
    """

    pixels: _Bytes
    inside: tuple[int, int, int, int]
    corner: tuple[int, int]
    scale: float


def cut_digits(
    grey: _Bytes, boxes: _Floats, light: bool | None = None, parameters: CropParameters | None = None
) -> list[DigitImage]:
    """Cut digits out of a frame.

    Args:
        grey: the frame, uint8 (H, W).
        boxes: float32 (N, 4), left, top, right, bottom of each digit, in pixels of the frame.
        light: whether the ink is lighter than the paper; None to judge that by the pixels.
        parameters: None for the usual ones.
    """
    parameters = parameters or CropParameters()
    windows = [_look(grey, box, parameters) for box in boxes]
    lights = [light] * len(boxes) if light is not None else _judge_light(windows, boxes)
    return [
        _cut(window, index, boxes, bool(is_light), parameters)
        for index, (window, is_light) in enumerate(zip(windows, lights, strict=True))
    ]


def _look(grey: _Bytes, box: _Floats, parameters: CropParameters) -> _Window:
    """The window of a box."""
    height, width = grey.shape
    left, top, right, bottom = (float(side) for side in box)
    longer = max(right - left, bottom - top, 1.0)
    size = round((1 + 2 * parameters.reach) * parameters.resolution)
    span = max(2, round((1 + 2 * parameters.reach) * longer))
    # Whole numbers of pixels are averaged first: that is fast, and exact on every processor.
    step = max(1, span // (2 * size))
    span += -span % step
    x, y = round((left + right - span) / 2), round((top + bottom - span) / 2)
    before = max(-y, 0), max(-x, 0)
    after = max(y + span - height, 0), max(x + span - width, 0)
    part = grey[max(y, 0) : max(y + span, 0), max(x, 0) : max(x + span, 0)]
    if any(before) or any(after):
        part = cv2.copyMakeBorder(part, before[0], after[0], before[1], after[1], cv2.BORDER_REPLICATE)
    if step > 1:
        part = cv2.resize(part, (span // step, span // step), interpolation=cv2.INTER_AREA)
    method = cv2.INTER_AREA if part.shape[0] > size else cv2.INTER_CUBIC
    pixels = cv2.max(cv2.resize(part.astype(np.float32), (size, size), interpolation=method), 0)
    scale = size / span
    inside = (
        int(np.ceil(before[0] * scale)), size - int(np.ceil(after[0] * scale)),
        int(np.ceil(before[1] * scale)), size - int(np.ceil(after[1] * scale)),
    )  # fmt: skip
    pixels = cv2.convertScaleAbs(pixels, beta=_OFF_MIDDLE)
    return _Window(pixels, inside, (x, y), scale)


def _judge_light(windows: Sequence[_Window], boxes: _Floats) -> list[bool]:
    """Whether the ink of each window is lighter than its paper: most of a window is paper.

    What a digit shows by itself counts as much as what all of the page do, so that a faint one follows the others.
    """
    evidence = []
    for window, box in zip(windows, boxes, strict=True):
        pixels = np.ascontiguousarray(window.pixels[::2, ::2])
        # The median keeps the edges of shadows, and of what lies under the paper.
        paper = cv2.medianBlur(pixels, len(pixels) * 3 // 5 | 1)
        left, top, right, bottom = (side // 2 for side in _inner(window, box))
        inside = np.s_[top : bottom + 1, left : right + 1]
        relief = (pixels[inside].astype(np.int64) - paper[inside]).ravel()
        counts = np.cumsum(np.bincount(relief + 255, minlength=511))
        lowest, highest = (int(np.searchsorted(counts, part * counts[-1])) - 255 for part in (0.03, 0.97))
        evidence.append((highest + lowest) / max(highest - lowest, 16))
    page = sum(evidence) / max(len(evidence), 1)
    return [own + page > 0 for own in evidence]


def _inner(window: _Window, box: _Floats) -> tuple[int, int, int, int]:
    """A box, left, top, right, bottom, in whole pixels of a window; never empty."""
    size = window.pixels.shape[0]
    x, y = window.corner
    left, top, right, bottom = (box - np.array([x, y, x, y], np.float32)) * window.scale
    first = [min(max(int(np.floor(side)), 0), size - 1) for side in (left, top)]
    last = [min(max(int(np.ceil(side)), start + 1), size) for side, start in zip((right, bottom), first, strict=True)]
    return first[0], first[1], last[0], last[1]


def _cut(window: _Window, index: int, boxes: _Floats, light: bool, parameters: CropParameters) -> DigitImage:
    """Cut a digit out of its window."""
    box = boxes[index]
    strength = _measure_ink(cv2.bitwise_not(window.pixels) if light else window.pixels, parameters)
    first, end, start, stop = window.inside
    strength[:first] = strength[end:] = strength[:, :start] = strength[:, stop:] = 0
    left, top, right, bottom = _inner(window, box)
    paper, ink, peak = _levels(strength[top:bottom, left:right])
    bound = paper + parameters.ink * (ink - paper)
    mask = cv2.compare(strength, bound, cv2.CMP_GT)
    mask = _remove_lines(mask, (left, top, right, bottom), parameters)
    own = _own(mask, window, index, boxes, parameters)
    low = paper + parameters.blank * (peak - paper)
    shown = cv2.min(strength, cv2.dilate(own, _DISK))
    missing = parameters.pen * parameters.resolution - _thickness(own)
    if missing > 0.5:
        grown = 1 + 2 * max(1, round(missing / 2))
        shown = cv2.dilate(shown, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (grown, grown)))
    shown = cv2.convertScaleAbs(cv2.subtract(shown, round(low)), alpha=255 / max(peak - low, 1))
    x, y, width, height = cv2.boundingRect(shown)
    if not width:
        return DigitImage(np.zeros((SIZE, SIZE), np.uint8), np.asarray(box, np.float32), 0.0)
    corner = np.array([*window.corner, *window.corner], np.float32)
    around = np.array(cv2.boundingRect(own), np.float32)
    around[2:] += around[:2]
    return DigitImage(
        place_digit(shown[y : y + height, x : x + width]),
        around / np.float32(window.scale) + corner,
        (peak - paper) / 255,
    )


def _measure_ink(pixels: _Bytes, parameters: CropParameters) -> _Bytes:
    """How much darker each pixel is than the paper around it: uint8 (W, W), 255 * (1 - pixel / paper).

    The paper's brightness is what a grey closing leaves (black-hat transform; Serra, "Image Analysis and Mathematical
    Morphology", 1982), and the quotient is the ink's reflectance under any light.
    """
    span = round(parameters.stroke * parameters.resolution) | 1
    closed = cv2.morphologyEx(pixels, cv2.MORPH_CLOSE, np.ones((span, span), np.uint8), borderType=cv2.BORDER_REPLICATE)
    paper = cv2.blur(closed, (3, 3))
    dark = max(parameters.dark * float(paper.max()), 1.0)
    # NumPy's division is exact; OpenCV's rounds otherwise on ARM than on x86.
    quotient = np.divide(cv2.subtract(paper, pixels), cv2.max(paper, dark), dtype=np.float32)
    strength: _Bytes = np.rint(quotient * np.float32(255)).astype(np.uint8)
    return strength


def _levels(strength: _Bytes) -> tuple[float, float, float]:
    """The mean strength of paper and of ink, divided by Otsu's method, and what the strongest tenth of the ink reaches.

    N. Otsu, "A Threshold Selection Method from Gray-Level Histograms", IEEE Transactions on Systems, Man, and
    Cybernetics 9, 1979. In whole numbers, so that all processors agree.
    """
    counts = np.bincount(strength.ravel(), minlength=256)
    number, total = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    rest = number[-1] - number
    difference = total * number[-1] - total[-1] * number
    between = difference.astype(np.float64) ** 2 / np.maximum(number * rest, 1)
    level = int(between.argmax())
    paper = total[level] / max(number[level], 1)
    ink = (total[-1] - total[level]) / max(rest[level], 1)
    peak = int(np.searchsorted(number, number[-1] - 0.1 * rest[level]))
    return float(paper), float(ink), float(max(peak, ink))


def _remove_lines(mask: _Bytes, box: tuple[int, int, int, int], parameters: CropParameters) -> _Bytes:
    """A window's ink, uint8 (W, W), without straight lines that run through its box; strokes across them stay."""
    statistics = cv2.connectedComponentsWithStats(mask)[2][1:]  # (components, 5)
    margin, size = round(parameters.margin * parameters.resolution), len(mask)
    result = mask
    for axis in (0, 1):
        low, high = max(box[axis] - margin, 0), min(box[axis + 2] + margin, size)
        first, last = statistics[:, axis], statistics[:, axis] + statistics[:, axis + 2]
        if not ((first <= low) & (last >= high)).any():
            continue
        part = np.ascontiguousarray((mask.T if axis else mask)[:, low:high]) > 0
        lines = _find_lines(part, margin, parameters)
        if lines is not None:
            result = result.copy()
            turned = result.T if axis else result
            turned[:, low:high][lines] = 0
    return result


def _find_lines(part: NDArray[np.bool_], margin: int, parameters: CropParameters) -> NDArray[np.bool_] | None:
    """The pixels of straight lines from the left to the right edge of a part of a mask, without strokes across them.

    Their ink is counted along all lines of some slopes (Radon transform).
    """
    rows, columns = part.shape
    places = np.arange(columns) - (columns - 1) / 2
    reach = int(np.ceil(parameters.slope * columns / 2))  # neighbouring slopes differ by one pixel at the ends
    shifts = np.rint(np.arange(-reach, reach + 1)[:, None] * (2 * places / columns)).astype(int)  # (S, n)
    padded = cv2.copyMakeBorder(part.view(np.uint8), reach, reach, 0, 0, cv2.BORDER_CONSTANT)
    # (S, W, n): ink along the line of each slope through the middle column of each row
    ink = padded[shifts[:, None, :] + np.arange(reach, reach + rows)[:, None], np.arange(columns)]
    covered = np.minimum(ink[..., :margin].mean(2), ink[..., -margin:].mean(2))
    covered = np.minimum(covered, ink.mean(2))  # (S, W)
    found: NDArray[np.bool_] = np.zeros((rows, columns), bool)
    for _ in range(6):
        slope, row = np.unravel_index(int(covered.argmax()), covered.shape)
        if covered[slope, row] < parameters.solid:
            break
        along = covered[slope]
        first = last = int(row)
        while first > 0 and along[first - 1] > 0.35:
            first -= 1
        while last < rows - 1 and along[last + 1] > 0.35:
            last += 1
        if last - first + 1 <= parameters.thin * parameters.resolution:
            above = ink[slope, first - 1] if first else np.zeros(columns, np.uint8)
            below = ink[slope, last + 1] if last < rows - 1 else np.zeros(columns, np.uint8)
            lanes = np.arange(first, last + 1)[:, None] + shifts[slope]  # (thickness, n)
            free = (lanes >= 0) & (lanes < rows) & ((above | below) == 0)
            found[lanes[free], np.broadcast_to(np.arange(columns), lanes.shape)[free]] = True
        covered[:, max(first - 1, 0) : last + 2] = 0
    return found if found.any() else None


def _own(mask: _Bytes, window: _Window, index: int, boxes: _Floats, parameters: CropParameters) -> _Bytes:
    """The part of a window's ink, uint8 (W, W), 255 or 0, that belongs to a digit."""
    size = len(mask)
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask)
    x, y = window.corner
    scaled = (boxes - np.array([x, y, x, y], np.float32)) * np.float32(window.scale)
    near: NDArray[np.bool_] = np.all((scaled[:, :2] < size) & (scaled[:, 2:] > 0), axis=1)
    near[index] = False
    distance = _distance(scaled[index], size)
    nearest: NDArray[np.bool_] = np.ones((size, size), bool)
    for other in scaled[near]:
        nearest &= distance <= _distance(other, size)
    zone = nearest & (distance <= parameters.error * parameters.resolution)
    areas = statistics[:, cv2.CC_STAT_AREA]
    inside = np.bincount(labels[zone], minlength=count)
    inside[0] = 0
    foreign = areas - np.bincount(labels[nearest], minlength=count)
    mostly = 2 * inside >= areas
    mostly[0] = False
    largest = np.arange(count) == inside.argmax()
    # whole components, components that are divided between digits, and those of which only what is in the box counts
    whole = mostly & (foreign < parameters.shared * areas)
    divided = mostly & ~whole
    clipped = largest & ~mostly & (inside > inside[mostly].max(initial=0))
    classes = np.zeros(count, np.uint8)
    classes[whole], classes[divided], classes[clipped] = 1, 2, 3
    classes[inside < parameters.speck * inside.sum()] = 0
    kind = classes[labels]
    own = (kind == 1) | ((kind == 2) & nearest) | ((kind == 3) & zone)
    result: _Bytes = own.astype(np.uint8) * np.uint8(255)
    return result


def _distance(box: _Floats, size: int) -> _Floats:
    """How far each pixel of a window lies outside a box, in pixels; inside it is below 0: float32 (W, W)."""
    places = np.arange(size, dtype=np.float32) + np.float32(0.5)
    across = np.maximum(box[0] - places, places - box[2])
    down = np.maximum(box[1] - places, places - box[3])
    distance: _Floats = np.maximum(down[:, None], across[None, :])
    return distance


def _thickness(mask: _Bytes) -> float:
    """Of the strokes of a mask, in pixels: twice the area, over the length of the outline."""
    outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return 2 * cv2.countNonZero(mask) / max(sum(map(len, outlines)), 1)


def place_digit(ink: _Bytes) -> _Bytes:
    """Ink in its box, uint8 (h, w), fitted into 20x20 pixels and centred in 28x28."""
    height, width = ink.shape
    if not ink.size:
        return np.zeros((SIZE, SIZE), np.uint8)
    scale = FIT / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # In float32 and rounded off the middle, so that ARM and x86 agree: in integers they round otherwise.
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.max(cv2.resize(ink.astype(np.float32), size, interpolation=method), 0)
    small = cv2.convertScaleAbs(small, beta=_OFF_MIDDLE)
    highest = int(small.max())
    if 0 < highest < 255:
        small = cv2.convertScaleAbs(small, alpha=255 / highest)
    moments = cv2.moments(small)
    mass = moments["m00"] or 1.0
    image = np.zeros((SIZE, SIZE), np.uint8)
    rows, columns = small.shape
    left = _centre(moments["m10"] / mass, columns)
    top = _centre(moments["m01"] / mass, rows)
    image[top : top + rows, left : left + columns] = small
    return image


def _centre(mean: float, length: int) -> int:
    """Where a row of so many pixels begins, so that its centre of mass lies in the middle of the image."""
    return min(max(round((SIZE - 1) / 2 - mean), 0), SIZE - length)
