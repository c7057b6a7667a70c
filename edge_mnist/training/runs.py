"""A training run: its settings, what changes while it trains, and the files in its folder from which it resumes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edge_mnist.graph.tensor_file import decode_tensors, encode_tensors, read_tensors
from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.system.files import read_bytes, write_whole
from edge_mnist.training.network import DIGITNET, rename_former_factory
from edge_mnist.training.recipes import RECIPES, Recipe, change_recipe, parse_recipe

STATE = "state.safetensors"
"""The file from which a run resumes."""
METRICS = "metrics.jsonl"
"""The file with one JSON object for each completed epoch."""


@dataclass(frozen=True)
class TrainingSettings:
    """What a run computes, besides its data: two runs of equal settings on one machine end with the same bits.

    The names of the fields are those in state.safetensors and in the metadata of checkpoints.
    """

    recipe: Recipe
    seed: int = 0
    everything: bool = False
    """Learn from all training images and validate on none."""
    init: str = ""
    """SHA-256 of the checkpoint whose weights the run begins with; empty for the network's initial weights."""
    teachers: str = ""
    """SHA-256 of each teacher's checkpoint, separated by commas."""
    watch_test: bool = False
    """Measure the accuracy on the test images after each epoch, for a curve; no choice may depend on it."""
    network: str = DIGITNET
    """The factory of the network, `package.module:factory`."""
    device: str = "cpu"
    """cpu or cuda."""
    bfloat16: bool = False
    """Multiply in bfloat16, with weights and sums in float32."""


@dataclass
class TrainingState:
    """What changes while a run trains."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    """Completed steps."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row for each completed epoch, as in metrics.jsonl."""
    loss: float = 0.0
    """The sum of the losses over the present epoch's images so far."""
    correct: int = 0
    """How many of the present epoch's images were classified correctly, before each step."""
    images: int = 0
    """How many images of the present epoch were learned from."""
    seconds: float = 0.0
    """The duration of the present epoch's steps."""


_SAVED = {
    "step": "step",
    "history": "history",
    "loss": "loss",
    "correct": "correct",
    "images": "seen",
    "seconds": "seconds",
}
"""The keys in the header of state.safetensors by the fields of `TrainingState` that they hold."""


def choose_settings(
    *,
    recorded: TrainingSettings | None = None,
    recipe: Recipe | None = None,
    changes: Mapping[str, Any],
    device: str | None = None,
    **others: Any,
) -> TrainingSettings:
    """Choose the settings from a user's options; None stands for an option that was not given.

    Args:
        recorded: the settings of the run to resume, which no option may contradict.
        recipe: a named recipe; else the recorded run's, else adam-onecycle.
        changes: other values for the fields of the recipe or of its augmentation.
        device: auto, cpu or cuda.
        others: other values for the fields of `TrainingSettings`.

    Raises:
        UsageError: CUDA is asked for and there is none, or an option contradicts the recorded settings.
    """
    if recorded is None or device is not None:
        device = _find_device(device or "auto")
    base = recorded or TrainingSettings(recipe or RECIPES["adam-onecycle"])
    if recipe is None or (recorded is not None and recipe.name == recorded.recipe.name):
        recipe = base.recipe  # with what was changed when the run was started
    changed_recipe = change_recipe(recipe, changes)
    if recorded is not None and not recorded.network.startswith(_OUR_NETWORKS) and not others.get("network"):
        # A file must not choose which code is run.
        raise UsageError(f"--resume: the run trains a network of yours: name it again with --network {base.network}")
    if recorded is not None and device is None:
        _find_device(recorded.device)
    if base.teachers and not others.get("teachers"):
        raise UsageError("--resume: the run learns from another network: name its --teacher again")
    result = dataclasses.replace(base, **drop_none({"recipe": changed_recipe, "device": device, **others}))
    if recorded is not None and result != recorded:
        differences = _describe_differences(recorded, result)
        raise UsageError(f"--resume: the run was started with {differences}; leave the options out")
    return result


def save_state(state: TrainingState, out: Path, settings: TrainingSettings, data_hash: str) -> None:
    """Write state.safetensors, and metrics.jsonl anew from the history, so that the two agree.

    Raises:
        EdgeMnistError: the folder cannot be written.
    """
    header = {"settings": dataclasses.asdict(settings), "data": data_hash}
    write_whole(out / STATE, pack_state(state, header))
    write_whole(out / METRICS, "".join(json.dumps(row) + "\n" for row in state.history).encode())


def pack_state(state: TrainingState, header: Mapping[str, Any]) -> bytes:
    """Pack a state, and other values for the header, as the content of a safetensors file."""
    tensors = {f"network/{name}": tensor for name, tensor in state.network.state_dict().items()}
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in values.items() if tensor is not None}
    return encode_tensors(to_arrays(tensors), {**header, **{key: getattr(state, name) for name, key in _SAVED.items()}})


