"""Places a frame on the canvases that the finder looks at: at several scales, and its finer scales in tiles.

The coarse scales, each half of the one before, share one canvas; what is left of it is filled with scales between them.
Finer scales are cut into tiles, each of which fills a canvas.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mnist.data.finder_map import BEYOND, BORDER, CANVAS_HEIGHT, CANVAS_WIDTH, SMALLEST

TILE_WIDTH, TILE_HEIGHT = CANVAS_WIDTH - 2 * BORDER, CANVAS_HEIGHT - 2 * BORDER
"""The size of the tiles into which finer scales are cut, in pixels: with its borders, a tile fills a canvas."""
SMALL = 320
"""A picture whose longer side has no more pixels is also looked at enlarged: its digits may be small, too."""
SHARED = 48
"""Pixels that neighbouring tiles share: a digit that one of them cuts lies wholly on the other."""
BETWEEN = (0.5, 0.25, 0.75)
"""Where the scales between two others lie, in octaves below the finer one, in the order in which they are placed."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture on a canvas.

    Attributes:
        pixels: uint8 (h, w) grey, no larger than the canvas.
        scale: pixels of it for one pixel of the frame, across and down.
        corner: where it begins in its scale, across and down, in pixels of the scale.
        edges: of a tile, how far from its left, top, right and bottom edge the middle of a digit must lie, in pixels; 0
            at the edges of the frame. What lies nearer is found on the neighbouring tile.
    """

    pixels: NDArray[np.uint8]
    scale: tuple[float, float]
    corner: tuple[int, int] = (0, 0)
    edges: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Placed:
    """A picture, the number of its canvas, and where its first pixel lies there."""

    picture: Picture
    canvas: int
    left: int
    top: int


Scale = tuple[NDArray[np.uint8], tuple[float, float]]
"""A frame at a scale, uint8 (h, w), and its pixels for one pixel of the frame, across and down."""


def resize(pixels: NDArray[np.uint8], width: int, height: int) -> Scale:
    """A picture, uint8 (H, W), of another size: every pixel is the same on every processor.

    OpenCV's INTER_AREA (by other than whole numbers) and INTER_LINEAR round differently on ARM and on x86. So blocks of
    whole pixels are averaged first. The rest, a reduction by less than two, is exact linear interpolation to twice the
    wanted size, and then the mean of each 2x2 pixels, which keeps thin lines. A side that is no multiple of the size of
    a block is extended by repeating its last pixels.
    """
    import cv2  # what needs no finder works without it

    rows, columns = pixels.shape
    step = max(1, min((rows + 1) // height, (columns + 1) // width))
    if step > 1:
        below, right = -rows % step, -columns % step
        if below or right:
            pixels = np.asarray(cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8)
        rows, columns = pixels.shape
        pixels = np.asarray(cv2.resize(pixels, (columns // step, rows // step), interpolation=cv2.INTER_AREA), np.uint8)
    if pixels.shape != (height, width):
        times = 2 if width < pixels.shape[1] or height < pixels.shape[0] else 1
        larger = cv2.resize(pixels, (times * width, times * height), interpolation=cv2.INTER_LINEAR_EXACT)
        pixels = np.asarray(cv2.resize(larger, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return pixels, (width / columns, height / rows)


def make_scales(grey: NDArray[np.uint8], finest: int, step: float) -> tuple[list[Scale], list[Scale]]:
    """A frame at the scales that share a canvas, and at the finer ones.

    Args:
        grey: uint8 (H, W).
        finest: the longer side, in pixels, to which larger frames are reduced.
        step: octaves from one of the finer scales to the next.
    """
    height, width = grey.shape

    def at(longer: float, finer: Scale | None = None) -> Scale:
        ratio = longer / max(height, width)
        size = max(1, round(width * ratio)), max(1, round(height * ratio))
        # The half of a finer scale is nearly the same, and a fraction of the work.
        is_half = finer is not None and all(
            abs(one - 2 * other) <= 1 for one, other in zip(finer[0].shape, reversed(size), strict=True)
        )
        source, (across, down) = finer if finer is not None and is_half else (grey, (1.0, 1.0))
        pixels, ratios = resize(source, *size)
        return pixels, (across * ratios[0], down * ratios[1])

    longest = max(height, width)
    coarse: list[Scale] = []
    fine: list[Scale] = []
    # the first two scales lie one below or beside the other
    below = min(CANVAS_WIDTH / width, (CANVAS_HEIGHT - 4 * BORDER) / 1.5 / height)
    beside = min(CANVAS_HEIGHT / height, (CANVAS_WIDTH - 4 * BORDER) / 1.5 / width)
    longer = longest * min(1.0, max(below, beside))
    while True:
        coarse.append(at(longer, coarse[-1] if coarse else None))
        if longer / 2 < SMALLEST:
            break
        longer /= 2
    octaves, first = step, max(coarse[0][0].shape)
    most = 2 * first if longest <= SMALL else min(finest, longest * 2 ** (step / 2))
    while first * 2**octaves <= most:
        longer = first * 2**octaves
        fine.append(at(longer if longest <= SMALL else min(longer, longest)))
        octaves += step
    return coarse, fine


def cut_tiles(pixels: NDArray[np.uint8], scale: tuple[float, float]) -> list[Picture]:
    """A scale, cut into tiles that a canvas holds."""
    height, width = pixels.shape
    spans = _spans(width, TILE_WIDTH), _spans(height, TILE_HEIGHT)
    half = SHARED // 2
    return [
        Picture(
            pixels[top:bottom, left:right],
            scale,
            (left, top),
            (
                half * (left > 0),
                half * (top > 0),
                half * (right < width),
                half * (bottom < height),
            ),
        )
        for top, bottom in spans[1]
        for left, right in spans[0]
    ]


def _spans(side: int, tile: int) -> list[tuple[int, int]]:
    """Where tiles along a side begin and end."""
    if side <= tile:
        return [(0, side)]
    count = -(-(side - SHARED) // (tile - SHARED))
    starts = [round(number * (side - tile) / (count - 1)) for number in range(count)]
    return [(start, start + tile) for start in starts]


class _Packing:
    """Places pictures on canvases, each with its border in the smallest free part that holds it.

    What it leaves of that part is cut in two (Jylänki, "A Thousand Ways to Pack the Bin", 2010: guillotine, best area).
    A picture that fills a canvas has no border.
    """

    def __init__(self) -> None:
        """Begin without a canvas."""
        self._free: list[tuple[int, int, int, int, int]] = []  # canvas, left, top, width, height
        self._count = 0

    def add(self, width: int, height: int, may_begin: bool = True) -> tuple[int, int, int] | None:
        """Place a picture of a size: the number of its canvas, and where its first pixel lies there, left and top.

        If no free part holds it, it begins a canvas, or is not placed.
        """
        wide, high = min(width + 2 * BORDER, CANVAS_WIDTH), min(height + 2 * BORDER, CANVAS_HEIGHT)
        fitting = [part for part in self._free if part[3] >= wide and part[4] >= high]
        if fitting:
            part = min(fitting, key=lambda part: part[3] * part[4])
            self._free.remove(part)
        elif may_begin:
            part = self._count, 0, 0, CANVAS_WIDTH, CANVAS_HEIGHT
            self._count += 1
        else:
            return None
        canvas, left, top, free_width, free_height = part
        is_wider = free_width - wide > free_height - high  # what is left to the right is then as high as the part
        self._free.append((canvas, left + wide, top, free_width - wide, free_height if is_wider else high))
        self._free.append((canvas, left, top + high, wide if is_wider else free_width, free_height - high))
        return canvas, left + (wide - width) // 2, top + (high - height) // 2


def pack(pictures: list[Picture]) -> list[Placed]:
    """Place pictures on canvases."""
    packing = _Packing()
    places = (packing.add(*picture.pixels.shape[::-1]) for picture in pictures)
    return [Placed(picture, *place) for picture, place in zip(pictures, places, strict=True) if place]


def fill(coarse: list[Scale]) -> list[Placed]:
    """Place the coarse scales on a canvas, and scales between them where there is room."""
    placed = []
    for index, width, height, place in _plan(tuple(pixels.shape[::-1] for pixels, _ in coarse)):
        pixels, (across, down) = coarse[index]
        pixels, ratios = resize(pixels, width, height)
        placed.append(Placed(Picture(pixels, (across * ratios[0], down * ratios[1])), *place))
    return placed


@functools.lru_cache(maxsize=64)  # the frames of a camera have one size
def _plan(sizes: tuple[tuple[int, int], ...]) -> list[tuple[int, int, int, tuple[int, int, int]]]:
    """Plan `fill` for the sizes of scales: of each picture the scale that it is made of, its size and its place."""
    packing = _Packing()
    plan = [(index, *size, packing.add(*size)) for index, size in enumerate(sizes)]
    for octaves in BETWEEN:
        for index, size in enumerate(sizes):
            width, height = (max(1, round(side * 2**-octaves)) for side in size)
            if max(width, height) >= 2 * SMALLEST:  # what fills a smaller one is found on the coarsest scale
                plan.append((index, width, height, packing.add(width, height, may_begin=False)))
    return [(index, width, height, place) for index, width, height, place in plan if place]


def paint(placed: list[Placed]) -> NDArray[np.uint8]:
    """The canvases with the pictures on them, uint8 (N, CANVAS_HEIGHT, CANVAS_WIDTH)."""
    import cv2

    canvases = np.full((max(one.canvas for one in placed) + 1, CANVAS_HEIGHT, CANVAS_WIDTH), BEYOND, np.uint8)
    for one in placed:
        height, width = one.picture.pixels.shape
        above, left = min(BORDER, one.top), min(BORDER, one.left)
        below, right = min(BORDER, CANVAS_HEIGHT - one.top - height), min(BORDER, CANVAS_WIDTH - one.left - width)
        canvases[one.canvas, one.top - above : one.top + height + below, one.left - left : one.left + width + right] = (
            cv2.copyMakeBorder(one.picture.pixels, above, below, left, right, cv2.BORDER_REPLICATE)
        )
    return canvases
