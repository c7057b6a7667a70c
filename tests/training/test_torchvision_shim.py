"""torchvision's data set and its models, as this package reads and traces them."""

from __future__ import annotations

import gzip
import warnings
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edge_mnist.data import mnist

torch = pytest.importorskip("torch")

from edge_mnist.graph.checkpoint import Checkpoint  # noqa: E402
from edge_mnist.graph.layers import weight_shapes  # noqa: E402
from edge_mnist.system.errors import EdgeMnistError, NotInstalledError  # noqa: E402
from edge_mnist.training.runs import to_arrays  # noqa: E402
from edge_mnist.training.same_logits import check_same_logits  # noqa: E402
from edge_mnist.training.torchvision_shim import import_torchvision  # noqa: E402
from edge_mnist.training.tracing import trace_layers, trace_network  # noqa: E402


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
    with pytest.raises(EdgeMnistError, match="avgpool: from 7x7 to 6x6 its windows differ in size"):
        trace_layers(network, (3, 256, 256))


@pytest.mark.slow
def test_vgg_is_a_chain(torchvision: ModuleType) -> None:
    layers = trace_layers(torchvision.models.vgg11_bn(num_classes=10), (3, 224, 224))
    assert sum(layer.op == "conv2d" for layer in layers) == sum(layer.op == "batch_norm2d" for layer in layers) == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "operations"),
    [
        ("resnet18", {"conv2d": 20, "add": 8}),
        ("mobilenet_v2", {"clamp": 35, "add": 10}),
        ("mobilenet_v3_small", {"multiply": 9, "activation": 28}),
        ("squeezenet1_1", {"concatenate": 8, "max_pool2d": 3}),
        ("densenet121", {"concatenate": 58, "avg_pool2d": 3}),
        ("efficientnet_b0", {"multiply": 16, "activation": 65}),
        ("googlenet", {"concatenate": 9, "max_pool2d_ceil": 3}),
    ],
)
def test_networks_of_torchvision_keep_their_logits(
    torchvision: ModuleType, name: str, operations: dict[str, int]
) -> None:
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "googlenet" else {}
    network = getattr(torchvision.models, name)(num_classes=10, **options).eval()
    traced = trace_network(network, (3, 64, 64))
    counts = Counter(layer.op for layer in traced.layers)
    assert {op: counts[op] for op in operations} == operations
    state = to_arrays(network.state_dict())
    weights = {key: state[key] for key in weight_shapes(traced.layers)}
    check_same_logits(network, Checkpoint(traced.layers, (3, 64, 64), 0.5, 0.25, weights))


@pytest.mark.slow
def test_a_channel_shuffle_is_refused(torchvision: ModuleType) -> None:
    with pytest.raises(EdgeMnistError, match="transpose: it selects or reorders values"):
        trace_layers(torchvision.models.shufflenet_v2_x0_5(), (3, 64, 64))
