"""Folding changes the form of a network but not what it computes, which is compared with PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_mnist.data import strokes
from edge_mnist.graph import checkpoint as checkpoints
from edge_mnist.graph.checkpoint import Checkpoint
from edge_mnist.graph.folding import fold
from edge_mnist.graph.interpreter import run_float
from edge_mnist.graph.layers import (
    INPUT,
    ActivationLayer,
    AddLayer,
    AffineLayer,
    AvgPool2dLayer,
    BatchNorm2dLayer,
    CeilMaxPool2dLayer,
    ClampLayer,
    ConcatenateLayer,
    Conv2dLayer,
    FlattenLayer,
    GlobalAvgPool2dLayer,
    Layer,
    LinearLayer,
    MaxPool2dLayer,
    MultiplyLayer,
    ReluLayer,
    UnsqueezeLayer,
    UpsampleLayer,
    ZeroPad2dLayer,
    resolve_sources,
    to_layer_shape,
    weight_shapes,
)
from edge_mnist.graph.operations import UNBOUNDED, Add, Concatenate, Conv2d, FloatGraph, MaxPool2d, Upsample
from edge_mnist.pretrained import SHIPPED
from edge_mnist.system.errors import EdgeMnistError
from tests.support.networks import random_checkpoint, random_features, random_graph, random_images

torch = pytest.importorskip("torch")
F = torch.nn.functional


def compute(layer: Layer, weights: Mapping[str, Any], inputs: Sequence[Any], margin: float) -> Any:
    """The output of one layer in PyTorch, in float64; it pads with `margin`."""
    x = inputs[0]

    def tensor(key: str) -> Any:
        array = weights.get(f"{layer.name}.{key}")
        return None if array is None else torch.from_numpy(array).double()

    def pad(padding: tuple[int, int]) -> Any:
        (down, right) = padding
        return F.pad(x, (right, right, down, down), value=margin)

    match layer:
        case Conv2dLayer():
            weight = tensor("weight").reshape(layer.out_channels, -1, *layer.kernel_size)
            return F.conv2d(pad(layer.padding), weight, tensor("bias"), layer.stride, 0, layer.dilation, layer.groups)
        case LinearLayer():
            return F.linear(x, tensor("weight"), tensor("bias"))
        case BatchNorm2dLayer():
            mean, variance = tensor("running_mean"), tensor("running_var")
            return F.batch_norm(x, mean, variance, tensor("weight"), tensor("bias"), eps=layer.eps)
        case AffineLayer():
            factor, offset = (
                torch.tensor(number).double().reshape(-1, *(1 for _ in x.shape[2:]))
                for number in (layer.factor, layer.offset)
            )
            return x * factor + offset
        case ReluLayer():
            return F.relu(x)
        case ClampLayer():
            return x.clamp(layer.low, layer.high)
        case ActivationLayer():
            function = getattr(F, layer.function)
            return function(x, layer.parameter) if layer.function in ("leaky_relu", "elu") else function(x)
        case AddLayer():
            return x + inputs[1]
        case MultiplyLayer():
            return x * inputs[1]
        case ConcatenateLayer():
            return torch.cat(list(inputs), 1)
        case UpsampleLayer():
            return F.interpolate(x, scale_factor=layer.factor, mode="nearest")
        case ZeroPad2dLayer():
            (up, left), (down, right) = layer.before, layer.after
            return F.pad(x, (left, right, up, down), value=margin)
        case MaxPool2dLayer():
            ceil_mode = isinstance(layer, CeilMaxPool2dLayer)
            return F.max_pool2d(x, layer.kernel_size, layer.stride, layer.padding, ceil_mode=ceil_mode)
        case AvgPool2dLayer():
            return F.avg_pool2d(pad(layer.padding), layer.kernel_size, layer.stride)
        case GlobalAvgPool2dLayer():
            return x.mean((2, 3), keepdim=True)
        case UnsqueezeLayer():
            return x[:, :, None, None]
    assert isinstance(layer, FlattenLayer)
    return x.flatten(1)


def torch_outputs(source: Checkpoint, inputs: np.ndarray, margins: Mapping[str, float] = {}) -> np.ndarray:
    """The outputs of a network in PyTorch, float64 (N, outputs).

    Args:
        source: the network.
        inputs: pixels or features.
        margins: what layers pad with, by name; 0 if not named.
    """
    x = torch.from_numpy(inputs).double().reshape(len(inputs), *to_layer_shape(source.input_shape))
    if source.is_pixels:
        mean, std = (
            torch.tensor(numbers).double().reshape(-1, *(1 for _ in x.shape[2:]))
            for numbers in (source.means, source.stds)
        )
        x = (x / 255 - mean) / std
    values = {INPUT: x}
    for layer, names in zip(source.architecture, resolve_sources(source.architecture), strict=True):
        operands = [values[name] for name in names]
        values[layer.name] = compute(layer, source.weights, operands, margins.get(layer.name, 0.0))
    outputs: np.ndarray = values[source.architecture[-1].name].flatten(1).numpy()
    return outputs


def torch_logits(source: Checkpoint, graph: FloatGraph, images: np.ndarray) -> np.ndarray:
    """The logits of a chain in PyTorch; where it pads its input, it pads with the graph's pixel."""
    first = graph.convolutions[0]
    assert isinstance(source.mean, float) and isinstance(source.std, float)
    assert graph.zero_pixel == (round(255 * source.mean) if first.window.is_padded else 0)
    return torch_outputs(source, images, {first.name: (graph.zero_pixel / 255 - source.mean) / source.std})


