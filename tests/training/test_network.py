"""DigitNet, and networks named on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edge_mnist.graph.layers import count_parameters, output_shapes  # noqa: E402
from edge_mnist.system.errors import UsageError  # noqa: E402
from edge_mnist.training import tracing  # noqa: E402
from edge_mnist.training.network import DIGITNET, DigitNet, build_network  # noqa: E402


def test_digitnet_is_the_network_of_the_reference() -> None:
    network = DigitNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 18_662
    layers = tracing.trace_layers(network)
    assert count_parameters(layers) == 18_662
    shapes = dict(zip((layer.name for layer in layers), output_shapes(layers, (1, 28, 28)), strict=True))
    assert [shapes[name] for name in ("conv1", "pool1", "conv5", "pool2", "conv6", "conv7", "flatten", "linear")] == [
        *((14, 26, 26), (16, 11, 11), (20, 7, 7), (20, 3, 3), (22, 3, 3), (22, 1, 1), (22,), (10,)),
    ]
    assert network.eval()(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_a_factory_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_networks.py").write_text(
        "import torch\ndef small(): return torch.nn.ReLU()\ndef other(): return 1\n"
    )
    assert isinstance(build_network(DIGITNET), DigitNet)
    assert isinstance(build_network("my_networks:small"), torch.nn.ReLU)
    for name, text in {
        "my_networks": "expected package.module:factory",
        "my_networks:large": "no factory named large",
        "no_such_module:small": "cannot be imported",
        "my_networks:other": "expected a torch.nn.Module, found int",
    }.items():
        with pytest.raises(UsageError, match=text):
            build_network(name)


# Describes an operator that is not there, as torchvision of PyPI does beside a torch without CUDA.
TORCHVISION = """
import torch

@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold):
    return dets
"""


@pytest.mark.parametrize("where", ["torchvision\ndef make():", "sys\ndef make():\n    import torchvision"])
def test_a_module_may_import_torchvision_beside_a_torch_without_cuda(where: str, tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text(TORCHVISION)
    (tmp_path / "users.py").write_text(f"import {where}\n    import torch\n    return torch.nn.ReLU()\n")
    code = (
        f"import sys; sys.path.insert(1, {str(Path(__file__).parents[2])!r})\n"
        "from edge_mnist.training.network import build_network\n"
        "print(build_network('users:make'))"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "ReLU()\n"), result.stderr


def test_what_a_users_code_writes_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["edge-mnist", "export", "--int8"])
    (tmp_path / "talking.py").write_text(
        "import sys, torch\nprint(sys.argv, file=sys.stderr)\ndef make(): return torch.nn.ReLU()\n"
    )
    build_network("talking:make")
    assert capsys.readouterr().err == "['edge-mnist']\n"
    assert sys.argv == ["edge-mnist", "export", "--int8"]
