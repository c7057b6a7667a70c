"""Frames that are made of nothing but ink: reading one takes no more time and memory than another."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

cv2 = pytest.importorskip("cv2")

from edge_mnist.demo.reading import pieces, reader, segmentation  # noqa: E402
from edge_mnist.demo.reading.pieces import Piece  # noqa: E402


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
    """Each took 5 seconds to minutes when nothing was limited; now half a second to two."""
    found: list[int] = []
    forward = reader.Reader._chances

    def counted(self: reader.Reader, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        found.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(reader.Reader, "_chances", counted)
    machine, frame = reader.Reader(), TEXTURES[name]()
    start = time.process_time()
    machine.read(frame)
    assert time.process_time() - start < 4
    assert max(found) <= reader.MOST_CANDIDATES


def test_labels_and_outlines_find_the_same_components() -> None:
    random = np.random.RandomState(4)

    def facts(found: list[Piece]) -> set[tuple[int, int, int, bytes]]:
        return {(piece.x, piece.y, piece.area, piece.mask.tobytes()) for piece in found}

    for share in (0.1, 0.3, 0.45, 0.6, 0.8):
        mask = np.where(random.random_sample((50, 70)) < share, 255, 0).astype(np.uint8)
        labelled, outlined = list(pieces._labelled(mask, 5_000)), list(pieces._outlined(mask, 1, 5_000))
        assert facts(labelled) == facts(outlined) and len(labelled) == len(outlined)
        assert sum(piece.area for piece in labelled) == cv2.countNonZero(mask)


def test_boxes_that_overlap_are_limited() -> None:
    mask = cv2.compare(chevrons(400), 100, cv2.CMP_LT)
    assert len(list(pieces._outlined(mask, 1, 300))) > 60
    found = pieces.components(mask, 1, 300)
    assert sum(piece.mask.size for piece in found) <= pieces.MOST_OVERLAP * mask.size


@pytest.mark.parametrize("shear", [-0.7, 0.0, 0.3])
def test_a_piece_is_cut_without_loss(shear: float) -> None:
    mask = np.where(np.random.RandomState(2).random_sample((31, 90)) < 0.5, 255, 0).astype(np.uint8)
    piece = pieces.trimmed(7, 9, mask)
    assert piece is not None
    parts = segmentation.cut(piece, [11.5, 30.0, 31.0, 77.2], shear)
    assert len(parts) == 5
    joined = pieces.join(parts)
    assert joined.area == piece.area and np.array_equal(joined.mask, piece.mask) and (joined.x, joined.y) == (7, 9)