def assert_same_outputs(source: Checkpoint, seed: int = 0) -> FloatGraph:
    """Compare the folded network with PyTorch, and return it."""
    graph = fold(source)
    inputs = (random_images if source.is_pixels else random_features)(source, 5, seed)
    expected = torch_outputs(source, inputs)
    limit = 1e-4 * max(1.0, float(np.abs(expected).max()))
    found = run_float(graph, inputs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit, err_msg=f"{seed}: {source.architecture}")
    return graph


def test_random_networks_compute_what_pytorch_computes() -> None:
    padding = 0
    for seed in range(150):
        source = replace(random_checkpoint(seed), mean=0.03 + seed % 10 / 10)
        graph, images = fold(source), random_images(source, 6, seed)
        expected = torch_logits(source, graph, images)
        limit = 1e-4 * max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(run_float(graph, images), expected, rtol=0, atol=limit, err_msg=f"seed {seed}")
        padding += graph.convolutions[0].window.padding != (0, 0)
    assert padding >= 10


def test_a_channel_without_variance_is_normalized_as_in_pytorch() -> None:
    """Trained networks have channels that are always 0 before a batch normalization."""
    source = random_checkpoint(0)
    name = next(name for name in source.weights if name.endswith(".running_var"))
    variance = source.weights[name].copy()
    variance[0] = 0
    changed = replace(source, weights={**source.weights, name: variance})
    checkpoints.check_checkpoint(changed, "network")
    assert_same_outputs(changed)


def test_digitnet_changes_by_rounding_only() -> None:
    source = checkpoints.load(SHIPPED)
    graph, images = fold(source), strokes.draw(200, seed=5).images
    layers = "conv1 conv2 conv3 pool1 conv4 conv5 pool2 conv6 conv7 linear"
    assert " ".join(operation.name for operation in graph.operations) == layers  # the pool over 1x1 drops out
    assert graph.zero_pixel == 0
    difference = np.abs(run_float(graph, images) - torch_logits(source, graph, images[:, None]))
    assert difference.max() <= 1e-4


