"""Finds the digits in a frame with a small network that looks at it at several scales, see `canvases`."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist.data import canvases, finder_map
from edge_mnist.data.canvases import Picture, Placed, Scale
from edge_mnist.data.finder_map import CANVAS_HEIGHT, CANVAS_WIDTH, FOUND, PLACE, VALUES
from edge_mnist.runtime import Classifier


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in a frame, the most confident first.

    Attributes:
        boxes: float32 (N, 4), left, top, right, bottom of each digit in pixels of the frame.
        confidence: float32 (N,), 0 to 1, that a digit is there.
        logits: float32 (N, 10), which digit the network takes it for.
    """

    boxes: NDArray[np.float32]
    confidence: NDArray[np.float32]
    logits: NDArray[np.float32]

    def __len__(self) -> int:
        """How many were found."""
        return len(self.boxes)

    def take(self, index: NDArray[np.generic] | slice) -> Found:
        """Select some of them by index or mask."""
        return Found(self.boxes[index], self.confidence[index], self.logits[index])


@dataclass(frozen=True, eq=False)
class _Before:
    """What was found in the frame before, as rows of `Finder._look`.

    Attributes:
        shape: of the frame.
        coarse: on the coarse scales, in that frame or the one before it.
        fine: by closer looks, likewise.
        is_coarse: whether the coarse scales were looked at last.
    """

    shape: tuple[int, ...]
    coarse: NDArray[np.float32]
    fine: NDArray[np.float32]
    is_coarse: bool


_NOTHING = np.zeros((0, 5 + 10), np.float32)