_TYPES = {"int": int, "float": int | float, "bool": bool, "str": str}
"""The types of the fields of settings that can be checked, by their annotations."""
_OUR_NETWORKS = f"{DIGITNET.partition(':')[0]}:"
"""How the factories of the package's networks begin."""


def recorded_settings(out: Path) -> TrainingSettings:
    """Read the settings of the run in a folder.

    Raises:
        UsageError: there is no run in the folder.
        EdgeMnistError: its state is damaged.
    """
    if not (out / STATE).is_file():
        raise UsageError(f"{out}: no run to resume here: {STATE} is missing")
    _, header = read_tensors(out / STATE)
    try:
        return parse_settings(header["settings"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _make_damage_error(out / STATE) from error


def parse_settings(record: Mapping[str, Any]) -> TrainingSettings:
    """Build settings from their fields as JSON holds them, written by this version or an earlier one.

    Raises:
        AttributeError, KeyError, TypeError: fields are missing, unknown or of another type.
    """
    network = rename_former_factory(record["network"])
    settings = TrainingSettings(**{**record, "recipe": parse_recipe(record["recipe"]), "network": network})
    for part in (settings, settings.recipe, settings.recipe.augmentation):
        for known in dataclasses.fields(part) if part is not None else ():
            if not isinstance(getattr(part, known.name), _TYPES.get(str(known.type), object)):
                raise TypeError(f"{known.name} is not of type {known.type}")
    return settings


def restore(state: TrainingState, out: Path, network: str, data_hash: str) -> None:
    """Restore the state that was saved in a folder.

    Raises:
        UsageError: it was saved with other images.
        EdgeMnistError: it is damaged, or was saved with another network.
    """
    content = read_bytes(out / STATE)
    _, header = decode_tensors(content, str(out / STATE))
    if header.get("data") != data_hash:
        raise UsageError(
            f"{out}: the run was started with other images (SHA-256 {header.get('data')}): "
            "name its --data, and its --user-digits"
        )
    unpack_state(state, content, str(out / STATE), network)


def unpack_state(state: TrainingState, content: bytes, where: str, network: str) -> None:
    """Restore a state from what `pack_state` returned.

    Args:
        state: the state to change; its network and optimiser are of the settings of the saved one.
        content: the content of a state file.
        where: what the text of an error begins with.
        network: the factory of the network, for the text of an error.

    Raises:
        EdgeMnistError: the content is damaged, or was saved with another network.
    """
    tensors, header = decode_tensors(content, where)
    weights: dict[str, torch.Tensor] = {}
    moments: dict[int, dict[str, torch.Tensor]] = {}
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    try:
        for name, array in tensors.items():
            part, _, rest = name.partition("/")
            if part == "network":
                weights[rest] = torch.from_numpy(array)
            else:
                index, _, key = rest.partition("/")
                moment = _match_layout(torch.from_numpy(array), parameters[int(index)])
                moments.setdefault(int(index), {})[key] = moment
        for name, key in _SAVED.items():
            usual = getattr(state, name)
            if not isinstance(header[key], int | float if isinstance(usual, int | float) else type(usual)):
                raise ValueError(f"{key} is not of the type of {usual!r}")
            setattr(state, name, header[key])
        groups = state.optimizer.state_dict()["param_groups"]
        state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    except (IndexError, KeyError, ValueError) as error:
        raise _make_damage_error(where) from error
    try:
        state.network.load_state_dict(weights)
    except RuntimeError as error:
        raise EdgeMnistError(f"{where}: its weights do not fit {network}, which has changed since") from error


def _match_layout(moment: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Lay a moment out in memory as its parameter is, because fused optimisers assume that both have one order."""
    return torch.empty_like(parameter).copy_(moment) if moment.shape == parameter.shape else moment


def to_arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """Convert tensors on any device to arrays of the same shapes and dtypes."""
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}


def _find_device(name: str) -> str:
    """Resolve auto, cpu or cuda to cpu or cuda."""
    if name == "cpu":
        return name
    if torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        raise UsageError("--device cuda: this machine, or this build of torch, has no CUDA: use cpu")
    return "cpu"


def has_bfloat16(device: str) -> bool:
    """Check whether the device multiplies bfloat16 in hardware; emulated, it is slower than float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def drop_none(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the options that are given: None must not hide what is named elsewhere."""
    return {name: value for name, value in options.items() if value is not None}


def _describe_differences(recorded: TrainingSettings, chosen: TrainingSettings) -> str:
    """Describe the fields that differ, as "lr 0.01 (now 0.02)"."""
    before, now = ({**dataclasses.asdict(item), **dataclasses.asdict(item.recipe)} for item in (recorded, chosen))
    names = (name for name in before if name != "recipe" and before[name] != now[name])
    return ", ".join(f"{name} {before[name]} (now {now[name]})" for name in names)


def _make_damage_error(where: Path | str) -> EdgeMnistError:
    return EdgeMnistError(f"{where}: is damaged or of another version of edge-mnist: start the run anew")