def test_relu_goes_through_a_max_pool_into_the_convolution() -> None:
    source = checkpoints.load(SHIPPED)
    by_name = {layer.name: layer for layer in source.architecture}
    end = GlobalAvgPool2dLayer("end")
    layers = [by_name["conv1"], by_name["bn1"], by_name["pool1"], by_name["relu1"], by_name["relu2"], end]
    graph = fold(replace(source, architecture=tuple(layers)))
    assert [operation.name for operation in graph.operations] == ["conv1", "pool1", "end"]
    assert [convolution.relu for convolution in graph.convolutions] == [True, False]


def test_folding_is_the_same_every_time() -> None:
    for seed in range(20):
        first, second = fold(random_checkpoint(seed)), fold(random_checkpoint(seed))
        for a, b in zip(first.convolutions, second.convolutions, strict=True):
            assert (a.weight.tobytes(), a.bias.tobytes()) == (b.weight.tobytes(), b.bias.tobytes())


def assert_equal_bounds(graph: FloatGraph) -> None:
    """The int8 range clamps, so values that share a quantization are clamped to the same bounds."""
    bounds = [UNBOUNDED, *(getattr(operation, "bounds", UNBOUNDED) for operation in graph.operations)]
    for index, operation in enumerate(graph.operations):
        if isinstance(operation, Concatenate | MaxPool2d | Upsample):
            found = {bounds[source] for source in graph.sources(index)}
            assert len(found) == 1, f"{operation.name}: {found}"
            bounds[index + 1] = found.pop()


def test_random_graphs_compute_what_pytorch_computes() -> None:
    operations: set[str] = set()
    normalized = 0
    for seed in range(120):
        source = random_graph(seed)
        channels = source.input_shape[0]
        if seed % 3 == 0:
            source = replace(source, mean=34 / 255)
        elif seed % 3 == 1:
            numbers = np.random.default_rng(seed).uniform(0.1, 0.9, (2, channels))
            source = replace(source, mean=tuple(np.round(255 * numbers[0]) / 255), std=tuple(numbers[1]))
        else:
            source = replace(source, is_pixels=False)
        graph = assert_same_outputs(source, seed)
        normalized += "input normalization" in graph.identifiers()
        operations |= {type(operation).__name__ for operation in graph.operations}
        assert_equal_bounds(graph)
    assert normalized >= 5
    assert operations == {"Conv2d", "MaxPool2d", "Upsample", "Concatenate", "Add", "Multiply", "Activation"}


def make_network(*layers: Layer, input_shape: tuple[int, ...] = (2, 6, 7), **fields: Any) -> Checkpoint:
    """A network of layers with random weights."""
    rng = np.random.default_rng(len(layers))
    weights = {name: rng.normal(0.2, 0.5, shape).astype(np.float32) for name, shape in weight_shapes(layers).items()}
    for name in weights:
        if name.endswith("running_var"):
            weights[name] = np.abs(weights[name]) + np.float32(0.1)
    return Checkpoint(layers, input_shape, **{"mean": 0.4, "std": 0.25, **fields}, weights=weights)


def conv(name: str, inputs: int, outputs: int, size: int = 1, padding: int = 0, **sources: Any) -> Conv2dLayer:
    pair = (size, size)
    return Conv2dLayer(name, inputs, outputs, pair, (1, 1), (padding, padding), (1, 1), 1, bias=True, **sources)


def describe(graph: FloatGraph) -> str:
    """The operations of a graph, with the bounds of those that clamp."""
    parts = []
    for operation in graph.operations:
        bounds = operation.bounds if isinstance(operation, Conv2d | Add) else UNBOUNDED
        parts.append(operation.name + (f"[{bounds[0]:g},{bounds[1]:g}]" if bounds != UNBOUNDED else ""))
    return " ".join(parts)


relu = ReluLayer("relu")
flat = FlattenLayer("flat")


def linear(name: str, inputs: int, outputs: int = 3, **sources: Any) -> LinearLayer:
    return LinearLayer(name, inputs, outputs, bias=True, **sources)


def join(*sources: str) -> ConcatenateLayer:
    return ConcatenateLayer("join", sources=sources)


def add(*sources: str) -> AddLayer:
    return AddLayer("sum", sources=sources)


