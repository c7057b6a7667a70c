"""DigitNet, and networks named on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edge_mnist import architecture, tracing  # noqa: E402
from edge_mnist.errors import UsageError  # noqa: E402
from edge_mnist.network import DIGITNET, DigitNet, build  # noqa: E402


def test_digitnet_is_the_network_of_the_reference() -> None:
    network = DigitNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 18_662
    layers = tracing.describe(network)
    assert architecture.parameter_count(layers) == 18_662
    shapes = dict(
        zip((layer["name"] for layer in layers), architecture.output_shapes(layers, (1, 28, 28)), strict=True)
    )
    assert [shapes[name] for name in ("conv1", "pool1", "conv5", "pool2", "conv6", "conv7", "flatten", "linear")] == [
        *((14, 26, 26), (16, 11, 11), (20, 7, 7), (20, 3, 3), (22, 3, 3), (22, 1, 1), (22,), (10,)),
    ]
    assert network.eval()(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_a_factory_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_networks.py").write_text(
        "import torch\ndef small(): return torch.nn.ReLU()\ndef other(): return 1\n"
    )
    assert isinstance(build(DIGITNET), DigitNet)
    assert isinstance(build("my_networks:small"), torch.nn.ReLU)
    for name, text in {
        "my_networks": "expected package.module:factory",
        "my_networks:large": "no factory named large",
        "no_such_module:small": "cannot be imported",
        "my_networks:other": "expected a torch.nn.Module, found int",
    }.items():
        with pytest.raises(UsageError, match=text):
            build(name)
