"""Folds a trained network's layers and weights into a `FloatGraph` of convolutions and max pools.

The computation is in float64 with exact sums, and is rounded to float32 once at the end. So every machine folds to the
same bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mnist.graph.checkpoint import Checkpoint
from edge_mnist.graph.geometry import MapShape, Window
from edge_mnist.graph.layers import (
    AvgPool2dLayer,
    BatchNorm2dLayer,
    Conv2dLayer,
    FlattenLayer,
    GlobalAvgPool2dLayer,
    Layer,
    LinearLayer,
    MaxPool2dLayer,
    ReluLayer,
)
from edge_mnist.graph.operations import Conv2d, FloatGraph, MaxPool2d
from edge_mnist.system.errors import EdgeMnistError

FloatArray = NDArray[np.float64]
Weights = Mapping[str, NDArray[np.float32]]
"""The arrays of a checkpoint, named as in PyTorch's state_dict."""


@dataclass
class _Convolution:
    """A convolution into which the layers after it may still be folded."""

    name: str
    weight: FloatArray  # (out, in / groups, kernel height, kernel width)
    bias: FloatArray  # (out,)
    window: Window
    groups: int
    relu: bool = False

    def output_shape(self, shape: MapShape) -> MapShape:
        return (len(self.weight), *self.window.output_size(shape[1:]))


@dataclass
class _GraphBuilder:
    """A graph under construction: the operations so far, and the shape of the last one's output."""

    shape: MapShape
    operations: list[_Convolution | MaxPool2d]

    def add(self, operation: _Convolution | MaxPool2d) -> None:
        self.shape = operation.output_shape(self.shape)
        self.operations.append(operation)

    def add_depthwise(self, name: str, window: Window, weight: float) -> _Convolution:
        """Append a convolution of each channel by itself in which all weights are equal: an identity, or a mean."""
        channels = self.shape[0]
        taps = np.full((channels, 1, *window.kernel_size), weight)
        convolution = _Convolution(name, taps, np.zeros(channels), window, groups=channels)
        self.add(convolution)
        return convolution

    def find_open_convolution(self, *, behind_pools: bool = False) -> _Convolution | None:
        """The last operation, if it is a convolution without ReLU, else None.

        Args:
            behind_pools: look at the operation before the last max pools instead.
        """
        for operation in reversed(self.operations):
            if isinstance(operation, _Convolution):
                return None if operation.relu else operation
            if not behind_pools:
                return None
        return None

    def is_rectified(self) -> bool:
        """Whether the last convolution already has a ReLU; max pools may follow it."""
        convolutions = (operation for operation in reversed(self.operations) if isinstance(operation, _Convolution))
        last = next(convolutions, None)
        return last is not None and last.relu


def fold(checkpoint: Checkpoint) -> FloatGraph:
    """Fold batch normalisation, ReLU, pooling and the input's normalisation into convolutions and max pools.

    The input of the graph is pixels, 0..255; that of the network was `(pixel / 255 - mean) / std`. If the network's
    first convolution pads, it pads with a normalised 0, which is the pixel `255 * mean`. The graph pads with the
    nearest whole pixel (`FloatGraph.zero_pixel`), both in float and in int8. Everything else is exact up to one
    rounding to float32.

    Raises:
        EdgeMnistError: the network has no layer with weights, or does not give one value for each class.
    """
    builder = _GraphBuilder(checkpoint.input_shape, [])
    for layer in checkpoint.architecture:
        _fold_layer(builder, layer, checkpoint.weights)
    if builder.shape[1:] != (1, 1):
        raise EdgeMnistError(
            f"the network ends in maps of {builder.shape[1]}x{builder.shape[2]}, expected one value for each class: "
            "end it with AdaptiveAvgPool2d(1) or Linear"
        )
    zero_pixel = _fold_normalization(builder.operations, checkpoint.mean, checkpoint.std)
    return FloatGraph(
        checkpoint.input_shape, zero_pixel, tuple(_round_to_float32(operation) for operation in builder.operations)
    )


