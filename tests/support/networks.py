"""Random small networks, as checkpoints, that use every operation, stride, padding, dilation and group there is.

`random_checkpoint` gives chains of convolutions over images of pixels, `random_graph` everything else too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_mnist.graph.arithmetic import apply_function, quantize
from edge_mnist.graph.checkpoint import Checkpoint
from edge_mnist.graph.geometry import Window
from edge_mnist.graph.layers import ACTIVATIONS, INPUT, Layer, Shape, to_layer_shape
from edge_mnist.graph.operations import (
    RELU,
    UNBOUNDED,
    Activation,
    Add,
    Concatenate,
    Conv2d,
    FloatGraph,
    MaxPool2d,
    Multiply,
    Quantization,
    QuantizedConv2d,
    QuantizedGraph,
    Table,
    Upsample,
)


class Sketch:
    """A chain of layers under construction, with random weights; `shape` is that of its output."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.layers: list[Layer] = []
        self.weights: dict[str, np.ndarray] = {}
        self.shape = (
            int(self.rng.choice([1, 1, 1, 2, 3])),
            int(self.rng.integers(6, 15)),
            int(self.rng.integers(6, 15)),
        )
        self.input_shape = self.shape
        self.rectified = False  # a padded max pool needs a ReLU before it

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def add(self, op: str, **fields: Any) -> str:
        name = f"{op.split('_')[0]}{len(self.layers)}"
        self.layers.append(Layer.from_json({"op": op, "name": name, **fields}))
        return name

    def window(self, kernel: list[int], *, dilate: bool) -> dict[str, list[int]] | None:
        """A random window, or None if it does not fit."""
        dilation = [int(self.rng.integers(1, 3)) if dilate and self.chance(0.3) else 1 for _ in range(2)]
        padding = [int(self.rng.integers(0, k // 2 + 1)) if self.chance(0.5) else 0 for k in kernel]
        stride = [int(self.rng.choice([1, 1, 2, 3])) for _ in range(2)]
        extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        sizes = [(n + 2 * p - e) // s + 1 for n, p, e, s in zip(self.shape[1:], padding, extents, stride, strict=True)]
        if min(sizes) < 1 or min(n + 2 * p - e for n, p, e in zip(self.shape[1:], padding, extents, strict=True)) < 0:
            return None
        self.sizes = tuple(sizes)
        return {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}

    def convolution(self) -> None:
        channels = self.shape[0]
        window = self.window([int(k) for k in self.rng.integers(1, 5, 2)], dilate=True)
        if window is None:
            return
        groups = int(self.rng.choice([g for g in (1, 1, 2, 3, channels) if channels % g == 0]))
        outputs = groups * int(self.rng.integers(1, 4 if groups > 1 else 12))
        bias = self.chance(0.8)
        name = self.add("conv2d", in_channels=channels, out_channels=outputs, groups=groups, bias=bias, **window)
        taps = (outputs, channels // groups, *window["kernel_size"])
        self.weights[f"{name}.weight"] = self.normal(taps, 1.4 / np.sqrt(np.prod(taps[1:])))
        if bias:
            self.weights[f"{name}.bias"] = self.normal((outputs,), 0.3)
        self.shape = (outputs, *self.sizes)
        self.rectified = False

    def batch_norm(self) -> None:
        channels = self.shape[0]
        affine = self.chance(0.8)
        name = self.add("batch_norm2d", num_features=channels, eps=1e-5, affine=affine)
        if affine:
            self.weights[f"{name}.weight"] = self.normal((channels,), 0.3) + np.float32(1)
            self.weights[f"{name}.bias"] = self.normal((channels,), 0.4)
        self.weights[f"{name}.running_mean"] = self.normal((channels,), 0.2)
        self.weights[f"{name}.running_var"] = self.rng.uniform(0.4, 1.5, channels).astype(np.float32)
        self.rectified = False

    def relu(self) -> None:
        self.add("relu")
        self.rectified = True

    def pool(self, op: str) -> None:
        window = self.window([int(k) for k in self.rng.integers(1, 4, 2)], dilate=False)
        if window is None:
            return
        if op == "max_pool2d" and window["padding"] != [0, 0] and not self.rectified:
            self.relu()  # TFLite cannot pad a max pool over values that may be negative
        del window["dilation"]
        self.add(op, **window)
        self.shape = (self.shape[0], *self.sizes)

    def linear(self, outputs: int) -> None:
        features = int(np.prod(self.shape))
        bias = self.chance(0.8)
        name = self.add("linear", in_features=features, out_features=outputs, bias=bias)
        self.weights[f"{name}.weight"] = self.normal((outputs, features), 1.6 / np.sqrt(features))
        if bias:
            self.weights[f"{name}.bias"] = self.normal((outputs,), 0.3)
        self.shape = (outputs, 1, 1)
        self.rectified = False

    def normal(self, shape: tuple[int, ...], deviation: float) -> np.ndarray:
        return self.rng.normal(0, deviation, shape).astype(np.float32)


def random_checkpoint(seed: int) -> Checkpoint:
    """A random network that the seed determines."""
    sketch = Sketch(seed)
    if sketch.chance(0.15):
        sketch.pool("max_pool2d")
    for _ in range(int(sketch.rng.integers(1, 5))):
        sketch.convolution()
        if sketch.chance(0.5):
            sketch.batch_norm()
        if sketch.chance(0.75):
            sketch.relu()
        if sketch.chance(0.15):
            sketch.batch_norm()
        if sketch.chance(0.4):
            sketch.pool(str(sketch.rng.choice(["max_pool2d", "avg_pool2d"])))
        if sketch.chance(0.1):
            sketch.relu()
    if sketch.chance(0.4):
        sketch.add("adaptive_avg_pool2d")
        sketch.shape = (sketch.shape[0], 1, 1)
    sketch.add("flatten")
    if sketch.shape[1:] != (1, 1) or sketch.chance(0.7) or len(sketch.layers) < 4:
        if sketch.chance(0.3):
            sketch.linear(int(sketch.rng.integers(4, 16)))
            if sketch.chance(0.8):
                sketch.relu()
        sketch.linear(int(sketch.rng.integers(2, 12)))
    mean, std = (0.1307, 0.3081) if sketch.chance(0.7) else (0.5, 0.25)
    return Checkpoint(tuple(sketch.layers), sketch.input_shape, mean, std, sketch.weights, {}, {})


@dataclass(frozen=True)
class Value:
    """The output of a layer, or the input, in a graph under construction.

    Attributes:
        name: the name of the layer, `INPUT` for the input.
        shape: the shape of the value.
        rectified: whether it cannot be negative.
    """

    name: str
    shape: Shape
    rectified: bool = False


class GraphSketch:
    """A graph of layers under construction, with random weights."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.layers: list[Layer] = []
        self.weights: dict[str, np.ndarray] = {}
        self.is_pixels = True
        self.input_shape: Shape = self.draw_input()

    def draw_input(self) -> Shape:
        """Draw the shape of the inputs, and whether they are pixels."""
        kind = self.rng.random()
        sizes = [int(size) for size in self.rng.integers(5, 15, 2)]
        channels = int(self.rng.choice([1, 1, 2, 3, 3, 4]))
        self.is_pixels = self.chance(0.8) if kind < 0.75 else self.chance(0.4)
        if kind < 0.08:  # larger maps, of few layers
            return min(channels, 3), int(self.rng.integers(20, 65)), int(self.rng.integers(20, 65))
        if kind < 0.75:
            return channels, *sizes
        if kind < 0.88:
            return channels, int(self.rng.integers(8, 40))
        return (int(self.rng.integers(5, 40)),)

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def add(self, op: str, *sources: Value, rectified: bool = False, **fields: Any) -> Value:
        """Add a layer; its sources are written out only where they are not the layer before it."""
        name = f"{op.split('_')[0]}{len(self.layers)}"
        names = tuple(source.name for source in sources)
        previous = self.layers[-1].name if self.layers else INPUT
        record = {"op": op, "name": name, **fields}
        layer = Layer.from_json(record if names == (previous,) else {**record, "sources": list(names)})
        shape = layer.join_shapes([source.shape for source in sources], names)
        for key, size in layer.weight_shapes().items():
            self.weights[f"{name}.{key}"] = self.draw_weights(key, size, op)
        self.layers.append(layer)
        return Value(name, shape, rectified)

    def draw_weights(self, key: str, shape: Shape, op: str) -> np.ndarray:
        if key == "running_var":
            return self.rng.uniform(0.4, 1.5, shape).astype(np.float32)
        if op == "batch_norm2d":
            mean = 1.0 if key == "weight" else 0.0
            return self.rng.normal(mean, 0.3, shape).astype(np.float32)
        deviation = 0.3 if key == "bias" else 1.4 / math.sqrt(math.prod(shape[1:]))
        factor = float(self.rng.choice([1.0, 1.0, 1.0, 0.2, 3.0])) if key == "weight" else 1.0
        return self.rng.normal(0, factor * deviation, shape).astype(np.float32)

    @property
    def is_sequence(self) -> bool:
        return len(self.input_shape) == 2

    def draw_sizes(self, limit: tuple[int, int], largest: int = 3) -> list[int]:
        """A kernel size, stride or the like for both directions, within limits; 1 down for sequences."""
        sizes = [int(self.rng.integers(1, min(largest, end) + 1)) for end in limit]
        return [1, sizes[1]] if self.is_sequence else sizes

    def draw_margins(self, limit: list[int]) -> list[int]:
        margins = [int(self.rng.integers(0, end + 1)) for end in limit]
        return [0, margins[1]] if self.is_sequence else margins

    def convolve(self, value: Value, outputs: int | None = None, *, keep_size: bool = False) -> Value:
        """A convolution, perhaps behind a padding of its own; with `keep_size` the maps keep their size."""
        if len(value.shape) == 1:
            features = outputs or int(self.rng.integers(2, 16))
            return self.add("linear", value, in_features=value.shape[0], out_features=features, bias=self.chance(0.8))
        channels, *size = value.shape
        op = "conv1d" if self.is_sequence else "conv2d"
        if keep_size:
            kernel = self.draw_sizes((size[0], size[1]))
            kernel = [k if k % 2 else 1 for k in kernel]
            window = {"stride": [1, 1], "padding": [k // 2 for k in kernel], "dilation": [1, 1]}
        else:
            if self.chance(0.25):
                before, after = self.draw_margins([1, 1]), self.draw_margins([2, 2])
                value = self.add("zero_pad2d", value, before=before, after=after, rectified=value.rectified)
                size = list(value.shape[1:])
            kernel = self.draw_sizes((size[0], size[1]), 4)
            padding = self.draw_margins([k // 2 for k in kernel]) if self.chance(0.4) else [0, 0]
            dilation = [2 if self.chance(0.2) and 2 * k - 1 <= n else 1 for k, n in zip(kernel, size, strict=True)]
            stride = self.draw_sizes((size[0], size[1]), 2)
            window = {"stride": stride, "padding": padding, "dilation": dilation}
        groups = int(self.rng.choice([g for g in (1, 1, 1, 2, channels) if channels % g == 0]))
        if outputs is None or outputs % groups:
            groups = groups if outputs is None else 1
            outputs = outputs or groups * int(self.rng.integers(1, 4 if groups > 1 else 12))
        return self.add(
            op,
            value,
            in_channels=channels,
            out_channels=outputs,
            kernel_size=kernel,
            groups=groups,
            bias=self.chance(0.8),
            **window,
        )

    def normalize(self, value: Value) -> Value:
        return self.add("batch_norm2d", value, num_features=value.shape[0], eps=1e-5, affine=self.chance(0.8))

    def activate(self, value: Value) -> Value:
        """Nothing, a ReLU, a clamp or a table."""
        kind = self.rng.random()
        if kind < 0.15:
            return value
        if kind < 0.5:
            return self.add("relu", value, rectified=True)
        if kind < 0.7:
            low, high = ((0.0, 6.0), (-1.0, 1.0), (-2.0, 2.5), (0.0, 1.0), (-0.5, 3.0))[self.rng.integers(5)]
            return self.add("clamp", value, low=low, high=high, rectified=low == 0.0)
        return self.tabulate(value, str(self.rng.choice(ACTIVATIONS)))

    def tabulate(self, value: Value, function: str) -> Value:
        parameter = {"leaky_relu": 0.01 if self.chance(0.5) else 0.2, "elu": 1.0}.get(function, 0.0)
        rectified = function in ("sigmoid", "hardsigmoid", "softplus")
        return self.add("activation", value, function=function, parameter=parameter, rectified=rectified)

    def block(self, value: Value) -> Value:
        """A convolution with what usually follows it."""
        value = self.convolve(value)
        if self.chance(0.4):
            value = self.normalize(value)
        value = self.activate(value)
        return self.pool(value) if len(value.shape) == 3 and self.chance(0.25) else value

    def pool(self, value: Value) -> Value:
        op = str(self.rng.choice(["max_pool2d", "max_pool2d_ceil", "avg_pool2d"]))
        kernel = self.draw_sizes((value.shape[1], value.shape[2]))
        stride = self.draw_sizes((kernel[0], kernel[1]))
        padding = self.draw_margins([k // 2 for k in kernel]) if self.chance(0.3) else [0, 0]
        return self.add(op, value, kernel_size=kernel, stride=stride, padding=padding, rectified=value.rectified)

    def residual(self, value: Value) -> Value:
        """A branch that is added to its input, or to a projection of it."""
        channels = value.shape[0]
        branch = self.activate(self.convolve(value, keep_size=True))
        branch = self.convolve(branch, channels, keep_size=True)
        if self.chance(0.5):
            branch = self.normalize(branch)
        other = self.convolve(value, channels, keep_size=True) if self.chance(0.3) else value
        pair = (branch, other) if self.chance(0.5) else (other, branch)
        return self.activate(self.add("add", *pair))

    def add_up(self, value: Value) -> Value:
        """A chain of adds of values of different scales."""
        total = value
        for _ in range(int(self.rng.integers(1, 4))):
            other = self.convolve(value, total.shape[0], keep_size=True)
            if self.chance(0.4):
                other = self.activate(other)
            total = self.add("add", total, other)
        if self.chance(0.2):
            total = self.add("add", total, total)
        return self.activate(total) if self.chance(0.5) else total

    def join(self, value: Value) -> Value:
        """Branches that are concatenated, as in a fire module."""
        if self.chance(0.4):
            value = self.activate(self.convolve(value, keep_size=True))
        branches = [self.activate(self.convolve(value, keep_size=True)) for _ in range(int(self.rng.integers(1, 4)))]
        if self.chance(0.5) or len(branches) == 1:
            branches.append(value)
        joined = self.add("concatenate", *branches, rectified=all(branch.rectified for branch in branches))
        return self.normalize(joined) if self.chance(0.2) else joined

    def gate(self, value: Value) -> Value:
        """Squeeze and excitation, or a product of two branches."""
        gated = str(self.rng.choice(["sigmoid", "hardsigmoid", "tanh"]))
        if len(value.shape) == 1 or self.chance(0.4):
            other = self.tabulate(self.convolve(value, value.shape[0], keep_size=True), gated)
        else:
            other = self.add("adaptive_avg_pool2d", value, rectified=value.rectified)
            if self.chance(0.6):
                other = self.activate(self.convolve(other, int(self.rng.integers(1, 6)), keep_size=True))
            other = self.tabulate(self.convolve(other, value.shape[0], keep_size=True), gated)
        return self.add("multiply", value, other)

    def upsample(self, value: Value) -> Value:
        if len(value.shape) == 1 or math.prod(value.shape[1:]) > 200:
            return value
        return self.add("upsample", value, factor=self.draw_sizes((2, 3)), rectified=value.rectified)

    def finish(self, value: Value) -> Value:
        """The end of the network: one value for each class, or maps."""
        if len(value.shape) == 3 and self.chance(0.15):
            return self.convolve(value, keep_size=True)
        if len(value.shape) == 3:
            if self.chance(0.4):
                value = self.add("adaptive_avg_pool2d", value, rectified=value.rectified)
            value = self.add("flatten", value, rectified=value.rectified)
        return self.convolve(value, int(self.rng.integers(2, 12)))


def random_graph(seed: int) -> Checkpoint:
    """A random network with branches that the seed determines."""
    sketch = GraphSketch(seed)
    value = Value(INPUT, to_layer_shape(sketch.input_shape), rectified=True)
    steps: list[Callable[[Value], Value]] = [sketch.residual, sketch.add_up, sketch.join, sketch.gate, sketch.upsample]
    if sketch.chance(0.8):  # otherwise the input itself goes into branches
        value = sketch.block(value)
    for _ in range(int(sketch.rng.integers(1, 4))):
        value = steps[sketch.rng.choice(len(steps), p=[0.3, 0.2, 0.2, 0.2, 0.1])](value)
        if sketch.chance(0.4):
            value = sketch.block(value)
    sketch.finish(value)
    mean, std = (0.1307, 0.3081) if sketch.chance(0.5) else (0.5, 0.25)
    return Checkpoint(tuple(sketch.layers), sketch.input_shape, mean, std, sketch.weights, is_pixels=sketch.is_pixels)


def random_images(checkpoint: Checkpoint, count: int, seed: int) -> np.ndarray:
    """Smooth blobs and noise, uint8 (count, *input_shape): some channels bright, some dark."""
    return np.clip(127 + 127 * _draw_waves(checkpoint.input_shape, count, seed), 0, 255).astype(np.uint8)


def random_features(checkpoint: Checkpoint, count: int, seed: int) -> np.ndarray:
    """Numbers that are not pixels, float32 (count, *input_shape), mostly within -2.5..3.5."""
    return (0.5 + 2 * _draw_waves(checkpoint.input_shape, count, seed)).astype(np.float32)


def _draw_waves(input_shape: Shape, count: int, seed: int) -> np.ndarray:
    """Waves and noise around 0, float64 (count, *input_shape)."""
    rng = np.random.default_rng(seed)
    shape = to_layer_shape(input_shape)
    channels, height, width = shape if len(shape) == 3 else (1, 1, shape[0])
    rows, columns = np.mgrid[:height, :width]
    angles = rng.uniform(0, 2 * np.pi, (count, channels, 3, 1, 1))
    waves = np.sin(angles[:, :, 0] + rows * np.cos(angles[:, :, 1]) + columns * np.sin(angles[:, :, 2]))
    return np.asarray(waves + rng.normal(0, 0.4, waves.shape)).reshape(count, *input_shape)


def make_graphs_of_every_operation() -> tuple[FloatGraph, QuantizedGraph]:
    """A float and an int8 graph by hand, which use every operation and every field; the input is not pixels."""
    rng = np.random.default_rng(11)
    features, wide = Quantization(2.0**-5, -3), Quantization(2.0**-4 * (1 + 2.0**-12), 5)
    clamped, gate = Quantization(3 * 2.0**-7, -128), Quantization(2.0**-8, -128)
    logits = Quantization(2.0**-2, 0)
    one_sided = Window((3, 3), (2, 2), (0, 1), (1, 1), (1, 1))
    scale, bias = np.full(2, 2.0**-7, np.float32), np.array([40, -30], np.int32)

    def draw(*shape: int) -> np.ndarray:
        return rng.integers(-64, 65, shape).astype(np.int8)

    table = quantize(apply_function((np.arange(-128, 128) - 5) * wide.scale, "sigmoid", 0.0), gate.scale, -128)
    int8 = (
        QuantizedConv2d("padded", draw(2, 2, 3, 3), scale, bias, one_sided, 1, (0.0, 6.0), clamped),
        QuantizedConv2d("side", draw(2, 1, 3, 3), scale, bias, one_sided, 2, UNBOUNDED, wide, sources=(0,)),
        Add("sum", UNBOUNDED, wide, sources=(1, 2)),
        Table("gate", "sigmoid", 0.0, table.astype(np.int8), gate),
        Multiply("product", clamped, sources=(1, 4)),
        Concatenate("join", sources=(5, 1)),
        MaxPool2d("pool", Window((2, 2), (1, 1), (0, 0), (1, 1), (1, 0))),
        Upsample("up", (1, 2)),
        QuantizedConv2d("last", draw(2, 4, 1, 1), scale, bias, Window((1, 1)), 1, RELU, Quantization(0.25, -128)),
        QuantizedConv2d("logits", draw(2, 2, 1, 1), scale, bias, Window((1, 1)), 1, UNBOUNDED, logits),
    )
    padded, side, last, classes = (
        Conv2d(
            o.name,
            o.weight / np.float32(50),
            o.bias.astype(np.float32),
            o.window,
            o.groups,
            o.bounds,
            sources=o.sources,
        )
        for o in int8
        if isinstance(o, QuantizedConv2d)
    )
    moves = [o for o in int8 if isinstance(o, Concatenate | MaxPool2d | Upsample)]
    real = (
        *(padded, side, Add("sum", sources=(1, 2)), Activation("gate", "leaky_relu", 0.25)),
        *(Multiply("product", sources=(1, 4)), *moves, last, classes),
    )
    shape = (2, 5, 7)
    return (
        FloatGraph(shape, 0, real, is_pixels=False, ending="log_softmax"),
        QuantizedGraph(shape, 0, int8, features=features, ending="log_softmax"),
    )