def norm(features: int, **sources: Any) -> BatchNorm2dLayer:
    return BatchNorm2dLayer("norm", features, 1e-5, affine=True, **sources)


def pad(name: str, before: tuple[int, int], after: tuple[int, int], **sources: Any) -> ZeroPad2dLayer:
    return ZeroPad2dLayer(name, before, after, **sources)


max_pool = MaxPool2dLayer("pool", (2, 2), (2, 2), (0, 0))
A = conv("a", 2, 2)
B = conv("b", 2, 2, sources=("a",))  # another reader of a

GRAPHS: dict[str, tuple[Layer, ...]] = {
    # Batch normalization
    "a": (A, norm(2)),
    "a norm b sum": (A, norm(2), B, add("norm", "b")),
    "a[0,inf] norm[0,inf]": (A, ReluLayer("first"), norm(2), relu),
    "a b sum norm": (A, conv("b", 2, 2), add("a", "b"), norm(2)),
    # Clamps
    "a[0,6]": (A, ClampLayer("c", -1.0, 6.0), relu, ClampLayer("d", -2.0, 8.0)),
    "a b sum[0,inf]": (A, conv("b", 2, 2), add("a", "b"), relu),
    "a[0,inf] b sum": (A, relu, conv("b", 2, 2), ReluLayer("again", sources=("a",)), add("b", "again")),
    "a b sum c[-1,1]": (A, conv("b", 2, 2), add("a", "b"), ClampLayer("c", -1.0, 1.0)),
    "a relu[0,inf] relu unclamped b join": (A, relu, B, join("relu", "b")),
    "a[0,inf] a unclamped b join": (A, relu, conv("b", 2, 2), join("relu", "b")),
    "a b[0,inf] c[0,inf] join up pool": (
        A,
        conv("b", 2, 1),
        conv("c", 2, 1, sources=("a",)),
        join("b", "c"),
        UpsampleLayer("up", (2, 1)),
        max_pool,
        relu,
    ),
    "a b[0,inf] b unclamped s join": (
        A,
        conv("b", 2, 2),
        ActivationLayer("s", "sigmoid", 0.0, sources=("a",)),
        join("b", "s"),
        relu,
    ),
    "a b t join relu[0,inf]": (
        A,
        conv("b", 2, 2),
        ActivationLayer("t", "tanh", 0.0, sources=("a",)),
        join("b", "t"),
        relu,
    ),
    "a s product": (A, ActivationLayer("s", "sigmoid", 0.0), MultiplyLayer("product", sources=("s", "s")), relu),
    "a t b u product relu[0,inf]": (
        A,
        ActivationLayer("t", "tanh", 0.0),
        B,
        ActivationLayer("u", "tanh", 0.0),
        MultiplyLayer("product", sources=("t", "u")),
        relu,
    ),
    # What is joined has one quantization, and so the same bounds
    "a b[0,inf] c[0,6] c unclamped[0,inf] d join e sum": (
        A,
        conv("b", 2, 2),
        ReluLayer("r"),
        conv("c", 2, 1, sources=("a",)),
        ClampLayer("s", 0.0, 6.0),
        conv("d", 1, 1, sources=("s",)),
        join("r", "s"),
        conv("e", 3, 1),
        add("d", "e"),
    ),
    "a[0,inf] pool pool unclamped b join up": (
        A,
        relu,
        max_pool,
        conv("b", 2, 2),
        join("pool", "b"),
        UpsampleLayer("up", (2, 2)),
    ),
    "a[0,inf] mean pool pool unclamped join": (
        A,
        relu,
        AvgPool2dLayer("mean", (2, 2), (2, 2), (0, 0)),
        MaxPool2dLayer("pool", (2, 2), (2, 2), (0, 0), sources=("relu",)),
        join("mean", "pool"),
    ),
    "a[0,inf] p[0,inf] b[0,inf] q[0,inf] join": (
        A,
        relu,
        pad("p", (0, 0), (2, 0)),
        conv("b", 2, 2, 2),
        ReluLayer("r"),
        pad("q", (1, 1), (0, 0), sources=("r",)),
        join("p", "q"),
    ),
    # Constants
    "a[0,1] b": (A, ClampLayer("c", 0.5, 1.5), conv("b", 2, 2)),
    "a[-1,0] c": (A, ClampLayer("c", -3.0, -2.0)),
    "a[0,1] t b": (
        A,
        AffineLayer("plus", 1.0, 3.0),
        ClampLayer("c", 0.0, 6.0),
        AffineLayer("by", 1 / 6, 0.0),
        ActivationLayer("t", "tanh", 0.0),
        AffineLayer("times", 2.0, 1.0),
        conv("b", 2, 2),
    ),
    "a t plus b": (A, ActivationLayer("t", "tanh", 0.0), AffineLayer("plus", 1.0, 1.0), conv("b", 2, 2, 3, 1)),
    "b": (AffineLayer("by", 2.0, -16 / 255), conv("b", 2, 2, 3, 1)),
    # Zeros around maps
    "a b": (A, pad("p", (0, 1), (2, 0)), pad("q", (1, 0), (0, 0)), conv("b", 2, 2, 3, 1)),
    "b c join": (pad("p", (0, 0), (1, 1)), conv("b", 2, 2, 3), conv("c", 2, 1, 3, sources=("p",)), join("b", "c")),
    "a mean": (A, pad("p", (0, 0), (1, 1)), AvgPool2dLayer("mean", (2, 2), (1, 1), (0, 0))),
    "a[0,inf] pool": (A, pad("p", (1, 1), (0, 1)), relu, max_pool),
    "a p pool": (A, pad("p", (1, 1), (0, 1)), max_pool),
    "a[0,inf] p[0,inf] pool": (A, pad("p", (0, 0), (2, 0)), relu, max_pool),
    "a c, shifted[0,1] c": (A, pad("p", (0, 0), (1, 0)), ClampLayer("c", 1.0, 2.0)),
    "a b p c join": (
        A,
        B,
        pad("p", (0, 0), (1, 1), sources=("a",)),
        conv("c", 2, 2, 2, 1, sources=("b",)),
        join("c", "p"),
    ),
    "p": (pad("p", (0, 0), (1, 1)),),
    # Flattened maps
    "a[0,inf] fc": (A, flat, relu, linear("fc", 84)),
    "a b join fc": (
        A,
        B,
        FlattenLayer("f", sources=("a",)),
        FlattenLayer("g", sources=("b",)),
        join("f", "g"),
        linear("fc", 168),
    ),
}


