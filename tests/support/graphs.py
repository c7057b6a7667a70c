"""Small int8 graphs for each operation, made without folding and calibration, and the float graphs like them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edge_mnist.graph.arithmetic import (
    apply_function,
    dequantize,
    next_exact_scale,
    quantize,
    round_up_to_power_of_two,
    tie_margin_of_add,
    tie_margin_of_multiply,
)
from edge_mnist.graph.geometry import MapShape, Window
from edge_mnist.graph.layers import ACTIVATIONS, Shape, to_layer_shape
from edge_mnist.graph.operations import (
    RELU,
    UNBOUNDED,
    Activation,
    Add,
    Bounds,
    Concatenate,
    Conv2d,
    FloatGraph,
    FloatOperation,
    MaxPool2d,
    Multiply,
    Quantization,
    QuantizedConv2d,
    QuantizedGraph,
    QuantizedOperation,
    Table,
    Upsample,
)

GATE = Quantization(2**-8, -128)
"""The quantization of sigmoids, 0..255/256."""

ADD_FACTORS = (1.0, 1 + 2**-12, 1 - 2**-12, 1 + 2**-10, 1 - 2**-10, 1.5, 1.25)
"""With what the scale of a sum is multiplied until no sum is near a tie."""


class Builder:
    """An int8 graph under construction. Its methods add an operation and return the index of its value."""

    def __init__(self, input_shape: Shape, features: Quantization | None = None, zero_pixel: int = 0) -> None:
        self.rng = np.random.default_rng(0)
        self.input_shape, self.features, self.zero_pixel = input_shape, features, zero_pixel
        self.operations: list[QuantizedOperation] = []
        channels, height, width = (*to_layer_shape(input_shape), 1, 1)[:3]
        self.shapes: list[MapShape] = [(channels, height, width)]
        self.quantizations = [features or Quantization(1.0, zero_pixel - 128)]

    @property
    def graph(self) -> QuantizedGraph:
        return QuantizedGraph(self.input_shape, self.zero_pixel, tuple(self.operations), features=self.features)

    def add(self, operation: QuantizedOperation) -> int:
        sources = operation.sources or (len(self.operations),)
        self.operations.append(operation)
        self.shapes.append(operation.output_shape(*(self.shapes[source] for source in sources)))
        self.quantizations.append(getattr(operation, "output", None) or self.quantizations[sources[0]])
        return len(self.operations)

    def name(self, kind: str) -> str:
        return f"{kind}{len(self.operations)}"

    def convolve(
        self,
        value: int,
        channels: int,
        output: Quantization,
        window: Window | None = None,
        groups: int = 1,
        bounds: Bounds | None = None,
    ) -> int:
        """Add a convolution whose outputs spread over the range of `output`."""
        source, shape = self.quantizations[value], self.shapes[value]
        window = window or Window((1, 1))
        weight = self.rng.integers(-64, 65, (channels, shape[0] // groups, *window.kernel_size)).astype(np.int8)
        # The sums of the products have about this deviation, which the multiplier makes 60 steps.
        deviation = 37 * 74 * math.sqrt(weight[0].size)
        scales = self.rng.uniform(0.7, 1.4, channels) * 60 / deviation * output.scale / source.scale
        exact = [next_exact_scale(np.float32(np.float16(scale * 2**10)) / 2**10, source, output) for scale in scales]
        bias = self.rng.integers(-4000, 4000, channels).astype(np.int32)
        if bounds is None:
            bounds = RELU if output.zero_point == -128 else UNBOUNDED
        name, sources = self.name("convolution"), self.sources(value)
        convolution = QuantizedConv2d(
            name, weight, np.array(exact, np.float32), bias, window, groups, bounds, output, sources=sources
        )
        return self.add(convolution)

    def copy(self, value: int, channel: int, output: Quantization) -> int:
        """Add a 1x1 convolution that gives one channel of a value, with the same integers at another scale."""
        source, inputs = self.quantizations[value], self.shapes[value][0]
        weight = np.zeros((1, inputs, 1, 1), np.int8)
        weight[0, channel] = 64
        scale = np.array([output.scale / source.scale / 64], np.float32)
        bias = np.array([64 * (source.zero_point - output.zero_point)], np.int32)
        bounds = RELU if output.zero_point == -128 else UNBOUNDED
        return self.add(
            QuantizedConv2d(
                self.name("copy"), weight, scale, bias, Window((1, 1)), 1, bounds, output, sources=self.sources(value)
            )
        )

    def pool(self, value: int, window: Window) -> int:
        return self.add(MaxPool2d(self.name("pool"), window, sources=self.sources(value)))

    def upsample(self, value: int, factor: tuple[int, int]) -> int:
        return self.add(Upsample(self.name("upsample"), factor, sources=self.sources(value)))

    def concatenate(self, *values: int) -> int:
        return self.add(Concatenate(self.name("concatenate"), sources=values))

    def sum(self, first: int, second: int, zero_point: int = 0, bounds: Bounds = UNBOUNDED) -> int:
        """Add a sum at a scale at which no sum is near a tie."""
        a, b = self.quantizations[first], self.quantizations[second]
        for factor in ADD_FACTORS:
            output = Quantization(2 * round_up_to_power_of_two(max(a.scale, b.scale)) * factor, zero_point)
            if tie_margin_of_add(a, b, output) > 0:
                return self.add(Add(self.name("add"), bounds, output, sources=(first, second)))
        raise AssertionError("there is no scale at which the sum is exact")

    def multiply(self, first: int, second: int, zero_point: int = 0) -> int:
        """Add a product at a scale at which no product is near a tie."""
        a, b = self.quantizations[first], self.quantizations[second]
        for factor in ADD_FACTORS:
            exponent = math.floor(math.log2(a.scale * b.scale))
            output = Quantization(2.0 ** (exponent + 6) * factor, zero_point)
            if tie_margin_of_multiply(a, b, output) > 0:
                return self.add(Multiply(self.name("multiply"), output, sources=(first, second)))
        raise AssertionError("there is no scale at which the product is exact")

    def tabulate(self, value: int, function: str, parameter: float = 0.0, output: Quantization | None = None) -> int:
        """Add a table of a function, or of random values if no function has that name."""
        source, output = self.quantizations[value], output or Quantization(2**-6, 0)
        values = self.rng.integers(-128, 128, 256).astype(np.int8)
        if function in ACTIVATIONS:
            inputs = dequantize(np.arange(-128, 128), source.scale, source.zero_point)
            real = apply_function(inputs, function, parameter)
            values = quantize(real, output.scale, output.zero_point).astype(np.int8)
        table = Table(self.name("table"), function, parameter, values, output, sources=self.sources(value))
        return self.add(table)

    def sources(self, value: int) -> tuple[int, ...]:
        """The sources of an operation that takes one value: none if it is the value before it."""
        return () if value == len(self.operations) else (value,)


def pairs_graph(operator: str, a: Quantization, b: Quantization, output: Quantization) -> QuantizedGraph:
    """A graph that adds or multiplies the two channels of its pixels, with the same integers at other scales."""
    builder = Builder((2, 256, 256))
    sources = (builder.copy(0, 0, a), builder.copy(0, 1, b))
    kind = {"add": lambda: Add("add", UNBOUNDED, output, sources=sources)}
    kind["multiply"] = lambda: Multiply("multiply", output, sources=sources)
    builder.add(kind[operator]())
    return builder.graph


def all_pairs() -> np.ndarray:
    """One image, uint8 (1, 2, 256, 256), whose pixels are all pairs of numbers."""
    return np.stack(np.meshgrid(np.arange(256), np.arange(256))).astype(np.uint8)[None]


def random_inputs(graph: QuantizedGraph | FloatGraph, count: int, seed: int = 0) -> np.ndarray:
    """Random inputs, uint8 pixels or float32 features (count, *input_shape)."""
    rng = np.random.default_rng(seed)
    if graph.is_pixels:
        return rng.integers(0, 256, (count, *graph.input_shape)).astype(np.uint8)
    return rng.normal(0, 2, (count, *graph.input_shape)).astype(np.float32)


def to_float(graph: QuantizedGraph) -> FloatGraph:
    """The float graph whose operations an int8 graph approximates."""
    operations: list[FloatOperation] = []
    for index, operation in enumerate(graph.operations):
        source = graph.quantizations()[graph.sources(index)[0]]
        match operation:
            case QuantizedConv2d():
                weight = operation.weight * operation.weight_scale[:, None, None, None]
                bias = operation.bias * operation.weight_scale * np.float32(source.scale)
                convolution = Conv2d(
                    operation.name,
                    weight.astype(np.float32),
                    bias.astype(np.float32),
                    operation.window,
                    operation.groups,
                    operation.bounds,
                    sources=operation.sources,
                )
                operations.append(convolution)
            case Table():
                function = operation.function if operation.function in ACTIVATIONS else "tanh"
                operations.append(Activation(operation.name, function, operation.parameter, sources=operation.sources))
            case Add() | Multiply():
                operations.append(replace(operation, output=None))
            case _:
                operations.append(operation)
    return FloatGraph(graph.input_shape, graph.zero_pixel, tuple(operations), is_pixels=graph.is_pixels)


def _convolution(window: Window, output: Quantization, groups: int = 1, bounds: Bounds | None = None) -> QuantizedGraph:
    builder = Builder((2 * groups, 9, 8), zero_pixel=33)
    builder.convolve(0, 4 * groups, output, window, groups, bounds)
    return builder.graph


def _pool(window: Window, zero_point: int) -> QuantizedGraph:
    builder = Builder((2, 9, 8))
    builder.pool(builder.convolve(0, 5, Quantization(2**-3, zero_point)), window)
    return builder.graph


def _add(first: Quantization, second: Quantization, zero_point: int = 0) -> QuantizedGraph:
    """Two sums, one after the other; the operands of the second have scales of one mantissa."""
    builder = Builder((3, 6, 7))
    a, b = builder.convolve(0, 8, first, Window((3, 3), (1, 1), (1, 1))), builder.convolve(0, 8, second)
    total = builder.sum(a, b, zero_point)
    mantissa = builder.quantizations[total].mantissa
    other = builder.convolve(a, 8, Quantization(math.ldexp(mantissa, -16), -100))
    builder.sum(other, total, 5)
    return builder.graph


def _add_twice_the_same() -> QuantizedGraph:
    builder = Builder((3, 6, 7))
    value = builder.convolve(0, 4, Quantization(2**-4, 3))
    builder.sum(value, value, -128, RELU)
    return builder.graph


def _multiply(gate: bool) -> QuantizedGraph:
    builder = Builder((3, 6, 7))
    value = builder.convolve(0, 8, Quantization(2**-4, -20))
    window = Window((6, 7)) if gate else Window((1, 1))
    other = builder.tabulate(builder.convolve(0, 8, Quantization(2**-5, 4), window), "sigmoid", 0.0, GATE)
    builder.multiply(value, other, 7)
    return builder.graph


def _concatenate() -> QuantizedGraph:
    builder = Builder((3, 6, 7))
    shared = Quantization(2**-4 * (1 + 2**-12), -30)
    values = [builder.convolve(0, channels, shared, bounds=UNBOUNDED) for channels in (5, 1, 3)]
    joined = builder.concatenate(*values, values[1])
    builder.convolve(joined, 4, Quantization(2**-3, -128), Window((2, 2), (2, 2)))
    return builder.graph


def _concatenate_input() -> QuantizedGraph:
    builder = Builder((3, 6, 7), zero_pixel=7)
    builder.concatenate(0, builder.convolve(0, 2, Quantization(1.0, -121)), 0)
    return builder.graph


def _upsample(*factor: int) -> QuantizedGraph:
    builder = Builder((3, 5, 4))
    value = builder.upsample(builder.convolve(0, 4, Quantization(2**-4, 9)), (factor[0], factor[1]))
    builder.convolve(value, 3, Quantization(2**-4, -128), Window((3, 3), (1, 1), (1, 1)))
    return builder.graph


def _table(function: str, parameter: float = 0.0, output: Quantization | None = None) -> QuantizedGraph:
    builder = Builder((3, 9, 8))
    builder.tabulate(builder.convolve(0, 6, Quantization(2**-4, 11)), function, parameter, output)
    return builder.graph


def _vector() -> QuantizedGraph:
    builder = Builder((11,), Quantization(2**-5, 13))
    value = builder.convolve(0, 7, Quantization(2**-4, -128))
    other = builder.convolve(value, 7, Quantization(2**-4, 3))
    builder.convolve(builder.sum(value, other), 5, Quantization(2**-3, 0))
    return builder.graph


def _vector_chain() -> QuantizedGraph:
    builder = Builder((11,), Quantization(2**-5, 13))
    builder.convolve(builder.convolve(0, 7, Quantization(2**-4, -128)), 5, Quantization(2**-3, 0))
    return builder.graph


def _sequence(*, is_pixels: bool) -> QuantizedGraph:
    builder = Builder((4, 20), None if is_pixels else Quantization(2**-5, -9))
    value = builder.convolve(0, 6, Quantization(2**-4, 5), Window((1, 5), (1, 2), (0, 2), (1, 1), (0, 1)))
    builder.tabulate(value, "hardswish")
    return builder.graph


def _network() -> QuantizedGraph:
    """A residual block, a gate, a concatenation and an up-sampling, one after the other."""
    builder = Builder((3, 12, 12), zero_pixel=100)
    value = builder.convolve(0, 8, Quantization(2**-4, -128), Window((3, 3), (2, 2), (0, 0), (1, 1), (1, 1)))
    branch = builder.convolve(value, 8, Quantization(2**-4, -128), Window((3, 3), (1, 1), (1, 1)), groups=8)
    branch = builder.convolve(branch, 8, Quantization(2**-5, 4))
    value = builder.sum(value, branch, -128, RELU)
    squeezed = builder.convolve(value, 8, Quantization(2**-4, 0), Window((6, 6)), groups=8)
    value = builder.multiply(value, builder.tabulate(squeezed, "sigmoid", 0.0, GATE), -60)
    value = builder.tabulate(value, "silu", 0.0, Quantization(2**-4, -100))
    pooled = builder.pool(value, Window((2, 2), (2, 2)))
    value = builder.concatenate(builder.upsample(pooled, (2, 2)), value)
    value = builder.tabulate(value, "table of random values")
    builder.convolve(value, 10, Quantization(2**-3, 0), Window((6, 6)))
    return builder.graph


ONE_SIDED = Window((3, 3), (2, 2), (0, 0), (1, 1), (1, 1))
UNEVEN = Window((3, 4), (1, 2), (2, 0), (1, 2), (0, 3))

CASES: dict[str, Callable[[], QuantizedGraph]] = {
    "convolution, padded below and to the right": lambda: _convolution(ONE_SIDED, Quantization(2**-3, 0)),
    "convolution, padded unevenly": lambda: _convolution(UNEVEN, Quantization(2**-3, -128)),
    "depthwise convolution, padded unevenly": lambda: _convolution(UNEVEN, Quantization(2**-3, 5), 5),
    "convolution, clamped": lambda: _convolution(ONE_SIDED, Quantization(6 / 256, -128), 1, (0.0, 6.0)),
    "max pool, padded below and to the right": lambda: _pool(ONE_SIDED, -128),
    "max pool of negative values, padded unevenly": lambda: _pool(Window((3, 3), (2, 1), (1, 0), (1, 1), (2, 2)), 100),
    "max pool of negative values, padded": lambda: _pool(Window((3, 3), (2, 2), (1, 1)), 60),
    "add": lambda: _add(Quantization(2**-4, -128), Quantization(2**-4, 3), -128),
    "add, different scales": lambda: _add(Quantization(2**-4, -7), Quantization(2**-6, 3)),
    "add, the same value twice": _add_twice_the_same,
    "multiply": lambda: _multiply(gate=False),
    "multiply by a gate": lambda: _multiply(gate=True),
    "concatenate": _concatenate,
    "concatenate with the input": _concatenate_input,
    "upsample 2x2": lambda: _upsample(2, 2),
    "upsample 1x3": lambda: _upsample(1, 3),
    "upsample 41x5": lambda: _upsample(41, 5),
    "table of random values": lambda: _table("table of random values"),
    **{
        f"table of {function}": lambda function=function: _table(  # type: ignore[misc]
            function, {"leaky_relu": 0.01, "elu": 0.7}.get(function, 0.0)
        )
        for function in ACTIVATIONS
    },
    "vectors": _vector,
    "vectors, a chain": _vector_chain,
    "sequences of pixels": lambda: _sequence(is_pixels=True),
    "sequences of features": lambda: _sequence(is_pixels=False),
    "network": _network,
}
"""By a description: what makes a graph that uses an operation."""

PAIRS: dict[str, list[tuple[Quantization, Quantization, Quantization]]] = {
    "add": [
        (Quantization(2**-4, -128), Quantization(2**-4, 3), Quantization(2**-3 * (1 + 2**-12), -128)),
        (Quantization(2**-4, -7), Quantization(2**-5, 127), Quantization(2**-3 * (1 - 2**-12), 5)),
        (Quantization(2**-7, 0), Quantization(2**-4, -128), Quantization(2**-4 * (1 + 2**-10), -128)),
        (Quantization(2**-4 * (1 + 2**-12), 9), Quantization(2**-3 * (1 + 2**-12), -90), Quantization(2**-2, 40)),
        (Quantization(3 * 2**-7, -128), Quantization(3 * 2**-7, -128), Quantization(2**-4 * (1 + 2**-12), -128)),
        (Quantization(2**-4, -128), Quantization(2**-17, 9), Quantization(2**-4 * (1 + 2**-12), -128)),
    ],
    "multiply": [
        (Quantization(2**-4, -128), Quantization(2**-8, -128), Quantization(2**-5 * (1 + 2**-12), -128)),
        (Quantization(2**-4, 100), Quantization(2**-7, 0), Quantization(2**-4 * (1 - 2**-12), 3)),
        (Quantization(2**-5 * (1 + 2**-12), -7), Quantization(2**-5, 20), Quantization(2**-3, -10)),
    ],
}
"""By an operator: quantizations of two inputs and the output with which no result is near a tie."""
