"""Drawn digits in files of MNIST's format."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_mnist.data import strokes


def idx(values: np.ndarray) -> bytes:
    """An IDX file of bytes."""
    return bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape) + values.tobytes()


def put_digits(folder: Path, **files: bytes) -> Path:
    """A folder of drawn digits in MNIST's format, some of whose files hold something else."""
    digits = strokes.draw(256, seed=4)
    folder.mkdir()
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(files.get("images", idx(digits.images)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(files.get("labels", idx(digits.labels.astype(np.uint8))))
    return folder