@pytest.mark.parametrize("expected", GRAPHS)
def test_layers_fold_exactly_where_that_changes_nothing(expected: str) -> None:
    source = make_network(*GRAPHS[expected], mean=102 / 255)
    assert describe(assert_same_outputs(source)) == expected


def test_flattened_maps_of_different_sizes_are_joined_by_their_features() -> None:
    source = make_network(
        A,
        FlattenLayer("f"),
        AvgPool2dLayer("mean", (3, 3), (3, 3), (0, 0), sources=("a",)),
        FlattenLayer("g"),
        norm(8),
        relu,
        join("f", "relu", "g"),
        linear("fc", 100, 4),
    )
    graph = assert_same_outputs(source)
    assert "norm, flattened input" in describe(graph) and "join, flattened input" in describe(graph)
    skip = make_network(FlattenLayer("f"), linear("fc", 84, 84), add("f", "fc"), mean=0.4123)
    assert "sum, flattened input" in describe(assert_same_outputs(skip))
    product = MultiplyLayer("product", sources=("b", "gate"))
    gate = make_network(A, GlobalAvgPool2dLayer("mean"), flat, linear("fc", 2, 2), UnsqueezeLayer("gate"), B, product)
    assert describe(assert_same_outputs(gate)) == "a mean fc b product"


