"""Draws what a camera sees: sheets of paper with handwritten numbers, in all conditions, and what is written there.

For tests and benchmarks, whose truth is then known, and for showing the demo where there is no camera. Seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist.data import strokes
from edge_mnist.data.mnist import Digits
from edge_mnist.data.strokes import LETTERS
from edge_mnist.demo.sources import surroundings
from edge_mnist.demo.sources.surroundings import light, shadow

_Floats = NDArray[np.float32]
_Random = np.random.RandomState

SHEET_SECONDS = 4.0
"""How long the sample shows a sheet."""
SWING = 30 / 23
"""Radians a second of the sample's unrest."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A frame and its truth.

    Attributes:
        frame: uint8 (H, W, 3) BGR.
        lines: the digits of each line that is written, from the top down.
        digits: each digit's label and corners, float32 (4, 2) x and y, in pixels.
    """

    frame: NDArray[np.uint8]
    lines: tuple[str, ...]
    digits: tuple[tuple[int, NDArray[np.float32]], ...] = field(repr=False)


@dataclass(frozen=True)
class Style:
    """How a sheet is written, and seen.

    Attributes:
        height: of the digits, least and most, in pixels.
        lines: how many, least and most.
        gap: between digits, least and most, as a part of their height; below 0 they touch.
        pen: the stroke's thickness, least and most, as a multiple of that of MNIST's digits of the same height.
        ink: how dark the ink is, least and most, 0 to 1; negative for white ink of that strength, such as chalk.
        letters: words beside and between the numbers.
        ground: draws the paper, float32 (H, W, 3) 0 to 1.
        seen: what happens between paper and frame, in this order.
        size: of the sheet, width and height in pixels.
    """

    height: tuple[int, int] = (34, 70)
    lines: tuple[int, int] = (1, 4)
    gap: tuple[float, float] = (0.1, 0.5)
    pen: tuple[float, float] = (0.6, 1.1)
    ink: tuple[float, float] = (0.65, 0.95)
    letters: bool = False
    ground: Callable[[_Random, int, int], _Floats] = surroundings.plain
    seen: tuple[Callable[[_Random, _Floats, _Floats], tuple[_Floats, _Floats]], ...] = ()
    size: tuple[int, int] = (800, 600)


STYLES: dict[str, Style] = {
    "plain": Style(seen=(light,)),
    "faint": Style(ink=(0.22, 0.4), seen=(light,)),
    "thin": Style(pen=(0.25, 0.5), height=(40, 90), seen=(light,)),
    "marker": Style(pen=(1.2, 1.8), height=(70, 160), lines=(1, 2), seen=(light, shadow)),
    "small": Style(height=(14, 22), lines=(2, 6), gap=(0.2, 0.6), size=(640, 480), seen=(light,)),
    "large": Style(height=(260, 600), lines=(1, 1), pen=(0.4, 1.2), size=(1400, 800), seen=(light,)),
    "ruled": Style(ground=surroundings.ruled, seen=(light,)),
    "squared": Style(ground=surroundings.squared, seen=(light,)),
    "printed": Style(
        ground=surroundings.printed, height=(30, 44), lines=(1, 1), gap=(-0.05, 0.25), size=(240, 64), seen=(light,)
    ),
    "touching": Style(gap=(-0.14, 0.03), seen=(light,)),
    "letters": Style(letters=True, seen=(light,)),
    "shadow": Style(seen=(light, shadow, shadow)),
    "blurred": Style(seen=(light, surroundings.blur)),
    "tilted": Style(lines=(1, 3), seen=(surroundings.on_desk_tilted, light)),
    "desk": Style(size=(560, 420), height=(26, 46), seen=(surroundings.on_desk, light, shadow)),
    "webcam": Style(
        pen=(1.0, 1.6), height=(60, 120), lines=(1, 2), size=(640, 480), seen=(light, shadow, surroundings.webcam)
    ),
    "chalk": Style(ground=surroundings.board, ink=(-0.9, -0.5), seen=(light,)),
}  # fmt: skip
"""The conditions."""


def render(random: _Random, digits: Digits, style: Style) -> Scene:
    """A scene with numbers of some digits: their images, uint8 (N, 28, 28), are written as with a pen."""
    width, height = style.size
    ink = np.zeros((height, width), np.float32)
    lines, places = _write(random, digits, style, ink)
    if style.letters:
        _write_words(random, style, ink)
    ground = style.ground(random, width, height)
    # A pen's colour: black, blue, red, pencil; chalk is white.
    colour = np.array(
        [(0.1, 0.1, 0.1), (0.55, 0.2, 0.1), (0.15, 0.12, 0.6), (0.3, 0.3, 0.3)][random.randint(4)], np.float32
    )
    depth = random.uniform(*style.ink)
    if depth < 0:
        colour, depth = np.array((0.95, 0.97, 0.97), np.float32), -depth
    picture = ground * (1 - depth * ink[..., None]) + colour * depth * ink[..., None]
    corners = np.array([corners for _, corners in places], np.float32).reshape(-1, 2)
    for happening in style.seen:
        picture, corners = happening(random, picture, corners)
    frame = surroundings.sensor(random, picture)
    moved = corners.reshape(-1, 4, 2)
    return Scene(frame, tuple(lines), tuple((label, own) for (label, _), own in zip(places, moved, strict=True)))


def _write(
    random: _Random, digits: Digits, style: Style, ink: _Floats
) -> tuple[list[str], list[tuple[int, NDArray[np.float32]]]]:
    """Write numbers into the ink of a sheet, (H, W) 0 to 1; returns the lines, and each digit's label and corners."""
    rows, columns = ink.shape
    size = random.uniform(*style.height)
    pen = random.uniform(*style.pen)
    slant, aspect = random.normal(0.0, 0.12), random.uniform(0.85, 1.2)
    lines: list[str] = []
    places: list[tuple[int, NDArray[np.float32]]] = []
    top = min(random.uniform(0.1, 0.6) * size + 0.04 * rows, max(2.0, 0.5 * (rows - 1.15 * size)))
    for _ in range(random.randint(style.lines[0], style.lines[1] + 1)):
        if top + 1.1 * size > rows:
            break
        left = columns * random.choice([0.04, 0.04, 0.2, 0.4]) + random.uniform(0, 0.5) * size
        slope, text = random.normal(0, 0.012), ""
        for _ in range(random.randint(2, 10)):
            index = random.randint(len(digits.labels))
            own = size * random.uniform(0.88, 1.08)
            image = _pen(digits.images[index], own, pen, slant, aspect)
            y = round(top + (size - image.shape[0]) / 2 + slope * left + random.normal(0, 0.03) * size)
            x = round(left)
            if x + image.shape[1] > 0.95 * columns or y < 1 or y + image.shape[0] >= rows - 1:
                break
            part = ink[y : y + image.shape[0], x : x + image.shape[1]]
            np.maximum(part, image, out=part)
            box = x, y, x + image.shape[1], y + image.shape[0]
            corners = np.array([(box[0], box[1]), (box[2], box[1]), (box[2], box[3]), (box[0], box[3])], np.float32)
            places.append((int(digits.labels[index]), corners))
            text += str(digits.labels[index])
            left = x + image.shape[1] + random.uniform(*style.gap) * size
        if text:
            lines.append(text)
        top += size * random.uniform(1.5, 2.2)
    return lines, places


