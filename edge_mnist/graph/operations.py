"""The network as it is exported: a graph of values, in float or in integers.

Seven operations suffice. `folding.fold` folds batch normalization, clamping and the normalization of the input into
convolutions; it makes average pooling a depthwise convolution, and a fully connected layer a convolution whose kernel
covers its whole input. A graph is checked when it is made, so whatever holds one may rely on it.

The values of a graph are its input and the output of each operation, in order: value 0 is the input, and value i + 1
the output of operation i. Each operation takes values that come before it; the last one gives the output of the graph.
Every value is a batch of maps: a vector of F features is (F, 1, 1), a sequence (channels, 1, length).

In an int8 graph, activations are quantized per tensor, `real = scale * (q - zero_point)` with int8 `q`, and weights per
output channel, symmetrically. The scheme is equation 1 of Jacob et al., "Quantization and Training of Neural Networks
for Efficient Integer-Arithmetic-Only Inference", CVPR 2018. In addition, every activation scale is a power of two times
a small odd integer, so that the arithmetic of all runtimes agrees (see docs/bit-exactness.md).
"""

# ruff: noqa: D102 - what the subclasses override is described in Operation
from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_mnist.graph.geometry import MapShape, Pair, Window, slide
from edge_mnist.graph.layers import ACTIVATIONS, Shape, check_input_shape, to_layer_shape
from edge_mnist.system.errors import EdgeMnistError

ACCUMULATOR_LIMIT = 1 << 24
"""Integers of a smaller magnitude are exact in float32, which has a 24-bit significand. All accumulators are smaller,
so that all runtimes round them alike."""

LARGEST_MANTISSA = 1 << 13
"""The odd part of an activation scale is below this: 2^12 + 1, with which a sum has no ties, is the largest needed."""

Bounds = tuple[float, float]
"""The least and the largest real value to which an operation clamps its output."""

UNBOUNDED: Bounds = (-math.inf, math.inf)
RELU: Bounds = (0.0, math.inf)

_SEPARATORS = re.compile(r"[\W_]+", re.ASCII)
"""Characters of a layer's name that an identifier replaces by one underscore."""


