"""Files of arrays with a JSON description: checkpoints, states of training runs, references of bundles.

The format is safetensors (https://github.com/huggingface/safetensors): the length of a JSON header as a little-endian
uint64, the header, the arrays. The description is one JSON text in the header's `__metadata__`. Reading such a file
executes nothing, and needs no PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from edge_mnist.system.archives import NETWORK_HINT, TORCH_SAVE_HINT, is_torch_save_file
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import METADATA_KEY, parse_json, read_bytes

Arrays = Mapping[str, NDArray[Any]]
"""Arrays by their names in the file."""

TRAINING_KEY = "edge-mnist"
"""The metadata entry with the description of a checkpoint and of a training run's state. The other files have theirs
under METADATA_KEY; this one is kept so that equal training gives equal bytes in every version."""


def encode_tensors(tensors: Arrays, description: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint's or a state's file; equal content gives equal bytes.

    Args:
        tensors: arrays of any shape.
        description: any JSON object.
    """
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    # ascontiguousarray makes a scalar one-dimensional, which the reshape undoes.
    arrays = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in tensors.items()}
    return safetensors.numpy.save(arrays, {TRAINING_KEY: text})


def decode_tensors(data: bytes, where: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays and the description in a file's content.

    Args:
        data: the content.
        where: the file's name, with which the text of an error begins.

    Raises:
        EdgeMnistError: it is cut short, not safetensors, or was not written by edge-mnist.
    """
    try:
        tensors = decode_arrays(data)
        metadata = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except ValueError as error:
        raise EdgeMnistError(f"{where}: {TORCH_SAVE_HINT if is_torch_save_file(data) else error}") from error
    try:
        description = parse_json(next(metadata[key] for key in (METADATA_KEY, TRAINING_KEY) if key in metadata))
    except (StopIteration, TypeError, ValueError) as error:
        raise EdgeMnistError(
            f"{where}: was not written by edge-mnist, there is no description under {METADATA_KEY!r} or "
            f"{TRAINING_KEY!r} in its metadata: if it holds weights, {NETWORK_HINT}"
        ) from error
    if not isinstance(description, dict):
        raise EdgeMnistError(f"{where}: was not written by edge-mnist: its description is not a JSON object")
    return tensors, description


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays and the description in a file.

    Raises:
        EdgeMnistError: the file is missing, or see `decode_tensors`.
    """
    return decode_tensors(read_bytes(path), str(path))


def decode_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays in the content of any safetensors file, whoever wrote it.

    Raises:
        ValueError: it is cut short, not safetensors, or holds numbers that NumPy does not have, such as bfloat16.
    """
    try:
        return safetensors.numpy.load(data)
    except KeyError as error:
        raise ValueError(f"holds tensors of {error.args[0]}, expected float32") from error
    except safetensors.SafetensorError as error:
        raise ValueError(f"is not a safetensors file, or cut short: {error}") from error


def is_safetensors(data: bytes) -> bool:
    """Whether a file's content begins as safetensors does: a length, then a JSON object."""
    return data[8:9] == b"{"
