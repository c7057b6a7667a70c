"""What tracing does not see is seen by running the module: it is refused, and what is innocent is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.support.networks import random_checkpoint

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edge_mnist.graph.checkpoint import Checkpoint  # noqa: E402
from edge_mnist.graph.layers import Shape, weight_shapes  # noqa: E402
from edge_mnist.system.errors import EdgeMnistError  # noqa: E402
from edge_mnist.training.network import MEAN, STD, DigitNet  # noqa: E402
from edge_mnist.training.runs import to_arrays  # noqa: E402
from edge_mnist.training.same_logits import check_same_logits  # noqa: E402
from edge_mnist.training.tracing import trace_network  # noqa: E402
from tests.support.everyday_networks import EVERYDAY  # noqa: E402
from tests.support.torch_networks import as_module  # noqa: E402


def checkpoint_of(network: nn.Module, shape: Shape = (1, 28, 28), *, is_pixels: bool = True) -> Checkpoint:
    traced = trace_network(network, shape)
    state = to_arrays(network.state_dict())
    weights = {name: state[name] for name in weight_shapes(traced.layers)}
    return Checkpoint(traced.layers, shape, MEAN, STD, weights, is_pixels=is_pixels, ending=traced.ending)


def test_random_chains_pass() -> None:
    for seed in range(25):
        source = random_checkpoint(seed)
        check_same_logits(as_module(source), source)


def louder(output: torch.Tensor) -> torch.Tensor:
    return output * 1.01


def _around(network: nn.Module) -> None:
    network.register_forward_hook(lambda module, inputs, output: louder(output))


def _before(network: nn.Module) -> None:
    network.register_forward_pre_hook(lambda module, inputs: (louder(inputs[0]),))


def _call(network: nn.Module) -> None:
    kind = type(network)
    network.__class__ = type("Louder", (kind,), {"__call__": lambda self, x: louder(kind.__call__(self, x))})


def _patched(name: str) -> Callable[[Any], None]:
    def change(network: Any) -> None:
        usual = network.get_submodule(name).forward
        network.get_submodule(name).forward = lambda x: louder(usual(x))

    return change


def _live(network: Any) -> None:
    network.eval = lambda: network  # its batch normalization keeps to the statistics of each batch


def _reshaped(network: Any) -> None:
    network.register_forward_hook(lambda module, inputs, output: output[:, :5])


CHANGED: list[tuple[Callable[[Any], None], str]] = [
    (_around, "DigitNet: gives logits that differ from those of its layers by up to"),
    (_before, "DigitNet: gives logits that differ from those of its layers by up to"),
    (_call, "Louder: gives logits that differ from those of its layers by up to"),
    (_patched("conv4"), "conv4: gives values that differ from those of a conv2d of its weights"),
    (_patched("bn2"), "bn2: gives values that differ from those of a batch_norm2d"),
    (_patched("relu5"), "relu5: gives values that differ from those of a relu"),
    (_patched("pool1"), "pool1: gives values that differ from those of a max_pool2d"),
    (_patched("pool3"), "pool3: gives values that differ from those of a adaptive_avg_pool2d"),
    (_patched("linear"), "linear: gives values that differ from those of a linear"),
    (_live, "bn1: gives values that differ from those of a batch_norm2d"),
    (_reshaped, r"DigitNet: gives logits of shape \(16, 5\), but its layers give \(16, 10\)"),
]


@pytest.mark.parametrize(("change", "text"), CHANGED)
def test_what_changes_the_logits_is_named(change: Callable[[Any], None], text: str) -> None:
    torch.manual_seed(0)
    network = DigitNet().train()
    checkpoint = checkpoint_of(network)
    check_same_logits(network, checkpoint)
    change(network)
    with pytest.raises(EdgeMnistError, match=text):
        check_same_logits(network, checkpoint)
    assert all(part.training for part in network.modules())


def test_a_hook_that_changes_nothing_passes_and_none_is_left() -> None:
    network, seen = DigitNet(), []
    network.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    check_same_logits(network, replace(checkpoint_of(DigitNet()), weights=to_arrays(network.state_dict())))
    assert seen == [(16, 10)]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.children())


def test_a_module_that_fails_is_one_line() -> None:
    class Fails(nn.Sequential):
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("no\nluck")

    network = Fails(nn.Flatten(), nn.Linear(784, 10))
    with pytest.raises(EdgeMnistError, match="^Fails: cannot be run: no$"):
        check_same_logits(network, checkpoint_of(nn.Sequential(*network)))


def test_padding_with_the_nearest_pixel_is_no_difference() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 5, padding=2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(3136, 10))
    checkpoint = checkpoint_of(network)
    assert 255 * checkpoint.mean % 1 > 0.3
    check_same_logits(network, checkpoint)


@pytest.mark.parametrize(
    ("name", "changed", "text"),
    [
        ("resnet", "layers.1.conv2", "layers.1.conv2: gives values that differ from those of a conv2d"),
        ("gate", "se.fc.3", "se.fc.3: gives values that differ from those of a sigmoid"),
        ("sensor", "conv1", "conv1: gives values that differ from those of a conv1d"),
        ("mobile-relu6", "3.conv.2", "3.conv.2: gives values that differ from those of a clamp"),
        ("autoencoder", "decoder.1", "decoder.1: gives values that differ from those of a batch_norm2d"),
        ("course", "", "CourseNet: gives logits that differ from those of its layers"),
        ("hardswish", "stem", "Hardswish: gives logits that differ from those of its layers"),
    ],
)
def test_what_differs_in_a_graph_is_named(name: str, changed: str, text: str) -> None:
    ((make, shape),) = ((make, shape) for other, make, shape in EVERYDAY if other == name)
    network = make()
    checkpoint = checkpoint_of(network, shape, is_pixels=len(shape) == 3)
    check_same_logits(network, checkpoint)
    _patched(changed)(network)
    with pytest.raises(EdgeMnistError, match=text):
        check_same_logits(network, checkpoint)
