"""The images that artifacts are compared on, and that activations are calibrated on."""

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
    """What artifacts are compared on.

    Attributes:
        name: "MNIST test", "strokes", or what else it is.
        pixels: uint8 (N, channels, height, width).
        labels: int64 (N,); None if they say nothing about accuracy.
    """

    name: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None


def load_test_images(shape: MapShape, folder: Path | None, count: int) -> Images:
    """Images to verify on: MNIST's test set, or drawn digits where it is not to be had, or noise for other shapes."""
    if shape != (1, 28, 28):
        noise = np.random.Generator(np.random.PCG64(7)).integers(0, 256, (min(count, 1000), *shape), dtype=np.uint8)
        return Images("noise", noise, None)
    if is_folder_named(folder) or mnist.is_available(folder):
        digits = mnist.load("test", folder, download=False)
        name = "MNIST test" if digits.source == "mnist" else f"{digits.source} test"
        return Images(name, digits.images[:count], digits.labels[:count])
    return Images("strokes", strokes.draw(count, seed=3).images, None)


def is_folder_named(folder: Path | None) -> bool:
    """Whether the user said where MNIST is: a mistake there is then theirs to know, not to be passed over."""
    return folder is not None or bool(os.environ.get("EDGE_MNIST_DATA"))
