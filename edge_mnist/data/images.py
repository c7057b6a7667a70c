"""Chooses the images on which artifacts are compared."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_mnist.data import mnist, strokes
from edge_mnist.graph.geometry import MapShape


@dataclass(frozen=True, eq=False)
class Images:
    """The images on which artifacts are compared.

    Attributes:
        name: what they are, such as "MNIST test" or "strokes".
        pixels: uint8 (N, channels, height, width).
        labels: int64 (N,); None for images on which an accuracy would mean nothing.
    """

    name: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None


def load_test_images(shape: MapShape, folder: Path | None, count: int) -> Images:
    """Load MNIST's test images; without MNIST, draw digits; for a shape other than (1, 28, 28), draw noise.

    Args:
        shape: channels, height and width of the network's input.
        folder: the folder with MNIST's files, see `mnist.load`.
        count: the largest number of images.

    Raises:
        EdgeMnistError: the user named a folder, and its files cannot be read.
    """
    if shape != (1, 28, 28):
        noise = np.random.Generator(np.random.PCG64(7)).integers(0, 256, (min(count, 1000), *shape), dtype=np.uint8)
        return Images("noise", noise, None)
    if is_folder_named(folder) or mnist.is_available(folder):
        digits = mnist.load("test", folder, download=False)
        name = "MNIST test" if digits.source == "mnist" else f"{digits.source} test"
        return Images(name, digits.images[:count], digits.labels[:count])
    return Images("strokes", strokes.draw(count, seed=3).images, None)


def is_folder_named(folder: Path | None) -> bool:
    """Whether the user named the folder with MNIST's files, so that missing files there are an error."""
    return folder is not None or bool(os.environ.get("EDGE_MNIST_DATA"))
