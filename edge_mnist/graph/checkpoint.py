"""A checkpoint: a trained network in one file, with its weights, activation statistics and origin.

The file (see `tensor_file`) holds the arrays `weights/NAME` and `statistics/NAME`, and describes the layers in JSON.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_mnist.graph import layers
from edge_mnist.graph.layers import Layer, Shape
from edge_mnist.graph.tensor_file import Arrays, decode_tensors, encode_tensors
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import read_bytes, write_whole
from edge_mnist.system.hashes import sha256

_FORMAT = 1
"""The version of the description's layout."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained network: its layers, their weights, and how it was trained."""

    architecture: tuple[Layer, ...]
    input_shape: Shape
    """(channels, height, width), (channels, length) or (features,)."""
    mean: float | tuple[float, ...]
    """The network's input is (pixel / 255 - mean) / std; one number, or one for each channel."""
    std: float | tuple[float, ...]
    weights: Arrays
    """float32 arrays, named as in PyTorch's state_dict."""
    statistics: Arrays = field(default_factory=dict)
    """The statistics that `calibration.collect` gives; empty if they were never collected."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """A JSON object with recipe, epochs, seed, versions, data, created, and accuracies. The accuracies are those on the
    parts train, validation and test: 0 to 1, or null where a part was not evaluated."""
    is_pixels: bool = True
    """Whether the input is pixels, 0..255. If it is not, the network takes it as it is, and mean and std do not
    matter."""
    ending: str = ""
    """What followed the last layer and is left out: "", "softmax" or "log_softmax"."""
    sha256: str = field(default="", compare=False)
    """The hash of the file from which it was read, hexadecimal; empty if it was not read from one."""

    @property
    def means(self) -> tuple[float, ...]:
        """The mean of each channel."""
        return self._spread(self.mean)

    @property
    def stds(self) -> tuple[float, ...]:
        """The standard deviation of each channel."""
        return self._spread(self.std)

    def _spread(self, value: float | tuple[float, ...]) -> tuple[float, ...]:
        return value if isinstance(value, tuple) else (value,) * self.input_shape[0]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; equal content gives equal bytes.

    Raises:
        EdgeMnistError: the checkpoint is not valid, or the file cannot be written.
    """
    check_checkpoint(checkpoint, str(path))
    header = {
        "format": _FORMAT,
        "architecture": [layer.to_json() for layer in checkpoint.architecture],
        "input_shape": list(checkpoint.input_shape),
        "mean": checkpoint.mean,
        "std": checkpoint.std,
        "metadata": dict(checkpoint.metadata),
    }
    # What came later is written only where it is needed, so that other checkpoints keep their bytes.
    if not checkpoint.is_pixels:
        header["is_pixels"] = False
    if checkpoint.ending:
        header["ending"] = checkpoint.ending
    tensors = {f"weights/{name}": array for name, array in checkpoint.weights.items()}
    tensors |= {f"statistics/{name}": array for name, array in checkpoint.statistics.items()}
    write_whole(path, encode_tensors(tensors, header))


def load(path: Path) -> Checkpoint:
    """Read a checkpoint and check all of it.

    Raises:
        EdgeMnistError: the file is missing, cut short, not safetensors or not a checkpoint, or its weights do not fit
            its layers or are not finite; the text names the file and the array.
    """
    return decode(read_bytes(path), path)


def decode(data: bytes, path: Path) -> Checkpoint:
    """Check the content of a checkpoint's file, and return the checkpoint.

    Raises:
        EdgeMnistError: as `load`.
    """
    tensors, header = decode_tensors(data, str(path))
    try:
        if header["format"] != _FORMAT:
            raise EdgeMnistError(
                f"{path}: format {header['format']}, expected {_FORMAT}: made by another version of edge-mnist"
            )
        checkpoint = Checkpoint(
            architecture=_parse_layers(header["architecture"], path),
            input_shape=tuple(header["input_shape"]),
            mean=_to_tuple(header["mean"]),
            std=_to_tuple(header["std"]),
            weights=_select(tensors, "weights/"),
            statistics=_select(tensors, "statistics/"),
            metadata=header["metadata"],
            is_pixels=header.get("is_pixels", True),
            ending=header.get("ending", ""),
            sha256=sha256(data),
        )
    except (KeyError, TypeError) as error:
        raise EdgeMnistError(
            f"{path}: is not an edge-mnist checkpoint: its description is incomplete ({error})"
        ) from error
    check_checkpoint(checkpoint, str(path))
    return checkpoint


