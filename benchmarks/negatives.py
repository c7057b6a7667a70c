"""Makes frames without digits: photographs, textures, empty paper, desks, scribbles and words.

The photographs are from the packages of scikit-image and scikit-learn, without those that show digits.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist.data import outliers, strokes
from edge_mnist.data.strokes import LETTERS
from edge_mnist.demo.sources import scenes, surroundings

PICTURES = {
    "train": (
        "astronaut", "brick", "camera", "cat", "coffee", "colorwheel", "grass", "hubble_deep_field", "moon", "rocket",
        "china",
    ),
    "held-out": (
        "cell", "chelsea", "coins", "gravel", "horse", "immunohistochemistry", "logo", "retina", "shepp_logan_phantom",
        "binary_blobs", "flower",
    ),
}  # fmt: skip
"""Pictures for tuning and others for evaluation. Clock, page and text are left out because they show digits."""
CROPS = 8
"""The number of frames that are cropped from each picture."""


def make_frames(part: str) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Make the frames of a part, "train" or "held-out": the kind and the frame, uint8 (480, 640, 3) BGR."""
    random = np.random.RandomState(1 if part == "train" else 2)
    for name in PICTURES[part]:
        picture = _load_picture(name)
        for _ in range(CROPS):
            yield f"photograph {name}", _crop(random, picture)
    for _ in range(30):
        yield from _draw_frames(random)


def _load_picture(name: str) -> NDArray[np.uint8]:
    """Load a picture by its name, uint8 (H, W, 3) BGR."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture = load_sample_image(f"{name}.jpg") if name in ("china", "flower") else getattr(data, name)()
    picture = np.asarray(picture)
    if picture.dtype == bool:
        picture = picture.astype(np.uint8) * np.uint8(255)
    if picture.dtype != np.uint8:
        picture = np.rint(255 * (picture - picture.min()) / np.ptp(picture).clip(1e-9)).astype(np.uint8)
    if picture.ndim == 2:
        picture = picture[..., None].repeat(3, 2)
    return np.ascontiguousarray(picture[..., 2::-1])


def _crop(random: np.random.RandomState, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Crop a random part of a picture to the size of a frame."""
    rows, columns = picture.shape[:2]
    width = int(min(columns, rows * 4 / 3) * random.uniform(0.35, 1))
    height = int(width * 0.75)
    x, y = random.randint(0, columns - width + 1), random.randint(0, rows - height + 1)
    method = cv2.INTER_AREA if width > 640 else cv2.INTER_CUBIC
    frame = cv2.resize(picture[y : y + height, x : x + width], (640, 480), interpolation=method)
    return np.ascontiguousarray(frame[:, ::-1]) if random.random_sample() < 0.5 else frame


def _draw_frames(random: np.random.RandomState) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Draw one frame of each kind."""
    nothing = np.zeros((0, 2), np.float32)
    grounds = {
        "paper": surroundings.plain,
        "ruled": surroundings.ruled,
        "squared": surroundings.squared,
        "desk": surroundings.desk,
    }
    for kind, ground in grounds.items():
        picture = ground(random, 640, 480)
        for happening in (surroundings.light, surroundings.shadow, surroundings.shadow):
            picture, _ = happening(random, picture, nothing)
        if random.random_sample() < 0.3:
            picture, _ = surroundings.on_desk_tilted(random, picture, nothing)
            picture = cv2.resize(picture, (640, 480), interpolation=cv2.INTER_AREA)
        yield kind, surroundings.sensor(random, picture)
    clouds = cv2.GaussianBlur(random.standard_normal((480, 640, 3)).astype(np.float32), (0, 0), random.uniform(1, 25))
    clouds = 0.5 + clouds / clouds.std() * random.uniform(0.05, 0.3)
    yield "clouds", surroundings.sensor(random, clouds.astype(np.float32))
    for kind in ("words", "scribbles"):
        ink = np.zeros((480, 640), np.float32)
        for _ in range(random.randint(3, 10)):
            if kind == "words":
                names = list(LETTERS)
                marks = [
                    strokes.draw_style(LETTERS[names[random.randint(len(names))]], 1, random)[0]
                    for _ in range(random.randint(3, 8))
                ]
            else:
                marks = list(
                    outliers.draw(
                        {"scribbles": outliers.UNSEEN["scribbles"]},
                        2,
                        random.randint(1 << 30),
                        np.zeros((1, 28, 28), np.uint8),
                    )["scribbles"]
                )
            size = random.uniform(25, 70) if kind == "words" else random.uniform(60, 200)
            x, y = random.randint(0, 400), random.randint(0, int(480 - size))
            for mark in marks:
                line = scenes._pen(mark, size, random.uniform(0.5, 1))
                part = ink[y : y + line.shape[0], x : x + line.shape[1]]
                np.maximum(part, line[: part.shape[0], : part.shape[1]], out=part)
                x += line.shape[1] + 4
        picture = surroundings.plain(random, 640, 480) * (1 - 0.8 * ink[..., None])
        picture, _ = surroundings.light(random, picture, nothing)
        yield kind, surroundings.sensor(random, picture)
