"""Chooses the images, or other inputs, on which artifacts are compared."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_mnist.data import mnist, strokes
from edge_mnist.data.inputs import MNIST_SHAPE, InputOptions
from edge_mnist.data.user_inputs import UserInputs, open_inputs
from edge_mnist.graph.layers import Shape
from edge_mnist.graph.operations import Bounds
from edge_mnist.system.errors import EdgeMnistError, UsageError

_LOG = logging.getLogger(__name__)

_NOISE = 1000
"""The largest number of inputs that are drawn as noise."""


@dataclass(frozen=True, eq=False)
class Images:
    """The images, or other inputs, on which artifacts are compared.

    Attributes:
        name: what they are, such as "MNIST test" or "strokes".
        pixels: uint8 (N, *shape) or, with one channel, (N, height, width); float32 (N, *shape) if they are no pixels.
        labels: int64 (N,); None for inputs on which an accuracy would mean nothing.
    """

    name: str
    pixels: NDArray[np.generic]
    labels: NDArray[np.int64] | None


def load_test_images(
    shape: Shape,
    source: Path | None,
    count: int,
    *,
    features: Bounds | None = None,
    classes: int | None = 10,
    options: InputOptions | None = None,
) -> Images:
    """Load inputs to test with: the user's, else MNIST's test images, else drawn digits or noise.

    Args:
        shape: of one input of the network.
        source: the user's inputs, see `user_inputs.open_inputs`, or the folder with MNIST's files, see `mnist.load`.
            None for MNIST or drawn digits if the shape is that of MNIST's images, else for noise.
        count: the largest number of inputs.
        features: the range of the network's inputs if they are no pixels.
        classes: the number of the network's outputs; None if it gives maps. Labels of other numbers of classes are left
            out, which is noted.
        options: how pictures are prepared; None for the defaults.

    Raises:
        UsageError: there is no such source, or its inputs do not fit the network.
        EdgeMnistError: the user named a source, and it cannot be read.
    """
    is_pixels = features is None
    inputs = None if source is None else open_inputs(source, "test")
    if inputs is not None:
        values, labels = inputs.read(shape, count, options or InputOptions(), is_pixels=is_pixels)
        return Images(inputs.name, values, _check_labels(inputs, labels, classes))
    if not is_pixels or shape != MNIST_SHAPE:
        if source is not None:
            raise refuse_source(source, shape)
        rng = np.random.Generator(np.random.PCG64(7))
        size = (min(count, _NOISE), *shape)
        if features is None:
            return Images("noise", rng.integers(0, 256, size, dtype=np.uint8), None)
        return Images("noise", rng.uniform(*features, size).astype(np.float32), None)
    if is_folder_named(source) or mnist.is_available(source):
        digits = mnist.load("test", source, download=False)
        name = "MNIST test" if digits.source == "mnist" else f"{digits.source} test"
        # A network of another number of classes that the user has not named MNIST for reads other things than digits.
        is_theirs = classes == 10 or (source is not None and classes is not None and classes > 10)
        return Images(name, digits.images[:count], digits.labels[:count] if is_theirs else None)
    return Images("strokes", strokes.draw(count, seed=3).images, None)


def refuse_source(source: Path, shape: Shape) -> EdgeMnistError:
    """Make the error that a path holds no inputs for a network whose input is not MNIST's."""
    if not source.exists():
        return UsageError(f"{source}: there is no such file or folder")
    if not source.is_dir():
        return UsageError(f"{source}: expected a folder of pictures, a .npy or a .npz")
    if mnist.is_available(source, "test") or mnist.is_available(source, "train"):
        return UsageError(f"{source}: holds MNIST's images, 28x28 in grey, but the network takes {shape}")
    return EdgeMnistError(f"{source}: holds no pictures, expected some, in folders named after their classes or not")


def is_folder_named(folder: Path | None) -> bool:
    """Whether the user named the folder with MNIST's files, so that missing files there are an error."""
    return folder is not None or bool(os.environ.get("EDGE_MNIST_DATA"))


def _check_labels(
    inputs: UserInputs, labels: NDArray[np.int64] | None, classes: int | None
) -> NDArray[np.int64] | None:
    """The labels; None, with a note, if they are not those of the network's classes."""
    if labels is None:
        return None
    if classes is None:
        _LOG.warning("note: %s: its labels are left out, because the network's outputs are not classes", inputs.name)
        return None
    if inputs.labels is not None and (inputs.labels.min() < 0 or inputs.labels.max() >= classes):
        found = f"labels from {inputs.labels.min()} to {inputs.labels.max()}"
        text = "note: %s: has %s, but the network has %s outputs: no accuracy is measured"
        _LOG.warning(text, inputs.name, found, classes)
        return None
    return labels
