"""Reads a user's own images for training from the folders that `predict --save-digits` and the demo fill."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_mnist.data import pictures
from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.system.hashes import sha256

NONE = "none"
"""The name of the folder of images that show no digit."""

_SIZE = 28
"""Height and width of an image in pixels, as in MNIST."""


@dataclass(frozen=True, eq=False)
class UserDigits:
    """A user's own images, in which ink is 255 and paper 0.

    Attributes:
        images: uint8 (N, 28, 28), the digits.
        labels: int64 (N,), 0 to 9.
        outliers: uint8 (M, 28, 28), the images that show no digit.
        sha256: the hash of all images and labels.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    outliers: NDArray[np.uint8]
    sha256: str


def read_user_digits(folder: Path) -> UserDigits:
    """Read the images in the folders 0 to 9 and `none` of a folder.

    Each image has 28x28 pixels and shows light ink on a dark background.

    Raises:
        UsageError: there is no such folder.
        EdgeMnistError: the folder holds no image, or a file is not an image of this size.
    """
    if not folder.is_dir():
        raise UsageError(f"--user-digits {folder}: no such folder")
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for label, name in enumerate((*map(str, range(10)), NONE)):
        for path in sorted(folder.joinpath(name).glob("*")):
            if pictures.is_picture_name(path.name) and path.is_file():
                images.append(pictures.read_grey(path, (_SIZE, _SIZE)))
                labels.append(label)
    if not images:
        raise EdgeMnistError(f"--user-digits {folder}: no images, expected some in folders named 0 to 9 or {NONE}")
    all_images, all_labels = np.stack(images), np.array(labels, np.int64)  # (N + M, 28, 28), (N + M,)
    is_digit = all_labels < 10
    digest = sha256(all_images.tobytes() + all_labels.tobytes())
    return UserDigits(all_images[is_digit], all_labels[is_digit], all_images[~is_digit], digest)
