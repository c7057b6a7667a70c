"""Characters as people and presses write them: MNIST's digits, drawn strokes, and fonts from a folder.

A hand is one source of characters. Each character is an image of ink, and how it lies on its line.
"""

from __future__ import annotations

import re
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

_Bytes = NDArray[np.uint8]
_Floats = NDArray[np.float32]
_Random = np.random.RandomState

HEIGHT = 72
"""The height of a digit in a hand's images, in pixels."""
MARGIN = 16
"""Blank pixels around each image, so that it may be thickened and turned."""
DIGITS = "0123456789"
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
SIGNS = "+-=/()*%$#&@!?.,:;<>[]\u20ac\u00a3\u00d7\u00f7\u00b0"
FONT_SUFFIXES = (".ttf", ".otf", ".woff", ".woff2")


@dataclass(frozen=True, eq=False)
class Character:
    """One way to write a character.

    Attributes:
        image: uint8 (h, w), ink 255, with `MARGIN` around the ink.
        drop: how far the ink's lowest row lies below the baseline, as a part of a digit's height.
    """

    image: _Bytes
    drop: float


@dataclass(frozen=True, eq=False)
class Hand:
    """A source of characters: a font, the digits of MNIST, or drawn strokes.

    Attributes:
        name: of the font, or "mnist", or "strokes".
        characters: the ways to write each character that the hand knows.
        printed: whether a press wrote it.
    """

    name: str
    characters: dict[str, tuple[Character, ...]]
    printed: bool = False

    def has(self, text: str) -> bool:
        """Whether the hand knows all characters of a text."""
        return all(character in self.characters for character in text)


def part_of(name: str) -> str:
    """Whether a source belongs to "train", "choose" or "judge", by its family alone: 70, 10 and 20 of a hundred.

    The family is what comes before the first hyphen, underscore or space of a name, so that no part has the bold or
    the slanted form of a font that another part has.
    """
    family = re.split(r"[-_ ]", name, maxsplit=1)[0].lower()
    place = zlib.crc32(family.encode()) % 100
    return "train" if place < 70 else "choose" if place < 80 else "judge"


def from_images(name: str, images: _Bytes, labels: NDArray[np.int64]) -> Hand:
    """A hand from digits of uint8 (N, 28, 28)."""
    found: dict[str, list[Character]] = {digit: [] for digit in DIGITS}
    for image, label in zip(images, labels, strict=True):
        x, y, width, height = cv2.boundingRect((image > 40).astype(np.uint8))
        if height < 8:
            continue
        scale = HEIGHT / 20  # so that a digit written small, within MNIST's square of 20, stays wide rather than high
        scale = HEIGHT / height if height >= width else scale
        near = cv2.resize(image[y : y + height, x : x + width], None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        found[str(int(label))].append(Character(_padded(near), 0.0))
    return Hand(name, {digit: tuple(ways) for digit, ways in found.items() if ways})


def from_font(path: Path, printed: bool) -> Hand | None:
    """A hand from a font; None where it does not hold every digit."""
    from PIL import ImageFont

    try:
        font = ImageFont.truetype(str(path), 64)
        _, top, _, bottom = font.getbbox("0", anchor="ls")
        font = ImageFont.truetype(str(path), max(8, round(64 * HEIGHT / max(bottom - top, 1))))
        missing = _drawn(font, "\uffff")
        characters: dict[str, tuple[Character, ...]] = {}
        for text in DIGITS + LETTERS + SIGNS:
            image = _drawn(font, text)
            if image is None or (missing is not None and np.array_equal(image, missing)):
                continue
            bounds = font.getbbox(text, anchor="ls")
            characters[text] = (Character(_padded(image), bounds[3] / HEIGHT),)
    except (OSError, ValueError):
        return None
    if not all(digit in characters for digit in DIGITS):
        return None
    return Hand(path.stem, characters, printed)


def _drawn(font: FreeTypeFont, text: str) -> _Bytes | None:
    """The tight image of a character, uint8 (h, w); None where it is blank."""
    from PIL import Image, ImageDraw

    left, top, right, bottom = font.getbbox(text, anchor="ls")
    if right - left < 1 or bottom - top < 1 or max(right - left, bottom - top) > 8 * HEIGHT:
        return None
    canvas = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4), 0)
    ImageDraw.Draw(canvas).text((2 - left, 2 - top), text, fill=255, font=font, anchor="ls")
    image = np.asarray(canvas)
    x, y, width, height = cv2.boundingRect(image)
    return np.ascontiguousarray(image[y : y + height, x : x + width]) if width and height else None


def fonts(folder: Path, part: str) -> list[Hand]:
    """The hands of a part from fonts in the folders `hand` (written) and `print` (printed) of a folder."""
    found = []
    for kind in ("hand", "print"):
        for path in sorted((folder / kind).glob("*")):
            if path.suffix.lower() in FONT_SUFFIXES and part_of(path.stem) == part:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    hand = from_font(path, printed=kind == "print")
                if hand is not None:
                    found.append(hand)
    return found


