"""Draws the pictures of docs/reading.md: `python -m benchmarks.reading_pictures docs`.

reading.jpg: the stages of reading; desk.jpg: the frame that they begin with, of drawn digits, so that it needs no MNIST
and its truth is known; misread.jpg: scenes to judge by, of MNIST's digits, that the reader misreads.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.evidence import save_picture
from benchmarks.reading import scenes as scenes_to_judge_by
from edge_mnist.data import strokes
from edge_mnist.demo.reading import ink, view
from edge_mnist.demo.reading import sheet as paper
from edge_mnist.demo.reading.reader import Reader
from edge_mnist.demo.sources import scenes
from edge_mnist.demo.views import drawing

SEED = 1
QUALITY = 85
WIDTH = 500


def desk() -> scenes.Scene:
    """The desk, and what is written there."""
    return scenes.render(np.random.RandomState(SEED), strokes.draw(400, 3), scenes.STYLES["desk"])


def main(folder: str) -> None:
    """Render the desk, read it as it is saved, and put the stages side by side.

    Raises:
        SystemExit: it is not read as it is written.
    """
    scene = desk()
    written = io.BytesIO()
    _to_image(scene.frame).save(written, "JPEG", quality=QUALITY)
    frame = np.asarray(cv2.imdecode(np.frombuffer(written.getvalue(), np.uint8), cv2.IMREAD_COLOR), np.uint8)
    reading = Reader().read(frame)
    if reading.lines != scene.lines:
        raise SystemExit(f"written: {' '.join(scene.lines)}, read: {' '.join(reading.lines)}: choose another seed")
    seen = view.view(frame)
    found = ink.find(seen.grey)
    sheet = paper.sheet(seen.grey)
    mask = found.mask if sheet is None else cv2.min(found.mask, paper.within(sheet, seen.grey.shape))
    outlined = frame.copy()
    if sheet is not None:
        cv2.polylines(outlined, [np.rint(sheet).astype(np.int32)], True, (0, 200, 255), 3)
    stages = [
        ("1  written: " + "  ".join(scene.lines), outlined),
        ("2  how much darker than the paper", cv2.cvtColor(found.strength, cv2.COLOR_GRAY2BGR)),
        ("3  ink, on the sheet", cv2.cvtColor(mask, cv2.COLOR_GRAY2BGR)),
        ("4  read: " + "  ".join(reading.lines), drawing.draw_digits(frame, reading.digits, reading.unsure)),
    ]
    tiles = [_tile(title, picture) for title, picture in stages]
    sheet_of_stages = np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:]), _crops([d.image for d in reading.digits])])
    save_picture(_to_image(sheet_of_stages), Path(folder) / "reading.jpg", quality=88)
    save_picture(_to_image(scene.frame), Path(folder) / "desk.jpg", quality=QUALITY)
    save_picture(_to_image(_misread()), Path(folder) / "misread.jpg", quality=QUALITY)
    print("written and read:", " ".join(scene.lines))


def _to_image(frame: NDArray[np.uint8]) -> Image.Image:
    """A picture of OpenCV, whose channels are blue, green, red, as one of Pillow."""
    return Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


def _misread() -> NDArray[np.uint8]:
    """The first scene of each condition that is not read as it is written, with what was read instead."""
    tiles: dict[str, NDArray[np.uint8]] = {}
    for condition, scene in scenes_to_judge_by("held-out", 8, None):
        reading = Reader().read(scene.frame)
        if condition not in tiles and reading.lines != scene.lines:
            picture = drawing.draw_digits(scene.frame, reading.digits, reading.unsure)
            tiles[condition] = _tile(f"{condition}: {' '.join(scene.lines)}"[:48], picture)
    rows = [list(tiles.values())[first : first + 3] for first in range(0, len(tiles), 3)]
    height = max(tile.shape[0] for tile in tiles.values())
    blank = np.full((height, WIDTH + 12, 3), 255, np.uint8)
    padded = [[_below(tile, height) for tile in row] + [blank] * (3 - len(row)) for row in rows]
    return np.vstack([np.hstack(row) for row in padded])


def _below(tile: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    """A tile with white below it."""
    return np.asarray(
        cv2.copyMakeBorder(tile, 0, height - tile.shape[0], 0, 0, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    )


def _tile(title: str, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture below its title."""
    height = round(picture.shape[0] * WIDTH / picture.shape[1])
    small = cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA)
    framed = cv2.copyMakeBorder(small, 34, 6, 6, 6, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    cv2.putText(framed, title, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (40, 40, 40), 1, cv2.LINE_AA)
    return np.asarray(framed)


def _crops(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """What the network was given, side by side."""
    row = np.full((104, 2 * (WIDTH + 12), 3), 255, np.uint8)
    title = "5  what the network sees: 28x28, as MNIST's makers cut them"
    cv2.putText(row, title, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (40, 40, 40), 1, cv2.LINE_AA)
    for place, image in enumerate(images[: row.shape[1] // 60 - 1]):
        large = cv2.resize(image, (56, 56), interpolation=cv2.INTER_NEAREST)
        row[38:94, 8 + 60 * place : 64 + 60 * place] = large[..., None]
    return row


if __name__ == "__main__":
    main(*sys.argv[1:])