def _to_tuple(value: Any) -> Any:
    """A list as a tuple; other values as they are."""
    return tuple(value) if isinstance(value, list) else value


def _select(tensors: Arrays, prefix: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def _parse_layers(records: Iterable[object], path: Path) -> tuple[Layer, ...]:
    """The layers that a checkpoint describes."""
    try:
        return tuple(Layer.from_json(record) for record in records)
    except EdgeMnistError as error:
        raise EdgeMnistError(f"{path}: {error}") from error


def check_checkpoint(checkpoint: Checkpoint, where: str) -> None:
    """Check that the parts of a checkpoint are valid and fit each other.

    Args:
        checkpoint: what to check.
        where: the file's name, with which the text of an error begins.

    Raises:
        EdgeMnistError: a part is invalid, or does not fit the others.
    """
    try:
        layers.output_shapes(checkpoint.architecture, checkpoint.input_shape)
    except EdgeMnistError as error:
        raise EdgeMnistError(f"{where}: {error}") from error
    for name, value, least in (("mean", checkpoint.mean, -math.inf), ("std", checkpoint.std, 0.0)):
        values = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(item, float) and math.isfinite(item) and item > least for item in values):
            raise EdgeMnistError(f"{where}: {name} is {value!r}, expected a{' positive' if least == 0 else ''} number")
        if isinstance(value, tuple) and len(value) != checkpoint.input_shape[0]:
            raise EdgeMnistError(
                f"{where}: {name} has {len(value)} numbers, expected one for each of {checkpoint.input_shape[0]} "
                "channels, or a single one"
            )
    if not isinstance(checkpoint.is_pixels, bool):
        raise EdgeMnistError(f"{where}: is_pixels is {checkpoint.is_pixels!r}, expected true or false")
    if checkpoint.ending not in ("", "softmax", "log_softmax"):
        raise EdgeMnistError(f"{where}: ending is {checkpoint.ending!r}, expected softmax, log_softmax or nothing")
    if not isinstance(checkpoint.metadata, Mapping):
        raise EdgeMnistError(f"{where}: metadata is {type(checkpoint.metadata).__name__}, expected a JSON object")
    accuracies = checkpoint.metadata.get("accuracies", {})
    if not isinstance(accuracies, Mapping) or not all(_is_accuracy(value) for value in accuracies.values()):
        raise EdgeMnistError(f"{where}: metadata's accuracies are {accuracies!r}, expected numbers from 0 to 1 by name")
    expected = layers.weight_shapes(checkpoint.architecture)
    for name in sorted(expected.keys() ^ checkpoint.weights.keys()):
        fault = "is missing" if name in expected else "belongs to no layer"
        raise EdgeMnistError(f"{where}: weights/{name} {fault}")
    for name, shape in expected.items():
        _check_weights(checkpoint.weights[name], shape, name, f"{where}: weights/{name}")
    for name, array in checkpoint.statistics.items():
        if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            raise EdgeMnistError(f"{where}: statistics/{name} holds values that are not finite numbers")


def _is_accuracy(value: object) -> bool:
    """Whether a value may be the accuracy on a part; it is None where the part was not evaluated."""
    return value is None or (isinstance(value, (int, float)) and 0 <= value <= 1)


def _check_weights(array: npt.NDArray[Any], shape: layers.Shape, name: str, where: str) -> None:
    """Check one array: its dtype and shape, that its values are finite, and that no variance is negative."""
    if array.dtype != np.float32:
        raise EdgeMnistError(f"{where} is {array.dtype}, expected float32")
    if array.shape != shape:
        raise EdgeMnistError(f"{where} has shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        raise EdgeMnistError(f"{where} holds {np.count_nonzero(~np.isfinite(array))} values that are NaN or infinite")
    if name.endswith(".running_var") and (array < 0).any():
        # 0 is possible: that of a channel whose weights have become 0 in training.
        raise EdgeMnistError(f"{where} is {array.min()}, expected variances of at least 0")