class Finder:
    """Finds digits in frames with a network, at several scales."""

    def __init__(self, network: Classifier, *, least: float, finest: int, looks: int, step: float) -> None:
        """Take a network whose input is a canvas and whose output is a map, see `finder_map`.

        Args:
            network: the opened artifact.
            least: the confidence, 0 to 1, below which nothing is given.
            finest: the longer side, in pixels, to which larger frames are reduced.
            looks: the most tiles of the finer scales that are looked at in one frame; where there are more, those on
                which the coarse scales show the most small digits are chosen.
            step: octaves from one of the scales that are cut into tiles to the next.
        """
        self.network = network
        self.least = least
        self.finest = finest
        self.looks = looks
        self.step = step
        self._before: _Before | None = None

    def find(self, grey: NDArray[np.uint8]) -> Found:
        """Find the digits in a frame, uint8 (H, W) grey."""
        coarse, fine = canvases.make_scales(grey, self.finest, self.step)
        rows = self._look(canvases.fill(coarse))
        return _combine(rows, self._look(canvases.pack(self._choose_tiles(fine, rows))))

    def follow(self, grey: NDArray[np.uint8]) -> Found:
        """Find the digits in the next frame, uint8 (H, W) grey, of a film.

        The coarse scales and the closer looks take turns, so that a frame costs one run of the network if `looks` is 1.
        What the others found in the frame before still counts, since digits hardly move from one frame to the next.
        """
        before = self._before
        if before is None or before.shape != grey.shape:
            before = _Before(grey.shape, _NOTHING, _NOTHING, False)
        coarse, fine = canvases.make_scales(grey, self.finest, self.step)
        is_turn = before.is_coarse and _has_small(before.coarse, fine)
        tiles = self._choose_tiles(fine, before.coarse) if is_turn else []
        if tiles:
            before = _Before(grey.shape, before.coarse, self._look(canvases.pack(tiles)), False)
        else:
            rows = self._look(canvases.fill(coarse))
            before = _Before(grey.shape, rows, _NOTHING if before.is_coarse else before.fine, True)
        self._before = before
        return _combine(before.coarse, before.fine)

    def forget(self) -> None:
        """Forget the frame before: the next one is of another film."""
        self._before = None

    def _choose_tiles(self, fine: list[Scale], rows: NDArray[np.float32]) -> list[Picture]:
        """The tiles to look at, after the coarse scales showed `rows`."""
        tiles = [tile for scale in fine for tile in canvases.cut_tiles(*scale)]
        return tiles if len(tiles) <= self.looks else _worth_a_look(tiles, rows, self.looks)

    def _look(self, placed: list[Placed]) -> NDArray[np.float32]:
        """What is found on pictures: float32 (N, 15), the box in the frame, the confidence, ten logits."""
        if not placed:
            return _NOTHING
        lowest = float(np.log(self.least / (1 - self.least)))
        found = [_NOTHING]
        for number, canvas in enumerate(canvases.paint(placed)):
            outputs = self.network.outputs(finder_map.split_places(canvas[None]))
            outputs = outputs.reshape(VALUES, CANVAS_HEIGHT // PLACE, CANVAS_WIDTH // PLACE)
            heat = self.network.dequantize(outputs[0])
            is_peak = (heat >= lowest) & (heat >= cv2.dilate(heat, np.ones((3, 3), np.uint8)))
            down, across = np.unravel_index(np.flatnonzero(is_peak), heat.shape)
            values = self.network.dequantize(outputs[:, down, across])
            boxes = finder_map.decode(values, down, across)
            confidence = 1 / (1 + np.exp(-values[0]))
            table = np.concatenate([boxes, confidence[:, None], values[5:].T], 1).astype(np.float32)
            found.append(_take_inside([one for one in placed if one.canvas == number], table))
        return np.concatenate(found)


def _take_inside(placed: list[Placed], table: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows whose middle lies on one of the pictures, picture by picture, with boxes in pixels of the frame."""
    low, high, shifts, scales = [], [], [], []
    for one in placed:
        height, width = one.picture.pixels.shape
        left, top, right, bottom = one.picture.edges
        low.append((one.left + left, one.top + top))
        high.append((one.left + width - right, one.top + height - bottom))
        shifts.append((one.picture.corner[0] - one.left, one.picture.corner[1] - one.top) * 2)
        scales.append(one.picture.scale * 2)
    middle = (table[:, :2] + table[:, 2:4]) / np.float32(2)
    picture, row = np.nonzero(((middle >= np.array(low)[:, None]) & (middle < np.array(high)[:, None])).all(2))
    rows = table[row]
    rows[:, :4] = (rows[:, :4] + np.array(shifts, np.float32)[picture]) / np.array(scales, np.float32)[picture]
    return rows


def _has_small(rows: NDArray[np.float32], fine: list[Scale]) -> bool:
    """Whether any digit that the coarse scales showed has a size that is also found on a finer one."""
    sizes = (rows[:, 2:4] - rows[:, :2]).max(1, initial=0)
    return bool(fine) and bool((sizes * fine[0][1][0] < FOUND[1]).any())


def _worth_a_look(tiles: list[Picture], rows: NDArray[np.float32], most: int) -> list[Picture]:
    """The tiles on which the coarse scales show the most that would have a good size there."""
    if not most:
        return []
    middle = (rows[:, :2] + rows[:, 2:4]) / 2
    size = (rows[:, 2:4] - rows[:, :2]).max(1, initial=0)
    scale = np.array([tile.scale for tile in tiles])[:, None]  # (T, 1, 2)
    low = np.array([tile.corner for tile in tiles])[:, None] / scale
    high = low + np.array([tile.pixels.shape[::-1] for tile in tiles])[:, None] / scale
    there = ((middle >= low) & (middle < high)).all(2) & (size * scale[..., 0] < FOUND[1])  # (T, N)
    promise = [float(rows[one, 4].sum()) for one in there]
    order = np.argsort(-np.array(promise), kind="stable")[:most]
    return [tiles[index] for index in sorted(order) if promise[index] > 0]


OVERLAP = 0.4
"""Of two boxes that share this part of their union, the more confident one stays."""
INSIDE = 0.7
"""So it does where they share this part of the smaller one."""


def _combine(coarse: NDArray[np.float32], fine: NDArray[np.float32]) -> Found:
    """What was found on all scales, each digit once."""
    rows = np.concatenate([coarse, fine])
    kept = _doubt_overlapping(rows[_suppress(rows)])
    return Found(kept[:, :4], kept[:, 4], kept[:, 5:])


def _doubt_overlapping(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows, the most confident first, with less confidence where more confident boxes share a part of a box.

    By the part of their union that they share (Bodla et al., "Soft-NMS", ICCV 2017, linear). The order may change.
    """
    table = table.copy()
    boxes = table[:, :4]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for some in _split(len(table)):
        shared = _measure_shared(boxes[some], boxes)
        alike = np.tril(shared / (areas[some, None] + areas - shared), some.start - 1)
        table[some, 4] *= (1 - alike).prod(1)
    table[:, 4] = table[:, 4].round(4)  # the last bits differ between processors, and may not decide about the order
    return table[np.argsort(-table[:, 4], kind="stable")]


def find_parts(found: Found, inks: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which (N,) are but a part of a digit: the middle of their ink lies in the box of a more confident one.

    Args:
        found: the most confident first.
        inks: float32 (N, 4), the boxes of the ink of each.
    """
    middle = (inks[:, None, :2] + inks[:, None, 2:]) / 2
    is_inside = ((middle > found.boxes[:, :2]) & (middle < found.boxes[:, 2:])).all(2)  # (N, N): ink, box
    return np.asarray(np.tril(is_inside, -1).any(1))


def _suppress(table: NDArray[np.float32]) -> list[int]:
    """The rows that stay where several boxes show one digit, the most confident first."""
    order = np.argsort(-table[:, 4], kind="stable")
    boxes = table[order, :4]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    stays = [True] * len(order)
    for some in _split(len(order)):
        shared = _measure_shared(boxes[some], boxes)
        area = areas[some, None]
        same = (shared > OVERLAP * (area + areas - shared)) | (shared > INSIDE * np.minimum(area, areas))
        for one, other in np.argwhere(same).tolist():
            if some.start + one < other and stays[some.start + one]:
                stays[other] = False
    return [index for index, stay in zip(order.tolist(), stays, strict=True) if stay]


def _split(count: int) -> list[slice]:
    """Parts of some rows: comparing a part with all rows takes a bounded amount of memory."""
    step = max(1, 2**18 // max(count, 1))
    return [slice(start, start + step) for start in range(0, count, step)]


def _measure_shared(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """The area (R, N) that boxes (R, 4) share with others (N, 4)."""
    left, top = (np.maximum(boxes[:, None, axis], others[:, axis]) for axis in (0, 1))
    right, bottom = (np.minimum(boxes[:, None, axis], others[:, axis]) for axis in (2, 3))
    shared: NDArray[np.float32] = np.maximum(right - left, 0) * np.maximum(bottom - top, 0)
    return shared
