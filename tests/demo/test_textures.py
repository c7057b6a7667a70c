"""Frames that are made of nothing but ink: reading one takes no more time and memory than another."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

cv2 = pytest.importorskip("cv2")

from edge_mnist.demo.reading import reader  # noqa: E402
from edge_mnist.demo.reading.digit_images import DigitImage  # noqa: E402


def checkerboard(height: int, width: int, side: int) -> NDArray[np.uint8]:
    """One component, as its squares touch at their corners, with about as many holes as squares."""
    rows, columns = np.indices((height, width)) // side
    return np.asarray((rows + columns) % 2 * 255, np.uint8)


def zigzags(height: int, width: int) -> NDArray[np.uint8]:
    """Lines of about 330 strokes each: each may be cut everywhere."""
    frame = np.full((height, width), 230, np.uint8)
    for top in range(6, height - 16, 28):
        turns = [(x, top + 16 * (number % 2)) for number, x in enumerate(range(10, width - 10, 6))]
        cv2.polylines(frame, [np.array(turns, np.int32)], False, 30, 3)
    return frame


def chevrons(side: int) -> NDArray[np.uint8]:
    """Some hundred components, each with a box of the frame's size."""
    frame = np.full((side, side), 230, np.uint8)
    for top in range(-side, 2 * side, 6):
        cv2.polylines(frame, [np.array([(5, top), (side // 2, top + side // 2), (side - 5, top)])], False, 30, 1)
    return frame


TEXTURES: dict[str, Callable[[], NDArray[np.uint8]]] = {
    "checkerboard": lambda: checkerboard(480, 640, 1),
    "larger checkerboard": lambda: checkerboard(720, 960, 1),
    "checkerboard of larger squares": lambda: checkerboard(2000, 2000, 4),
    "zigzags": lambda: zigzags(1000, 2000),
    "chevrons": lambda: chevrons(1600),
    "noise": lambda: np.random.RandomState(0).choice(np.array([0, 230], np.uint8), (1500, 2000)),
}


@pytest.mark.parametrize("name", TEXTURES)
def test_a_texture_takes_no_longer_than_seconds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    classify = reader.Reader._classify

    def count(self: reader.Reader, cuts: list[DigitImage]) -> NDArray[np.float64]:
        found.append(len(cuts))
        return classify(self, cuts)

    monkeypatch.setattr(reader.Reader, "_classify", count)
    machine, frame = reader.Reader(), TEXTURES[name]()
    start = time.process_time()
    machine.read(frame)
    assert time.process_time() - start < 4
    assert max(found) <= machine.parameters.most
