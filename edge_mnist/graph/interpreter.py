"""Executes a graph in NumPy. This is the oracle with which every artifact is compared.

Integer convolutions run as float32 matrix products. That is exact: all products and partial sums are integers below
2^24 (`operations.bound_accumulators`), which float32 holds without rounding in any order of summation. So the oracle is
fast, and gives the same bits on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edge_mnist.graph.arithmetic import (
    add,
    apply_function,
    multiply,
    multiply_fixed_point,
    quantize,
    requantize,
    requantize_fixed_point,
    requantize_single_rounding,
)
from edge_mnist.graph.geometry import Window
from edge_mnist.graph.operations import (
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
    to_batch,
)

Rounding = Literal[
    "float",
    "fixed-point",
    "fixed-point, depthwise ties away",
    "fixed-point, ties away",
    "fixed-point, single rounding",
    "fixed-point, reference kernels",
]
"""How a family of kernels requantizes. "float" is that of XNNPACK, MLAS, FBGEMM and QNNPACK. The others are those of
TensorFlow Lite: "depthwise ties away" on x86 and "ties away" on ARM up to tflite-runtime 2.14, "fixed-point" on x86 and
"single rounding" on ARM in later versions, "reference kernels" in TensorFlow Lite Micro."""

BATCH_SIZE = 128
"""The largest number of inputs that are run at a time. With it, the patches of MNIST's images take some megabytes."""

_BATCH_VALUES = 1 << 19
"""The number of input values that are run at a time; of large images it makes batches smaller than `BATCH_SIZE`."""


Report = Callable[[int], object]
"""A function that is called after each batch with the number of inputs that are done."""


def run_float(graph: FloatGraph, inputs: NDArray[Any], report: Report | None = None) -> NDArray[np.float32]:
    """The outputs of the float network.

    Args:
        graph: the network.
        inputs: uint8 pixels (N, height, width) or (N, *graph.input_shape), or float32 features.
        report: called after each batch with the number of inputs that are done.

    Returns:
        float32 (N, channels * height * width); of a classifier these are its logits (N, classes).
    """
    return _flatten_last((float_activations(graph, batch) for batch in split_batches(inputs)), report)


def run_quantized(
    graph: QuantizedGraph, inputs: NDArray[Any], rounding: Rounding = "float", report: Report | None = None
) -> NDArray[np.int8]:
    """The outputs of the int8 network, as integers.

    Args:
        graph: the network.
        inputs: as in `run_float`.
        rounding: the family of kernels that is imitated.
        report: as in `run_float`.

    Returns:
        int8 (N, channels * height * width); of a classifier these are its logits (N, classes).
    """
    batches = (quantized_activations(graph, batch, rounding) for batch in split_batches(inputs))
    return _flatten_last(batches, report)