def _pen(image: NDArray[np.uint8], size: float, pen: float, slant: float = 0.0, aspect: float = 1.0) -> _Floats:
    """A digit's image, uint8 (28, 28), `size` pixels high, as a pen of a thickness writes it: 0 to 1, (h, w)."""
    x, y, width, height = cv2.boundingRect(image)
    scale = size / max(height, 12)
    fine = 6  # so that thinning sees the stroke's shape
    near = cv2.resize(image[y : y + height, x : x + width], None, fx=fine, fy=fine, interpolation=cv2.INTER_CUBIC)
    near = cv2.copyMakeBorder(near, 12, 12, 12, 12, cv2.BORDER_CONSTANT)
    inside = cv2.distanceTransform((near > 127).astype(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((near <= 127).astype(np.uint8), cv2.DIST_L2, 5)
    signed = inside - outside
    thick = float(np.quantile(inside[inside > 0], 0.9)) if (inside > 0).any() else 1.0
    shift = thick * (1 - pen)
    # a thinner pen leaves the ridge, at least: a stroke never breaks
    ridge = inside >= cv2.dilate(inside, np.ones((3, 3), np.uint8)) * 0.98
    line = np.clip((signed - shift) / 2 + 0.5, 0, 1)
    if shift > 0:
        kept = cv2.dilate((ridge & (inside > 0.35 * thick)).astype(np.float32), np.ones((5, 5), np.uint8))
        line = np.maximum(line, kept)
    sheared = np.array([[1, -slant, max(slant, 0) * near.shape[0]], [0, 1, 0]], np.float32)
    wide = round(near.shape[1] + abs(slant) * near.shape[0])
    line = cv2.warpAffine(line.astype(np.float32), sheared, (wide, near.shape[0]))
    target = max(3, round(line.shape[1] * scale * aspect / fine)), max(3, round(line.shape[0] * scale / fine))
    if scale > fine:  # round off the steps
        line = cv2.GaussianBlur(cv2.resize(line, target, interpolation=cv2.INTER_LINEAR), (0, 0), 1.2 * scale / fine)
        line = np.clip((line - 0.5) * 2 * scale / fine + 0.5, 0, 1)
    else:
        line = cv2.resize(line, target, interpolation=cv2.INTER_AREA)
    left, top, width, height = cv2.boundingRect((line > 0.3).astype(np.uint8))
    inked: _Floats = np.clip(line[top : top + height, left : left + width], 0, 1)
    return inked


def _write_words(random: _Random, style: Style, ink: _Floats) -> None:
    """Write words of letters where nothing is written yet."""
    rows, columns = ink.shape
    names = list(LETTERS)
    for _ in range(12):
        size = random.uniform(*style.height) * 0.9
        word = [
            strokes.draw_style(LETTERS[names[random.randint(len(names))]], 1, random)[0]
            for _ in range(random.randint(3, 8))
        ]
        images = [_pen(letter, size, 0.7) for letter in word]
        wide = sum(image.shape[1] + 4 for image in images)
        if wide > columns * 0.9 or size * 2.4 > rows:
            continue
        x, y = random.randint(4, int(columns - wide)), random.randint(4, int(rows - 1.5 * size))
        if ink[max(0, y - int(size)) : y + int(2 * size)].any():
            continue
        for image in images:
            part = ink[y : y + image.shape[0], x : x + image.shape[1]]
            np.maximum(part, image[: part.shape[0], : part.shape[1]], out=part)
            x += image.shape[1] + 4


def sample_frames(seed: int, fps: float = 30.0) -> Iterator[NDArray[np.uint8]]:
    """What a camera over a desk sees, uint8 (480, 640, 3), without end: a sheet that drifts, replaced by another.

    A caller that takes `fps` frames a second sees each sheet for `SHEET_SECONDS`.
    """
    random = np.random.RandomState(seed)
    drawn = strokes.draw(400, seed)
    style = Style(height=(70, 95), lines=(1, 1), gap=(0.15, 0.4), pen=(0.9, 1.3), size=(560, 260), seen=())
    table = surroundings.desk(random, 640, 480)
    while True:
        sheet = render(random, drawn, style).frame
        beats = random.uniform(0, 6, 4)
        for moment in range(max(1, round(SHEET_SECONDS * fps))):
            swing = np.sin(moment * SWING / fps + beats)
            turn = cv2.getRotationMatrix2D((280, 130), 3 * swing[0], 1 + 0.04 * swing[1])
            turn[:, 2] += 40 + 12 * swing[2], 110 + 12 * swing[3]
            seen = cv2.warpAffine(sheet, turn, (640, 480))
            covered = cv2.warpAffine(np.full(sheet.shape[:2], 255, np.uint8), turn, (640, 480))
            frame = np.where(covered[..., None] > 0, seen, (table * 255).astype(np.uint8))
            grain = random.randint(-4, 5, frame.shape, dtype=np.int16)
            yield np.clip(frame + grain, 0, 255).astype(np.uint8)
