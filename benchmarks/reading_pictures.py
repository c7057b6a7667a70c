"""Draws the pictures of docs/reading.md: `python -m benchmarks.reading_pictures docs`.

reading.jpg: the stages of reading; desk.jpg: the frame that they begin with, of drawn digits, so that it needs no MNIST
and its truth is known; misread.jpg: scenes to judge by, of MNIST's digits, that the reader misreads.
"""

from __future__ import annotations

import io
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import run_command
from benchmarks.evidence import save_picture
from benchmarks.reading import scenes as scenes_to_judge_by
from edge_mnist.data import strokes
from edge_mnist.demo.reading.finder import Found
from edge_mnist.demo.reading.reader import Reader, Reading, in_order
from edge_mnist.demo.sources import scenes
from edge_mnist.demo.views import drawing

SEED = 1
QUALITY = 85
WIDTH = 500
_BLUE = (190, 90, 0)


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
    reader = Reader()
    reading = reader.read(frame)
    if reading.lines != scene.lines:
        raise SystemExit(f"written: {' '.join(scene.lines)}, read: {' '.join(reading.lines)}: choose another seed")
    found = reader.finder.find(np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8))
    stages = [
        ("1  written: " + "  ".join(scene.lines), frame),
        ("2  what the finder found, in percent", draw_found(frame, found)),
        ("4  lines, from left to right, and numbers", draw_numbers(frame, reading)),
        ("5  read: " + "  ".join(reading.lines), drawing.draw_digits(frame, reading.digits, reading.unsure)),
    ]
    tiles = [_tile(title, picture) for title, picture in stages]
    crops = _crops([digit.image for digit in reading.digits])
    save_picture(
        _to_image(np.vstack([np.hstack(tiles[:2]), crops, np.hstack(tiles[2:])])),
        Path(folder) / "reading.jpg",
        quality=88,
    )
    save_picture(_to_image(scene.frame), Path(folder) / "desk.jpg", quality=QUALITY)
    save_picture(_to_image(_misread(reader)), Path(folder) / "misread.jpg", quality=QUALITY)
    print("written and read:", " ".join(scene.lines))


def draw_found(frame: NDArray[np.uint8], found: Found) -> NDArray[np.uint8]:
    """Draw each box that the finder found and its confidence in percent; a doubtful one is orange."""
    picture = frame.copy()
    for box, confidence in zip(np.rint(found.boxes).astype(int), found.confidence, strict=True):
        colour = drawing.GREEN if confidence >= 0.5 else drawing.ORANGE
        left, top, right, bottom = box.tolist()
        cv2.rectangle(picture, (left, top), (right, bottom), colour, 1)
        place = left, top - 3 if top > 12 else bottom + 12
        cv2.putText(picture, f"{confidence:.0%}"[:-1], place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)
    return picture


def draw_numbers(frame: NDArray[np.uint8], reading: Reading) -> NDArray[np.uint8]:
    """Draw a line through the digits of each line, and a box around each number."""
    picture = frame.copy()
    middles: dict[int, list[tuple[int, int]]] = {}
    for digit in in_order([*reading.digits, *reading.unsure]):
        x, y, width, height = digit.box
        middles.setdefault(digit.line, []).append((x + width // 2, y + height // 2))
    for places in middles.values():
        for start, end in pairwise(places):
            cv2.arrowedLine(picture, start, end, _BLUE, 1, cv2.LINE_AA, tipLength=0.3)
    for number in reading.numbers:
        x, y, width, height = number.box
        cv2.rectangle(picture, (x - 4, y - 4), (x + width + 3, y + height + 3), drawing.GREEN, 2)
    return picture


def _to_image(frame: NDArray[np.uint8]) -> Image.Image:
    """A picture of OpenCV, whose channels are blue, green, red, as one of Pillow."""
    return Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


def _misread(reader: Reader) -> NDArray[np.uint8]:
    """The first scene of each condition that is not read as it is written, with what was read instead."""
    tiles: dict[str, NDArray[np.uint8]] = {}
    for condition, scene in scenes_to_judge_by("held-out", 8, None):
        if condition in tiles:
            continue
        reading = reader.read(scene.frame)
        if reading.lines != scene.lines:
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
    title = "3  what DigitNet is given: 28x28, as MNIST's makers cut them"
    cv2.putText(row, title, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (40, 40, 40), 1, cv2.LINE_AA)
    for place, image in enumerate(images[: row.shape[1] // 60 - 1]):
        large = cv2.resize(image, (56, 56), interpolation=cv2.INTER_NEAREST)
        row[38:94, 8 + 60 * place : 64 + 60 * place] = large[..., None]
    return row


if __name__ == "__main__":
    run_command(lambda: main(*sys.argv[1:]))