def float_activations(graph: FloatGraph, inputs: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    """Yield each value of a graph in order: float32 (N, height, width, channels).

    The first is the input: pixel - zero_pixel, or the features.
    """
    values = to_nhwc(graph, inputs).astype(np.float32) - np.float32(graph.zero_pixel)

    def compute(index: int, operands: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return _compute_float(graph.operations[index], operands)

    return _run(graph, values, compute)


def quantized_activations(
    graph: QuantizedGraph, inputs: NDArray[Any], rounding: Rounding = "float"
) -> Iterator[NDArray[np.int8]]:
    """Yield each value of a graph in order: int8 (N, height, width, channels).

    The first is the input: pixel - 128, or the quantized features.
    """
    values = to_nhwc(graph, inputs)
    if graph.features is None:
        values = (values ^ 0x80).view(np.int8)
    else:
        scale, zero_point = graph.features.scale, graph.features.zero_point
        values = quantize(values.astype(np.float64), scale, zero_point).astype(np.int8)
    multipliers, quantizations = graph.multipliers(), graph.quantizations()

    def compute(index: int, operands: Sequence[NDArray[Any]]) -> NDArray[Any]:
        operation = graph.operations[index]
        if isinstance(operation, QuantizedConv2d):
            zero_point = quantizations[graph.sources(index)[0]].zero_point
            return _convolve_quantized(operation, operands[0], zero_point, multipliers[operation.name], rounding)
        sources = [quantizations[source] for source in graph.sources(index)]
        return _compute_quantized(operation, operands, sources, rounding)

    return _run(graph, values, compute)


def _run(
    graph: FloatGraph | QuantizedGraph,
    values: NDArray[Any],
    compute: Callable[[int, Sequence[NDArray[Any]]], NDArray[Any]],
) -> Iterator[NDArray[Any]]:
    """Yield the values of a graph, and keep each as long as an operation still takes it.

    Args:
        graph: the graph.
        values: the input.
        compute: computes the operation at an index from its operands.
    """
    last_readers = [max(readers, default=-1) for readers in graph.readers()]
    kept = {0: values}
    yield values
    for index in range(len(graph.operations)):
        kept[index + 1] = compute(index, [kept[source] for source in graph.sources(index)])
        kept = {value: array for value, array in kept.items() if value > index or last_readers[value] > index}
        yield kept[index + 1]


def _compute_float(operation: FloatOperation, operands: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The output of a float operation for operands float32 (N, height, width, channels)."""
    first = operands[0]
    match operation:
        case Conv2d():
            return _clamp(_convolve(first, operation) + operation.bias, operation.bounds)
        case Add():
            return _clamp(first + operands[1], operation.bounds)
        case Multiply():
            return np.asarray(first * operands[1])
        case Activation():
            return apply_function(first.astype(np.float64), operation.function, operation.parameter).astype(np.float32)
        case _:
            return _rearrange(operation, operands, -np.inf)


def _compute_quantized(
    operation: QuantizedOperation,
    operands: Sequence[NDArray[Any]],
    sources: Sequence[Quantization],
    rounding: Rounding,
) -> NDArray[Any]:
    """The output of an int8 operation, except a convolution, for operands int8 (N, height, width, channels)."""
    match operation:
        case Add(output=Quantization() as output):
            return add(operands[0], operands[1], sources[0], sources[1], output)
        case Multiply(output=Quantization() as output):
            kernel = multiply if rounding == "float" else multiply_fixed_point
            return kernel(operands[0], operands[1], sources[0], sources[1], output)
        case Table():
            return np.asarray(operation.values[operands[0].astype(np.int16) + 128])
        case _:
            return _rearrange(operation, operands, -128)


def _convolve_quantized(
    operation: QuantizedConv2d,
    values: NDArray[np.int8],
    zero_point: int,
    multiplier: NDArray[np.float32],
    rounding: Rounding,
) -> NDArray[np.int8]:
    """The output of an int8 convolution; `zero_point` is that of its input."""
    real = values.astype(np.float32) - np.float32(zero_point)
    accumulator = _convolve(real, operation) + operation.bias.astype(np.float32)
    if rounding == "float":
        return requantize(accumulator, multiplier, operation.output.zero_point)
    integers = accumulator.astype(np.int64)
    if rounding == "fixed-point, single rounding" and operation.groups == 1:
        return requantize_single_rounding(integers, multiplier, operation.output.zero_point)
    ties_away = rounds_ties_away(operation, rounding)
    return requantize_fixed_point(integers, multiplier, operation.output.zero_point, ties_away)


def _rearrange(
    operation: FloatOperation | QuantizedOperation, operands: Sequence[NDArray[Any]], outside: float
) -> NDArray[Any]:
    """The output of an operation that computes nothing; the padding of a max pool is `outside`."""
    match operation:
        case MaxPool2d():
            return _max_pool(operands[0], operation.window, outside)
        case Upsample(factor=(down, right)):
            return operands[0].repeat(down, axis=1).repeat(right, axis=2)
        case Concatenate():
            return np.concatenate(operands, axis=3)
        case _:
            raise TypeError(f"{operation.name}: {type(operation).__name__} belongs to a graph of the other kind")


def _clamp(values: NDArray[np.float32], bounds: Bounds) -> NDArray[np.float32]:
    low, high = bounds
    if low != -math.inf:
        values = np.maximum(values, np.float32(low))
    return values if high == math.inf else np.minimum(values, np.float32(high))


def to_nhwc(graph: FloatGraph | QuantizedGraph, inputs: NDArray[Any]) -> NDArray[Any]:
    """Arrange inputs as a batch of the graph's input shape: uint8 or float32 (N, height, width, channels).

    Raises:
        EdgeMnistError: the inputs are of another type or shape.
    """
    return np.ascontiguousarray(to_batch(inputs, graph).transpose(0, 2, 3, 1))


def extract_patches(values: NDArray[np.float32], window: Window) -> NDArray[np.float32]:
    """The inputs of each output position, with zeros for the padding.

    Args:
        values: float32 (N, height, width, channels).
        window: what slides over them.

    Returns:
        float32 (N, out height, out width, channels, kernel height, kernel width).
    """
    return _view_windows(values, window, 0.0)


def _convolve(values: NDArray[np.float32], operation: Conv2d | QuantizedConv2d) -> NDArray[np.float32]:
    """The sums of products of a convolution, without the bias: float32 (N, out height, out width, out channels)."""
    inputs = extract_patches(values, operation.window)  # (N, out height, out width, channels, kernel h, kernel w)
    positions, groups, outputs = inputs.shape[:3], operation.groups, len(operation.weight)
    weight = operation.weight.astype(np.float32)
    if groups == outputs == inputs.shape[3] and inputs.size > _BATCH_VALUES:
        return _convolve_depthwise(inputs, weight)
    # (N * positions, groups, taps)
    rows = inputs.reshape(int(np.prod(positions)), groups, operation.weight[0].size)
    weight = weight.reshape(groups, outputs // groups, -1)  # (groups, outputs, taps)
    if groups == 1:
        sums = rows[:, 0] @ weight[0].T
    else:
        sums = np.einsum("rgt,got->rgo", rows, weight)
    return np.asarray(sums.reshape(*positions, outputs), dtype=np.float32)


def _convolve_depthwise(inputs: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """The sums of products of each channel by itself, tap by tap, so that large maps need no copy of all patches.

    Args:
        inputs: float32 (N, out height, out width, channels, kernel height, kernel width), a view.
        weight: float32 (channels, 1, kernel height, kernel width).
    """
    sums = np.zeros(inputs.shape[:4], np.float32)
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            sums += inputs[..., row, column] * weight[:, 0, row, column]
    return sums


def rounds_ties_away(operation: QuantizedConv2d, rounding: Rounding = "fixed-point") -> NDArray[np.bool_]:
    """Which channels TensorFlow Lite's own kernels round with ties away from zero: bool (out_channels,).

    Convolutions and fully connected layers use ruy, which rounds ties upward, or away from zero in "fixed-point, ties
    away". Grouped convolutions use the reference kernel, which rounds with gemmlowp. The depthwise kernel rounds ties
    upward for eight channels at a time, and rounds the remaining channels with gemmlowp; in "fixed-point, depthwise
    ties away" it rounds all with gemmlowp. These rules were found by comparison with LiteRT 2.3 and tflite-runtime
    2.14, on x86 and ARM. TensorFlow Lite Micro has only reference kernels, which all round with gemmlowp
    (tensorflow/lite/kernels/internal/common.cc, MultiplyByQuantizedMultiplier).
    """
    outputs, group_channels, *_ = operation.weight.shape
    channels = np.arange(outputs)
    if rounding == "fixed-point, reference kernels":
        return np.full(outputs, True)
    if rounding == "fixed-point, depthwise ties away" and operation.groups > 1:
        return np.full(outputs, True)
    if operation.groups == 1:
        return np.full(outputs, rounding == "fixed-point, ties away")
    return channels >= (outputs - outputs % 8 if group_channels == 1 else 0)


def _max_pool(values: NDArray[Any], window: Window, outside: float) -> NDArray[Any]:
    """The largest value under each window; the padding is `outside`, which is at most the smallest possible value."""
    return np.asarray(_view_windows(values, window, outside).max(axis=(-2, -1)))


def _view_windows(values: NDArray[Any], window: Window, outside: float) -> NDArray[Any]:
    """A view of all windows, with `outside` as padding: (N, out height, out width, channels, kernel h, kernel w)."""
    step_down, step_right = window.stride
    if window.is_padded:
        vertical, horizontal = zip(window.padding, window.after, strict=True)
        values = np.pad(values, ((0, 0), vertical, horizontal, (0, 0)), constant_values=outside)
    view = sliding_window_view(values, window.extent, axis=(1, 2))
    return view[:, ::step_down, ::step_right, :, :: window.dilation[0], :: window.dilation[1]]


def split_batches(inputs: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield inputs in batches; if there are no inputs, one empty batch, from which the shape of the output follows."""
    values = max(int(np.prod(inputs.shape[1:])), 1)
    count = min(BATCH_SIZE, max(_BATCH_VALUES // values, 1))
    for start in range(0, max(len(inputs), 1), count):
        yield inputs[start : start + count]


def _flatten_last(batches: Iterator[Iterator[NDArray[Any]]], report: Report | None) -> NDArray[Any]:
    """Join the last activations of each batch and flatten them in PyTorch's order: channel, row, column."""
    outputs = []
    done = 0
    for activations in batches:
        for values in activations:
            last = values
        outputs.append(last.transpose(0, 3, 1, 2).reshape(len(last), int(np.prod(last.shape[1:]))))
        done += len(last)
        if report is not None:
            report(done)
    return np.concatenate(outputs)  # (N, channels * height * width)
