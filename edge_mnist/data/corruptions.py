"""Corrupts images of digits in a fixed set of ways at three strengths, to measure the robustness of a network.

It follows Hendrycks and Dietterich ("Benchmarking neural network robustness to common corruptions and perturbations",
ICLR 2019) and Mu and Gilmer ("MNIST-C", arXiv:1906.02337). Training does not use these corruptions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]
_Random = np.random.RandomState
_Corruption = Callable[[_Floats, float, _Random], _Floats]

STRENGTHS = (1, 2, 3)
"""The strengths of each corruption: weak, medium and strong."""


def corrupt(images: NDArray[np.uint8], name: str, strength: int, seed: int = 0) -> NDArray[np.uint8]:
    """Corrupt images, each by random numbers of its own; equal arguments give equal images.

    Args:
        images: uint8 (N, 28, 28), where ink is 255.
        name: one of `CORRUPTIONS`.
        strength: 1, 2 or 3.
        seed: 0 to 2**32 - 1.

    Returns:
        uint8 (N, 28, 28).
    """
    corruption, amounts = CORRUPTIONS[name]
    # RandomState, not Generator, because NumPy guarantees its streams in every version (NEP 19).
    random = _Random(seed)
    parts = np.array_split(images, len(images) // 1000 + 1)  # to limit the memory
    changed = [corruption(part.astype(np.float32), amounts[strength - 1], random) for part in parts]
    levels: NDArray[np.uint8] = np.rint(np.clip(np.concatenate(changed), 0, 255)).astype(np.uint8)
    return levels


def _draw_signs(random: _Random, count: int) -> _Floats:
    """Draw 1 or -1, (count,)."""
    return (2 * random.randint(2, size=count) - 1).astype(np.float32)


def _map_affine(images: _Floats, matrices: _Floats, shifts: _Floats) -> _Floats:
    """Take each pixel from its place under an affine map about the centre, bilinear, with black outside.

    Args:
        images: (N, H, W).
        matrices: (N, 2, 2), from a place in the result to its place in the image, rows x and y.
        shifts: (N, 2), x and y in pixels, added after the matrices.

    Returns:
        (N, H, W).
    """
    count, height, width = images.shape
    down, across = np.mgrid[:height, :width].astype(np.float32)
    places = np.stack((across - (width - 1) / 2, down - (height - 1) / 2)).reshape(2, -1).astype(np.float32)
    x, y = np.moveaxis(matrices @ places + shifts[:, :, None], 1, 0)  # (N, H * W) each
    # places in the padded image, whose border represents everything outside
    x, y = (np.clip(at + (size + 1) / 2, 0, size + 1) for at, size in ((x, width), (y, height)))
    padded = np.pad(images, ((0, 0), (1, 2), (1, 2)))
    left, top = x.astype(np.int32), y.astype(np.int32)
    corner = (np.arange(count, dtype=np.int32)[:, None] * (height + 3) + top) * (width + 3) + left
    x, y, flat = x - left, y - top, padded.ravel()
    above = flat[corner] * (1 - x) + flat[corner + 1] * x
    corner += width + 3
    below = flat[corner] * (1 - x) + flat[corner + 1] * x
    result: _Floats = (above * (1 - y) + below * y).reshape(images.shape)
    return result


_IDENTITY = np.eye(2, dtype=np.float32)


def _rotate(images: _Floats, degrees: float, random: _Random) -> _Floats:
    angles = np.radians(degrees) * _draw_signs(random, len(images))
    matrices = np.array([[np.cos(angles), -np.sin(angles)], [np.sin(angles), np.cos(angles)]], np.float32)
    return _map_affine(images, np.moveaxis(matrices, 2, 0), np.zeros((len(images), 2), np.float32))


def _scale(images: _Floats, factor: float, random: _Random) -> _Floats:
    """Make each image smaller by the factor, or larger by half as much."""
    larger = 1 + (1 / factor - 1) / 2
    zooms = np.where(_draw_signs(random, len(images)) > 0, 1 / factor, 1 / larger).astype(np.float32)
    return _map_affine(images, zooms[:, None, None] * _IDENTITY, np.zeros((len(images), 2), np.float32))


def _shift(images: _Floats, pixels: float, random: _Random) -> _Floats:
    angles = random.uniform(0, 2 * np.pi, len(images))
    shifts = (pixels * np.stack((np.cos(angles), np.sin(angles)), axis=1)).astype(np.float32)
    return _map_affine(images, np.broadcast_to(_IDENTITY, (len(images), 2, 2)), shifts)


def _shear(images: _Floats, amount: float, random: _Random) -> _Floats:
    matrices = np.tile(_IDENTITY, (len(images), 1, 1))
    matrices[:, 0, 1] = amount * _draw_signs(random, len(images))
    return _map_affine(images, matrices, np.zeros((len(images), 2), np.float32))


def _blur(images: _Floats, sigma: float, random: _Random) -> _Floats:
    places = np.arange(images.shape[1])
    kernel = np.exp(-0.5 * ((places[:, None] - places) / sigma) ** 2)
    kernel = (kernel / kernel.sum(axis=1, keepdims=True)).astype(np.float32)
    blurred: _Floats = kernel @ images @ kernel.T
    return blurred


def _blur_motion(images: _Floats, pixels: float, random: _Random) -> _Floats:
    angles = random.uniform(0, np.pi, len(images))
    directions = np.stack((np.cos(angles), np.sin(angles)), axis=1).astype(np.float32)
    identity = np.broadcast_to(_IDENTITY, (len(images), 2, 2))
    steps = np.linspace(-pixels / 2, pixels / 2, round(pixels) + 2, dtype=np.float32)
    total: _Floats = sum((_map_affine(images, identity, step * directions) for step in steps), np.zeros_like(images))
    return total / np.float32(len(steps))


def _add_noise(images: _Floats, deviation: float, random: _Random) -> _Floats:
    return images + (255 * deviation * random.standard_normal(images.shape)).astype(np.float32)


def _thin(images: _Floats, amount: float, random: _Random) -> _Floats:
    return images + np.float32(amount) * (-_dilate(-images) - images)


def _thicken(images: _Floats, amount: float, random: _Random) -> _Floats:
    while amount > 0:
        images = images + np.float32(min(amount, 1)) * (_dilate(images) - images)
        amount -= 1
    return images


def _dilate(images: _Floats) -> _Floats:
    """Take the maximum of each pixel and its eight neighbours."""
    for axis in (1, 2):
        padded = np.pad(images, [(0, 0) if other != axis else (1, 1) for other in range(3)], mode="edge")
        size = images.shape[axis]
        images = np.maximum.reduce([np.take(padded, range(start, start + size), axis=axis) for start in range(3)])
    return images


def _occlude(images: _Floats, side: float, random: _Random) -> _Floats:
    hidden = images.copy()
    for image, (top, left) in zip(hidden, random.randint(4, 24 - int(side) + 1, (len(images), 2)), strict=True):
        image[top : top + int(side), left : left + int(side)] = 0
    return hidden


def _reduce_contrast(images: _Floats, gain: float, random: _Random) -> _Floats:
    return images * np.float32(gain) + np.float32(255 * (1 - gain) / 2)


def _add_uneven_light(images: _Floats, amount: float, random: _Random) -> _Floats:
    angles = random.uniform(0, 2 * np.pi, (len(images), 1, 1))
    down, across = np.mgrid[: images.shape[1], : images.shape[2]] / (images.shape[1] - 1) - 0.5
    slope = np.clip(0.5 + across * np.cos(angles) + down * np.sin(angles), 0, 1)
    lit: _Floats = (images + (255 - images) * amount * slope).astype(np.float32)
    return lit


def _compress_jpeg(images: _Floats, quality: float, random: _Random) -> _Floats:
    """Compress as the luminance of a baseline JPEG: cosine transforms of 8x8 blocks, rounded by ITU-T T.81, table K.1.

    The table is scaled by the quality as the library of the Independent JPEG Group does it below 50.
    """
    count, height, width = images.shape
    table = np.clip(np.floor((_K1 * np.floor(5000 / quality) + 50) / 100), 1, 255)
    padded = np.pad(images, ((0, 0), (0, -height % 8), (0, -width % 8)), mode="edge") - 128
    rows, columns = padded.shape[1] // 8, padded.shape[2] // 8
    blocks = padded.reshape(count, rows, 8, columns, 8).swapaxes(2, 3)  # (N, rows, columns, 8, 8)
    steps = _COSINES @ blocks @ _COSINES.T / table
    coefficients = np.copysign(np.floor(np.abs(steps) + 0.5), steps) * table
    decoded = (_COSINES.T @ coefficients @ _COSINES).swapaxes(2, 3).reshape(padded.shape) + 128
    levels: _Floats = decoded[:, :height, :width].astype(np.float32)
    return levels


_COSINES = np.cos(np.pi / 16 * np.arange(8)[:, None] * (2 * np.arange(8) + 1)) / 2
_COSINES[0] /= np.sqrt(2)
"""The orthonormal discrete cosine transform of 8 values, (8, 8): row k is the k-th frequency."""
_K1 = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
"""The quantization table of the luminance, from ITU-T T.81, table K.1."""

CORRUPTIONS: dict[str, tuple[_Corruption, tuple[float, float, float]]] = {
    "rotation": (_rotate, (15, 25, 35)),  # degrees
    "scale": (_scale, (0.8, 0.65, 0.5)),  # factor
    "shift": (_shift, (2, 3, 4)),  # pixels
    "shear": (_shear, (0.25, 0.4, 0.55)),  # pixels to the side for each pixel of height
    "blur": (_blur, (0.8, 1.2, 1.6)),  # standard deviation in pixels
    "motion blur": (_blur_motion, (3, 5, 7)),  # length in pixels
    "noise": (_add_noise, (0.15, 0.3, 0.45)),  # standard deviation, where black to white is 1
    "thinner": (_thin, (0.5, 0.7, 0.85)),  # pixels on each side
    "thicker": (_thicken, (0.5, 1, 1.5)),  # pixels on each side
    "occlusion": (_occlude, (6, 8, 10)),  # side of a square in pixels
    "contrast": (_reduce_contrast, (0.6, 0.4, 0.25)),  # remaining contrast
    "uneven light": (_add_uneven_light, (0.3, 0.5, 0.7)),  # lightening on the lit side, where black to white is 1
    "jpeg": (_compress_jpeg, (30, 15, 7)),  # quality, 1 to 100
}
"""The function of each corruption, and its amounts at the three strengths; the amounts are this project's choice."""