def _fold_layer(builder: _GraphBuilder, layer: Layer, weights: Weights) -> None:
    """Append one layer of the network, or fold it into an operation that is there."""
    window = layer.window_over(builder.shape[1:])
    match layer:
        case Conv2dLayer() | LinearLayer():
            weight, bias = _read_parameters(layer.name, weights)
            if isinstance(layer, LinearLayer):
                # PyTorch flattens in the order channel, row, column, which is that of a kernel.
                weight = weight.reshape(len(weight), *builder.shape)
            groups = layer.groups if isinstance(layer, Conv2dLayer) else 1
            builder.add(_Convolution(layer.name, weight, bias, window, groups))
        case BatchNorm2dLayer():
            convolution = builder.find_open_convolution() or builder.add_depthwise(layer.name, window, 1.0)
            _fold_batch_norm(convolution, layer, weights)
        case ReluLayer():
            # ReLU and max pool commute, because both are monotone.
            if not builder.is_rectified():
                convolution = builder.find_open_convolution(behind_pools=True) or builder.add_depthwise(
                    layer.name, window, 1.0
                )
                convolution.relu = True
        case MaxPool2dLayer() if window.kernel_size != (1, 1):
            builder.add(MaxPool2d(layer.name, window))
        case MaxPool2dLayer() | AvgPool2dLayer() | GlobalAvgPool2dLayer():
            if window != Window((1, 1)):
                builder.add_depthwise(layer.name, window, 1 / math.prod(window.kernel_size))
        case FlattenLayer():
            pass
        case _:
            raise EdgeMnistError(f"{layer.name}: the operation {layer.op!r} cannot be folded")


def _fold_batch_norm(convolution: _Convolution, layer: BatchNorm2dLayer, weights: Weights) -> None:
    """Multiply a batch normalisation into the convolution before it (Ioffe & Szegedy 2015, algorithm 2)."""
    mean, variance = (weights[f"{layer.name}.{key}"].astype(np.float64) for key in ("running_mean", "running_var"))
    factor = 1 / np.sqrt(variance + layer.eps)
    shift = -mean * factor
    if layer.affine:
        gamma, beta = (weights[f"{layer.name}.{key}"].astype(np.float64) for key in ("weight", "bias"))
        factor, shift = factor * gamma, shift * gamma + beta
    convolution.weight = convolution.weight * factor[:, None, None, None]  # (out, in / groups, height, width)
    convolution.bias = convolution.bias * factor + shift


def _fold_normalization(operations: list[_Convolution | MaxPool2d], mean: float, std: float) -> int:
    """Fold `(pixel / 255 - mean) / std` into the first convolution.

    A max pool before it commutes with the normalisation, which is monotone.

    Returns:
        The pixel with which the first convolution pads; 0 if it does not pad.
    """
    first = next((operation for operation in operations if isinstance(operation, _Convolution)), None)
    if first is None:
        raise EdgeMnistError("the network has no layer with weights: there is nothing to export")
    zero_pixel = min(max(round(255 * mean), 0), 255) if first.window.padding != (0, 0) else 0
    offset = (zero_pixel / 255 - mean) / std  # the network's input where the graph's input is 0
    sums = np.array([math.fsum(taps.ravel()) for taps in first.weight])
    first.bias = first.bias + sums * offset
    first.weight = first.weight / (255 * std)
    return zero_pixel


def _round_to_float32(operation: _Convolution | MaxPool2d) -> Conv2d | MaxPool2d:
    """The operation as the graph has it, with its arrays in float32."""
    if isinstance(operation, MaxPool2d):
        return operation
    with np.errstate(over="ignore"):  # Conv2d refuses what overflows
        weight, bias = operation.weight.astype(np.float32), operation.bias.astype(np.float32)
    return Conv2d(operation.name, weight, bias, operation.window, operation.groups, operation.relu)


def _read_parameters(name: str, weights: Weights) -> tuple[FloatArray, FloatArray]:
    """The weight and the bias of a layer in float64; a layer without a bias has one of zeros."""
    weight = weights[f"{name}.weight"].astype(np.float64)
    bias = weights.get(f"{name}.bias")
    return weight, np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
