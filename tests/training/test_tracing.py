"""What tracing finds is what the module computes, and what cannot be exported is refused by name."""

from __future__ import annotations

import json
import operator
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

import edge_mnist  # noqa: E402
from edge_mnist.graph.checkpoint import Checkpoint  # noqa: E402
from edge_mnist.graph.folding import fold  # noqa: E402
from edge_mnist.graph.interpreter import run_float  # noqa: E402
from edge_mnist.graph.layers import Layer, count_parameters, output_shapes, weight_shapes  # noqa: E402
from edge_mnist.system.errors import EdgeMnistError  # noqa: E402
from edge_mnist.training.loop import make_checkpoint  # noqa: E402
from edge_mnist.training.runs import to_arrays  # noqa: E402
from edge_mnist.training.same_logits import check_same_logits  # noqa: E402
from edge_mnist.training.tracing import to_float32, trace_layers, trace_network  # noqa: E402
from tests.support.networks import random_graph  # noqa: E402
from tests.support.torch_networks import as_module  # noqa: E402

pair = st.tuples(st.integers(1, 4), st.integers(1, 4))


@st.composite
def chains(draw: st.DrawFn) -> nn.Sequential:
    """Modules in a row; their windows may turn out not to fit."""
    layers: list[nn.Module] = []
    channels = 1
    for _ in range(draw(st.integers(1, 4))):
        kernel = draw(pair)
        margin = tuple(draw(st.integers(0, size // 2)) for size in kernel)
        stride = draw(pair)
        match draw(st.sampled_from(["conv", "same", "max", "avg", "bn", "drop"])):
            case "conv":
                groups = draw(st.sampled_from([1, channels]))
                out = groups * draw(st.integers(1, 3))
                dilation, bias = draw(pair), draw(st.booleans())
                layers.append(nn.Conv2d(channels, out, kernel, stride, margin, dilation, groups, bias))
                channels = out
            case "same":
                layers.append(nn.Conv2d(channels, channels, (3, 5), padding="same", dilation=draw(pair)))
            case "max":
                layers.append(nn.MaxPool2d(kernel, draw(st.sampled_from([None, stride])), margin))
            case "avg":
                layers.append(nn.AvgPool2d(kernel, stride, margin))
            case "bn":
                layers += [nn.BatchNorm2d(channels, affine=draw(st.booleans())), nn.ReLU()]
            case "drop":
                layers += [nn.Dropout2d(), nn.Identity()]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return nn.Sequential(*layers, *(end if draw(st.booleans()) else end[:1]))


@given(chains(), st.tuples(st.just(1), st.integers(5, 20), st.integers(5, 20)))
def test_shapes_and_weights_are_those_of_pytorch(network: nn.Sequential, input_shape: tuple[int, int, int]) -> None:
    values, expected = torch.zeros(2, *input_shape), {}
    try:
        for name, layer in network.eval().named_children():
            values = layer(values)
            expected[name] = tuple(values.shape[1:])
    except RuntimeError:
        with pytest.raises(EdgeMnistError, match="nothing would be left"):
            trace_layers(network, input_shape)
        return
    layers = trace_layers(network, input_shape)
    assert tuple(Layer.from_json(json.loads(json.dumps(layer.to_json()))) for layer in layers) == layers
    for layer, shape in zip(layers, output_shapes(layers, input_shape), strict=True):
        assert shape == expected[layer.name]
    state = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert weight_shapes(layers) == {name: shape for name, shape in state.items() if "num_batches" not in name}
    assert count_parameters(layers) == sum(parameter.numel() for parameter in network.parameters())


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
        self.act = nn.ReLU()
        self.more = nn.Conv2d(4, 6, 3, padding="valid")
        self.fc = nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(F.dropout(self.act(self.features(x)), 0.5, self.training))
        x = F.max_pool2d(x, 2)
        x = self.act(self.more(x)).relu()
        x = F.avg_pool2d(x, kernel_size=(2, 2), stride=1)
        x = torch.relu(F.adaptive_avg_pool2d(x, (1, 1)))
        return self.fc(torch.flatten(x, start_dim=1))


def test_functional_forms_are_the_modules_they_stand_for() -> None:
    network = Functional().train()
    layers = trace_layers(network)
    assert network.training
    assert [(layer.op, layer.name) for layer in layers] == [
        ("conv2d", "features.0"),
        ("batch_norm2d", "features.1"),
        ("relu", "act"),
        ("relu", "relu"),
        ("max_pool2d", "max_pool2d"),
        ("conv2d", "more"),
        ("relu", "act_1"),
        ("relu", "relu_1"),
        ("avg_pool2d", "avg_pool2d"),
        ("adaptive_avg_pool2d", "adaptive_avg_pool2d"),
        ("relu", "relu_2"),
        ("flatten", "flatten"),
        ("linear", "fc"),
    ]
    assert layers[8].to_json() == {
        "op": "avg_pool2d", "name": "avg_pool2d", "kernel_size": [2, 2], "stride": [1, 1], "padding": [0, 0]
    }  # fmt: skip
    assert layers[4].to_json()["stride"] == [2, 2]


class Forward(nn.Module):
    """A module whose forward is given."""

    def __init__(self, forward: Callable[..., torch.Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.weight = nn.Parameter(torch.ones(1))
        self.code = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.code(self, x)


def _hooked() -> nn.Module:
    layer = nn.Conv2d(1, 4, 3)
    layer.register_forward_hook(lambda module, inputs, output: output * 2)
    return nn.Sequential(layer)


def _root_hooked() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(1, 4, 3))
    network.register_forward_hook(lambda module, inputs, output: output * 2)
    return network


class Table(nn.Module):
    """A parameter that is no layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(28, 28))


def _compiled() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole
        return nn.Sequential(torch.jit.trace(nn.ReLU(), torch.zeros(1)))


def _write(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x)
    y[:, :, 1:] = x[:, :, 1:]
    return y


def _change_in_place(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x.flatten(1).relu_()
    return x


class TwoInputs(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


CONV = nn.Conv2d(1, 4, 3)
SQUARE = nn.Conv2d(1, 1, 3, padding=1)
REFUSED: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: Forward(lambda m, x: (m.layers[0](x), x), SQUARE), "the output: expected one tensor, found a tuple of 2"),
    (lambda: Forward(lambda m, x: m.layers[0](m.layers[0](x)), SQUARE), "layers.0: it is used twice"),
    (lambda: Forward(lambda m, x: x * m.layers[0].table, Table()), "mul: it takes layers.0.table; outside of layers"),
    (lambda: Forward(lambda m, x: x if x.sum() > 0 else -x), r"Forward: its forward reads the numbers .*\(bool\)"),
    (lambda: Forward(lambda m, x: x * x.mean().item()), r"Forward: its forward reads the numbers .*\(item\)"),
    (lambda: Forward(lambda m, x: x.view(-1, 392)), r"view: it makes \(4, 392\) of \(2, 1, 28, 28\); only flattening"),
    (lambda: Forward(lambda m, x: x.view(2, 784)), r"view: it does not fit \(3, 1, 28, 28\): shape '\[2, 784"),
    (lambda: Forward(lambda m, x: m.layers[0](x.view(x.size(0), 1, -1)), nn.Conv1d(1, 2, 3)),
     r"layers.0: it takes \(1, 784\), which view makes of \(1, 28, 28\); only flattening"),
    (lambda: Forward(lambda m, x: x.reshape(x.size(7), -1)), "size: cannot be run on inputs of .* Dimension out of"),
    (lambda: Forward(lambda m, x: x * x.size(0)), "mul: it depends on the number of images"),
    (lambda: Forward(lambda m, x: x.T), r"T: it makes \(28, 28, 1, 2\) of"),
    (lambda: Forward(lambda m, x: torch.zeros(x.size(0)) + x.mean((1, 2, 3))), r"mean: over the dimensions \[1, 2"),
    (lambda: Forward(lambda m, x: torch.zeros(1, 1, 28, 28) + x), "add: it takes a tensor that zeros makes in"),
    (lambda: Forward(lambda m, x: (m.layers[0](x),), SQUARE), "the output: expected the logits alone, found a tuple"),
    (lambda: Forward(lambda m, x: {"y": m.layers[0](x)}, SQUARE), "the output: expected the logits alone, found a di"),
    (lambda: Forward(lambda m, x: x.relu(slope=1)), "Forward: cannot be run on inputs of .* takes no keyword"),
    (lambda: Forward(lambda m, x: F.avg_pool2d(x, x.size(0))), "avg_pool2d: it depends on the number of images"),
    (lambda: Forward(lambda m, x: sys.exit("bye")), "Forward: cannot be run on inputs of .*: bye"),
    (lambda: Forward(lambda m, x: torch.ones(2, 3)), "the output: Forward does not compute it from its input"),
    (lambda: nn.Sequential(nn.Conv2d(1, 4, 3, device="meta")), "layer 0: weight is on the device meta, which holds"),
    (lambda: nn.Sequential(nn.LazyConv2d(3, 3)), "layer 0: LazyConv2d is not supported: run the network once"),
    (_root_hooked, "Sequential: it has hooks, which would be lost"),
    (lambda: Forward(lambda m, x: F.dropout(x)), "dropout: it also drops in inference"),
    (lambda: Forward(lambda m, x: torch.flatten(x)), r"flatten: it makes \(1568,\) of"),
    (lambda: Forward(lambda m, x: F.softmax(x, 1) + 1), "add: it takes the output of a softmax, which can only be"),
    (lambda: Forward(lambda m, x: F.softmax(x, 3)), "softmax: over dimension 3 it cannot be exported"),
    (lambda: Forward(lambda m, x: x.chunk(2, 3)[0]), "chunk: chunk is not supported: compute each part by a convo"),
    (lambda: Forward(lambda m, x: x[:, :, ::2]), "getitem: it selects or reorders values"),
    (lambda: Forward(lambda m, x: x.transpose(2, 3).flatten(1)), "transpose: it selects or reorders values"),
    (lambda: Forward(lambda m, x: torch.cat((x, x), 2)), "cat: it joins dimension 2; only channels"),
    (lambda: Forward(lambda m, x: x + F.avg_pool2d(x, 28)), r"add: it adds \(1, 1, 1\) to \(1, 28, 28\)"),
    (lambda: Forward(lambda m, x: x * x.mean(3, keepdim=True)), r"mul: it multiplies \(1, 28, 28\) by \(1, 28, 1\)"),
    (lambda: Forward(lambda m, x: x.mean(3)), r"mean: over the dimensions \[3\] it cannot be exported"),
    (lambda: Forward(lambda m, x: x * 0), "mul: it multiplies by 0"),
    (lambda: Forward(lambda m, x: 1 / x), "rdiv: rdiv is not supported"),
    (lambda: Forward(lambda m, x: x / x), "div: only a division by numbers"),
    (lambda: Forward(_write), "setitem: its forward writes into a part of a tensor"),
    (lambda: Forward(_change_in_place), "relu: it changes a tensor in place that is also used in another shape"),
    (lambda: Forward(lambda m, x: F.pad(x, (1, 1), value=1.0)), "pad: it pads with the value 1.0; only zeros"),
    (lambda: Forward(lambda m, x: F.pad(x, (1, 1), mode="reflect")), "pad: it pads with mode 'reflect'"),
    (lambda: Forward(lambda m, x: F.pad(x, (-1, 1))), "pad: it cuts off a border"),
    (lambda: Forward(lambda m, x: F.interpolate(x, scale_factor=1.5)), "interpolate: the factors 1.5x1.5 are not"),
    (lambda: Forward(lambda m, x: x.half()), "half: half is not supported: only convolutions"),
    (lambda: Forward(lambda m, x: x.to(torch.float16)), "to: it gives torch.float16; only torch.float32"),
    (lambda: Forward(lambda m, x: F.conv2d(x, m.layers[0].weight * 2), SQUARE), "conv2d: its weight is computed in"),
    (lambda: Forward(lambda m, x: F.linear(x.flatten(1), m.layers[0].table), Table()),
     "linear: its weight is the network's layers.0.table"),
    (lambda: nn.Sequential(nn.GroupNorm(1, 1)), "layer 0: GroupNorm is not supported: use BatchNorm, which is folded"),
    (lambda: nn.Sequential(nn.ConvTranspose2d(1, 1, 2)), "layer 0: ConvTranspose2d is not supported: use nn.Upsample"),
    (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.PReLU(4)), "layer 1: PReLU with a slope for each channel cannot"),
    (lambda: nn.Sequential(nn.GELU("tanh")), "layer 0: approximate is 'tanh'; only the exact GELU"),
    (lambda: nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear")), "layer 0: the mode 'bilinear' cannot be"),
    (lambda: nn.Sequential(nn.AvgPool2d(3, 2, ceil_mode=True)), "layer 0: ceil_mode=True adds an incomplete window"),
    (lambda: nn.Sequential(nn.MaxPool2d(2, dilation=2)), "layer 0: a maximum pool with dilation 2"),
    (lambda: nn.Sequential(nn.MaxPool2d(2, return_indices=True)), "layer 0: return_indices=True"),
    (lambda: nn.Sequential(nn.AvgPool2d(3, padding=1, count_include_pad=False)), "layer 0: count_include_pad=False"),
    (lambda: nn.Sequential(nn.AvgPool2d(2, divisor_override=3)), "layer 0: divisor_override"),
    (lambda: nn.Sequential(nn.AvgPool2d(2, padding=2)), r"layer 0: padding is \[2, 2\], expected at most half"),
    (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(3)), "layer 0: from 28x28 to 3 its windows differ in size"),
    (lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect")), "layer 0: padding_mode is 'refl"),
    (lambda: nn.Sequential(CONV, nn.BatchNorm2d(4, track_running_stats=False)), "layer 1: BatchNorm without running"),
    (lambda: nn.Sequential(CONV, nn.BatchNorm2d(5)), r"layer 1: weight has shape \(5,\), expected \(4,\) after"),
    (lambda: nn.Sequential(CONV, nn.Conv2d(3, 4, 3)),
     r"layer 1: weight has shape \(4, 3, 3, 3\), expected \(4, 4, 3, 3\) after layer 0 \(4 channels\)"),
    (lambda: nn.Sequential(CONV, nn.Linear(26, 10)), r"layer 1: linear takes features, but layer 0 gives maps \(4,"),
    (lambda: nn.Sequential(nn.Flatten(), CONV), r"layer 1: takes maps \(channels, height, width\), but 0 gives \(784,"),
    (lambda: nn.Sequential(nn.Flatten(0)), r"layer 0: it makes \(1568,\) of"),
    (lambda: nn.Sequential(nn.MaxPool2d(29)), "layer 0: a window of 29x29 does not fit"),
    (_hooked, "layer 0: it has hooks"),
    (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3))),
     "layer 0: ParametrizedConv2d is not supported: call torch.nn.utils.parametrize.remove_parametrizations"),
    (lambda: Forward(lambda m, x: m.layers[0](x.flatten(2))[0], nn.LSTM(784, 10)),
     "layers.0: LSTM is not supported: use convolutions over the sequence"),
    (lambda: nn.LSTM(784, 10), "LSTM: cannot be run on inputs of"),
    (lambda: nn.Conv2d(1, 4, 3), "conv2d: its weight is the network's weight; put it into a layer"),
    (TwoInputs, r"TwoInputs: cannot be run on inputs of \(2, 1, 28, 28\): .* missing 1 required positional argument"),
    (_compiled, "layer 0: it is compiled by TorchScript"),
    (nn.Sequential, "the network has no layers"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "text"), REFUSED, ids=[text for _, text in REFUSED])
def test_what_cannot_be_exported_is_refused_by_name(make: Callable[[], nn.Module], text: str) -> None:
    with pytest.raises(EdgeMnistError, match=f"^{text}") as caught:
        trace_layers(make())
    assert "\n" not in str(caught.value)


def test_a_network_of_two_inputs_is_refused_without_asking_for_a_shape(tmp_path: Path) -> None:
    with pytest.raises(EdgeMnistError, match="^TwoInputs: its forward cannot be called with one input .*'y'") as caught:
        edge_mnist.export_model(TwoInputs(), tmp_path / "out", input_shape=(1, 28, 28))
    assert "input-shape" not in str(caught.value) and not (tmp_path / "out").exists()


def test_what_changes_nothing_is_let_through() -> None:
    layers = trace_layers(
        nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(2, count_include_pad=False), nn.Flatten(-3, 3))
    )
    assert [layer.op for layer in layers] == ["max_pool2d", "avg_pool2d", "flatten"]


FLATTENS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "x.view(x.size(0), -1)": lambda x: x.view(x.size(0), -1),
    "x.view(x.size()[0], -1)": lambda x: x.view(x.size()[0], -1),
    "x.view(x.shape[0], -1)": lambda x: x.view(x.shape[0], -1),
    "x.view((x.size(0), -1))": lambda x: x.view((x.size(0), -1)),
    "x.view(-1, 784)": lambda x: x.view(-1, 784),
    "x.view(-1, x.size(1) * x.size(2) * x.size(3))": lambda x: x.view(-1, x.size(1) * x.size(2) * x.size(3)),
    "x.view(-1, x[0].numel())": lambda x: x.view(-1, x.numel() // x.size(0)),
    "x.reshape(len, 784)": lambda x: x.reshape(x.shape[0], 784),
    "x.reshape(shape=...)": lambda x: x.reshape(shape=(x.size(0), -1)),
    "torch.reshape": lambda x: torch.reshape(x, (x.shape[0], -1)),
    "torch.reshape(input=...)": lambda x: torch.reshape(input=x, shape=(-1, 784)),
    "torch.flatten(input=...)": lambda x: torch.flatten(input=x, start_dim=1),
    "a view that changes nothing": lambda x: x.view(x.size(0), x.shape[1], 28, 28).flatten(1),
}


@pytest.mark.parametrize("way", FLATTENS)
def test_every_way_to_flatten_is_a_flatten(way: str) -> None:
    layers = trace_layers(Forward(lambda m, x: m.layers[0](FLATTENS[way](F.relu(input=x))), nn.Linear(784, 10)))
    assert [layer.op for layer in layers] == ["relu", "flatten", "linear"]


def test_sizes_of_what_came_before_may_be_used_later() -> None:
    def forward(module: Forward, x: torch.Tensor) -> torch.Tensor:
        count = x.size(0)
        x = module.layers[0](x)
        return module.layers[1](F.avg_pool2d(x, x.size()[2:]).view(count, -1))

    layers = trace_layers(Forward(forward, nn.Conv2d(1, 4, 3), nn.Linear(4, 10)))
    assert [layer.op for layer in layers] == ["conv2d", "avg_pool2d", "flatten", "linear"]
    assert layers[1].to_json()["kernel_size"] == [26, 26]


class Normalized(nn.Module):
    """A network that normalizes its input itself, with buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1))
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x - self.mean) / self.std
        return 0.5 - self.conv(x).relu().mean((2, 3)) * torch.tensor([1.0, 2.0, -1.0, 0.5])


def test_constants_of_channels_are_layers() -> None:
    network = Normalized()
    layers = trace_layers(network, (3, 6, 6))
    assert [layer.op for layer in layers] == [
        *("affine", "affine", "conv2d", "relu", "adaptive_avg_pool2d", "flatten", "affine", "affine")
    ]
    assert layers[0].to_json()["offset"] == pytest.approx([-0.4, -0.5, -0.6])
    weights = to_arrays(network.conv.state_dict(prefix="conv."))
    checkpoint = Checkpoint(layers, (3, 6, 6), 0.0, 1.0, weights)
    check_same_logits(network, checkpoint)
    graph = fold(checkpoint)
    assert graph.operations[0].name == "conv"  # it also normalizes


def test_half_and_double_precision_are_converted_in_a_copy(caplog: pytest.LogCaptureFixture) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()).to(dtype)
        converted = to_float32(network)
        assert f"Sequential: its weights are {dtype}; they are converted to float32" in caplog.text
        assert network[0].weight.dtype == dtype and converted[0].weight.dtype == torch.float32
        assert [layer.op for layer in trace_layers(network)] == ["conv2d", "relu"]
    plain = nn.Sequential(nn.Conv2d(1, 4, 3))
    assert to_float32(plain) is plain


