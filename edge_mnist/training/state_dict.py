"""Reads the weights of a network that was trained elsewhere from a file of safetensors or torch.save."""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_mnist.graph.tensor_file import decode_arrays
from edge_mnist.system.archives import is_torch_save_file
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import read_bytes

Arrays = dict[str, NDArray[Any]]
"""Arrays by name."""


def read_state_dict(path: Path, names: Collection[str]) -> Arrays:
    """Read the tensors in a file.

    A prefix that all names share ("module." of DataParallel, "weights/" of `edge-mnist train`) is removed. A pickle is
    read by torch's restricted reader, which accepts tensors and plain values and runs no code.

    Args:
        path: a state_dict or a checkpoint of `edge-mnist train` as safetensors; or a file of torch.save, which may hold
            the state_dict among other things, such as the state of the optimiser.
        names: the names of the network's tensors.

    Returns:
        The tensors by their names in the network.

    Raises:
        EdgeMnistError: the file is missing or damaged, or holds no state_dict or several.
    """
    data = read_bytes(path)
    arrays = _read_torch_save(data, path) if is_torch_save_file(data) else _read_safetensors(data, path)
    first = next(iter(names), "")
    prefixes = sorted((name.removesuffix(first) for name in arrays if name.endswith(first)), key=len)
    prefix = next((prefix for prefix in prefixes if all(prefix + name in arrays for name in names)), "")
    if prefix == "weights/":
        arrays = {name: array for name, array in arrays.items() if not name.startswith("statistics/")}
    return {name.removeprefix(prefix): array for name, array in arrays.items()}


def _read_safetensors(data: bytes, path: Path) -> Arrays:
    try:
        return decode_arrays(data)
    except ValueError as error:
        raise EdgeMnistError(f"{path}: {error} (a state_dict may be a file of safetensors or of torch.save)") from error


def _read_torch_save(data: bytes, path: Path) -> Arrays:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may fail in many ways
        raise EdgeMnistError(
            f"{path}: holds more than tensors, such as a whole module, or is damaged: "
            "save the weights alone: torch.save(network.state_dict(), FILE)"
        ) from error
    entries: dict[Any, Any] = loaded if isinstance(loaded, dict) else {}
    states = {str(name): entry for name, entry in entries.items() if _is_state_dict(entry)}
    if _is_state_dict(entries):
        states = {"": entries}
    if len(states) != 1:
        several = f"several, {', '.join(states)}: keep one" if states else f"a {type(loaded).__name__}"
        raise EdgeMnistError(f"{path}: expected a state_dict, tensors by name, found {several}")
    (state,) = states.values()
    return {name: _to_array(tensor, f"{path}: {name}") for name, tensor in state.items()}


def _is_state_dict(value: object) -> bool:
    """Whether a value is a dict of tensors by name."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())
    )


def _to_array(tensor: torch.Tensor, where: str) -> NDArray[Any]:
    """View a tensor as an array that shares its memory, so that a false size in the file costs no memory."""
    try:
        array: NDArray[np.generic] = tensor.detach().numpy()
    except (TypeError, RuntimeError) as error:  # bfloat16, sparse, quantized, on the device meta
        found = f"{tensor.layout} on the device {tensor.device}"
        raise EdgeMnistError(f"{where} is {tensor.dtype}, {found}, expected torch.float32, dense") from error
    return array
