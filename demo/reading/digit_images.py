"""Cuts the digits that were found in a frame out of it, as MNIST's makers did.

box in the frame -> square window of a fixed size -> strength of the ink -> mask -> the digit's own ink -> 28x28 pixels.
The windows of many digits are worked on together, one below the other in a strip, since each call costs more than its
pixels do.

The digit is fitted into 20x20 pixels with its aspect kept, anti-aliased, its contrast stretched, and placed in 28x28
pixels with its centre of mass in the middle (LeCun, Cortes, Burges, "The MNIST database").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_Floats = NDArray[np.float32]

SIZE = 28
"""The width and height of a digit's image, in pixels."""
FIT = 20
"""The longer side of the digit in its image, in pixels."""
_BATCH = 32
"""How many windows are worked on together: it bounds the memory that this takes."""
_PARTS = 6
"""Rows and columns of parts of a window, of each of which the median is taken for its paper."""
_PART = 0.35
"""Their width and height, as a part of the window's: six tenths of the digit's height."""
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


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
        pen: strokes that are thinner are made thicker: the pens of MNIST's writers were about a tenth.
        margin: a straight line that runs beyond the box so far on two opposite sides is a rule or the edge of a cell.
        thin: lines are thinner than this.
        solid: the part, 0 to 1, of a line that must be ink.
        slope: the tangent of the angle by which lines may be turned.
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
    margin: float = 0.2
    thin: float = 0.2
    solid: float = 0.8
    slope: float = 0.2


@dataclass(frozen=True, eq=False)
class DigitImage:
    """A digit that was cut out of a frame.

    Attributes:
        image: uint8 (28, 28), ink 255, paper 0; all 0 where there is no ink.
        box: float32 (4,), left, top, right, bottom of its ink, in pixels of the frame; the given box if there is none.
    """

    image: _Bytes
    box: _Floats


@dataclass(frozen=True, eq=False)
class _Windows:
    """Square parts of a frame around boxes. All have the same size, W pixels, which is even.

    Attributes:
        pixels: uint8 (N, W, W), grey.
        halves: uint8 (N, W / 2, W / 2), the same at half the resolution.
        inside: int (N, 4), the rows and columns, top, bottom, left, right, between which the frame lies.
        corners: int (N, 2), x and y of their upper left corners, in pixels of the frame.
        scales: float32 (N,), pixels per pixel of the frame.
    """

    pixels: _Bytes
    halves: _Bytes
    inside: NDArray[np.intp]
    corners: NDArray[np.intp]
    scales: _Floats

    def take(self, some: slice) -> _Windows:
        """Select some of the windows."""
        return _Windows(*(values[some] for values in vars(self).values()))

    def place(self, boxes: _Floats) -> _Floats:
        """Boxes (..., 4) of the frame in pixels of each window, float32 (N, ..., 4)."""
        shape = (-1, *[1] * (boxes.ndim - 2), 1)
        corners, scales = self.corners[:, [0, 1, 0, 1]].reshape(*shape[:-1], 4), self.scales.reshape(shape)
        placed: _Floats = (boxes - corners.astype(np.float32)) * scales
        return placed

    def find_inner(self, boxes: _Floats) -> NDArray[np.intp]:
        """The box of each window, left, top, right, bottom, in whole pixels of it: int (N, 4); never empty."""
        size = self.pixels.shape[1]
        placed = self.place(boxes)
        first = np.clip(np.floor(placed[:, :2]), 0, size - 1)
        last = np.clip(np.ceil(placed[:, 2:]), first + 1, size)
        return np.concatenate([first, last], 1).astype(np.intp)


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
    if not len(boxes):
        return []
    parameters = parameters or CropParameters()
    boxes = np.asarray(boxes, np.float32)
    windows = _look(grey, boxes, parameters)
    lights = np.full(len(boxes), light) if light is not None else _judge_light(windows, boxes)
    for pixels in (windows.pixels, windows.halves):
        pixels ^= np.where(lights, np.uint8(255), np.uint8(0))[:, None, None]
    digits: list[DigitImage] = []
    for start in range(0, len(boxes), _BATCH):
        digits += _cut(windows.take(slice(start, start + _BATCH)), start, boxes, parameters)
    return digits