def _padded(image: _Bytes) -> _Bytes:
    return np.asarray(cv2.copyMakeBorder(image, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_CONSTANT), np.uint8)


@dataclass(frozen=True)
class Pen:
    """How the strokes of one page are drawn.

    Attributes:
        grow: pixels by which strokes are thickened at `HEIGHT`; below 0 they are thinned.
        slant: how far a stroke leans, as a tangent.
        aspect: width over height, by which characters are stretched.
        unrest: how much each character differs from the last: 0 for a press.
        hollow: whether strokes are outlines.
    """

    grow: int
    slant: float
    aspect: float
    unrest: float
    hollow: bool = False


def pen(random: _Random, printed: bool) -> Pen:
    """Draw the traits of the pen of a page at random, or those of a press if `printed`."""
    grown = [-3, -2, 0, 2, 3, 5, 7, 9, 13]
    grow = int(random.choice(grown, p=[0.05, 0.1, 0.42, 0.15, 0.1, 0.07, 0.05, 0.035, 0.025]))
    if printed:
        return Pen(min(grow, 2), 0.0 if random.rand() < 0.8 else 0.2, random.uniform(0.8, 1.2), 0.0)
    return Pen(
        grow,
        random.normal(0, 0.12) if random.rand() < 0.8 else random.normal(0.3, 0.15),
        random.uniform(0.75, 1.25) if random.rand() < 0.75 else random.uniform(1.1, 1.7),
        random.uniform(0.3, 1.3),
        bool(random.rand() < 0.02),
    )


def write(random: _Random, way: Character, size: float, held: Pen) -> _Floats:
    """The ink of a character, float32 (h, w) 0 to 1, tight; `size` is the height in pixels that a digit has."""
    image = way.image
    if held.grow:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (abs(held.grow) + 1, abs(held.grow) + 1))
        image = cv2.dilate(image, kernel) if held.grow > 0 else _thinned(image, kernel)
    rows, columns = image.shape
    shear = -(held.slant + random.normal(0, 0.05) * held.unrest)
    turn = random.normal(0, 0.05) * held.unrest
    wide, high = held.aspect * np.exp(random.normal(0, 0.06, 2) * held.unrest) * (1, 1 / held.aspect)
    cosine, sine = np.cos(turn), np.sin(turn)
    matrix = np.array([[cosine, -sine], [sine, cosine]]) @ np.array([[wide, shear], [0.0, high]])
    corners = np.array([(0, 0), (columns, 0), (columns, rows), (0, rows)], np.float64) @ matrix.T
    low, top = corners.min(0), corners.max(0)
    affine = np.hstack([matrix, -low[:, None]]).astype(np.float32)
    shape = int(np.ceil(top[0] - low[0])), int(np.ceil(top[1] - low[1]))
    image = cv2.warpAffine(image, affine, shape, flags=cv2.INTER_LINEAR)
    if held.unrest:
        image = _bent(random, image, held.unrest)
    if held.hollow:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
        image = cv2.subtract(cv2.dilate(image, kernel), cv2.erode(image, np.ones((2, 2), np.uint8)))
    scale = size / HEIGHT
    target = max(2, round(image.shape[1] * scale)), max(2, round(image.shape[0] * scale))
    if scale <= 1:
        ink = cv2.resize(image, target, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    else:  # a large character keeps an edge as sharp as a small one
        near = cv2.resize(cv2.GaussianBlur(image, (0, 0), 1.2), target, interpolation=cv2.INTER_LINEAR)
        ink = np.clip((near.astype(np.float32) / 255 - 0.5) * (1.2 * scale + 1) + 0.5, 0, 1)
    left, upper, width, height = cv2.boundingRect((ink > 0.2).astype(np.uint8))
    tight: _Floats = ink[upper : upper + height, left : left + width]
    return tight


def _thinned(image: _Bytes, kernel: NDArray[np.uint8]) -> _Bytes:
    """Thinner strokes, of which none breaks: where nothing would be left, half of the ink stays."""
    thin = cv2.erode(image, kernel)
    lost = cv2.subtract(image, cv2.dilate(thin, cv2.dilate(kernel, np.ones((3, 3), np.uint8))))
    return np.asarray(cv2.max(thin, lost), np.uint8)


def _bent(random: _Random, image: _Bytes, unrest: float) -> _Bytes:
    """Each character a little different: its points are moved by a smooth field."""
    rows, columns = image.shape
    coarse = (random.standard_normal((2, 4, 4)) * 3.0 * unrest).astype(np.float32)
    across = cv2.resize(coarse[0], (columns, rows), interpolation=cv2.INTER_CUBIC)
    down = cv2.resize(coarse[1], (columns, rows), interpolation=cv2.INTER_CUBIC)
    across += np.arange(columns, dtype=np.float32)
    down += np.arange(rows, dtype=np.float32)[:, None]
    return np.asarray(cv2.remap(image, across, down, cv2.INTER_LINEAR), np.uint8)
