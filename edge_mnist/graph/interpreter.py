"""Executes a graph in NumPy: the oracle that every artifact is held against.

Integer convolutions run as float32 matrix products. That is exact, not approximate: all products and partial sums are
integers below 2^24 (`graph.bound_accumulators`), which float32 holds without rounding in any order of summation. So the
oracle is fast, and gives the same bits on every machine.
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
"""How a kernel family requantizes. "float": XNNPACK, MLAS, FBGEMM, QNNPACK. The others are TensorFlow Lite's own:
"fixed-point" on x86, "ties away" on ARM up to tflite-runtime 2.14, "single rounding" on ARM since, "reference kernels"
in TensorFlow Lite Micro."""

BATCH_SIZE = 128
"""Images at a time: the patches of a batch then stay within some tens of megabytes."""


def run_float(graph: FloatGraph, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits of the float network.

    Args:
        graph: the network.
        images: uint8 (N, height, width) or (N, channels, height, width).

    Returns:
        float32 (N, classes), or (N, channels * height * width) of a prefix.
    """
    return _flattened(float_activations(graph, batch) for batch in split_batches(images))


def run_quantized(graph: QuantizedGraph, images: NDArray[np.uint8], rounding: Rounding = "float") -> NDArray[np.int8]:
    """Logits of the int8 network, as integers.

    Args:
        graph: the network.
        images: uint8 (N, height, width) or (N, channels, height, width).
        rounding: the kernel family whose requantization is followed.

    Returns:
        int8 (N, classes), or (N, channels * height * width) of a prefix.
    """
    return _flattened(quantized_activations(graph, batch, rounding) for batch in split_batches(images))


def float_activations(graph: FloatGraph, images: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
    """The input (pixel - zero_pixel) and the output of each operation in turn: float32 (N, height, width, channels)."""
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
    """The input (pixel - 128) and the output of each operation in turn: int8 (N, height, width, channels)."""
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
                away = rounds_ties_away(operation, rounding)
                values = requantize_fixed_point(accumulator.astype(np.int64), multiplier, zero_point, away)
        yield values


def to_nhwc(graph: FloatGraph | QuantizedGraph, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images as a batch of the graph's input shape: uint8 (N, height, width, channels).

    Raises:
        EdgeMnistError: the images are of another type or shape.
    """
    return np.ascontiguousarray(to_image_batch(images, graph.input_shape).transpose(0, 2, 3, 1))


def extract_patches(values: NDArray[np.float32], window: Window) -> NDArray[np.float32]:
    """What the window sees at each position, or zeros: (N, out height, out width, channels, kernel h, kernel w)."""
    return _windows(values, window, 0.0)


def _convolve(values: NDArray[np.float32], operation: Conv2d | QuantizedConv2d) -> NDArray[np.float32]:
    """Sums of products of a convolution, without bias: float32 (N, out height, out width, out channels)."""
    seen = extract_patches(values, operation.window)
    positions, groups, outputs = seen.shape[:3], operation.groups, len(operation.weight)
    # (N * positions, groups, taps)
    rows = seen.reshape(int(np.prod(positions)), groups, operation.weight[0].size)
    weight = operation.weight.astype(np.float32).reshape(groups, outputs // groups, -1)
    if groups == 1:
        sums = rows[:, 0] @ weight[0].T
    else:
        sums = np.einsum("rgt,got->rgo", rows, weight)
    return np.asarray(sums.reshape(*positions, outputs), dtype=np.float32)


def rounds_ties_away(operation: QuantizedConv2d, rounding: Rounding = "fixed-point") -> NDArray[np.bool_]:
    """Which channels TensorFlow Lite's own kernels round with ties away from zero: bool (out_channels,).

    Convolutions and fully connected layers go through ruy, which rounds upward, or, in "fixed-point, ties away", away
    from zero too; grouped convolutions through the reference kernel, which rounds with gemmlowp; the depthwise kernel
    does eight channels at a time upward, and those left over as gemmlowp. Found by comparing, with LiteRT 2.3 and
    tflite-runtime 2.14 on x86 and ARM. TensorFlow Lite Micro has reference kernels only, which all round with gemmlowp
    (tensorflow/lite/kernels/internal/common.cc, MultiplyByQuantizedMultiplier).
    """
    outputs, group_channels, *_ = operation.weight.shape
    channels = np.arange(outputs)
    if rounding == "fixed-point, reference kernels":
        return np.full(outputs, True)
    if operation.groups == 1:
        return np.full(outputs, rounding == "fixed-point, ties away")
    return channels >= (outputs - outputs % 8 if group_channels == 1 else 0)


def _max_pool(values: NDArray[Any], window: Window, outside: float) -> NDArray[Any]:
    """Largest value under each window; `outside` is smaller than any value or equal to the smallest."""
    return np.asarray(_windows(values, window, outside).max(axis=(-2, -1)))


def _windows(values: NDArray[Any], window: Window, outside: float) -> NDArray[Any]:
    """A view of all windows: (N, out height, out width, channels, kernel height, kernel width)."""
    (down, right), (step_down, step_right) = window.padding, window.stride
    if window.padding != (0, 0):
        values = np.pad(values, ((0, 0), (down, down), (right, right), (0, 0)), constant_values=outside)
    view = sliding_window_view(values, window.extent, axis=(1, 2))
    return view[:, ::step_down, ::step_right, :, :: window.dilation[0], :: window.dilation[1]]


def split_batches(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Images in pieces; one empty piece if there are none, so that shapes are right."""
    for start in range(0, max(len(images), 1), BATCH_SIZE):
        yield images[start : start + BATCH_SIZE]


def _flattened(batches: Iterator[Iterator[NDArray[Any]]]) -> NDArray[Any]:
    """The last activations of each batch, joined, flattened as PyTorch does: channel, row, column."""
    lasts = []
    for steps in batches:
        for values in steps:
            last = values
        lasts.append(last.transpose(0, 3, 1, 2).reshape(len(last), int(np.prod(last.shape[1:]))))
    return np.concatenate(lasts)
