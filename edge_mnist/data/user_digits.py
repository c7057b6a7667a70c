"""A user's own images for training: folders 0 to 9 and `none`, as `predict --save-digits` and the demo fill them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_mnist.system.errors import EdgeMnistError, UsageError, missing_package

NONE = "none"
"""The folder of images that show no digit."""

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_SIZE = 28


@dataclass(frozen=True, eq=False)
class Extra:
    """Images of one's own: ink is 255, paper 0.

    Attributes:
        images: uint8 (N, 28, 28), of digits.
        labels: int64 (N,).
        none: uint8 (M, 28, 28), of what is no digit.
        sha256: of all of them.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    none: npt.NDArray[np.uint8]
    sha256: str


def read(folder: Path) -> Extra:
    """Read the images in the folders 0 to 9 and `none` in a folder, each 28x28 pixels, light ink on dark.

    Raises:
        UsageError: there is no such folder.
        EdgeMnistError: no image is in it, or a file is no image of that size.
    """
    if not folder.is_dir():
        raise UsageError(f"--extra {folder}: no such folder")
    images: list[npt.NDArray[np.uint8]] = []
    labels: list[int] = []
    for label, name in enumerate((*map(str, range(10)), NONE)):
        for path in sorted(folder.joinpath(name).glob("*")):
            if path.suffix.lower() in _SUFFIXES:
                images.append(_image(path))
                labels.append(label)
    if not images:
        raise EdgeMnistError(f"--extra {folder}: no images, expected some in folders named 0 to 9 or {NONE}")
    stacked, classes = np.stack(images), np.array(labels, np.int64)
    is_digit = classes < 10
    digest = hashlib.sha256(stacked.tobytes() + classes.tobytes()).hexdigest()
    return Extra(stacked[is_digit], classes[is_digit], stacked[~is_digit], digest)


def _image(path: Path) -> npt.NDArray[np.uint8]:
    """A file as grey levels, uint8 (28, 28)."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise missing_package("pillow", "train") from error
    try:
        with Image.open(path) as opened:
            if opened.size != (_SIZE, _SIZE):
                width, height = opened.size
                raise EdgeMnistError(f"{path}: is {width}x{height} pixels, expected a digit cut to {_SIZE}x{_SIZE}")
            return np.asarray(opened.convert("L"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise EdgeMnistError(f"{path}: is no image that can be read: {error}") from error
