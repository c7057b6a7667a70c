"""torchvision's data set and its models, as this package reads and traces them."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edge_mnist.data import mnist

pytest.importorskip("torch")


from edge_mnist.system.errors import EdgeMnistError, NotInstalledError
from edge_mnist.training.torchvision_shim import import_torchvision
from edge_mnist.training.tracing import trace_layers


@pytest.fixture
def torchvision() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of its own compiled part
        try:
            return import_torchvision()
        except NotInstalledError as error:
            pytest.skip(str(error))


@pytest.mark.skipif(not mnist.is_available(), reason="MNIST is not on this machine")
def test_reads_what_torchvision_reads(torchvision: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    place, _ = mnist._find_folder(None)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "test"):
        for name in mnist._FILE_NAMES[part]:
            content = mnist._find_file(place, name).read_bytes()
            (raw / name).write_bytes(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    for part in ("train", "test"):
        theirs = torchvision.datasets.MNIST(str(tmp_path), train=part == "train", download=False)
        ours = mnist.load(part)
        np.testing.assert_array_equal(theirs.data.numpy(), ours.images)
        np.testing.assert_array_equal(theirs.targets.numpy(), ours.labels)


def test_alexnet_is_a_chain_for_the_images_that_it_is_made_for(torchvision: ModuleType) -> None:
    network = torchvision.models.alexnet(num_classes=10)
    layers = trace_layers(network, (3, 224, 224))
    assert [layer.op for layer in layers] == [
        *("conv2d", "relu", "max_pool2d", "conv2d", "relu", "max_pool2d", "conv2d", "relu", "conv2d", "relu", "conv2d"),
        *("relu", "max_pool2d", "flatten", "linear", "relu", "linear", "relu", "linear"),
    ]
    with pytest.raises(EdgeMnistError, match=r"avgpool: AdaptiveAvgPool2d to \(6, 6\) cannot be exported"):
        trace_layers(network, (3, 256, 256))


@pytest.mark.slow
def test_vgg_is_a_chain(torchvision: ModuleType) -> None:
    layers = trace_layers(torchvision.models.vgg11_bn(num_classes=10), (3, 224, 224))
    assert sum(layer.op == "conv2d" for layer in layers) == sum(layer.op == "batch_norm2d" for layer in layers) == 8
