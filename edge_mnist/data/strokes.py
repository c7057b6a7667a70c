"""Draws digits, letters and signs from strokes, for tests and for machines without MNIST.

A digit is drawn as strokes of a pen, in one of the styles in which people write it. Each drawing simulates another
writer, who misses the control points, bends, narrows, slants and turns the digit, chooses a pen and presses it
unevenly. It is then normalized like MNIST (LeCun, Cortes, Burges, "The MNIST database"): scaled to fit 20x20 pixels
without changing its aspect, and placed in 28x28 pixels with its centre of mass in the middle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mnist.data.mnist import Digits
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.hashes import sha256

_Floats = NDArray[np.float64]

_STYLES: dict[int, tuple[tuple[int, str], ...]] = {
    0: (
        (45, "42,0 18,-4 -2,28 -2,72 16,104 46,104 66,74 66,26 48,-2 32,0"),
        (30, "52,8 26,-8 -4,30 0,84 24,106 62,96 74,40 56,2 30,6 24,16"),
        (25, "30,4 6,14 -6,62 10,104 46,104 68,66 68,22 46,-4 20,4"),
    ),
    1: (
        (68, "50,0 49,50 48,100"),
        (16, "28,24 50,0 50,0 50,50 49,100"),
        (8, "26,22 50,0 50,0 50,50 50,100 | 22,100 50,101 78,99"),
        (8, "50,0 50,50 50,100 | 26,100 50,101 76,99"),
    ),
    2: (
        (36, "4,24 12,-2 58,-10 72,30 40,66 0,100 0,100 36,98 74,98"),
        (40, "2,22 16,-4 62,-8 70,34 44,78 8,108 -10,88 14,74 44,98 82,90"),
        (24, "6,14 30,-8 66,4 60,44 24,84 2,98 2,98 24,88 46,104 76,94"),
    ),
    3: (
        (45, "4,12 24,-8 66,-2 66,38 24,48 24,48 74,46 80,96 30,112 -2,88"),
        (35, "2,10 30,-8 70,4 56,42 22,54 26,42 70,48 74,90 36,110 -2,92"),
        (20, "6,2 34,2 64,0 64,0 30,40 30,40 76,42 78,98 30,112 0,90"),
    ),
    4: (
        (40, "10,4 4,34 2,56 2,56 34,56 74,50 | 62,0 58,50 52,100"),
        (16, "54,0 28,34 0,66 0,66 36,66 78,64 | 54,0 54,50 52,100"),
        (28, "8,2 -4,44 10,64 44,56 62,2 62,2 58,50 54,100"),
        (16, "58,100 56,50 58,2 58,2 30,26 2,60 2,60 36,60 80,56"),
    ),
    5: (
        (45, "16,2 12,24 8,46 8,46 44,30 76,58 64,104 22,110 -2,88 | 16,2 40,2 76,-2"),
        (30, "74,0 44,2 18,2 18,2 12,26 8,46 8,46 46,32 76,60 60,106 18,110 -4,90"),
        (25, "76,2 50,-6 18,4 4,40 34,46 66,62 58,102 24,108 -4,94"),
    ),
    6: (
        (55, "56,0 22,14 0,58 2,102 40,110 66,84 52,54 20,58 4,82"),
        (30, "40,0 14,34 -4,80 8,106 46,106 62,80 42,58 12,70 4,88"),
        (15, "70,6 40,-6 8,24 -4,78 18,110 64,100 68,62 32,50 6,76"),
    ),
    7: (
        (46, "0,6 34,2 68,0 68,0 50,42 30,100"),
        (18, "0,6 34,2 68,0 68,0 50,42 30,100 | 16,54 40,52 66,48"),
        (20, "2,22 0,4 0,4 36,4 70,0 70,0 50,40 34,100"),
        (16, "0,16 8,0 50,-2 78,0 50,42 32,100"),
    ),
    8: (
        (60, "62,14 44,-8 4,-4 2,32 36,48 70,70 60,106 14,108 0,76 28,52 64,30 64,4"),
        (20, "36,2 6,0 4,40 36,50 66,36 64,2 32,0 | 34,50 -2,56 -4,104 36,106 74,100 70,54 32,50"),
        (20, "30,50 0,30 6,-4 44,-6 66,14 44,46 2,72 4,106 50,110 66,76 36,52 22,44"),
    ),
    9: (
        (42, "62,12 40,-8 0,2 0,48 36,54 62,10 62,10 60,54 54,100"),
        (22, "60,10 34,-8 -2,8 4,50 44,50 62,8 62,8 66,68 52,108 8,94"),
        (36, "62,22 52,-6 14,-6 -4,30 14,54 50,42 66,8 56,56 40,100"),
    ),
}
"""The styles of each digit: how many of a hundred writers use it, and its strokes, separated by |.

