"""Loads the weights of a network that was trained elsewhere from a file of safetensors or torch.save."""

from __future__ import annotations

import io
import logging
import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from edge_mnist.system.archives import is_torch_save_file
from edge_mnist.system.errors import EdgeMnistError, first_line
from edge_mnist.system.files import read_bytes
from edge_mnist.system.hashes import sha256

_LOG = logging.getLogger(__name__)

Tensors = Mapping[str, torch.Tensor]
"""Tensors by name."""

_LISTED = 5
"""How many names an error lists at most."""


def load_weights(module: nn.Module, path: Path, name: str) -> str:
    """Load the weights in a file into a network.

    A prefix of all names ("module." of DataParallel, "weights/" of `edge-mnist train`) is left out, and numbers of half
    or double precision are converted to the network's; both are logged. A pickle is read by torch's restricted reader,
    which accepts tensors and plain values and runs no code.

    Args:
        module: the network.
        path: a state_dict or a checkpoint of `edge-mnist train` as safetensors; or a file of torch.save, which may hold
            the state_dict among other things, such as the state of the optimiser.
        name: the name of the network in error messages.

    Returns:
        The SHA-256 of the file, hexadecimal.

    Raises:
        EdgeMnistError: the file is missing or damaged, holds no state_dict or several, or that of another network.
    """
    data = read_bytes(path)
    found = _read_torch_save(data, path) if is_torch_save_file(data) else _read_safetensors(data, path)
    state: Tensors = {key: value for key, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    prefix = _find_prefix(found, state)
    if prefix == "weights/":
        found = {key: tensor for key, tensor in found.items() if not key.startswith("statistics/")}
    elif prefix:
        _LOG.warning("note: %s: its names begin with %r, which is left out", path, prefix)
    found = {key.removeprefix(prefix): tensor for key, tensor in found.items()}
    _check_names(found, state, f"{path}: its weights do not fit {name}")
    for key, tensor in found.items():
        _check_tensor(tensor, state[key], f"{path}: {key}")
    if others := sorted({str(found[key].dtype) for key in found if found[key].dtype != state[key].dtype}):
        _LOG.warning("note: %s: its weights are %s and are converted", path, ", ".join(others))
    with torch.no_grad():
        for key, tensor in found.items():
            state[key].copy_(tensor)
    return sha256(data)


def _find_prefix(found: Tensors, state: Tensors) -> str:
    """The prefix with which most names in a file are names of the network; the shortest of several."""
    prefixes: Counter[str] = Counter()
    for name in found:
        starts = [0, *(index + 1 for index, character in enumerate(name) if character in "./")]
        prefixes.update(name[:start] for start in starts if name[start:] in state)
    return max(prefixes, key=lambda prefix: (prefixes[prefix], -len(prefix)), default="")


def _check_names(found: Tensors, state: Tensors, trouble: str) -> None:
    """Check that a file holds all tensors of the network and no others; PyTorch's counts of batches may be missing.

    Raises:
        EdgeMnistError: it does not; the text begins with `trouble`.
    """
    missing = [name for name in state.keys() - found.keys() if not name.endswith("num_batches_tracked")]
    foreign = found.keys() - state.keys()
    faults = [
        f"{_list(names)} {fault}" for names, fault in ((missing, "missing"), (foreign, "not the network's")) if names
    ]
    if faults:
        raise EdgeMnistError(f"{trouble}: {'; '.join(faults)}: is it the file of another network?")


def _list(names: Collection[str]) -> str:
    """The first names in alphabetic order, and the number of the others."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(sorted(names)[:_LISTED])}{more} {'is' if len(names) == 1 else 'are'}"


def _check_tensor(tensor: torch.Tensor, expected: torch.Tensor, where: str) -> None:
    """Check that a tensor has the shape that the network expects, and numbers that can be converted."""
    if tensor.shape != expected.shape:
        raise EdgeMnistError(f"{where} has shape {tuple(tensor.shape)}, expected {tuple(expected.shape)}")
    is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    # A count of batches, which inference does not need, is a float where all of a state_dict was converted to half.
    is_convertible = tensor.is_floating_point() == expected.is_floating_point() or expected.ndim == 0
    if not is_plain or not is_convertible:
        found = f"{tensor.dtype}, {tensor.layout} on the device {tensor.device}"
        raise EdgeMnistError(f"{where} is {found}, expected {expected.dtype}, dense")


def _read_safetensors(data: bytes, path: Path) -> Tensors:
    try:
        tensors: Tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise EdgeMnistError(
            f"{path}: is not a safetensors file, or cut short: {first_line(error)} (a state_dict may be a file of "
            "safetensors or of torch.save)"
        ) from error
    return tensors


def _read_torch_save(data: bytes, path: Path) -> Tensors:
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
    ((name, state),) = states.items()
    if name:
        _LOG.warning("note: %s: the weights under %r are taken", path, name)
    return {name: tensor.detach() for name, tensor in state.items()}


def _is_state_dict(value: object) -> bool:
    """Whether a value is a dict of tensors by name."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())
    )
