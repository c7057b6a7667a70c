"""Cuts crops from canvases on which pictures lie as the reader places them.

A digit near the edge of a picture, a picture that is small, and the scales beside each other look there as they will
look to the finder at work.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_mnist.data import canvases
from edge_mnist.data.canvases import Placed
from edge_mnist.data.finder_map import CANVAS_HEIGHT, CANVAS_WIDTH, FOUND
from edge_mnist.training.finder.network import IGNORED
from edge_mnist.training.finder.pages import MAY_BE_FOUND, Picture

STEPS = (0.5, 1.0)
"""Octaves from one finer scale to the next, in photographs and in the frames of a camera."""
FINEST = 1408
"""The longer side of the finest scale, in pixels."""
CLOSER = 0.4
"""The part of the crops that is cut from a closer look, a tile of a finer scale, where a picture has any."""
AIMED = 0.8
"""The part of the crops that lies around a digit of a size to be found."""
VISIBLE = 0.75
"""The part of a digit that a tile must show for the digit to be asked for; of the others, some may be found."""
PART = 0.1
"""What shows less than this part of a digit is no digit."""


def cut(random: np.random.RandomState, picture: Picture, side: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A square crop of one of the canvases with which the reader looks at a picture.

    Returns:
        uint8 (side, side), and float32 (N, 5): label, left, top, right, bottom of the digits that reach into it.
    """
    coarse, fine = canvases.make_scales(picture.frame, FINEST, STEPS[random.randint(len(STEPS))])
    if fine and random.rand() < CLOSER:
        tiles = canvases.cut_tiles(*fine[random.randint(len(fine))])
        placed = canvases.pack([tiles[random.randint(len(tiles))]])
    else:
        placed = canvases.fill(coarse)
    rows = [_place_boxes(picture, one) for one in placed]
    table = np.concatenate(rows)
    extent = (table[:, 3:] - table[:, 1:3]).max(1, initial=0)
    aims = np.flatnonzero((table[:, 0] != MAY_BE_FOUND) & (extent >= FOUND[0]) & (extent <= FOUND[1]))
    room = np.array([CANVAS_WIDTH, CANVAS_HEIGHT]) - side
    corner = random.uniform(0, 1, 2) * room
    if len(aims) and random.rand() < AIMED:
        box = table[aims[random.randint(len(aims))], 1:]
        corner = (box[:2] + box[2:]) / 2 - side / 2 + random.uniform(-0.45, 0.45, 2) * side
    else:  # somewhere on a picture: little is to be learned from an empty part of a canvas
        one = placed[random.randint(len(placed))]
        size = np.array(one.picture.pixels.shape[::-1])
        corner = (one.left, one.top) + random.uniform(0, 1, 2) * size - side / 2
    left, top = np.clip(np.rint(corner), 0, room).astype(int)
    crop = canvases.paint(placed)[0, top : top + side, left : left + side]
    table[:, 1:] -= np.array([left, top, left, top], np.float32)
    near = ((table[:, 3:] > -8) & (table[:, 1:3] < side + 8)).all(1) & (extent >= IGNORED[0])
    return np.ascontiguousarray(crop), table[near]


def _place_boxes(picture: Picture, placed: Placed) -> NDArray[np.float32]:
    """The labels and boxes, float32 (N, 5), of the digits of a picture where it is placed on a canvas."""
    height, width = placed.picture.pixels.shape
    boxes = picture.boxes * np.array(placed.picture.scale * 2, np.float32) - np.array(placed.picture.corner * 2)
    inside = np.clip(boxes, 0, (width, height, width, height))
    areas, shown = ((some[:, 2:] - some[:, :2]).clip(min=0).prod(1) for some in (boxes, inside))
    visible = np.divide(shown, areas, out=np.zeros_like(areas), where=areas > 0)
    labels = np.where(visible > VISIBLE, picture.labels, MAY_BE_FOUND)
    shift = np.array([placed.left, placed.top] * 2)
    rows: NDArray[np.float32] = np.concatenate([labels[:, None], inside + shift], 1).astype(np.float32)
    is_there: NDArray[np.bool_] = visible > PART
    return rows[is_there]
