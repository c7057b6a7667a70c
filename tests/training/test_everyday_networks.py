"""Networks as people write them are traced and folded to graphs that compute what PyTorch computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edge_mnist.graph.checkpoint import Checkpoint  # noqa: E402
from edge_mnist.graph.folding import fold  # noqa: E402
from edge_mnist.graph.interpreter import run_float  # noqa: E402
from edge_mnist.graph.layers import Shape, weight_shapes  # noqa: E402
from edge_mnist.training.runs import to_arrays  # noqa: E402
from edge_mnist.training.same_logits import check_same_logits  # noqa: E402
from edge_mnist.training.tracing import trace_network  # noqa: E402
from tests.support.everyday_networks import EVERYDAY  # noqa: E402

ENDINGS = {"pytorch-example": "log_softmax", "lenet5-tanh": "softmax", "course": "log_softmax", "vgg": "softmax"}
OPERATIONS = {
    "squeezenet": {"concatenate": 2, "max_pool2d_ceil": 1},
    "resnet": {"add": 3, "avg_pool2d": 1},
    "hardswish": {"zero_pad2d": 2, "activation": 2},
    "autoencoder": {"linear": 4, "batch_norm2d": 3},
    "sensor": {"conv1d": 2, "batch_norm2d": 1, "flatten": 1},
    "mobile-relu6": {"clamp": 5, "add": 1},
    "gate": {"multiply": 1, "unsqueeze": 1, "add": 1},
}
"""How often some operations occur in some of the networks."""


def to_checkpoint(network: nn.Module, shape: Shape, *, is_pixels: bool) -> Checkpoint:
    """A network as a checkpoint, with a mean that is a whole pixel, so that the graph pads exactly as PyTorch does."""
    traced = trace_network(network, shape)
    state = to_arrays(network.state_dict())
    weights = {name: state[name] for name in weight_shapes(traced.layers)}
    return Checkpoint(traced.layers, shape, 51 / 255, 0.25, weights, is_pixels=is_pixels, ending=traced.ending)


@pytest.mark.parametrize(("name", "make", "shape"), EVERYDAY, ids=[name for name, _, _ in EVERYDAY])
def test_everyday_networks_keep_their_logits(name: str, make: Callable[[], nn.Module], shape: Shape) -> None:
    network = make()
    is_pixels = len(shape) == 3
    checkpoint = to_checkpoint(network, shape, is_pixels=is_pixels)
    assert checkpoint.ending == ENDINGS.get(name, "")
    counts = Counter(layer.op for layer in checkpoint.architecture)
    expected_counts = OPERATIONS.get(name, {})
    assert {op: counts[op] for op in expected_counts} == expected_counts
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (4, *shape)).astype(np.uint8)
    features = rng.normal(0, 2, (4, *shape)).astype(np.float32)
    logits = torch.from_numpy(run_float(fold(checkpoint), pixels if is_pixels else features))
    values = (torch.from_numpy(pixels).float() / 255 - 51 / 255) / 0.25 if is_pixels else torch.from_numpy(features)
    with torch.no_grad():
        expected = network(values)
    if checkpoint.ending:
        logits = torch.nn.functional.log_softmax(logits, 1)
        expected = expected if checkpoint.ending == "log_softmax" else expected.log()
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    check_same_logits(network, checkpoint)


def test_layers_are_named_after_the_modules() -> None:
    (network,) = (make() for name, make, _ in EVERYDAY if name == "resnet")
    names = [layer.name for layer in trace_network(network, (3, 16, 16)).layers]
    assert names[:9] == [
        "conv1", "bn1", "relu", "layers.0.conv1", "layers.0.bn1", "relu_1", "layers.0.conv2", "layers.0.bn2", "add"
    ]  # fmt: skip
