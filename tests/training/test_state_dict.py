"""Weights that were trained elsewhere are found in whatever file PyTorch's users keep them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edge_mnist.exportable import load_network  # noqa: E402
from edge_mnist.system.errors import EdgeMnistError  # noqa: E402

FACTORY = """
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.linear = nn.Conv2d(1, 2, 5, stride=3), nn.BatchNorm2d(2), nn.Linear(128, 10)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        x = self.bn(self.conv(x)).relu()
        return self.linear(x.view(x.size(0), -1))
"""


class Network(nn.Module):
    """The same layers, with weights of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.linear = nn.Conv2d(1, 2, 5, stride=3), nn.BatchNorm2d(2), nn.Linear(128, 10)
        self.unused = nn.Linear(3, 3)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A state_dict, in a folder where the factory is."""
    (tmp_path / "network_of_another_user.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    return dict(Network().state_dict())


def saved(content: Any, **options: Any) -> bytes:
    """What torch.save makes of it."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def prefixed(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: tensor for name, tensor in state.items()}


READ: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "safetensors": safetensors.torch.save,
    "torch.save": saved,
    "torch.save before 2020": lambda state: saved(state, _use_new_zipfile_serialization=False),
    "DataParallel": lambda state: saved(prefixed("module.", state)),
    "torch.compile of DataParallel": lambda state: safetensors.torch.save(prefixed("_orig_mod.module.", state)),
    "Lightning": lambda state: saved({"epoch": 3, "state_dict": prefixed("model.", state), "optimizer_states": [{}]}),
    "a training loop's": lambda state: saved({"model": state, "optimizer": {"state": {}, "param_groups": []}}),
    "an edge-mnist checkpoint": lambda state: safetensors.torch.save(
        {**prefixed("weights/", state), "statistics/conv.range": torch.zeros(2)}
    ),
    "without what is counted": lambda state: saved({n: t for n, t in state.items() if "num_batches" not in n}),
}


@pytest.mark.parametrize("kind", READ)
def test_every_usual_file_is_read(kind: str, state: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(READ[kind](state))
    weights = load_network(path, "network_of_another_user:Network").weights
    assert len(weights) == 8
    for name, array in weights.items():
        np.testing.assert_array_equal(array, state[name].numpy())


def _bomb(state: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(state))) as source,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name) if name.endswith("pkl") else bytes(10_000_000))
    return file.getvalue()


REFUSED: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "holds tensors that network_of_another_user:Network has no place for: aux.bias, aux.weight: is it another": (
        lambda state: saved({**state, "aux.weight": torch.zeros(2), "aux.bias": torch.zeros(2)})
    ),
    "has no place for: a0, a1, a2, a3, a4 and 2 more: is it": (
        lambda state: safetensors.torch.save({**state, **{f"a{i}": torch.zeros(1) for i in range(7)}})
    ),
    "weights/bn.bias is missing": lambda state: saved({"linear.weight": state["linear.weight"]}),
    r"its weights do not fit network_of_another_user:Network: unused.weight is missing": (
        lambda state: saved({n: t for n, t in state.items() if n != "unused.weight"})
    ),
    r"its weights do not fit network_of_another_user:Network$": (
        lambda state: saved({**state, "unused.weight": torch.zeros(7)})
    ),
    "weights/conv.bias is float64, expected float32": lambda state: saved(
        {**state, "conv.bias": torch.zeros(2, dtype=torch.float64)}
    ),
    r"conv.bias is torch.bfloat16, torch.strided on the device cpu, expected torch.float32": (
        lambda state: saved({**state, "conv.bias": torch.zeros(2, dtype=torch.bfloat16)})
    ),
    r"weights/conv.weight has shape \(1000000000000, 1, 5, 5\), expected \(2, 1, 5, 5\)": (
        lambda state: saved({**state, "conv.weight": state["conv.weight"][:1].expand(10**12, 1, 5, 5)})
    ),
    "found several, model, ema: keep one": lambda state: saved({"model": state, "ema": state}),
    "expected a state_dict, tensors by name, found a list": lambda state: saved([torch.zeros(1)]),
    r"holds more than tensors, such as a whole module, or is damaged: save the weights alone: torch.save\(": (
        lambda state: saved(Network())
    ),
    "is not a safetensors file, or cut short": _bomb,
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_read_is_one_line(text: str, state: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(REFUSED[text](state))
    with pytest.raises(EdgeMnistError, match=text) as caught:
        load_network(path, "network_of_another_user:Network")
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_damage_is_one_line(state: dict[str, Any], tmp_path: Path) -> None:
    path, random = tmp_path / "weights.pth", np.random.default_rng(0)
    for whole in (saved(state), saved(state, _use_new_zipfile_serialization=False)):
        for _ in range(20):
            data = bytearray(whole[: int(random.integers(15, len(whole)))] if random.random() < 0.3 else whole)
            for at in random.integers(0, len(data), 8):
                data[at] = int(random.integers(0, 256))
            path.write_bytes(data)
            try:
                load_network(path, "network_of_another_user:Network")
            except EdgeMnistError as error:
                assert "\n" not in str(error)