A stroke is a row of control points x,y (x to the right, y down; the digit is 100 tall). It is the quadratic B-spline of
its points, which touches the middle of each side of their polygon. A point that is written twice is a corner.
"""

LETTERS: dict[str, str] = {
    "A": "0,100 18,50 36,0 36,0 54,50 72,100 | 14,62 36,60 60,62",
    "C": "66,16 50,-6 8,4 -2,50 10,100 52,106 68,84",
    "E": "64,0 34,0 6,2 6,2 4,50 6,98 6,98 34,100 66,98 | 6,48 30,48 54,46",
    "F": "66,0 36,0 6,2 6,2 4,50 6,100 | 6,46 28,46 50,44",
    "H": "4,0 4,50 4,100 | 64,0 64,50 64,100 | 4,50 34,48 64,50",
    "K": "6,0 5,50 6,100 | 62,0 34,26 8,52 8,52 36,76 66,100",
    "M": "0,100 4,50 8,0 8,0 24,30 40,62 40,62 56,30 72,0 72,0 76,50 80,100",
    "N": "4,100 4,50 4,0 4,0 34,50 64,100 64,100 64,50 64,0",
    "P": "6,100 6,50 6,0 6,0 60,-8 66,40 40,54 8,54",
    "R": "6,100 6,50 6,0 6,0 60,-8 66,36 40,50 8,50 8,50 36,74 66,100",
    "T": "0,2 36,0 72,2 | 36,2 36,50 36,100",
    "V": "0,0 18,50 36,100 36,100 54,50 72,0",
    "W": "0,0 10,50 20,100 20,100 32,60 42,24 42,24 54,60 64,100 64,100 74,50 84,0",
    "X": "2,0 34,50 66,100 | 66,0 34,50 2,100",
    "Y": "2,0 18,24 36,50 | 70,0 52,24 36,50 36,50 36,74 36,100",
    "d": "62,0 62,50 62,100 | 62,58 40,36 2,44 -2,78 12,104 50,104 62,82",
    "e": "4,68 40,70 66,66 66,66 62,34 12,32 -4,66 6,104 48,104 66,90",
    "f": "60,8 46,-8 26,0 26,30 26,66 26,100 | 4,44 28,44 54,42",
    "h": "6,0 6,50 6,100 6,100 8,70 22,44 52,42 58,60 58,100",
    "k": "8,0 8,50 8,100 | 56,40 34,56 10,72 10,72 34,84 60,100",
    "m": "2,40 4,70 4,100 4,100 4,60 30,30 38,56 38,100 38,100 40,60 64,30 74,56 74,100",
    "n": "4,40 4,70 4,100 4,100 6,60 44,26 60,50 60,100",
    "r": "6,40 8,70 8,100 8,100 8,70 24,40 54,40",
    "w": "0,40 8,70 18,100 18,100 28,76 36,54 36,54 46,76 54,100 54,100 64,70 72,40",
}
"""The strokes of letters that do not look like a digit: O, I, l, Z, S, b, B, g, q and similar letters are left out."""

SIGNS: dict[str, str] = {
    "dash": "0,50 36,50 72,50",
    "equals": "0,34 36,33 72,34 | 0,66 36,67 72,66",
    "plus": "36,10 36,50 36,90 | -4,50 36,50 76,50",
    "times": "4,20 36,52 68,84 | 68,20 36,52 4,84",
    "hash": "24,0 20,50 14,100 | 60,0 56,50 50,100 | 0,34 38,33 76,34 | -4,66 34,67 72,66",
    "percent": "70,0 36,50 2,100 | 14,6 -6,4 -4,34 16,34 22,14 14,6 | 60,68 42,66 42,96 60,98 70,80 60,68",
    "star": "36,10 36,50 36,90 | 4,30 36,50 68,70 | 68,30 36,50 4,70",
    "check": "0,60 14,80 28,100 28,100 50,50 76,0",
    "wave": "0,56 14,30 34,36 46,62 62,72 78,46",
    "arrow": "0,50 40,50 80,50 80,50 66,36 52,22 | 80,50 66,64 52,78",
    "less": "70,10 36,30 2,50 2,50 36,70 70,90",
    "colon": "34,20 36,22 38,20 | 34,80 36,82 38,80",
    "ampersand": "76,100 40,60 12,20 20,-6 50,-4 50,24 20,50 -4,74 8,104 44,104 74,64",
    "alpha": "70,10 60,50 40,90 0,96 -4,50 10,16 40,20 60,60 76,94",
}
"""The strokes of signs that do not look like a digit: no sign is an upright bar like a 1."""

_STEPS = 4
"""Straight segments for each segment of the spline: at 20 pixels, more make no visible difference."""
_TRAITS = 11
"""The random numbers that characterise a writer, see `_write`."""
_MOST_POINTS = 20
"""The largest number of control points of a digit's style."""


