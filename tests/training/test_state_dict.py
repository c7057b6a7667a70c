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


SAID: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "its names begin with 'module.', which is left out": lambda state: saved(prefixed("module.", state)),
    "its names begin with '_orig_mod.model.', which is left": lambda state: saved(prefixed("_orig_mod.model.", state)),
    "the weights under 'state_dict' are taken": lambda state: saved({"state_dict": state}),
    "the weights under 'model_state_dict' are taken": lambda state: saved({"epoch": 1, "model_state_dict": state}),
    "the weights under 'model' are taken": lambda state: saved({"model": state, "optimizer": {}}),
    "its weights are torch.bfloat16 and are converted": (
        lambda state: safetensors.torch.save({n: t.bfloat16() if t.ndim else t for n, t in state.items()})
    ),
    "its weights are torch.float16, torch.float64 and are converted": (
        lambda state: saved({n: t.half() if n[0] == "c" else t.double() for n, t in state.items()})
    ),
}
"""What is logged of a file."""


@pytest.mark.parametrize("text", SAID)
def test_what_is_done_to_the_weights_is_said(
    text: str, state: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(SAID[text](state))
    weights = load_network(path, "network_of_another_user:Network").weights
    assert f"note: {path}: {text}" in caplog.text
    for name, array in weights.items():
        np.testing.assert_allclose(array, state[name].numpy(), rtol=0.01)


class Touch:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_never_run(state: dict[str, Any], tmp_path: Path, *, zipped: bool) -> None:
    path, touched = tmp_path / "weights.pth", tmp_path / "touched"
    path.write_bytes(saved({**state, "extra": Touch(touched)}, _use_new_zipfile_serialization=zipped))
    torch.load(path, weights_only=False)
    assert touched.exists()  # so the file is what it is meant to be
    touched.unlink()
    with pytest.raises(EdgeMnistError, match="holds more than tensors"):
        load_network(path, "network_of_another_user:Network")
    assert not touched.exists()


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
    "its weights do not fit network_of_another_user:Network: aux.bias, aux.weight are not the network's: is it": (
        lambda state: saved({**state, "aux.weight": torch.zeros(2), "aux.bias": torch.zeros(2)})
    ),
    "Network: a0, a1, a2, a3, a4 and 2 more are not the network's: is it the file of another network": (
        lambda state: safetensors.torch.save({**state, **{f"a{i}": torch.zeros(1) for i in range(7)}})
    ),
    r"Network: bn.bias, bn.running_mean, bn.running_var, bn.weight, conv.bias and 4 more are missing: is it": (
        lambda state: saved({"linear.weight": state["linear.weight"]})
    ),
    r"Network: conv.bias is missing; head.bias is not the network's: is it the file of another network\?": (
        lambda state: saved({"head.bias" if n == "conv.bias" else n: t for n, t in state.items()})
    ),
    r"its weights do not fit network_of_another_user:Network: unused.weight is missing": (
        lambda state: saved({n: t for n, t in state.items() if n != "unused.weight"})
    ),
    r"unused.weight has shape \(7,\), expected \(3, 3\)": (
        lambda state: saved({**state, "unused.weight": torch.zeros(7)})
    ),
    "conv.bias is torch.int64, torch.strided on the device cpu, expected torch.float32, dense": lambda state: saved(
        {**state, "conv.bias": torch.zeros(2, dtype=torch.int64)}
    ),
    "conv.bias is torch.float32, torch.sparse_coo on the device cpu, expected torch.float32, dense": (
        lambda state: saved({**state, "conv.bias": torch.zeros(2).to_sparse()})
    ),
    r"conv.weight has shape \(1000000000000, 1, 5, 5\), expected \(2, 1, 5, 5\)": (
        lambda state: saved({**state, "conv.weight": state["conv.weight"][:1].expand(10**12, 1, 5, 5)})
    ),
    "weights/bn.running_var is -1.0, expected variances of at least 0": (
        lambda state: saved({**state, "bn.running_var": -torch.ones(2)})
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
