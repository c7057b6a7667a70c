"""A training run as it lies on the disk: its settings, and the state from which it goes on after a stop."""

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
from edge_mnist.training.network import DIGITNET
from edge_mnist.training.recipes import RECIPES, Augmentation, Recipe, changed

STATE = "state.safetensors"
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Settings:
    """What a run computes, beside its data: two runs of equal settings on one machine end with the same bits."""

    recipe: Recipe
    seed: int = 0
    everything: bool = False
    """Learn from all training images, without a validation part."""
    init: str = ""
    """SHA-256 of the checkpoint that the run began with."""
    teachers: str = ""
    """SHA-256 of each checkpoint that the run learns from, with commas."""
    watch_test: bool = False
    """Look at the test images after each epoch, to draw a curve; nothing may be chosen by it."""
    network: str = DIGITNET
    """`package.module:factory`."""
    device: str = "cpu"
    """cpu or cuda."""
    bfloat16: bool = False
    """Multiply in bfloat16, keep weights and sums in float32."""


@dataclass
class Run:
    """What moves while a run goes on."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    """Steps taken."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row for each epoch that is over, as in metrics.jsonl."""
    loss: float = 0.0
    """Sum over the images of the present epoch, as are `correct` and `seen`."""
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0


_SAVED = ("step", "history", "loss", "correct", "seen", "seconds")


def choose_settings(
    *,
    recorded: Settings | None = None,
    recipe: Recipe | None = None,
    changes: Mapping[str, Any],
    device: str | None = None,
    **others: Any,
) -> Settings:
    """The settings that a user asks for; None stands for what they did not say.

    Args:
        recorded: those of the run to resume, which nothing may contradict.
        recipe: a named recipe; else that of the recorded run, else adam-onecycle.
        changes: other values for the recipe's fields, or its augmentation's.
        device: auto, cpu or cuda.
        others: other values for the fields of `Settings`.

    Raises:
        UsageError: CUDA is wanted and there is none, or the recorded run was started otherwise.
    """
    if recorded is None or device is not None:
        device = _find_device(device or "auto")
    base = recorded or Settings(recipe or RECIPES["adam-onecycle"], bfloat16=has_bfloat16(device))
    wanted = changed(recipe or base.recipe, _said(changes))
    if base.teachers and not others.get("teachers"):
        raise UsageError("--resume: the run learns from another network: name its --teacher again")
    result = dataclasses.replace(base, **_said({"recipe": wanted, "device": device, **others}))
    if recorded is not None and result != recorded:
        raise UsageError(f"--resume: the run was started with {_difference(recorded, result)}; leave the options out")
    return result


def save_state(run: Run, out: Path, settings: Settings, data_hash: str) -> None:
    """Write state.safetensors, and metrics.jsonl anew from the history, so that the two agree.

    Raises:
        EdgeMnistError: the folder cannot be written.
    """
    header = {"settings": dataclasses.asdict(settings), "data": data_hash}
    write_whole(out / STATE, pack_state(run, header))
    write_whole(out / METRICS, "".join(json.dumps(row) + "\n" for row in run.history).encode())


def pack_state(run: Run, header: Mapping[str, Any]) -> bytes:
    """All that moves in a run, and a header of one's own, as the bytes of a file."""
    tensors = {f"network/{name}": tensor for name, tensor in run.network.state_dict().items()}
    for index, values in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in values.items() if tensor is not None}
    return encode_tensors(to_arrays(tensors), {**header, **{name: getattr(run, name) for name in _SAVED}})


def recorded_settings(out: Path) -> Settings:
    """The settings of the run in a folder.

    Raises:
        EdgeMnistError: there is no run, or its state is damaged.
    """
    if not (out / STATE).is_file():
        raise UsageError(f"{out}: no run to resume here: {STATE} is missing")
    _, header = read_tensors(out / STATE)
    try:
        return parse_settings(header["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise _foreign(out / STATE) from error


def parse_settings(record: Mapping[str, Any]) -> Settings:
    """Settings from their fields as JSON holds them.

    Raises:
        KeyError, TypeError: fields are missing, or of another version.
    """
    recipe = dict(record["recipe"])
    if recipe["augmentation"] is not None:
        recipe["augmentation"] = Augmentation(**recipe["augmentation"])
    return Settings(**{**record, "recipe": Recipe(**recipe)})


def restore(run: Run, out: Path, network: str, data_hash: str) -> None:
    """Bring a run to where its state was saved.

    Raises:
        EdgeMnistError: the state is damaged, or was saved with another network or other images.
    """
    content = read_bytes(out / STATE)
    _, header = decode_tensors(content, str(out / STATE))
    if header.get("data") != data_hash:
        raise UsageError(
            f"{out}: the run was started with other images (SHA-256 {header.get('data')}): name its --data, and --extra"
        )
    unpack_state(run, content, str(out / STATE), network)


def unpack_state(run: Run, content: bytes, where: str, network: str) -> None:
    """Bring a run to where `pack_state` saw one; `where` begins the text of an error, `network` is the factory.

    Raises:
        EdgeMnistError: the state is damaged, or was saved with another network.
    """
    tensors, header = decode_tensors(content, where)
    weights: dict[str, torch.Tensor] = {}
    moments: dict[int, dict[str, torch.Tensor]] = {}
    parameters = [parameter for group in run.optimizer.param_groups for parameter in group["params"]]
    try:
        for name, array in tensors.items():
            part, _, rest = name.partition("/")
            if part == "network":
                weights[rest] = torch.from_numpy(array)
            else:
                index, _, key = rest.partition("/")
                moments.setdefault(int(index), {})[key] = _laid_out_as(parameters[int(index)], torch.from_numpy(array))
        for name in _SAVED:
            setattr(run, name, header[name])
        run.optimizer.load_state_dict({"state": moments, "param_groups": run.optimizer.state_dict()["param_groups"]})
    except (IndexError, KeyError, ValueError) as error:
        raise _foreign(where) from error
    try:
        run.network.load_state_dict(weights)
    except RuntimeError as error:
        raise EdgeMnistError(f"{where}: its weights do not fit {network}, which has changed since") from error


def _laid_out_as(parameter: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
    """A moment in the order in memory of its weight: fused optimisers walk both side by side without looking."""
    return torch.empty_like(parameter).copy_(moment) if moment.shape == parameter.shape else moment


def to_arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """Tensors of any device as arrays of the same shape and dtype."""
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}


def _find_device(wanted: str) -> str:
    """Cpu or cuda for auto, cpu or cuda."""
    if wanted == "cpu":
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise UsageError("--device cuda: this machine, or this build of torch, has no CUDA: use cpu")
    return "cpu"


def has_bfloat16(device: str | None) -> bool:
    """Whether the device multiplies bfloat16 itself; emulated, it is slower than float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def _said(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _difference(recorded: Settings, wanted: Settings) -> str:
    """The fields that differ, as "lr 0.01 (now 0.02)"."""
    old, new = ({**dataclasses.asdict(item), **dataclasses.asdict(item.recipe)} for item in (recorded, wanted))
    others = (name for name in old if name != "recipe" and old[name] != new[name])
    return ", ".join(f"{name} {old[name]} (now {new[name]})" for name in others)


def _foreign(where: Path | str) -> EdgeMnistError:
    return EdgeMnistError(f"{where}: is damaged or of another version of edge-mnist: start the run anew")