def test_a_batch_normalization_of_features_goes_into_the_linear_layers() -> None:
    source = make_network(A, flat, norm(84), linear("fc", 84), linear("gc", 84, sources=("norm",)), add("fc", "gc"))
    assert describe(assert_same_outputs(source)) == "a fc gc sum"


def test_each_channel_is_normalized_by_its_own_mean() -> None:
    means, stds = (0.4123, 0.61), (0.25, 0.5)
    whole = (102 / 255, 102 / 255)
    cases: dict[str, tuple[tuple[Layer, ...], dict[str, Any]]] = {
        "a 0": ((A,), {"mean": means, "std": stds}),
        "pool a 0": ((max_pool, A), {"mean": means, "std": stds}),
        "b 102": ((conv("b", 2, 2, 3, 1),), {"mean": whole, "std": stds}),
        "input normalization b 0": ((conv("b", 2, 2, 3, 1),), {"mean": means, "std": stds}),
        "input normalization pool 0": ((max_pool,), {"mean": means, "std": stds}),
        "a 0 ": ((AffineLayer("c", (2.0, 0.5), 1.0), AffineLayer("d", 2.0, (-0.1, 0.2)), A), {}),
        "input normalization b 0  ": ((AffineLayer("c", 2.0, -1.0), conv("b", 2, 2, 3, 1)), {"mean": 33 / 255}),
        "c pool a 0": ((AffineLayer("c", -1.0, 0.5), max_pool, A), {}),
        "a sum 0 ": ((A, add("a", "")), {"mean": 0.0, "std": 1 / 255}),
        "input normalization b 0 ": ((conv("b", 2, 2, 3, 1),), {"mean": -0.5, "std": 0.5}),
        "input normalization a sum 0": ((A, add("a", "")), {"mean": 0.4123}),
        "input normalization 2 input normalization sum 0": (
            (conv("input normalization", 2, 2), add("input normalization", "")),
            {"mean": 0.4123},
        ),
        "a sum 0": ((A, add("a", "")), {"is_pixels": False}),
        "input normalization a join 0": ((A, join("a", "")), {"mean": 0.0, "std": 1 / 255}),
        "input 2 join 0": ((conv("input", 2, 2), join("input", "")), {"is_pixels": False}),
        "up b 102": ((UpsampleLayer("up", (1, 2)), conv("b", 2, 2, 3, 1)), {"mean": whole, "std": stds}),
    }
    for expected, (layers, fields) in cases.items():
        graph = assert_same_outputs(make_network(*layers, **fields))
        assert f"{describe(graph)} {graph.zero_pixel}" == expected.strip()
    grouped = replace(conv("g", 2, 4), groups=2)
    assert describe(assert_same_outputs(make_network(grouped, mean=means, std=stds))) == "g"


def test_the_ending_and_the_kind_of_input_are_kept() -> None:
    graph = fold(make_network(A, is_pixels=False, ending="log_softmax"))
    assert (graph.ending, graph.is_pixels, graph.zero_pixel) == ("log_softmax", False, 0)


FAULTS: dict[str, tuple[Layer, ...]] = {
    "the network has no layer that computes anything": (flat,),
    "d: clamps to -1..0 what is clamped to 0..6 before: all values": (
        A,
        ClampLayer("c", 0.0, 6.0),
        ClampLayer("d", -1.0, 0.0),
    ),
    "join: concatenate of flattened maps of 8x40x40 would need a table of 20,480,000 weights": (
        conv("big", 2, 8),
        FlattenLayer("f"),
        conv("small", 2, 2, 40, sources=("",)),
        FlattenLayer("g"),
        join("f", "g"),
    ),
}


@pytest.mark.parametrize("text", FAULTS)
def test_what_cannot_be_folded_is_refused_by_name(text: str) -> None:
    with pytest.raises(EdgeMnistError, match=text) as caught:
        fold(make_network(*FAULTS[text], input_shape=(2, 40, 40)))
    assert "\n" not in str(caught.value)
