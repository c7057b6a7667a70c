"""Draws outliers: images that show no digit, for which a network should not be confident.

`TRAINING` and `UNSEEN` are different kinds: a network that is trained with the first is evaluated with the second
(outlier exposure: Hendrycks, Mazeika and Dietterich, "Deep Anomaly Detection with Outlier Exposure", ICLR 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from edge_mnist.data import strokes
from edge_mnist.data.strokes import LETTERS, SIGNS

_Images = NDArray[np.uint8]
_Floats = NDArray[np.float64]
Kind = Callable[[np.random.RandomState, int, _Images], _Images]
"""Draws `count` images, uint8 (count, 28, 28), from random numbers and, for some kinds, digits, uint8 (N, 28, 28)."""


def draw(kinds: Mapping[str, Kind], count: int, seed: int, digits: _Images) -> dict[str, _Images]:
    """Draw `count` images uint8 (count, 28, 28) of each kind.

    Args:
        kinds: `TRAINING` or `UNSEEN`.
        count: the number of images of each kind, at least 1.
        seed: 0 to 2**31 - 1; the same seed gives the same images.
        digits: uint8 (N, 28, 28), from which some kinds are made.

    Returns:
        The images by the name of their kind.
    """
    # RandomState, not Generator, because NumPy guarantees its streams in every version (NEP 19).
    return {
        name: kind(np.random.RandomState(seed + number), count, digits)
        for number, (name, kind) in enumerate(kinds.items())
    }


def _make_written_kind(styles: Mapping[str, str]) -> Kind:
    """Make a kind of letters or signs, each in the handwriting of another writer."""
    texts = list(styles.values())

    def draw_written(random: np.random.RandomState, count: int, digits: _Images) -> _Images:
        images = np.empty((count, 28, 28), np.uint8)
        chosen = random.randint(len(texts), size=count)
        for number, text in enumerate(texts):
            writers = np.flatnonzero(chosen == number)
            if len(writers):
                images[writers] = strokes.draw_style(text, len(writers), random)
        return images

    return draw_written


def _draw_fragments(random: np.random.RandomState, count: int, digits: _Images) -> _Images:
    """Draw parts of digits at the edge of the image, as a wrong segmentation leaves them."""
    images = np.zeros((count, 28, 28), np.uint8)
    for image, index in zip(images, random.randint(len(digits), size=count), strict=True):
        shift = random.randint(13, 18)  # half of the digit or less remains
        turned = np.rot90(digits[index], side := random.randint(4))
        moved = np.zeros((28, 28), np.uint8)
        moved[:, shift:] = turned[:, : 28 - shift]
        image[:] = np.rot90(moved, -side)
    return images


def _draw_lines(random: np.random.RandomState, count: int, digits: _Images) -> _Images:
    """Draw lines through the whole image, as of ruled and squared paper; at least one is roughly horizontal."""
    images = np.zeros((count, 28, 28))
    for image in images:
        turn = random.uniform(-0.4, 0.4)
        for upright in (False,) * random.randint(1, 4) + (True,) * random.randint(0, 4):
            image[:] = np.maximum(image, _draw_line(turn + upright * np.pi / 2, *random.uniform((-11, 0.6), (11, 2.0))))
    return _to_levels(images)


def _draw_line(angle: float, offset: float, radius: float) -> _Floats:
    """Draw a line through the whole image, (28, 28), 0 to 1.

    Args:
        angle: radians; 0 is horizontal.
        offset: the distance from the centre in pixels.
        radius: half of the width in pixels.
    """
    down, across = np.mgrid[:28, :28] - 13.5
    distance = np.abs(down * np.cos(angle) - across * np.sin(angle) - offset)
    line: _Floats = np.clip(radius + 0.5 - distance, 0, 1)
    return line


def _draw_dots(random: np.random.RandomState, count: int, digits: _Images) -> _Images:
    """Draw one to twelve dots, as of commas, colons and dirt."""
    images = np.zeros((count, 28, 28))
    down, across = np.mgrid[:28, :28]
    for image in images:
        for _ in range(random.randint(1, 13)):
            y, x, radius = random.uniform((4, 4, 0.8), (24, 24, 2.6))
            image[:] = np.maximum(image, np.clip(radius + 0.5 - np.hypot(down - y, across - x), 0, 1))
    return _to_levels(images)


def _draw_blobs(random: np.random.RandomState, count: int, digits: _Images) -> _Images:
    """Draw smooth shapes with hard edges, as of shadows, fingers and cloth."""
    clouds = _draw_clouds(random, count, random.uniform(2, 6, size=count))
    bounds = random.uniform(-0.2, 1.0, size=(count, 1, 1))
    return _to_levels(np.clip((clouds - bounds) * random.uniform(2, 12, size=(count, 1, 1)), 0, 1))


def _draw_textures(random: np.random.RandomState, count: int, digits: _Images) -> _Images:
    """Draw fine to coarse grain over the whole image."""
    clouds = _draw_clouds(random, count, random.uniform(0.3, 2.5, size=count))
    return _to_levels(np.clip(0.5 + clouds * random.uniform(0.15, 0.6, size=(count, 1, 1)), 0, 1))


def _draw_clouds(random: np.random.RandomState, count: int, widths: NDArray[np.float64]) -> _Floats:
    """Draw noise (count, 28, 28) of mean 0 and deviation 1, smoothed by Gaussians of the given widths in pixels."""
    frequencies = np.fft.fftfreq(28)
    squared = frequencies[:, None] ** 2 + frequencies**2
    smooth = np.exp(-2 * (np.pi * widths[:, None, None]) ** 2 * squared)  # the Fourier transform of a Gaussian
    clouds = np.fft.ifft2(np.fft.fft2(random.standard_normal((count, 28, 28))) * smooth).real
    clouds -= clouds.mean((1, 2), keepdims=True)
    normalized: _Floats = clouds / clouds.std((1, 2), keepdims=True)
    return normalized


def _draw_pairs(random: np.random.RandomState, count: int, digits: _Images) -> _Images:
    """Draw two touching digits, squeezed into one image."""
    images = np.zeros((count, 28, 28), np.uint8)
    for image, left, right in zip(images, *random.randint(len(digits), size=(2, count)), strict=True):
        overlap = random.randint(8, 13)
        wide = np.zeros((28, 56 - overlap), np.uint8)
        wide[:, :28] = digits[left]
        wide[:, 28 - overlap :] = np.maximum(wide[:, 28 - overlap :], digits[right])
        width = wide.shape[1]
        # a box filter from `width` columns to 24, and from 28 rows to as many as keep the aspect, or nearly
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


def _draw_scribbles(random: np.random.RandomState, count: int, digits: _Images) -> _Images:
    """Draw the track of a pen that moves back and forth at random."""
    images = np.empty((count, 28, 28), np.uint8)
    for image in images:
        points = random.uniform((0, 0), (90, 100), (random.randint(8, 20), 2)).astype(int)
        text = " ".join(f"{x},{y}" for x, y in points)
        image[:] = strokes.draw_style(text, 1, random)[0]
    return images


def _to_levels(images: _Floats) -> _Images:
    """Convert ink from 0 to 1 to grey levels, uint8."""
    levels: _Images = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    return levels


_CAPITAL_LETTERS = {name: text for name, text in LETTERS.items() if name.isupper()}
_SMALL_LETTERS = {name: text for name, text in LETTERS.items() if name.islower()}

TRAINING: dict[str, Kind] = {
    "capital letters": _make_written_kind(_CAPITAL_LETTERS),
    "small letters": _make_written_kind(_SMALL_LETTERS),
    "fragments": _draw_fragments,
    "lines": _draw_lines,
    "dots": _draw_dots,
    "textures": _draw_textures,
    "pairs": _draw_pairs,
}
"""The kinds with which a network is trained."""

UNSEEN: dict[str, Kind] = {
    "signs": _make_written_kind(SIGNS),
    "blobs": _draw_blobs,
    "scribbles": _draw_scribbles,
}
"""The kinds with which a network is only evaluated."""