def _look(grey: _Bytes, boxes: _Floats, parameters: CropParameters) -> _Windows:
    """The windows of boxes."""
    height, width = grey.shape
    half = round((0.5 + parameters.reach) * parameters.resolution)
    size = 2 * half
    count = len(boxes)
    pixels = np.empty((count, size, size), np.uint8)
    inside, corners = np.empty((count, 4), np.intp), np.empty((count, 2), np.intp)
    scales = np.empty(count, np.float32)
    for index, (left, top, right, bottom) in enumerate(boxes.tolist()):
        longer = max(right - left, bottom - top, 1.0)
        span = max(2, round((1 + 2 * parameters.reach) * longer))
        # Whole numbers of pixels are averaged first; what is left is at most a step of two.
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
        # This way to resize is the only one that is exact on every processor.
        cv2.resize(part, (size, size), pixels[index], interpolation=cv2.INTER_LINEAR_EXACT)
        scale = size / span
        first, last = ([math.ceil(side * scale) for side in sides] for sides in (before, after))
        inside[index] = first[0], size - last[0], first[1], size - last[1]
        corners[index], scales[index] = (x, y), scale
    halves = cv2.resize(pixels.reshape(-1, size), (half, count * half), interpolation=cv2.INTER_AREA)
    return _Windows(pixels, np.asarray(halves, np.uint8).reshape(count, half, half), inside, corners, scales)