def test_a_checkpoint_holds_what_training_made_of_a_setting() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.PReLU())
    for slope in (0.25, 0.5):
        network[2].weight.data.fill_(slope)
        last = make_checkpoint(network, {}).architecture[-1].to_json()
        assert (last["function"], last["parameter"]) == ("leaky_relu", slope)


class Silent(nn.Module):
    """Its train and eval return nothing, and its batch normalization stays in inference."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.linear = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(1352, 10)

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)
        self.bn.eval()

    def eval(self) -> None:  # type: ignore[override]
        self.train(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(x))
        return self.linear(x.view(x.size(0), -1))


def test_train_and_eval_need_not_return_the_module() -> None:
    network = Silent()
    network.train()
    assert [layer.name for layer in trace_layers(network)] == ["conv", "bn", "view", "linear"]
    assert (network.training, network.conv.training, network.bn.training) == (True, True, False)


@pytest.mark.parametrize("seed", range(25))
def test_random_graphs_are_found_again(seed: int) -> None:
    """A graph of layers that was made a PyTorch module is traced to layers that compute the same."""
    source = random_graph(seed)
    network = as_module(source)
    layers = trace_layers(network, source.input_shape)
    # A pool may have ceil_mode where no window is incomplete, an up-sampling the factor 1, a padding no zeros.
    found, expected = (
        [layer.op.removesuffix("_ceil") for layer in part if layer.op not in ("upsample", "zero_pad2d")]
        for part in (layers, source.architecture)
    )
    assert found == expected
    weights = {name: source.weights[name] for name in weight_shapes(layers)}
    assert weights.keys() == source.weights.keys()
    check_same_logits(network, replace(source, architecture=layers))


MAPS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], list[str]]] = {
    "x + x": (lambda x: x + x, ["add"]),
    "x += y": (lambda x: operator.iadd(x.clone(), F.relu(x)), ["relu", "add"]),
    "torch.add, alpha": (lambda x: torch.add(x, x.relu(), alpha=2), ["relu", "affine", "add"]),
    "x - y": (lambda x: x - torch.sigmoid(x), ["activation", "affine", "add"]),
    "1 - x": (lambda x: 1 - x, ["affine"]),
    "-x / 3 + 2": (lambda x: -x / 3 + 2, ["affine", "affine", "affine"]),
    "np.float32": (lambda x: x * np.float32(0.5), ["affine"]),
    "x * x.sigmoid()": (lambda x: x * x.sigmoid(), ["activation", "multiply"]),
    "gate * x": (lambda x: x.mean((2, 3), keepdim=True).tanh() * x, ["adaptive_avg_pool2d", "activation", "multiply"]),
    "expand_as": (lambda x: x * x.amax((-2, -1), True).expand_as(x), ["max_pool2d", "multiply"]),
    "expand": (
        lambda x: x + F.adaptive_avg_pool2d(x, 1).expand(-1, -1, 6, 6),
        ["adaptive_avg_pool2d", "upsample", "add"],
    ),
    "torch.cat of itself": (lambda x: torch.cat([x, x, x.relu()], dim=-3), ["relu", "concatenate"]),
    "torch.concat of one": (lambda x: torch.concat((x,), 1).relu(), ["relu"]),
    "ReLU6": (lambda x: F.relu6(x), ["clamp"]),
    "clamp": (lambda x: x.clamp(min=-1, max=2).clamp_min(0).clip(max=1), ["clamp", "relu", "clamp"]),
    "hardtanh": (lambda x: F.hardtanh(x, -2, 2), ["clamp"]),
    "inplace": (lambda x: F.silu(F.hardswish(x, inplace=True), inplace=True), ["activation", "activation"]),
    "functions": (lambda x: F.mish(F.softplus(F.gelu(F.elu(F.leaky_relu(x, 0.2))))), ["activation"] * 5),
    "pad": (lambda x: F.max_pool2d(F.pad(x.relu(), (0, 1, 0, 1)), 3, 2), ["relu", "zero_pad2d", "max_pool2d"]),
    "pad by nothing": (lambda x: F.pad(x, (0, 0)).relu(), ["relu"]),
    "ceil_mode": (lambda x: F.max_pool2d(x.relu(), 3, 2, ceil_mode=True), ["relu", "max_pool2d_ceil"]),
    "adaptive": (lambda x: F.adaptive_avg_pool2d(x, (3, None)), ["avg_pool2d"]),
    "adaptive to more": (lambda x: F.adaptive_avg_pool2d(F.avg_pool2d(x, 3), 4), ["avg_pool2d", "upsample"]),
    "adaptive maximum": (lambda x: F.adaptive_max_pool2d(x, 2), ["max_pool2d"]),
    "mean over rows": (lambda x: x.mean(2, keepdim=True), ["avg_pool2d"]),
    "mean by hand": (lambda x: x.view(x.size(0), x.size(1), -1).mean(-1), ["adaptive_avg_pool2d", "flatten"]),
    "interpolate": (lambda x: F.interpolate(x, size=(12, 18)), ["upsample"]),
    "interpolate by a factor": (lambda x: F.interpolate(x, scale_factor=2), ["upsample"]),
    "pick what there is": (lambda x: F.avg_pool2d(x, 6)[:, :, 0, 0], ["avg_pool2d", "flatten"]),
    "squeeze": (lambda x: x.mean([2, 3], keepdim=True).squeeze(), ["adaptive_avg_pool2d", "flatten"]),
    "permute": (lambda x: F.avg_pool2d(x, 6).permute(0, 2, 3, 1).flatten(1), ["avg_pool2d", "flatten"]),
    "there and back": (lambda x: x.flatten(2).unflatten(2, (6, 6)).relu(), ["relu"]),
    "control by shapes": (lambda x: x.relu() if x.shape[1] > 1 and x.dim() == 4 else x, ["relu"]),
    "iteration": (lambda x: sum((x for _ in range(x.size(1))), start=x), ["add", "add", "add"]),
    "softmax": (lambda x: F.softmax(x.mean((2, 3)), dim=-1), ["adaptive_avg_pool2d", "flatten"]),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("way", MAPS)
def test_what_is_written_in_another_way_is_followed(way: str) -> None:
    forward, expected = MAPS[way]
    network = Forward(lambda m, x: forward(m.layers[0](x)), nn.Conv2d(2, 3, 2, padding="same"))
    traced = trace_network(network, (2, 6, 6))
    assert [layer.op for layer in traced.layers] == ["zero_pad2d", "conv2d", *expected]
    assert [layer.name for layer in traced.layers[:2]] == ["layers.0_pad", "layers.0"]
    state = to_arrays(network.state_dict())
    weights = {name: state[name] for name in weight_shapes(traced.layers)}
    check_same_logits(network, Checkpoint(traced.layers, (2, 6, 6), 0.2, 0.25, weights, ending=traced.ending))


def test_functions_take_the_weights_of_their_module() -> None:
    """A subclass that calls the function itself is the layer that it derives from."""

    class Padded(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.conv2d(F.pad(x, (1, 0, 1, 0)), self.weight, self.bias, self.stride)

    class Norm(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps))

    network = nn.Sequential(Padded(1, 3, 2, stride=2), Norm(3), nn.Flatten(), nn.Linear(27, 2)).eval()
    layers = trace_layers(network, (1, 6, 6))
    assert [(layer.op, layer.name) for layer in layers] == [
        ("zero_pad2d", "pad"), ("conv2d", "0"), ("batch_norm2d", "1"), ("relu", "relu"), ("flatten", "2"),
        ("linear", "3"),
    ]  # fmt: skip
    weights = {name: to_arrays(network.state_dict())[name] for name in weight_shapes(layers)}
    inputs = np.random.default_rng(0).integers(0, 256, (3, 6, 6)).astype(np.uint8)
    outputs = run_float(fold(Checkpoint(layers, (1, 6, 6), 0.2, 0.25, weights)), inputs)
    with torch.no_grad():
        expected = network((torch.from_numpy(inputs)[:, None] / 255 - 0.2) / 0.25)
    np.testing.assert_allclose(outputs, expected, atol=1e-4)
