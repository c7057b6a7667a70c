"""What the finder takes and gives: a canvas of grey pixels, and a map that says where the digits on it are.

The map has a place for every 4 by 4 pixels of the canvas, and for each place 15 values: how likely the middle of a
digit is there (a logit), where the digit's box lies, and which digit it is (ten logits).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CANVAS_WIDTH, CANVAS_HEIGHT = 320, 384
"""The size of the canvas, in pixels. A half, a quarter, an eighth ... of a frame of 640 by 480 fill it."""
BORDER = 4
"""Pixels by which the edges of each picture on the canvas are repeated around it."""
BEYOND = 128
"""The grey of the canvas where there is no picture."""
PLACE = 4
"""Pixels along each side of a place."""
VALUES = 15
"""The number of values of each place."""
MEAN, STD = 0.5, 0.25
"""What is subtracted from a pixel, 0 to 1, and what the difference is divided by, before it enters the network."""
SIZE = 14.0
"""The width or height of a box, in pixels, that the network gives as 0."""
BOX_GAIN = 4.0
"""The offset of a box's middle, in places, is multiplied by this, so that int8 holds it finely enough."""
SIZE_GAIN = 2.0
"""The logarithm of a size is multiplied by this, for the same reason."""
FOUND = (7.0, 28.0)
"""The longer side, in pixels of the canvas, of the digits that the network has learned to find."""
SMALLEST = 12
"""A picture is halved as long as its longer side stays at least this long, in pixels: a digit that fills the picture is
found at the coarsest scale."""


def split_places(canvases: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The pixels of each place as channels, row by row.

    Args:
        canvases: uint8 (N, H, W); H and W are multiples of `PLACE`.

    Returns:
        uint8 (N, PLACE * PLACE, H / PLACE, W / PLACE). The channels lie last in memory, as TFLite takes them.
    """
    count, height, width = canvases.shape
    words = np.ascontiguousarray(canvases).view(np.uint32)  # `PLACE` pixels, the bytes of a word, are moved together
    rows = words.reshape(count, height // PLACE, PLACE, width // PLACE)
    places = np.stack([rows[:, :, row] for row in range(PLACE)], -1).view(np.uint8)  # (N, H / PLACE, W / PLACE, 16)
    return places.transpose(0, 3, 1, 2)


def decode(values: NDArray[np.float32], down: NDArray[Any], across: NDArray[Any]) -> NDArray[np.float32]:
    """The boxes that some places of a map give.

    Args:
        values: float32 (VALUES, N), the values of these places.
        down: int (N,), the rows of the places.
        across: int (N,), their columns.

    Returns:
        float32 (N, 4): left, top, right, bottom, in pixels of the canvas.
    """
    place = np.stack([across, down]).astype(np.float32) + np.float32(0.5)
    middle = (place + values[1:3] / np.float32(BOX_GAIN)) * PLACE
    half = np.exp(np.clip(values[3:5] / np.float32(SIZE_GAIN), -4, 4)) * np.float32(SIZE / 2)
    boxes: NDArray[np.float32] = np.concatenate([middle - half, middle + half]).T
    return boxes