@dataclass(frozen=True)
class _Style:
    """A prepared style.

    Attributes:
        points: (K, 2), the control points x and y.
        sampling: (P, K), the weights of the spline: the points on the curve are sampling @ points.
        starts: (S,), the indices of the points on the curve from which a line leads to the next point.
    """

    points: _Floats
    sampling: _Floats
    starts: NDArray[np.intp]


def _parse_style(strokes: str) -> _Style:
    """Parse the strokes of a style, merge points that are written twice, and compute the weights of the B-spline."""
    points: list[list[int]] = []
    rows: list[dict[int, float]] = []
    starts: list[int] = []
    for stroke in strokes.split("|"):
        order: list[int] = []
        for text in stroke.split():
            point = [int(number) for number in text.split(",")]
            if not order or point != points[-1]:
                points.append(point)
            order.append(len(points) - 1)
        order = [order[0], *order, order[-1]]  # the ends are corners, so that the curve reaches them
        first = len(rows)
        for a, b, c in zip(order, order[1:], order[2:], strict=False):
            for t in np.arange(_STEPS + (c == order[-1] == b)) / _STEPS:
                row: dict[int, float] = {}
                for index, weight in ((a, (1 - t) ** 2 / 2), (b, 0.5 + t - t * t), (c, t * t / 2)):
                    row[index] = row.get(index, 0.0) + float(weight)
                rows.append(row)
        starts += range(first, len(rows) - 1)
    sampling = np.zeros((len(rows), len(points)))
    for sampled, row in zip(sampling, rows, strict=True):
        sampled[list(row)] = list(row.values())
    return _Style(np.array(points, np.float64), sampling, np.array(starts, np.intp))


