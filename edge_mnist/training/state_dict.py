"""Reads the weights of a network that was trained elsewhere, as safetensors or torch.save keep them."""

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


def read_state_dict(path: Path, names: Collection[str]) -> Arrays:
    """The tensors in a file, by their names in the network.

    What a wrapper or a checkpoint puts before all names ("module." of DataParallel, "weights/" of edge-mnist train) is
    taken away. Of a pickle, torch's restricted reader takes tensors and plain values, and runs nothing else.

    Args:
        path: a state_dict, or a checkpoint of `edge-mnist train`, as safetensors; or a file of torch.save, which may
            keep the state_dict among other things, such as the optimiser's state.
        names: those that the network has.

    Raises:
        EdgeMnistError: the file is missing, damaged, or holds no state_dict, or several.
    """
    data = read_bytes(path)
    found = _of_torch_save(data, path) if is_torch_save_file(data) else _of_safetensors(data, path)
    first = next(iter(names), "")
    prefixes = sorted((name.removesuffix(first) for name in found if name.endswith(first)), key=len)
    prefix = next((prefix for prefix in prefixes if all(prefix + name in found for name in names)), "")
    if prefix == "weights/":
        found = {name: array for name, array in found.items() if not name.startswith("statistics/")}
    return {name.removeprefix(prefix): array for name, array in found.items()}


def _of_safetensors(data: bytes, path: Path) -> Arrays:
    try:
        return decode_arrays(data)
    except ValueError as error:
        raise EdgeMnistError(f"{path}: {error} (a state_dict may be a file of safetensors or of torch.save)") from error


def _of_torch_save(data: bytes, path: Path) -> Arrays:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damage breaks it in many ways
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
    return {name: _array(tensor, f"{path}: {name}") for name, tensor in state.items()}


def _is_state_dict(value: object) -> bool:
    """Whether it is tensors by name."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())
    )


def _array(tensor: torch.Tensor, where: str) -> NDArray[Any]:
    """A tensor as an array that shares its memory, whatever size it claims."""
    try:
        array: NDArray[np.generic] = tensor.detach().numpy()
    except (TypeError, RuntimeError) as error:  # bfloat16, sparse, quantized, on the device meta
        found = f"{tensor.layout} on the device {tensor.device}"
        raise EdgeMnistError(f"{where} is {tensor.dtype}, {found}, expected torch.float32, dense") from error
    return array