def _judge_light(windows: _Windows, boxes: _Floats) -> NDArray[np.bool_]:
    """Whether the ink of each window is lighter than its paper, bool (N,): most of a window is paper.

    The evidence of each digit is added to the mean evidence of all digits, so that a faint digit follows the others.
    """
    halves = windows.halves
    half = halves.shape[1]
    # The medians of small parts that overlap: they keep the edges of shadows, and of what lies under the paper.
    few = halves[:, ::2, ::2]
    width = few.shape[1]
    side = round(_PART * width)
    starts = np.arange(_PARTS) * (width - side) // (_PARTS - 1)
    spans = starts[:, None] + np.arange(side)
    pixels = (spans[:, None, :, None] * width + spans[:, None]).reshape(_PARTS**2, -1)
    parts = few.reshape(len(few), -1).take(pixels, 1)  # (N, _PARTS ** 2, side * side)
    medians = np.partition(parts, side * side // 2)[..., side * side // 2]
    middles = 2 * starts + side
    nearest = np.abs(np.arange(half)[:, None] + 0.5 - middles).argmin(1)
    paper = medians.take(nearest[:, None] * _PARTS + nearest, 1)  # (N, half, half)
    inner = windows.find_inner(boxes) // 2
    places = np.arange(half)
    across, down = (
        ((places >= inner[:, axis, None]) & (places <= inner[:, axis + 2, None])).astype(np.int32) for axis in (0, 1)
    )
    relief = (halves.astype(np.int32) - paper.astype(np.int32)) * down[:, :, None] * across[:, None, :]
    cubes = relief * relief * relief  # whole numbers, so that the order of a sum is nothing
    noise = 8.0**3 * down.sum(1) * across.sum(1)
    total, most = (values.sum((1, 2), dtype=np.int64) for values in (cubes, np.abs(cubes)))
    evidence = total / (most + noise)
    light: NDArray[np.bool_] = evidence + evidence.mean() > 0
    return light


def _cut(windows: _Windows, start: int, boxes: _Floats, parameters: CropParameters) -> list[DigitImage]:
    """Cut digits out of their windows, in which ink is dark; their boxes are those from `start` on."""
    count, size, _ = windows.pixels.shape
    own_boxes = boxes[start : start + count]
    inner = windows.find_inner(own_boxes)
    strength = _measure_ink(windows, parameters)  # (N, W, W)
    for one, (top, bottom, left, right) in zip(strength, windows.inside.tolist(), strict=True):
        one[:top] = one[bottom:] = one[:, :left] = one[:, right:] = 0
    paper, ink, peak = _levels(strength, inner)
    bounds = np.floor(paper + parameters.ink * (ink - paper)).astype(np.uint8)
    # The strip has an empty row below each window, so that nothing is connected to what is in the next one.
    mask = np.zeros((count, size + 1, size), np.uint8)
    np.greater(strength, bounds[:, None, None], out=mask[:, :size].view(np.bool_))
    labels, window_of = _label(mask, inner, parameters)
    own = _assign_ink(labels, window_of, windows, start, boxes, parameters)  # (N, W + 1, W)
    strip = own.reshape(-1, size)
    outlined = cv2.erode(strip, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0).reshape(own.shape)
    around = cv2.dilate(strip, _CROSS).reshape(own.shape)
    low = paper + parameters.blank * (peak - paper)
    blank, gain = np.rint(low).astype(np.uint8)[:, None, None], 255 / np.maximum(peak - low, 1)
    shown = np.clip(np.minimum(strength, around[:, :size]), blank, np.uint8(255)) - blank
    images, ends = [np.zeros((SIZE, SIZE), np.uint8)] * count, np.zeros((count, 4), np.float32)
    for index in range(count):
        left, top, width, height = cv2.boundingRect(own[index])
        if not width:
            continue
        ends[index] = left, top, left + width, top + height
        # two pixels more: one each for the edge and for a thicker pen
        part = shown[index, max(top - 2, 0) : top + height + 2, max(left - 2, 0) : left + width + 2]
        area = cv2.countNonZero(own[index])
        thickness = 2 * area / max(area - cv2.countNonZero(outlined[index]), 1)
        if parameters.pen * parameters.resolution - thickness > 0.5:
            part = cv2.dilate(part, _CROSS)
        part = cv2.convertScaleAbs(part, alpha=gain[index])
        x, y, wide, high = cv2.boundingRect(part)
        images[index] = place_digit(part[y : y + high, x : x + wide])
    placed = ends / windows.scales[:, None] + windows.corners[:, [0, 1, 0, 1]].astype(np.float32)
    placed = np.where(ends.any(1, keepdims=True), placed, own_boxes)
    return [DigitImage(image, box) for image, box in zip(images, placed, strict=True)]


def _measure_ink(windows: _Windows, parameters: CropParameters) -> _Bytes:
    """How much darker each pixel is than the paper around it: uint8 (N, W, W), 255 * (1 - pixel / paper).

    The paper's brightness is what a grey closing leaves (black-hat transform; Serra, "Image Analysis and Mathematical
    Morphology", 1982), and the quotient is the ink's reflectance under any light.
    """
    count, half, _ = windows.halves.shape
    span = round(parameters.stroke * parameters.resolution / 2) | 1
    gap = span // 2
    kernel = np.ones((span, span), np.uint8)
    # The rows between the windows are 0 for the dilation and 255 for the erosion, which leaves the windows unchanged.
    # Then they repeat the rows beside them, so that enlarging the strip does not mix two windows.
    strip = np.zeros((count, half + gap, half), np.uint8)
    strip[:, :half] = windows.halves
    strip = cv2.dilate(strip.reshape(-1, half), kernel).reshape(strip.shape)
    strip[:, half:] = 255
    strip = cv2.erode(strip.reshape(-1, half), kernel).reshape(strip.shape)
    strip[:, half] = strip[:, half - 1]
    strip[:-1, -1] = strip[1:, 0]
    size = 2 * half
    # At twice the size, every pixel is a sum of sixteenths, which float32 holds: this is exact on every processor.
    whole = cv2.resize(strip.reshape(-1, half).astype(np.float32), (size, 2 * count * (half + gap)))
    paper = (whole.reshape(count, -1, size)[:, :size] + np.float32(0.5)).astype(np.uint8)
    darker = cv2.subtract(paper.reshape(-1, size), windows.pixels.reshape(-1, size))  # 0 where the pixel is lighter
    # NumPy's division is exact; OpenCV's rounds differently on ARM and on x86. `np.clip` is faster than `np.maximum`.
    quotient = darker.reshape(paper.shape).astype(np.float32) * np.float32(255)
    quotient /= np.clip(paper.astype(np.float32), np.float32(1), np.float32(255))
    strength: _Bytes = np.rint(quotient).astype(np.uint8)
    return strength


def _levels(strength: _Bytes, inner: NDArray[np.intp]) -> tuple[NDArray[np.float64], ...]:
    """The mean strength of paper and of ink, and what the strongest tenth of the ink reaches: float64 (N,) each.

    Otsu's threshold divides paper from ink ("A Threshold Selection Method from Gray-Level Histograms", IEEE
    Transactions on Systems, Man, and Cybernetics 9, 1979). All sums are integers, so that all processors agree.

    Args:
        strength: (N, W, W).
        inner: int (N, 4), left, top, right, bottom of what counts.
    """
    counts = np.stack(
        [
            np.bincount(one[top:bottom, left:right].ravel(), minlength=256)
            for one, (left, top, right, bottom) in zip(strength, inner.tolist(), strict=True)
        ]
    )
    number, total = np.cumsum(counts, 1), np.cumsum(counts * np.arange(256), 1)
    every, rest = number[:, -1:], number[:, -1:] - number
    difference = total * every - total[:, -1:] * number
    between = difference.astype(np.float64) ** 2 / np.maximum(number * rest, 1)
    level = np.arange(len(counts)), between.argmax(1)
    number_below, total_below, above = number[level], total[level], rest[level]
    paper = total_below / np.maximum(number_below, 1)
    ink = (total[:, -1] - total_below) / np.maximum(above, 1)
    peak = (number < every - 0.1 * above[:, None]).sum(1)
    return paper, ink, np.maximum(peak, ink)


def _label(
    mask: _Bytes, inner: NDArray[np.intp], parameters: CropParameters
) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Label the connected components of windows, after straight lines that run through their boxes are removed.

    Args:
        mask: uint8 (N, W + 1, W), the ink; lines are removed from it.
        inner: int (N, 4), the box of each window.
        parameters: of the crops.

    Returns:
        The labels, int32 (N, W + 1, W), 0 where there is no ink, and the window of each label.
    """
    _, rows, size = mask.shape

    def label(some: _Bytes) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        kind = cv2.CV_16U if some.size < 2**17 else cv2.CV_32S  # fewer instructions where 16 bits hold all labels
        _, labels, statistics, _ = cv2.connectedComponentsWithStats(some.reshape(-1, size), ltype=kind)
        return np.asarray(labels, np.int32).reshape(some.shape), np.asarray(statistics[:, :4], np.int32)

    labels, bounds = label(mask)
    window_of = bounds[:, 1] // rows
    bounds[:, 1] -= window_of * rows
    margin = round(parameters.margin * parameters.resolution)
    low, high = np.maximum(inner[:, :2] - margin, 0), np.minimum(inner[:, 2:] + margin, size)
    runs_through = (bounds[:, :2] <= low[window_of]) & (bounds[:, :2] + bounds[:, 2:] >= high[window_of])
    runs_through[0] = False
    changed = set()
    for component, axis in zip(*np.nonzero(runs_through), strict=True):
        index = int(window_of[component])
        turned = mask[index, :size].T if axis else mask[index, :size]
        part = turned[:, low[index, axis] : high[index, axis]]
        lines = _find_lines(np.ascontiguousarray(part), margin, parameters)
        if lines is not None:
            part[lines] = 0
            changed.add(index)
    if changed:
        some = sorted(changed)
        again, bounds = label(mask[some])
        labels[some] = np.where(again, again + np.int32(len(window_of) - 1), np.int32(0))
        window_of = np.concatenate([window_of, np.array(some)[bounds[1:, 1] // rows]])
    return labels, window_of


def _find_lines(part: _Bytes, margin: int, parameters: CropParameters) -> NDArray[np.bool_] | None:
    """The pixels of straight lines from the left to the right edge of a part of a mask, without strokes across them.

    The ink is counted along lines of some slopes (Radon transform) that have ink near both edges.
    """
    rows, columns = part.shape
    if 2 * cv2.countNonZero(part) > part.size:  # an area, such as the table beside the paper; it has too many lines
        return None
    places = np.arange(columns)
    reach = int(np.ceil(parameters.slope * columns / 2))  # neighbouring slopes differ by one pixel at the ends
    slopes = np.arange(-reach, reach + 1)[:, None] * (2 / columns)
    shifts = np.rint(slopes * (places - (columns - 1) / 2)).astype(np.intp)  # (S, n)
    padded = cv2.copyMakeBorder(part, reach, reach, 0, 0, cv2.BORDER_CONSTANT)
    middle = np.arange(reach, reach + rows)

    def sample(slope: NDArray[np.intp], row: NDArray[np.intp]) -> _Bytes:
        """The ink (L, n) along lines of some slopes, through the middle column of some rows."""
        ink: _Bytes = padded[shifts[slope] + (row + reach)[:, None], places]
        return ink

    def cover(ink: _Bytes) -> NDArray[np.float64]:
        """The least part (L,) of lines (L, n), and of each of their ends, that is ink."""
        parts = [one.sum(1, dtype=np.uint16) / one.shape[1] for one in (ink[:, :margin], ink[:, -margin:], ink)]
        least: NDArray[np.float64] = np.min(parts, 0)
        return least

    ends = [part_of.any(1) for part_of in (padded[:, :margin], padded[:, -margin:])]
    edge = margin // 2
    has_both = ends[0][middle + shifts[:, edge, None]] & ends[1][middle + shifts[:, -1 - edge, None]]
    slope, row = np.nonzero(has_both)
    # Every fourth pixel shows which lines may be covered well enough; the others are not worth a full count.
    few = padded[shifts[:, ::4][slope] + (row + reach)[:, None], places[::4]]
    may_be = few.sum(1, dtype=np.uint16) >= (parameters.solid - 0.2) * few.shape[1]
    slope, row = slope[may_be], row[may_be]
    covered = cover(sample(slope, row))
    found: NDArray[np.bool_] = np.zeros((rows, columns), bool)
    for _ in range(6):
        best = int(covered.argmax()) if len(covered) else 0
        if not len(covered) or covered[best] < parameters.solid:
            break
        lines = sample(np.full(rows, slope[best]), np.arange(rows))  # (W, n)
        along = cover(lines) > 0.35
        first = last = int(row[best])
        while first > 0 and along[first - 1]:
            first -= 1
        while last < rows - 1 and along[last + 1]:
            last += 1
        if last - first + 1 <= parameters.thin * parameters.resolution:
            blank = np.zeros(columns, np.uint8)
            beside = (lines[first - 1] if first else blank) | (lines[last + 1] if last < rows - 1 else blank)
            lanes = np.arange(first, last + 1)[:, None] + shifts[slope[best]]  # (thickness, n)
            free = (lanes >= 0) & (lanes < rows) & (beside == 0)
            found[lanes[free], np.broadcast_to(places, lanes.shape)[free]] = True
        covered[(row >= first - 1) & (row <= last + 1)] = 0
    return found if found.any() else None


def _assign_ink(
    labels: NDArray[np.int32],
    window_of: NDArray[np.intp],
    windows: _Windows,
    start: int,
    boxes: _Floats,
    parameters: CropParameters,
) -> _Bytes:
    """The part of each window's ink, uint8 (N, W + 1, W), 255 or 0, that belongs to its digit.

    Args:
        labels: int32 (N, W + 1, W), of the connected components.
        window_of: the window of each label.
        windows: N of them.
        start: the index of the first window's box.
        boxes: float32 (M, 4), of all digits of the frame.
        parameters: of the crops.
    """
    count, rows, size = labels.shape
    placed = windows.place(boxes[None])  # (N, M, 4)
    is_near = ((placed[..., :2] < size) & (placed[..., 2:] > 0)).all(2)
    is_near[np.arange(count), np.arange(start, start + count)] = True
    found = cv2.findNonZero(labels.reshape(-1, size))
    column, row = np.zeros((2, 0), np.int32) if found is None else np.ascontiguousarray(found.reshape(-1, 2).T)
    points = np.stack([column, row % rows]).astype(np.float32) + np.float32(0.5)  # (2, P), of the pixels of ink
    ends = np.searchsorted(row, np.arange(count + 1) * rows).tolist()
    # how far each pixel lies outside of the box of its window, and of the nearest box
    distance, least = np.empty((2, len(row)), np.float32)
    for index, (first, last) in enumerate(pairwise(ends)):
        sides, some = placed[index, is_near[index]][..., None], points[:, first:last]  # (K, 4, 1), (2, P)
        across, down = np.maximum(sides[:, :2] - some, some - sides[:, 2:]).swapaxes(0, 1)
        outside = np.maximum(across, down)  # (K, P)
        distance[first:last] = outside[np.count_nonzero(is_near[index, : start + index])]
        outside.min(0, out=least[first:last])
    # 0 nearer to another digit's box, 1 nearest to the box of its own window, 2 in or at that box
    zones = (distance == least) * (np.uint8(1) + (distance <= parameters.error * parameters.resolution))
    ink = row * size + column
    codes = labels.ravel().take(ink) * 3 + zones
    components = len(window_of)
    counts = np.bincount(codes, minlength=3 * components).reshape(components, 3)
    foreign, inside, areas = counts[:, 0], counts[:, 2], counts.sum(1)
    mostly = (2 * inside >= areas) & (areas > 0)
    most, most_whole = np.zeros(count), np.zeros(count)
    np.maximum.at(most, window_of, inside)
    np.maximum.at(most_whole, window_of[mostly], inside[mostly])
    # whole components, components that are divided between digits, and those of which only what is in the box counts
    whole = mostly & (foreign < parameters.shared * areas)
    divided = mostly & ~whole
    clipped = ~mostly & (inside == most[window_of]) & (inside > most_whole[window_of])
    belongs = np.stack([whole, whole | divided, whole | divided | clipped], 1)
    belongs[inside < parameters.speck * np.bincount(window_of, inside, count)[window_of]] = False
    own = np.zeros(labels.shape, np.uint8)
    own.ravel()[ink] = (belongs.view(np.uint8) * np.uint8(255)).ravel().take(codes)
    return own


def place_digit(ink: _Bytes) -> _Bytes:
    """Ink in its box, uint8 (h, w), fitted into 20x20 pixels and centred in 28x28."""
    height, width = ink.shape
    image = np.zeros((SIZE, SIZE), np.uint8)
    if not ink.size:
        return image
    scale = FIT / max(height, width)
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
    # As in `_look`: this is exact on every processor.
    small = cv2.resize(ink, (columns, rows), interpolation=cv2.INTER_LINEAR_EXACT)
    highest = cv2.minMaxLoc(small)[1]
    if 0 < highest < 255:
        small = cv2.convertScaleAbs(small, alpha=255 / highest)
    moments = cv2.moments(small)
    mass = moments["m00"] or 1.0
    left = _centre(moments["m10"] / mass, columns)
    top = _centre(moments["m01"] / mass, rows)
    image[top : top + rows, left : left + columns] = small
    return image


def _centre(mean: float, length: int) -> int:
    """Where a row of so many pixels begins, so that its centre of mass lies in the middle of the image."""
    return min(max(round((SIZE - 1) / 2 - mean), 0), SIZE - length)