def draw(count: int, seed: int) -> Digits:
    """Draw `count` digits of the classes 0 to 9 in equal shares, in an order shuffled by the seed.

    Equal arguments give equal images on the same machine; on another one a grey level may differ by one, where the
    processor rounds differently.

    Args:
        count: the number of digits, at least 1.
        seed: 0 to 2**32 - 1.

    Returns:
        Digits of the source "strokes": images uint8 (count, 28, 28), labels int64 (count,), and the images' hash.

    Raises:
        EdgeMnistError: the count or the seed is out of range.
    """
    if count < 1:
        raise EdgeMnistError(f"strokes: {count} digits asked for, expected at least 1")
    if not 0 <= seed < 2**32:
        raise EdgeMnistError(f"strokes: seed {seed}, expected 0 to {2**32 - 1}")
    # RandomState, not Generator, because NumPy guarantees its streams in every version (NEP 19).
    random = np.random.RandomState(seed)
    labels = (np.arange(count) % 10)[np.argsort(random.random_sample(count), kind="stable")].astype(np.int64)
    choices = random.random_sample(count)
    traits = random.standard_normal((count, _TRAITS))
    misses = random.standard_normal((count, _MOST_POINTS, 2))
    images = np.empty((count, 28, 28), np.uint8)
    for digit, styles in _STYLES.items():
        bounds = np.cumsum([share for share, _ in styles])[:-1] / 100
        chosen = np.where(labels == digit, np.searchsorted(bounds, choices, side="right"), -1)
        for number, (_, strokes) in enumerate(styles):
            style = _parse_style(strokes)
            writers = np.flatnonzero(chosen == number)
            for part in np.array_split(writers, len(writers) // 64 + 1):  # so that the arrays fit the cache
                curves, radii = _write(style, traits[part], misses[part])
                images[part] = _center(_rasterize(curves, radii, style.starts))
    return Digits(images, labels, "strokes", sha256(images.tobytes()))


def draw_style(style: str, count: int, random: np.random.RandomState) -> NDArray[np.uint8]:
    """Draw `count` images of one style, each in the handwriting of another writer.

    Args:
        style: strokes separated by |, in the notation of `LETTERS`: about 70 wide and 100 tall.
        count: the number of images, at least 1.
        random: the generator of the writers, which is advanced.

    Returns:
        uint8 (count, 28, 28).
    """
    prepared = _parse_style(style)
    traits = random.standard_normal((count, _TRAITS))
    misses = random.standard_normal((count, len(prepared.points), 2))
    curves, radii = _write(prepared, traits, misses)
    return _center(_rasterize(curves, radii, prepared.starts))


def _write(style: _Style, traits: _Floats, misses: _Floats) -> tuple[_Floats, _Floats]:
    """Draw the curve of one style as N writers write it.

    Args:
        style: the style, with K control points and P points on its curve.
        traits: (N, _TRAITS), standard normal: the habits of each writer.
        misses: (N, K or more, 2), standard normal: how far each writer misses each control point.

    Returns:
        The curves (N, P, 2) and the radius of the pen along them (N, P), both in pixels, within a box of 20x20.
    """
    # (N, 1) each
    bend_x, bend_y, phase_x, phase_y, tremor, width, slant, turn, pen, press, phase = traits.T[:, :, None]
    points = style.points + 3.6 * np.exp(0.35 * tremor)[:, :, None] * misses[:, : len(style.points)]  # (N, K, 2)
    x, y = points[:, :, 0] - 35, points[:, :, 1] - 50
    x, y = x + 5 * bend_x * np.sin(y / 32 + 3 * phase_x), y + 4 * bend_y * np.sin(x / 32 + 3 * phase_y)
    x = x * np.exp(0.18 * width)
    x = x - (0.12 + 0.2 * slant) * y
    angle = np.clip(0.09 * turn, -0.25, 0.25)  # radians
    x, y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    curves = np.stack((x @ style.sampling.T, y @ style.sampling.T), axis=2)  # (N, P, 2)
    along = np.linspace(0, 2 * np.pi, curves.shape[1])
    radii = np.clip(1.15 * np.exp(0.28 * pen), 0.65, 2.4) * np.exp(0.14 * press * np.sin(along + 3 * phase))  # (N, P)
    low, high = curves.min(axis=1), curves.max(axis=1)  # (N, 2)
    scale = (20 - 2 * radii.max(axis=1)) / (high - low).max(axis=1)
    return (curves - ((low + high) / 2)[:, None]) * scale[:, None, None] + 10, radii


def _rasterize(curves: _Floats, radii: _Floats, starts: NDArray[np.intp]) -> NDArray[np.float32]:
    """Compute how much of each pixel the pen covers, 0 to 1, (N, 20, 20), from its distance to the curve."""
    centres = np.arange(20, dtype=np.float32) + np.float32(0.5)
    points = np.concatenate((curves, radii[:, :, None]), axis=2).astype(np.float32)  # (N, P, 3)
    outside = np.full((len(curves), 20, 20), np.inf, np.float32)  # pixels from the edge of the line
    for start in starts:
        x, y, radius = points[:, start].T[:, :, None, None]  # (N, 1, 1) each
        step_x, step_y, growth = (points[:, start + 1] - points[:, start]).T[:, :, None, None]
        squared = np.maximum(step_x * step_x + step_y * step_y, np.float32(1e-9))
        dx, dy = centres - x, centres[:, None] - y  # (N, 1, 20), (N, 20, 1)
        along = np.clip(dx * (step_x / squared) + dy * (step_y / squared), 0, 1)  # (N, 20, 20)
        distance = np.sqrt((dx - along * step_x) ** 2 + (dy - along * step_y) ** 2)
        np.minimum(outside, distance - (radius + along * growth), out=outside)
    covered: NDArray[np.float32] = np.clip(np.float32(0.5) - outside / np.float32(1.2), 0, 1)
    return covered


def _center(ink: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Place ink (N, 20, 20) in images (N, 28, 28) of grey levels, with its centre of mass at (14, 14) or next to it.

    The ink is moved by whole pixels and stays inside the image; its darkest pixel becomes 255.
    """
    places = np.arange(20)
    total = ink.sum(axis=(1, 2))
    rows, columns = (
        np.clip(np.rint(14 - (ink.sum(axis=other) @ places) / total), 0, 8).astype(np.intp)[:, None] + places  # (N, 20)
        for other in (2, 1)
    )
    levels = ink * (np.float32(255) / ink.max(axis=(1, 2), keepdims=True))
    images = np.zeros((len(ink), 28, 28), np.uint8)
    images[np.arange(len(ink))[:, None, None], rows[:, :, None], columns[:, None, :]] = np.rint(levels)
    return images
