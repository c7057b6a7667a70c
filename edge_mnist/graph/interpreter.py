"""Executes a graph in NumPy. This is the oracle with which every artifact is compared.

Integer convolutions run as float32 matrix products. That is exact: all products and partial sums are integers below
2^24 (`operations.bound_accumulators`), which float32 holds without rounding in any order of summation. So the oracle is
fast, and gives the same bits on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edge_mnist.graph.arithmetic import requantize, requantize_fixed_point, requantize_single_rounding
from edge_mnist.graph.geometry import Window
from edge_mnist.graph.operations import Conv2d, FloatGraph, MaxPool2d, QuantizedConv2d, QuantizedGraph, to_image_batch

Rounding = Literal[
    "float",
    "fixed-point",
    "fixed-point, ties away",
    "fixed-point, single rounding",
    "fixed-point, reference kernels",
]
"""How a family of kernels requantizes. "float" is that of XNNPACK, MLAS, FBGEMM and QNNPACK. The others are those of
TensorFlow Lite: "fixed-point" on x86, "ties away" on ARM up to tflite-runtime 2.14, "single rounding" on ARM in later
versions, "reference kernels" in TensorFlow Lite Micro."""

BATCH_SIZE = 128
"""The number of images that are run at a time. With it, the patches of a batch take some tens of megabytes."""


def run_float(graph: FloatGraph, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits of the float network.

    Args:
        graph: the network.
        images: uint8 (N, height, width) or (N, channels, height, width).

    Returns:
        float32 (N, classes), or (N, channels * height * width) of a graph that ends before the logits.
    """
    return _flatten_last(float_activations(graph, batch) for batch in split_batches(images))


def run_quantized(graph: QuantizedGraph, images: NDArray[np.uint8], rounding: Rounding = "float") -> NDArray[np.int8]:
    """Logits of the int8 network, as integers.

    Args:
        graph: the network.
        images: uint8 (N, height, width) or (N, channels, height, width).
        rounding: the family of kernels that is imitated.

    Returns:
        int8 (N, classes), or (N, channels * height * width) of a graph that ends before the logits.
    """
    return _flatten_last(quantized_activations(graph, batch, rounding) for batch in split_batches(images))


def float_activations(graph: FloatGraph, images: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
    """Yield the input (pixel - zero_pixel) and the output of each operation: float32 (N, height, width, channels)."""
    values = to_nhwc(graph, images).astype(np.float32) - np.float32(graph.zero_pixel)
    yield values
    for operation in graph.operations:
        if isinstance(operation, MaxPool2d):
            values = _max_pool(values, operation.window, -np.inf)
        else:
            values = _convolve(values, operation) + operation.bias
            if operation.relu:
                values = np.maximum(values, np.float32(0))
        yield values


def quantized_activations(
    graph: QuantizedGraph, images: NDArray[np.uint8], rounding: Rounding = "float"
) -> Iterator[NDArray[np.int8]]:
    """Yield the input (pixel - 128) and the output of each operation: int8 (N, height, width, channels)."""
    values = (to_nhwc(graph, images) ^ 0x80).view(np.int8)
    multipliers = graph.multipliers()
    yield values
    for operation, source in zip(graph.operations, graph.quantizations(), strict=False):
        if isinstance(operation, MaxPool2d):
            values = _max_pool(values, operation.window, -128)
        else:
            real = values.astype(np.float32) - np.float32(source.zero_point)
            accumulator = _convolve(real, operation) + operation.bias.astype(np.float32)
            multiplier, zero_point = multipliers[operation.name], operation.output.zero_point
            if rounding == "float":
                values = requantize(accumulator, multiplier, zero_point)
            elif rounding == "fixed-point, single rounding" and operation.groups == 1:
                values = requantize_single_rounding(accumulator.astype(np.int64), multiplier, zero_point)
            else:
                ties_away = rounds_ties_away(operation, rounding)
                values = requantize_fixed_point(accumulator.astype(np.int64), multiplier, zero_point, ties_away)
        yield values


def to_nhwc(graph: FloatGraph | QuantizedGraph, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Arrange images as a batch of the graph's input shape: uint8 (N, height, width, channels).

    Raises:
        EdgeMnistError: the images are of another type or shape.
    """
    return np.ascontiguousarray(to_image_batch(images, graph.input_shape).transpose(0, 2, 3, 1))


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
    # (N * positions, groups, taps)
    rows = inputs.reshape(int(np.prod(positions)), groups, operation.weight[0].size)
    weight = operation.weight.astype(np.float32).reshape(groups, outputs // groups, -1)  # (groups, outputs, taps)
    if groups == 1:
        sums = rows[:, 0] @ weight[0].T
    else:
        sums = np.einsum("rgt,got->rgo", rows, weight)
    return np.asarray(sums.reshape(*positions, outputs), dtype=np.float32)


def rounds_ties_away(operation: QuantizedConv2d, rounding: Rounding = "fixed-point") -> NDArray[np.bool_]:
    """Which channels TensorFlow Lite's own kernels round with ties away from zero: bool (out_channels,).

    Convolutions and fully connected layers use ruy, which rounds ties upward, or away from zero in "fixed-point, ties
    away". Grouped convolutions use the reference kernel, which rounds with gemmlowp. The depthwise kernel rounds ties
    upward for eight channels at a time, and rounds the remaining channels with gemmlowp. These rules were found by
    comparison with LiteRT 2.3 and tflite-runtime 2.14, on x86 and ARM. TensorFlow Lite Micro has only reference
    kernels, which all round with gemmlowp (tensorflow/lite/kernels/internal/common.cc, MultiplyByQuantizedMultiplier).
    """
    outputs, group_channels, *_ = operation.weight.shape
    channels = np.arange(outputs)
    if rounding == "fixed-point, reference kernels":
        return np.full(outputs, True)
    if operation.groups == 1:
        return np.full(outputs, rounding == "fixed-point, ties away")
    return channels >= (outputs - outputs % 8 if group_channels == 1 else 0)


def _max_pool(values: NDArray[Any], window: Window, outside: float) -> NDArray[Any]:
    """The largest value under each window; the padding is `outside`, which is at most the smallest possible value."""
    return np.asarray(_view_windows(values, window, outside).max(axis=(-2, -1)))


def _view_windows(values: NDArray[Any], window: Window, outside: float) -> NDArray[Any]:
    """A view of all windows, with `outside` as padding: (N, out height, out width, channels, kernel h, kernel w)."""
    (down, right), (step_down, step_right) = window.padding, window.stride
    if window.padding != (0, 0):
        values = np.pad(values, ((0, 0), (down, down), (right, right), (0, 0)), constant_values=outside)
    view = sliding_window_view(values, window.extent, axis=(1, 2))
    return view[:, ::step_down, ::step_right, :, :: window.dilation[0], :: window.dilation[1]]


def split_batches(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield images in batches; if there are no images, one empty batch, from which the shape of the output follows."""
    for start in range(0, max(len(images), 1), BATCH_SIZE):
        yield images[start : start + BATCH_SIZE]


def _flatten_last(batches: Iterator[Iterator[NDArray[Any]]]) -> NDArray[Any]:
    """Join the last activations of each batch and flatten them in PyTorch's order: channel, row, column."""
    outputs = []
    for activations in batches:
        for values in activations:
            last = values
        outputs.append(last.transpose(0, 3, 1, 2).reshape(len(last), int(np.prod(last.shape[1:]))))
    return np.concatenate(outputs)  # (N, channels * height * width)
