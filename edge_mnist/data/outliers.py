"""Images of what is no digit, seeded: for a network that is to know what it was not made for.

`TRAINING` and `UNSEEN` are kinds that have nothing in common: a network trained with the first is judged by the second
(outlier exposure: Hendrycks, Mazeika and Dietterich, "Deep Anomaly Detection with Outlier Exposure", ICLR 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from edge_mnist.data import strokes
from edge_mnist.data.strokes import LETTERS, SIGNS

_Images = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float64]
Kind = Callable[[np.random.RandomState, int, _Images], _Images]
"""Draws `count` images uint8 (count, 28, 28); some kinds are made of digits, uint8 (N, 28, 28)."""


def draw(kinds: Mapping[str, Kind], count: int, seed: int, digits: _Images) -> dict[str, _Images]:
    """Draw `count` images uint8 (count, 28, 28) of each kind.

    Args:
        kinds: `TRAINING` or `UNSEEN`.
        count: how many of each, at least 1.
        seed: 0 to 2**31 - 1; the same seed gives the same images.
        digits: uint8 (N, 28, 28), of which some kinds are made.
    """
    # RandomState, not Generator: NumPy keeps its streams the same in every version (NEP 19).
    return {
        name: kind(np.random.RandomState(seed + number), count, digits)
        for number, (name, kind) in enumerate(kinds.items())
    }


def _written(styles: Mapping[str, str]) -> Kind:
    """Letters or signs, each by a writer of its own."""
    texts = list(styles.values())

    def kind(random: np.random.RandomState, count: int, digits: _Images) -> _Images:
        images = np.empty((count, 28, 28), np.uint8)
        chosen = random.randint(len(texts), size=count)
        for number, text in enumerate(texts):
            writers = np.flatnonzero(chosen == number)
            if len(writers):
                images[writers] = strokes.draw_style(text, len(writers), random)
        return images

    return kind


def _fragments(random: np.random.RandomState, count: int, digits: _Images) -> _Images:
    """A piece of a digit at the edge of the window, as a wrong cut leaves it."""
    images = np.zeros((count, 28, 28), np.uint8)
    for image, index in zip(images, random.randint(len(digits), size=count), strict=True):
        shift = random.randint(13, 18)  # half of the digit or less stays
        turned = np.rot90(digits[index], side := random.randint(4))
        moved = np.zeros((28, 28), np.uint8)
        moved[:, shift:] = turned[:, : 28 - shift]
        image[:] = np.rot90(moved, -side)
    return images


def _lines(random: np.random.RandomState, count: int, digits: _Images) -> _Images:
    """Ruled and squared paper, edges of tables: lines through the whole window, one of them level at least."""
    images = np.zeros((count, 28, 28))
    for image in images:
        turn = random.uniform(-0.4, 0.4)
        for upright in (False,) * random.randint(1, 4) + (True,) * random.randint(0, 4):
            image[:] = np.maximum(image, _line(turn + upright * np.pi / 2, *random.uniform((-11, 0.6), (11, 2.0))))
    return _levels(images)


def _line(angle: float, offset: float, radius: float) -> _Floats:
    """A line as far as the window goes, (28, 28), 0 to 1; `angle` 0 is level, `offset` pixels from the centre."""
    down, across = np.mgrid[:28, :28] - 13.5
    distance = np.abs(down * np.cos(angle) - across * np.sin(angle) - offset)
    line: _Floats = np.clip(radius + 0.5 - distance, 0, 1)
    return line


def _dots(random: np.random.RandomState, count: int, digits: _Images) -> _Images:
    """One to a dozen dots, as of a comma, a colon, dirt."""
    images = np.zeros((count, 28, 28))
    down, across = np.mgrid[:28, :28]
    for image in images:
        for _ in range(random.randint(1, 13)):
            y, x, radius = random.uniform((4, 4, 0.8), (24, 24, 2.6))
            image[:] = np.maximum(image, np.clip(radius + 0.5 - np.hypot(down - y, across - x), 0, 1))
    return _levels(images)


def _blobs(random: np.random.RandomState, count: int, digits: _Images) -> _Images:
    """Clouds with a hard edge: shadows, fingers, cloth."""
    clouds = _clouds(random, count, random.uniform(2, 6, size=count))
    bounds = random.uniform(-0.2, 1.0, size=(count, 1, 1))
    return _levels(np.clip((clouds - bounds) * random.uniform(2, 12, size=(count, 1, 1)), 0, 1))


def _textures(random: np.random.RandomState, count: int, digits: _Images) -> _Images:
    """Grain, fine to coarse, over the whole window."""
    clouds = _clouds(random, count, random.uniform(0.3, 2.5, size=count))
    return _levels(np.clip(0.5 + clouds * random.uniform(0.15, 0.6, size=(count, 1, 1)), 0, 1))


def _clouds(random: np.random.RandomState, count: int, widths: npt.NDArray[np.float64]) -> _Floats:
    """Noise (count, 28, 28), smoothed over so many pixels, with mean 0 and deviation 1."""
    frequencies = np.fft.fftfreq(28)
    squared = frequencies[:, None] ** 2 + frequencies**2
    smooth = np.exp(-2 * (np.pi * widths[:, None, None]) ** 2 * squared)  # a Gaussian's Fourier transform
    clouds = np.fft.ifft2(np.fft.fft2(random.standard_normal((count, 28, 28))) * smooth).real
    clouds -= clouds.mean((1, 2), keepdims=True)
    normalized: _Floats = clouds / clouds.std((1, 2), keepdims=True)
    return normalized


def _pairs(random: np.random.RandomState, count: int, digits: _Images) -> _Images:
    """Two digits that touch, squeezed into one window."""
    images = np.zeros((count, 28, 28), np.uint8)
    for image, left, right in zip(images, *random.randint(len(digits), size=(2, count)), strict=True):
        overlap = random.randint(8, 13)
        wide = np.zeros((28, 56 - overlap), np.uint8)
        wide[:, :28] = digits[left]
        wide[:, 28 - overlap :] = np.maximum(wide[:, 28 - overlap :], digits[right])
        width = wide.shape[1]
        # a box filter from `width` columns to 20, and from 28 rows to as many as keep the aspect, or nearly
        height = min(28, round(28 * 24 / width * random.uniform(1, 1.3)))
        small = _shrink(28, height) @ wide @ _shrink(width, 24).T
        top = (28 - height) // 2
        image[top : top + height, 2:26] = np.rint(small * (255 / max(small.max(), 1)))
    return images


def _shrink(size: int, smaller: int) -> _Floats:
    """The matrix (smaller, size) of a box filter."""
    edges = np.linspace(0, size, smaller + 1)
    places = np.arange(size)
    covered = np.clip(np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places), 0, 1)
    matrix: _Floats = covered * (smaller / size)
    return matrix


def _scribbles(random: np.random.RandomState, count: int, digits: _Images) -> _Images:
    """A pen that goes to and fro, with no shape in mind."""
    images = np.empty((count, 28, 28), np.uint8)
    for image in images:
        points = random.uniform((0, 0), (90, 100), (random.randint(8, 20), 2)).astype(int)
        text = " ".join(f"{x},{y}" for x, y in points)
        image[:] = strokes.draw_style(text, 1, random)[0]
    return images


def _levels(images: _Floats) -> _Images:
    """Ink from 0 to 1 as grey levels."""
    levels: _Images = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    return levels


_capitals = {name: text for name, text in LETTERS.items() if name.isupper()}
_small = {name: text for name, text in LETTERS.items() if name.islower()}

TRAINING: dict[str, Kind] = {
    "capital letters": _written(_capitals),
    "small letters": _written(_small),
    "fragments": _fragments,
    "lines": _lines,
    "dots": _dots,
    "textures": _textures,
    "pairs": _pairs,
}
"""The kinds to train with."""

UNSEEN: dict[str, Kind] = {
    "signs": _written(SIGNS),
    "blobs": _blobs,
    "scribbles": _scribbles,
}
"""The kinds that training never sees."""
