"""What pages are made from: MNIST, drawn strokes, fonts and photographs.

They are kept apart for learning, choosing and judging; only the photographs are the same for choosing and judging.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist.data import mnist, strokes
from edge_mnist.system.errors import UsageError
from edge_mnist.training.finder import glyphs
from edge_mnist.training.finder.pages import Sources

PARTS: dict[str, tuple[int, int]] = {"train": (0, 44_000), "choose": (44_000, 52_000), "judge": (52_000, 60_000)}
"""The images of MNIST's training set that belong to each part: from, to."""
MOST_IMAGES = 12_000
"""Images of MNIST that are kept in memory, enlarged."""
DRAWN = 1_500
"""Digits that are drawn from strokes."""
PHOTOGRAPHS = {
    "train": (
        "astronaut", "brick", "camera", "cat", "coffee", "colorwheel", "grass", "hubble_deep_field", "moon", "rocket",
        "china.jpg",
    ),
    "judge": (
        "cell", "chelsea", "coins", "gravel", "horse", "immunohistochemistry", "logo", "retina", "flower.jpg",
    ),
}  # fmt: skip
"""Names in scikit-image, or with a suffix in scikit-learn, by part; "choose" has those of "judge"."""
_JUDGED_ROWS = 7
"""How many rows of faces are among the photographs of "choose" and "judge"; none of them is among those of "train"."""


def load(part: str, fonts: Path, folder: Path | None = None) -> Sources:
    """The sources of a part.

    Args:
        part: "train", "choose" or "judge". Each has images of MNIST and families of fonts that no other part has;
            "choose" and "judge" have the same photographs, and "train" has others.
        fonts: a folder with handwritten fonts in `hand` and printed ones in `print`.
        folder: where MNIST is; None as for `edge-mnist train`.

    Raises:
        UsageError: the folder holds no handwritten font with letters, or no printed one, of this part.
        EdgeMnistError: MNIST cannot be read.
    """
    found = glyphs.fonts(fonts, part)
    written = [hand for hand in found if not hand.printed]
    scripts = [hand for hand in written if hand.has("abcXYZ")]
    presses = [hand for hand in found if hand.printed]
    if not scripts or not presses:
        raise UsageError(
            f"{fonts}: has {len(scripts)} handwritten and {len(presses)} printed fonts for the part {part!r}, expected "
            f"at least one of each: put fonts ({', '.join(glyphs.FONT_SUFFIXES)}) into its folders hand and print"
        )
    digits = mnist.load("train", folder)
    first, last = PARTS[part]
    some = np.random.RandomState(first).permutation(np.arange(first, min(last, len(digits.labels))))[:MOST_IMAGES]
    drawn = strokes.draw(DRAWN, seed=11 + first)
    writers = [
        glyphs.from_images("mnist", digits.images[some], digits.labels[some]),
        glyphs.from_images("strokes", drawn.images, drawn.labels),
        *written,
    ]
    return Sources(writers, scripts, presses, photographs("train" if part == "train" else "judge"))


def photographs(part: str) -> list[NDArray[np.uint8]]:
    """Photographs without digits, uint8 (H, W); none where scikit-image or scikit-learn is not installed."""
    try:
        from skimage import data
        from sklearn.datasets import load_sample_image
    except ImportError:
        return []
    found = []
    for name in PHOTOGRAPHS[part]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                picture = np.asarray(load_sample_image(name) if "." in name else getattr(data, name)())
        except (OSError, ImportError):  # scikit-image would download it, and cannot
            continue
        if picture.dtype != np.uint8:
            picture = picture.astype(np.float64)  # "horse" is bool, which cannot be subtracted
            picture = np.rint(255 * (picture - picture.min()) / np.ptp(picture).clip(1e-9)).astype(np.uint8)
        if picture.ndim == 3:
            picture = np.asarray(cv2.cvtColor(np.ascontiguousarray(picture[..., :3]), cv2.COLOR_RGB2GRAY))
        found.append(picture)
    try:
        faces = (np.clip(data.lfw_subset(), 0, 1) * 255).astype(np.uint8)  # (200, 25, 25), of which 100 are faces
    except (OSError, ImportError):
        return found
    rows = [np.hstack(list(faces[first : first + 5])) for first in range(0, 100, 5)]
    return found + (rows[::2] if part == "train" else rows[1::2][:_JUDGED_ROWS])
