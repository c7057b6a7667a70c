"""The network as it is exported: a chain of convolutions and max pools, in float or in integers.

Two operations suffice. `folding.fold` folds batch normalisation, ReLU and the normalisation of the input into
convolutions; it makes average pooling a depthwise convolution, and a fully connected layer a convolution whose kernel
covers its whole input. A graph is checked when it is made, so whatever holds one may rely on it.

In an int8 graph, activations are quantized per tensor, `real = scale * (q - zero_point)` with int8 `q`, and weights per
output channel, symmetrically. The scheme is equation 1 of Jacob et al., "Quantization and Training of Neural Networks
for Efficient Integer-Arithmetic-Only Inference", CVPR 2018. In addition, every activation scale is a power of two (see
docs/bit-exactness.md).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_mnist.graph.geometry import MapShape, Window, slide
from edge_mnist.system.errors import EdgeMnistError

ACCUMULATOR_LIMIT = 1 << 24
"""Integers below it in magnitude are exact in float32, which has a 24-bit significand. All accumulators stay below it,
so that all runtimes round them alike."""


_SEPARATORS = re.compile(r"[\W_]+", re.ASCII)
"""Characters of a layer's name that an identifier replaces by one underscore."""


@dataclass(frozen=True)
class Quantization:
    """How the int8 values of an activation tensor represent real numbers: `real = scale * (q - zero_point)`."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0 and math.frexp(self.scale)[0] == 0.5):
            raise EdgeMnistError(f"activation scale {self.scale} is not a power of two")
        if not -128 <= self.zero_point <= 127:
            raise EdgeMnistError(f"zero point {self.zero_point} is outside -128..127")


@dataclass(frozen=True, eq=False)
class Conv2d:
    """A float convolution, padded with zeros, and the ReLU after it, if there is one.

    Attributes:
        name: the layer's name in the network.
        weight: float32 (out_channels, in_channels / groups, kernel height, kernel width).
        bias: float32 (out_channels,).
        window: kernel size, stride, padding, dilation.
        groups: the number of channel groups, which divides the numbers of input and of output channels.
        relu: whether negative outputs become zero.
    """

    name: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    window: Window
    groups: int = 1
    relu: bool = False

    def __post_init__(self) -> None:
        _check_arrays(self.name, self.weight, np.float32, self.bias, np.float32)
        if not (np.isfinite(self.weight).all() and np.isfinite(self.bias).all()):
            raise EdgeMnistError(
                f"{self.name}: weights or biases are not finite: the checkpoint is damaged or diverged"
            )

    def output_shape(self, shape: MapShape) -> MapShape:
        """MapShape of the output for an input of `shape`."""
        return _convolution_output(self, shape)


@dataclass(frozen=True, eq=False)
class QuantizedConv2d:
    """An int8 convolution.

    `acc = sum(weight * (q_in - zero_point_in)) + bias` in int32;
    `q_out = clamp(round_half_even(float32(acc) * M) + output.zero_point, -128, 127)` with
    `M = weight_scale * scale_in / output.scale`, exact in float32 because both activation scales are powers of two.
    A ReLU needs no operation: its output has the zero point -128, so the clamp removes negative values.

    Attributes:
        name: the layer's name in the network.
        weight: int8 (out_channels, in_channels / groups, kernel height, kernel width), -127..127.
        weight_scale: float32 (out_channels,), positive.
        bias: int32 (out_channels,), at scale `weight_scale * scale_in`.
        window: kernel size, stride, padding (with the input's zero point), dilation.
        groups: the number of channel groups.
        relu: whether the real output is never negative.
        output: the quantization of the output.
    """

    name: str
    weight: NDArray[np.int8]
    weight_scale: NDArray[np.float32]
    bias: NDArray[np.int32]
    window: Window
    groups: int
    relu: bool
    output: Quantization

    def __post_init__(self) -> None:
        _check_arrays(self.name, self.weight, np.int8, self.bias, np.int32)
        if self.weight_scale.dtype != np.float32 or self.weight_scale.shape != self.bias.shape:
            raise EdgeMnistError(f"{self.name}: expected a float32 scale for each of {len(self.bias)} output channels")
        if not (np.isfinite(self.weight_scale) & (self.weight_scale >= np.finfo(np.float32).tiny)).all():
            raise EdgeMnistError(f"{self.name}: weight scales must be positive, normal float32 numbers")
        if (self.weight == -128).any():
            raise EdgeMnistError(f"{self.name}: int8 weights are symmetric, -127..127; found -128")
        if self.relu and self.output.zero_point != -128:
            raise EdgeMnistError(f"{self.name}: after ReLU the zero point is -128, found {self.output.zero_point}")

    def output_shape(self, shape: MapShape) -> MapShape:
        """MapShape of the output for an input of `shape`."""
        return _convolution_output(self, shape)


@dataclass(frozen=True)
class MaxPool2d:
    """The largest value under each window, never that of the padding. The output keeps the input's quantization."""

    name: str
    window: Window

    def output_shape(self, shape: MapShape) -> MapShape:
        """MapShape of the output for an input of `shape`."""
        return slide(self.name, self.window, shape, shape[0])


Convolution = TypeVar("Convolution", Conv2d, QuantizedConv2d)


@dataclass(frozen=True, eq=False)
class _Graph(Generic[Convolution]):
    """A chain of operations on images of uint8 pixels.

    Attributes:
        input_shape: channels, height, width of the pixels.
        zero_pixel: the pixel value, 0..255, that represents the real number 0: the input is `pixel - zero_pixel`. It
            may differ from 0 only if the first convolution pads; it then pads with this pixel.
        operations: convolutions and max pools, in order; their names are unique.
    """

    input_shape: MapShape
    zero_pixel: int
    operations: tuple[Convolution | MaxPool2d, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.zero_pixel <= 255:
            raise EdgeMnistError(f"zero_pixel {self.zero_pixel} is outside 0..255")
        names = [operation.name for operation in self.operations]
        if len(set(names)) != len(names):
            raise EdgeMnistError(f"layer names must be unique, found {', '.join(names)}")
        self.shapes()

    def shapes(self) -> list[MapShape]:
        """The shape of the input and of every operation's output, in order: one more than there are operations."""
        shapes = [self.input_shape]
        for operation in self.operations:
            shapes.append(operation.output_shape(shapes[-1]))
        return shapes

    def identifiers(self) -> dict[str, str]:
        """The name of each operation in the exported files, such as "L3_pool1", by its name in the network.

        The index makes it unique. No other name in an exported file begins with "L" and a digit, and no language has
        such a keyword. So a name that the user chose cannot collide with anything. The identifier is ASCII, short, and
        valid in C and Python.
        """
        return {
            operation.name: f"L{index}_{_SEPARATORS.sub('_', operation.name)[:40].strip('_')}".rstrip("_")
            for index, operation in enumerate(self.operations)
        }

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """The convolutions, in order."""
        return tuple(operation for operation in self.operations if not isinstance(operation, MaxPool2d))


@dataclass(frozen=True, eq=False)
class FloatGraph(_Graph[Conv2d]):
    """The folded float network, from float32 pixels 0..255 to float32 logits."""


@dataclass(frozen=True, eq=False)
class QuantizedGraph(_Graph[QuantizedConv2d]):
    """The int8 network, from `pixel - 128` at scale 1 to int8 logits. All accumulators stay below 2^24."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for operation, source in zip(self.operations, self.quantizations(), strict=False):
            if isinstance(operation, MaxPool2d):
                continue
            worst = bound_accumulators(operation.weight, operation.bias, source.zero_point)
            if int(worst.max()) >= ACCUMULATOR_LIMIT:
                channel = int(worst.argmax())
                raise EdgeMnistError(
                    f"{operation.name}: the accumulator of channel {channel} may reach {int(worst[channel])}, "
                    f"expected less than 2^24 = {ACCUMULATOR_LIMIT}"
                )

    def quantizations(self) -> list[Quantization]:
        """The quantization of the input and of every operation's output, in order."""
        result = [Quantization(1.0, self.zero_pixel - 128)]
        for operation in self.operations:
            result.append(result[-1] if isinstance(operation, MaxPool2d) else operation.output)
        return result

    def multipliers(self) -> dict[str, NDArray[np.float32]]:
        """The multipliers M of the output channels, float32 (out_channels,), by the name of each convolution."""
        return {
            operation.name: operation.weight_scale * np.float32(source.scale / operation.output.scale)
            for operation, source in zip(self.operations, self.quantizations(), strict=False)
            if not isinstance(operation, MaxPool2d)
        }


def to_image_batch(images: NDArray[np.uint8], shape: MapShape) -> NDArray[np.uint8]:
    """Arrange images as a network takes them: uint8 (N, channels, height, width).

    Args:
        images: uint8 (N, channels, height, width), or (N, height, width) if there is one channel.
        shape: channels, height, width of the network's input.

    Raises:
        EdgeMnistError: the images are of another type or shape.
    """
    channels, height, width = shape
    batch = images[:, None] if channels == 1 and images.ndim == 3 else images
    if images.dtype != np.uint8 or batch.shape[1:] != shape:
        expected = f"(N, {height}, {width})" if channels == 1 else f"(N, {channels}, {height}, {width})"
        raise EdgeMnistError(f"images: expected uint8 {expected}, found {images.dtype} {images.shape}")
    return batch


def bound_accumulators(weight: NDArray[np.int8], bias: NDArray[np.int32], zero_point: int) -> NDArray[np.int64]:
    """The largest magnitude that an accumulator, or a partial sum of it, can have for any input.

    Args:
        weight: int8 (out_channels, ...).
        bias: int32 (out_channels,).
        zero_point: the zero point of the input, -128..127.

    Returns:
        int64 (out_channels,): the sum of |weight| * max|q - zero_point|, plus |bias|.
    """
    largest = max(127 - zero_point, zero_point + 128)
    magnitude = np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1)
    return np.asarray(magnitude * largest + np.abs(bias.astype(np.int64)))


def _check_arrays(
    name: str, weight: NDArray[np.generic], weight_type: type, bias: NDArray[np.generic], bias_type: type
) -> None:
    """Check that the weights have four dimensions, the biases one, and both the expected types."""
    if weight.dtype != weight_type or weight.ndim != 4 or bias.dtype != bias_type or bias.shape != weight.shape[:1]:
        raise EdgeMnistError(
            f"{name}: expected {weight_type.__name__} weights (out, in, height, width) and {bias_type.__name__} biases "
            f"(out,), found {weight.dtype} {weight.shape} and {bias.dtype} {bias.shape}"
        )


def _convolution_output(operation: Conv2d | QuantizedConv2d, shape: MapShape) -> MapShape:
    """The shape of a convolution's output for an input of `shape`.

    Raises:
        EdgeMnistError: the weights do not fit the input or the window, or the window does not fit the input.
    """
    out_channels, group_channels, *kernel = operation.weight.shape
    if shape[0] != group_channels * operation.groups or out_channels % operation.groups:
        raise EdgeMnistError(
            f"{operation.name}: weight has shape {operation.weight.shape} in {operation.groups} groups, "
            f"which does not fit an input of {shape[0]} channels"
        )
    if tuple(kernel) != operation.window.kernel_size:
        raise EdgeMnistError(f"{operation.name}: kernel size {operation.window.kernel_size}, but weights of {kernel}")
    return slide(operation.name, operation.window, shape, out_channels)