@dataclass(frozen=True)
class Quantization:
    """How the int8 values of an activation tensor represent real numbers: `real = scale * (q - zero_point)`."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0 and self.mantissa < LARGEST_MANTISSA):
            raise EdgeMnistError(
                f"activation scale {self.scale} is not a power of two times an odd integer below {LARGEST_MANTISSA}"
            )
        if not -128 <= self.zero_point <= 127:
            raise EdgeMnistError(f"zero point {self.zero_point} is outside -128..127")

    @property
    def mantissa(self) -> int:
        """The odd integer m in `scale = m * 2^e`."""
        numerator = Fraction(self.scale).numerator
        return numerator // (numerator & -numerator)

    @property
    def range(self) -> Bounds:
        """The real numbers that -128 and 127 represent."""
        return (-128 - self.zero_point) * self.scale, (127 - self.zero_point) * self.scale


@dataclass(frozen=True, eq=False)
class Operation:
    """What every operation has.

    Attributes:
        arity: the least and the largest number of inputs.
        name: the layer's name in the network, unique in the graph.
        sources: the indices of the values that it takes. Empty if it takes the value before its own output.
    """

    arity: ClassVar[tuple[int, int]] = (1, 1)

    name: str
    sources: tuple[int, ...] = field(default=(), kw_only=True)

    def output_shape(self, *shapes: MapShape) -> MapShape:
        """Shape of the output for inputs of `shapes`.

        Raises:
            EdgeMnistError: the operation does not fit its inputs.
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Conv2d(Operation):
    """A float convolution, padded with zeros.

    Attributes:
        name: the layer's name in the network.
        weight: float32 (out_channels, in_channels / groups, kernel height, kernel width).
        bias: float32 (out_channels,).
        window: kernel size, stride, padding, dilation.
        groups: the number of channel groups, which divides the numbers of input and of output channels.
        bounds: what the output is clamped to.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    window: Window
    groups: int = 1
    bounds: Bounds = UNBOUNDED

    def __post_init__(self) -> None:
        _check_arrays(self.name, self.weight, np.float32, self.bias, np.float32)
        if not (np.isfinite(self.weight).all() and np.isfinite(self.bias).all()):
            raise EdgeMnistError(
                f"{self.name}: weights or biases are not finite: the checkpoint is damaged or diverged"
            )

    @property
    def relu(self) -> bool:
        """Whether a ReLU follows, and nothing else."""
        return self.bounds == RELU

    def output_shape(self, *shapes: MapShape) -> MapShape:
        return _convolution_output(self, shapes[0])


@dataclass(frozen=True, eq=False)
class QuantizedConv2d(Operation):
    """An int8 convolution.

    `acc = sum(weight * (q_in - zero_point_in)) + bias` in int32;
    `q_out = clamp(round_half_even(float32(acc) * M) + output.zero_point, -128, 127)` with
    `M = weight_scale * scale_in / output.scale`. `weight_scale * scale_in` and M are exact in float32, see
    `quantization`. Clamping to bounds needs no operation: the int8 range represents no value beyond them.

    Attributes:
        name: the layer's name in the network.
        weight: int8 (out_channels, in_channels / groups, kernel height, kernel width), -127..127.
        weight_scale: float32 (out_channels,), positive.
        bias: int32 (out_channels,), at scale `weight_scale * scale_in`.
        window: kernel size, stride, padding (with the input's zero point), dilation.
        groups: the number of channel groups.
        bounds: what the float convolution clamps its output to.
        output: the quantization of the output.
    """

    weight: NDArray[np.int8]
    weight_scale: NDArray[np.float32]
    bias: NDArray[np.int32]
    window: Window
    groups: int
    bounds: Bounds
    output: Quantization

    def __post_init__(self) -> None:
        _check_arrays(self.name, self.weight, np.int8, self.bias, np.int32)
        if self.weight_scale.dtype != np.float32 or self.weight_scale.shape != self.bias.shape:
            raise EdgeMnistError(f"{self.name}: expected a float32 scale for each of {len(self.bias)} output channels")
        if not (np.isfinite(self.weight_scale) & (self.weight_scale >= np.finfo(np.float32).tiny)).all():
            raise EdgeMnistError(f"{self.name}: weight scales must be positive, normal float32 numbers")
        if (self.weight == -128).any():
            raise EdgeMnistError(f"{self.name}: int8 weights are symmetric, -127..127; found -128")
        _check_bounds(self.name, self.bounds, self.output)

    @property
    def relu(self) -> bool:
        """Whether the float convolution has a ReLU, and nothing else."""
        return self.bounds == RELU

    def output_shape(self, *shapes: MapShape) -> MapShape:
        return _convolution_output(self, shapes[0])


@dataclass(frozen=True, eq=False)
class MaxPool2d(Operation):
    """The largest value under each window, never that of the padding. The output keeps the input's quantization."""

    window: Window

    def output_shape(self, *shapes: MapShape) -> MapShape:
        (shape,) = shapes
        return slide(self.name, self.window, shape, shape[0])


@dataclass(frozen=True, eq=False)
class Upsample(Operation):
    """Repeats each value in a block of `factor` (height, width). The output keeps the input's quantization."""

    factor: Pair

    def output_shape(self, *shapes: MapShape) -> MapShape:
        channels, height, width = shapes[0]
        return channels, height * self.factor[0], width * self.factor[1]


@dataclass(frozen=True, eq=False)
class Concatenate(Operation):
    """Joins the channels of its inputs, which have one quantization; the output keeps it."""

    arity: ClassVar[tuple[int, int]] = (2, 1 << 20)

    def output_shape(self, *shapes: MapShape) -> MapShape:
        if len({shape[1:] for shape in shapes}) != 1:
            raise EdgeMnistError(f"{self.name}: joins maps of different sizes, {', '.join(map(str, shapes))}")
        return sum(shape[0] for shape in shapes), *shapes[0][1:]


@dataclass(frozen=True, eq=False)
class Add(Operation):
    """The sum of two values of one shape, clamped to `bounds`.

    In int8: `q_out = clamp(round((scale_a * (q_a - zero_a) + scale_b * (q_b - zero_b)) / scale_out) + zero_out)`. The
    scales are such that no sum is near a tie, so that the kind of rounding does not matter, see `arithmetic`.

    Attributes:
        name: the layer's name in the network.
        bounds: what the sum is clamped to.
        output: the quantization of the output; None in a float graph.
    """

    arity: ClassVar[tuple[int, int]] = (2, 2)

    bounds: Bounds = UNBOUNDED
    output: Quantization | None = None

    def __post_init__(self) -> None:
        _check_bounds(self.name, self.bounds, self.output)

    def output_shape(self, *shapes: MapShape) -> MapShape:
        if shapes[0] != shapes[1]:
            raise EdgeMnistError(f"{self.name}: adds maps of different shapes, {shapes[0]} and {shapes[1]}")
        return shapes[0]


@dataclass(frozen=True, eq=False)
class Multiply(Operation):
    """The product of two values; the second has the shape of the first, or one value for each channel.

    In int8: `q_out = clamp(round((q_a - zero_a) * (q_b - zero_b) * scale_a * scale_b / scale_out) + zero_out)`. As in
    `Add`, no product is near a tie.

    Attributes:
        name: the layer's name in the network.
        output: the quantization of the output; None in a float graph.
    """

    arity: ClassVar[tuple[int, int]] = (2, 2)

    output: Quantization | None = None

    def output_shape(self, *shapes: MapShape) -> MapShape:
        if shapes[1] not in (shapes[0], (shapes[0][0], 1, 1)):
            raise EdgeMnistError(f"{self.name}: multiplies maps of shape {shapes[0]} by {shapes[1]}")
        return shapes[0]


@dataclass(frozen=True, eq=False)
class Activation(Operation):
    """A function of one number, applied to each value of a float graph; the fields are those of `ActivationLayer`."""

    function: str
    parameter: float = 0.0

    def __post_init__(self) -> None:
        if self.function not in ACTIVATIONS:
            raise EdgeMnistError(f"{self.name}: the function {self.function!r} is unknown")

    def output_shape(self, *shapes: MapShape) -> MapShape:
        return shapes[0]


@dataclass(frozen=True, eq=False)
class Table(Operation):
    """A function of one number in int8: each value is looked up.

    Attributes:
        name: the layer's name in the network.
        function: the function that the table holds, as in `Activation`.
        parameter: as in `Activation`.
        values: int8 (256,), the output for each input; that of the input q is at q + 128.
        output: the quantization of the output.
    """

    function: str
    parameter: float
    values: NDArray[np.int8]
    output: Quantization

    def __post_init__(self) -> None:
        if self.values.dtype != np.int8 or self.values.shape != (256,):
            raise EdgeMnistError(
                f"{self.name}: expected a table int8 (256,), found {self.values.dtype} {self.values.shape}"
            )

    def output_shape(self, *shapes: MapShape) -> MapShape:
        return shapes[0]


FloatOperation = Conv2d | MaxPool2d | Upsample | Concatenate | Add | Multiply | Activation
QuantizedOperation = QuantizedConv2d | MaxPool2d | Upsample | Concatenate | Add | Multiply | Table
AnyOperation = TypeVar("AnyOperation", FloatOperation, QuantizedOperation)


@dataclass(frozen=True, eq=False)
class _Graph(Generic[AnyOperation]):
    """A graph of operations on images of uint8 pixels, or on other numbers.

    Attributes:
        input_shape: the shape of one input: (channels, height, width), (channels, length) or (features,).
        zero_pixel: the pixel value, 0..255, that represents the real number 0: the input is `pixel - zero_pixel`. It
            may differ from 0 only if a first convolution pads; it then pads with this pixel. 0 if the input is not
            pixels.
        operations: in an order in which each comes after those whose outputs it takes; their names are unique.
        ending: what followed the output in the network and is left out: "", "softmax" or "log_softmax".
    """

    input_shape: Shape
    zero_pixel: int
    operations: tuple[AnyOperation, ...]
    ending: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        check_input_shape(self.input_shape)
        if not 0 <= self.zero_pixel <= 255:
            raise EdgeMnistError(f"zero_pixel {self.zero_pixel} is outside 0..255")
        if self.ending not in ("", "softmax", "log_softmax"):
            raise EdgeMnistError(f"the ending {self.ending!r} is unknown")
        names = [operation.name for operation in self.operations]
        if len(set(names)) != len(names):
            raise EdgeMnistError(f"layer names must be unique, found {', '.join(names)}")
        used: set[int] = set()
        for index, operation in enumerate(self.operations):
            sources = self.sources(index)
            least, most = operation.arity
            if not (least <= len(sources) <= most and all(0 <= source <= index for source in sources)):
                raise EdgeMnistError(
                    f"{operation.name}: takes the values {sources}, of which {index + 1} are before it"
                )
            used.update(sources)
        if unused := sorted(set(range(1, len(self.operations))) - used):
            raise EdgeMnistError(f"{self.operations[unused[0] - 1].name}: nothing uses its output")
        self.shapes()

    def sources(self, index: int) -> tuple[int, ...]:
        """The indices of the values that the operation at `index` takes."""
        return self.operations[index].sources or (index,)

    @property
    def is_chain(self) -> bool:
        """Whether each operation takes the output of the one before it and nothing else."""
        return all(self.sources(index) == (index,) for index in range(len(self.operations)))

    def readers(self) -> list[list[int]]:
        """The indices of the operations that take each value; that of the output has none."""
        result: list[list[int]] = [[] for _ in range(len(self.operations) + 1)]
        for index in range(len(self.operations)):
            for source in dict.fromkeys(self.sources(index)):
                result[source].append(index)
        return result

    def joined_values(self) -> list[tuple[int, ...]]:
        """For each value, the indices of the values with which it shares a quantization, itself included.

        Values are joined by operations that only move them; what these compute is not listed.
        """
        groups: list[list[int]] = [[0]]
        for index, operation in enumerate(self.operations):
            if not isinstance(operation, MaxPool2d | Upsample | Concatenate):
                groups.append([index + 1])
                continue
            parts: dict[int, list[int]] = {id(groups[source]): groups[source] for source in self.sources(index)}
            joined: list[int] = sorted(member for part in parts.values() for member in part)
            groups = [*(joined if id(group) in parts else group for group in groups), joined]
        return [tuple(group) for group in groups]

    def shapes(self) -> list[MapShape]:
        """The shape (channels, height, width) of each value."""
        channels, height, width = (*to_layer_shape(self.input_shape), 1, 1)[:3]
        shapes: list[MapShape] = [(channels, height, width)]
        for index, operation in enumerate(self.operations):
            shapes.append(operation.output_shape(*(shapes[source] for source in self.sources(index))))
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


@dataclass(frozen=True, eq=False)
class FloatGraph(_Graph[FloatOperation]):
    """The folded float network, from float32 inputs to float32 outputs: pixels 0..255, or the user's numbers.

    Attributes:
        is_pixels: whether the inputs are pixels, 0..255.
    """

    is_pixels: bool = field(default=True, kw_only=True)

    @property
    def convolutions(self) -> tuple[Conv2d, ...]:
        """The convolutions, in order."""
        return tuple(operation for operation in self.operations if isinstance(operation, Conv2d))


@dataclass(frozen=True, eq=False)
class QuantizedGraph(_Graph[QuantizedOperation]):
    """The int8 network, from int8 inputs to int8 outputs. All accumulators stay below 2^24.

    Attributes:
        features: the quantization of inputs that are not pixels. None for pixels: the input is then `pixel - 128` at
            scale 1.
    """

    features: Quantization | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        quantizations = self.quantizations()
        for index, operation in enumerate(self.operations):
            inputs = [quantizations[source] for source in self.sources(index)]
            if isinstance(operation, Concatenate) and len(set(inputs)) != 1:
                raise EdgeMnistError(f"{operation.name}: joins values of different scales or zero points")
            if isinstance(operation, QuantizedConv2d):
                _check_accumulators(operation, inputs[0])

    @property
    def is_pixels(self) -> bool:
        """Whether the inputs are pixels, 0..255."""
        return self.features is None

    @property
    def convolutions(self) -> tuple[QuantizedConv2d, ...]:
        """The convolutions, in order."""
        return tuple(operation for operation in self.operations if isinstance(operation, QuantizedConv2d))

    def quantizations(self) -> list[Quantization]:
        """The quantization of each value."""
        result = [self.features or Quantization(1.0, self.zero_pixel - 128)]
        for index, operation in enumerate(self.operations):
            output = getattr(operation, "output", None)
            result.append(output or result[self.sources(index)[0]])
        return result

    def multipliers(self) -> dict[str, NDArray[np.float32]]:
        """The multipliers M of the output channels, float32 (out_channels,), by the name of each convolution."""
        quantizations = self.quantizations()
        return {
            operation.name: compute_multiplier(
                operation.weight_scale, quantizations[self.sources(index)[0]], operation.output
            )
            for index, operation in enumerate(self.operations)
            if isinstance(operation, QuantizedConv2d)
        }


def compute_multiplier(
    weight_scale: NDArray[np.float32], source: Quantization, output: Quantization
) -> NDArray[np.float32]:
    """The multipliers `M = weight_scale * source.scale / output.scale` as runtimes compute them, in float32."""
    return np.asarray(weight_scale * np.float32(source.scale) / np.float32(output.scale))


def to_batch(inputs: NDArray[np.generic], graph: FloatGraph | QuantizedGraph) -> NDArray[np.generic]:
    """Arrange inputs as a network takes them: (N, channels, height, width), uint8 pixels or float32 features.

    Args:
        inputs: (N, *graph.input_shape), or (N, height, width) if there is one channel; uint8 pixels, float32 features.
        graph: the network.

    Raises:
        EdgeMnistError: the inputs are of another type or shape.
    """
    batch = arrange_inputs(inputs, graph.input_shape, is_pixels=graph.is_pixels)
    return batch.reshape(len(batch), *graph.shapes()[0])


def arrange_inputs(inputs: NDArray[np.generic], shape: Shape, *, is_pixels: bool) -> NDArray[np.generic]:
    """Check inputs, and arrange them as (N, *shape).

    Args:
        inputs: (N, *shape), or (N, height, width) if there is one channel; uint8 pixels, float32 features.
        shape: the shape of one input of the network.
        is_pixels: whether the network takes pixels.

    Raises:
        EdgeMnistError: the inputs are of another type or shape.
    """
    batch = inputs[:, None] if len(shape) == 3 and shape[0] == 1 and inputs.ndim == 3 else inputs
    dtype = np.uint8 if is_pixels else np.float32
    if inputs.dtype != dtype or batch.shape[1:] != shape:
        sizes = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
        expected = f"(N, {', '.join(map(str, sizes))})"
        label = "images" if is_pixels else "inputs"
        raise EdgeMnistError(
            f"{label}: expected {np.dtype(dtype).name} {expected}, found {inputs.dtype} {inputs.shape}"
        )
    return batch


def bound_accumulators(weight: NDArray[np.int8], bias: NDArray[np.int32], zero_point: int) -> NDArray[np.int64]:
    """The largest magnitude that an accumulator, or a partial sum of it, can have for any input.

    An input `q - zero_point` lies between `low = -128 - zero_point` and `high = 127 - zero_point`, so each sum of some
    of the products lies between the sum of the negative and that of the positive products that are possible. After a
    ReLU `low` is 0, which halves the bound.

    Args:
        weight: int8 (out_channels, ...).
        bias: int32 (out_channels,).
        zero_point: the zero point of the input, -128..127.

    Returns:
        int64 (out_channels,): the larger of both magnitudes, plus |bias|.
    """
    low, high = -128 - zero_point, 127 - zero_point
    rows = weight.astype(np.int64).reshape(len(weight), -1)
    positive, negative = np.maximum(rows, 0).sum(axis=1), np.minimum(rows, 0).sum(axis=1)
    most, least = positive * high + negative * low, positive * low + negative * high
    return np.asarray(np.maximum(most, -least) + np.abs(bias.astype(np.int64)))


def _check_accumulators(operation: QuantizedConv2d, source: Quantization) -> None:
    """Check that the accumulators of a convolution stay below the limit for every input."""
    worst = bound_accumulators(operation.weight, operation.bias, source.zero_point)
    if int(worst.max()) >= ACCUMULATOR_LIMIT:
        channel = int(worst.argmax())
        raise EdgeMnistError(
            f"{operation.name}: the accumulator of channel {channel} may reach {int(worst[channel])}, "
            f"expected less than 2^24 = {ACCUMULATOR_LIMIT}"
        )


def _check_bounds(name: str, bounds: Bounds, output: Quantization | None) -> None:
    """Check that the int8 range represents no value that is beyond the bounds by more than half a step."""
    if not bounds[0] < bounds[1]:
        raise EdgeMnistError(f"{name}: clamps to {bounds[0]:g}..{bounds[1]:g}, expected a range")
    if output is None:
        return
    if bounds == RELU and output.zero_point != -128:
        raise EdgeMnistError(f"{name}: after ReLU the zero point is -128, found {output.zero_point}")
    low, high = output.range
    if low < bounds[0] - output.scale / 2 or high > bounds[1] + output.scale / 2:
        raise EdgeMnistError(
            f"{name}: the int8 range {low:g}..{high:g} exceeds the bounds {bounds[0]:g}..{bounds[1]:g}"
        )


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
