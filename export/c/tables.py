"""What model.c holds for each layer: the kernel that computes it, and its constants in the order that this reads."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from edge_mnist.graph.arithmetic import add, multiply, requantize, split_multiplier
from edge_mnist.graph.geometry import MapShape, Window
from edge_mnist.graph.interpreter import rounds_ties_away
from edge_mnist.graph.operations import (
    Add,
    Concatenate,
    MaxPool2d,
    Multiply,
    Quantization,
    QuantizedConv2d,
    QuantizedGraph,
    QuantizedOperation,
    Table,
    Upsample,
)
from edge_mnist.system.errors import EdgeMnistError

LANES, TAPS = 8, 4
"""Output channels, and taps (weights of one output channel), in each group of weights that the kernels load at once."""

SLACK = 16
"""Values by which vector instructions may read or write beyond the end of a line: one 128-bit register of bytes."""

_LONGEST_CHAIN = {2: 4, 4: 16}
"""The most groups of taps that a kernel adds in 16 bits, by the number of products of a group in one 16-bit lane.

The first is that of the AVX2 kernel in x86.h, the second that of the NEON kernel in arm.h.
"""

_ACTIVATION_MAGNITUDES = {2: 255, 4: 128}
"""The largest magnitude of an activation, by the number of products of a group in one 16-bit lane."""


INT32_LIMIT = 1 << 31
"""The magnitude of an int32 is below this."""


@dataclass(frozen=True)
class FusedOperation:
    """What one kernel call computes: an operation, or a convolution with the 2x2 max pool after it.

    Attributes:
        operation: the operation.
        pool: the max pool that is taken of a convolution's sums, if there is one.
        sources: the values that it takes: 0 is the input of the network, i + 1 the output of fused operation i.
        input_shapes: channels, height and width of each input.
        output_shape: channels, height and width of the output, after `pool`.
        input_quantizations: the quantization of each input.
        output_quantization: the quantization of the output.
    """

    operation: QuantizedOperation
    pool: MaxPool2d | None
    sources: tuple[int, ...]
    input_shapes: tuple[MapShape, ...]
    output_shape: MapShape
    input_quantizations: tuple[Quantization, ...]
    output_quantization: Quantization

    @property
    def input_shape(self) -> MapShape:
        """Channels, height and width of the first input."""
        return self.input_shapes[0]

    @property
    def input_quantization(self) -> Quantization:
        """The quantization of the first input."""
        return self.input_quantizations[0]

    @property
    def kernel(self) -> str:
        """The kernel by its name in types.h and graph_types.h."""
        if not isinstance(self.operation, QuantizedConv2d):
            return _KERNELS[type(self.operation)]
        if self.operation.groups > 1:
            return "EM_DEPTHWISE" if is_depthwise(self.operation) else "EM_GROUPED"
        return "EM_CONV_POOL" if self.pool else "EM_CONV"

    @property
    def window(self) -> Window:
        """The window through which the input is seen; 1x1 if each position is taken by itself."""
        if isinstance(self.operation, QuantizedConv2d | MaxPool2d):
            return self.operation.window
        return Window((1, 1))

    @property
    def input_rows(self) -> int:
        """The number of input rows from which one output row is computed."""
        return self.window.extent[0] + (self.window.stride[0] if self.pool else 0)

    @property
    def row_stride(self) -> int:
        """By how many input rows two neighbouring output rows are apart."""
        return self.window.stride[0] * (2 if self.pool else 1)

    def find_rows(self, row: int, height: int) -> tuple[int, int]:
        """The input rows that an output row is computed from, without those of the padding.

        Args:
            row: the output row.
            height: the number of rows of the input.

        Returns:
            The first row, and the last one plus 1.
        """
        if isinstance(self.operation, Upsample):
            first = row // self.operation.factor[0]
        else:
            first = row * self.row_stride - self.window.padding[0]
        if isinstance(self.operation, Multiply) and height < self.output_shape[1]:
            first = 0  # one value for each channel
        return max(0, first), min(first + self.input_rows, height)


_KERNELS: dict[type, str] = {
    MaxPool2d: "EM_POOL",
    Add: "EM_ADD",
    Multiply: "EM_MULTIPLY",
    Table: "EM_TABLE",
    Concatenate: "EM_CONCATENATE",
    Upsample: "EM_UPSAMPLE",
}
"""The kernels of the operations that have only one."""


def is_depthwise(operation: QuantizedConv2d) -> bool:
    """Whether each channel is convolved by itself."""
    outputs, group_channels = operation.weight.shape[:2]
    return operation.groups > 1 and (group_channels, outputs) == (1, operation.groups)


def fuse_operations(graph: QuantizedGraph) -> tuple[FusedOperation, ...]:
    """Join each max pool that can be taken of a convolution's sums to that convolution.

    That is exact because requantization is monotonic: the largest sum becomes the largest output.
    """
    fused: list[FusedOperation] = []
    values = [0]  # by value of the graph, the value of the fused operations
    shapes, quantizations, readers = graph.shapes(), graph.quantizations(), graph.readers()
    for index, operation in enumerate(graph.operations):
        sources = graph.sources(index)
        if isinstance(operation, MaxPool2d) and operation.window == Window((2, 2), (2, 2)) and fused:
            if sources == (index,) and readers[index] == [index] and fused[-1].kernel == "EM_CONV":
                fused[-1] = replace(fused[-1], pool=operation, output_shape=shapes[index + 1])
                values.append(len(fused))
                continue
        fused.append(
            FusedOperation(
                operation,
                None,
                tuple(values[source] for source in sources),
                tuple(shapes[source] for source in sources),
                shapes[index + 1],
                tuple(quantizations[source] for source in sources),
                quantizations[index + 1],
            )
        )
        values.append(len(fused))
    return tuple(fused)


def format_constants(fused: FusedOperation, name: str, graph: QuantizedGraph) -> str:
    """Write the constants of an operation as C arrays, after a comment that says what it computes.

    Args:
        fused: the operation.
        name: the identifier with which the names of its arrays begin.
        graph: the graph that it is part of.
    """
    operation = fused.operation
    text = f"/* {name}: {_describe(fused)} */\n"
    if isinstance(operation, QuantizedConv2d):
        return text + _format_convolution(fused, operation, name, graph)
    if isinstance(operation, Table):
        values = map(str, operation.values.astype(np.int64) + 128)
        return text + _format_array("uint8_t", f"{name}_table", _join_lines(values, 24))
    if isinstance(operation, Add):
        return text + _format_array("int32_t", f"{name}_factors", [_join(choose_factors(fused))])
    if isinstance(operation, Multiply):
        multiplier = _format_multiplier(choose_product_scale(fused), True)
        zeros = [quantization.zero_point + 128 for quantization in fused.input_quantizations]
        text += _format_array("int32_t", f"{name}_factors", [_join(zeros)])
        return text + _format_array("em_multiplier", f"{name}_multiplier", [f"{multiplier},"])
    return text


def choose_factors(fused: FusedOperation) -> tuple[int, int, int, int]:
    """Choose the integers with which an addition is computed.

    With activations kept as u = q + 128, the sum of u_a and u_b is
    `clamp((u_a * factor_a + u_b * factor_b + constant) >> shift, 0, 255)`.

    Returns:
        factor_a, factor_b, constant and shift. All partial sums fit into int32.

    Raises:
        EdgeMnistError: the scales are too far apart, or some sum is not rounded as in exact arithmetic.
    """
    name, output = fused.operation.name, fused.output_quantization
    ratios = [Fraction(source.scale) / Fraction(output.scale) for source in fused.input_quantizations]
    zeros = [source.zero_point + 128 for source in fused.input_quantizations]
    constant = output.zero_point + 128 + Fraction(1, 2)
    constant -= sum(ratio * zero for ratio, zero in zip(ratios, zeros, strict=True))
    most = sum(255 * ratio for ratio in ratios) + abs(constant)
    shift = next((shift for shift in range(30, 0, -1) if most * 2**shift < INT32_LIMIT - 1024), 0)
    if not shift:
        raise EdgeMnistError(f"{name}: adds values of scales that are too far apart for the C kernels")
    first, second, third = (round(number * 2**shift) for number in (*ratios, constant))
    a, b = _all_pairs()
    found = np.clip((a * first + b * second + third) >> shift, 0, 255) - 128
    source_a, source_b = fused.input_quantizations
    expected = add((a - 128).astype(np.int8), (b - 128).astype(np.int8), source_a, source_b, output)
    if differing := int((found != expected).sum()):
        raise EdgeMnistError(f"{name}: the C kernels round {differing} of 65536 sums differently from exact arithmetic")
    return first, second, third, shift


def choose_product_scale(fused: FusedOperation) -> float:
    """The number by which a product of two inputs is multiplied: `scale_a * scale_b / scale_out`.

    Raises:
        EdgeMnistError: with it in float32, some product is not rounded as in exact arithmetic.
    """
    output = fused.output_quantization
    source_a, source_b = fused.input_quantizations
    scale = source_a.scale * source_b.scale / output.scale
    a, b = (values - 128 for values in _all_pairs())
    expected = multiply(a.astype(np.int8), b.astype(np.int8), source_a, source_b, output)
    products = ((a - source_a.zero_point) * (b - source_b.zero_point)).astype(np.float32)
    found = requantize(products, np.full(1, scale, np.float32), output.zero_point)
    if differing := int((found != expected).sum()):
        raise EdgeMnistError(
            f"{fused.operation.name}: float32 rounds {differing} of 65536 products differently from exact arithmetic"
        )
    return scale


def _all_pairs() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of activations that are kept as 0..255: int64 (65536,) each."""
    first, second = np.divmod(np.arange(1 << 16), 256)
    return first, second


def _format_convolution(fused: FusedOperation, operation: QuantizedConv2d, name: str, graph: QuantizedGraph) -> str:
    """Write the constants of a convolution."""
    weight = pack_weights(operation)
    outputs = len(operation.weight)
    fillers = 0 if weight.ndim == 4 else -outputs % LANES  # see EM_FILL in types.h
    sums = operation.weight.astype(np.int64).reshape(outputs, -1).sum(axis=1)  # (out,)
    # The kernels keep an activation q as q + 128.
    biases = operation.bias - (fused.input_quantization.zero_point + 128) * sums
    away = rounds_ties_away(operation)
    bias_items = [f"EM_BIAS({b}, {s})" for b, s in zip(biases, sums, strict=True)]
    fill = "EM_FILL(EM_NONE EM_NONE)" if fillers else ""
    multiplier_items = [
        _format_multiplier(m, t) for m, t in zip(graph.multipliers()[operation.name], away, strict=True)
    ]
    text = _format_array("em_weight", f"{name}_weight", _format_weights(weight, fillers))
    text += _format_array("int32_t", f"{name}_bias", _join_lines(bias_items, 4), fill)
    text += _format_array("em_multiplier", f"{name}_multiplier", _join_lines(multiplier_items, 2), fill)
    if operation.groups == 1:
        of_two, of_four = (
            _format_array("uint8_t", f"{name}_chain", _join_lines(map(str, choose_chain_lengths(weight, products)), 24))
            for products in (2, 4)
        )
        text += f"#if EM_CHAIN == 2\n{of_two}#elif EM_CHAIN == 4\n{of_four}#endif\n"
    return text


def pack_weights(operation: QuantizedConv2d) -> NDArray[np.int8]:
    """Arrange the weights in the order in which the kernel of a convolution reads them.

    Returns:
        int8 (blocks of 8 output channels, runs, groups of 4 taps, 8, 4), filled up with zeros; of a depthwise
        convolution (blocks, groups of 4 rows, kernel width, 8, 4). The weights of a convolution with other groups of
        channels are not packed: (out, kernel height, kernel width, in / groups).
    """
    rows = operation.weight.transpose(0, 2, 3, 1)  # (out, kernel height, kernel width, in / groups)
    outputs, height, width, _channels = rows.shape
    if is_depthwise(operation):
        padded = np.zeros((outputs + -outputs % LANES, height + -height % TAPS, width), np.int8)
        padded[:outputs, :height] = rows[..., 0]
        blocks = padded.reshape(-1, LANES, padded.shape[1] // TAPS, TAPS, width)
        return np.ascontiguousarray(blocks.transpose(0, 2, 4, 1, 3))  # (blocks, groups, kernel width, 8, 4)
    if operation.groups > 1:
        return np.ascontiguousarray(rows)
    # A dilated kernel sees values that are not consecutive: each column is a run of its own.
    runs = height if operation.window.dilation[1] == 1 else height * width
    rows = rows.reshape(outputs, runs, -1)  # (out, runs, taps)
    taps = rows.shape[2]
    full = np.zeros((outputs + -outputs % LANES, runs, taps + -taps % TAPS), np.int8)
    full[:outputs, :, :taps] = rows
    blocks = full.reshape(-1, LANES, runs, full.shape[2] // TAPS, TAPS)
    return np.ascontiguousarray(blocks.transpose(0, 2, 3, 1, 4))  # (blocks, runs, groups, 8, 4)


def choose_chain_lengths(weight: NDArray[np.int8], products: int) -> list[int]:
    """Choose how many groups of taps a kernel with 16-bit lanes adds before it widens the sum to 32 bits.

    The sum of a lane stays within int16 whatever the activations are. For activations 0..255, this holds as long as the
    positive weights of the lane add up to at most 32767 / 255 = 128, and so do the magnitudes of the negative ones. For
    activations -128..127, it holds as long as the magnitudes of all weights add up to at most 32767 / 128 = 255.

    Args:
        weight: int8 (blocks, runs, groups, 8, 4), as `pack_weights` returns it for a convolution of all channels.
        products: the number of products of one group that are added in one lane: 2 (AVX2's `vpmaddubsw`, activations
            0..255) or 4 (NEON's `mla`, activations -128..127).

    Returns:
        The lengths of the chains in groups. A chain ends within its run; the chains follow the order of the runs of
        the last block, then of the block before it, and so on. A length of 0 stands for one group whose products may
        exceed 16 bits, so that they are added in 32 bits at once.
    """
    lengths = []
    limit = 32767 // _ACTIVATION_MAGNITUDES[products]
    for block in weight.astype(np.int64)[::-1]:
        for run in block:  # (groups, 8, 4)
            lanes = run.reshape(len(run), -1, products)
            positive, negative = (np.maximum(sign * lanes, 0).sum(axis=2) for sign in (1, -1))  # (groups, lanes)
            sums = np.stack([positive, negative] if products == 2 else [positive + negative])
            start = 0
            while start < len(run):
                length = 0
                while length < min(_LONGEST_CHAIN[products], len(run) - start):
                    if sums[:, start : start + length + 1].sum(axis=1).max() > limit:
                        break
                    length += 1
                lengths.append(length)
                start += max(length, 1)
    return lengths


def format_float(value: np.float32) -> str:
    """Write a float32 as a C constant that reads back as the same number: nine significant digits suffice."""
    text = f"{float(value):.9g}"
    return f"{text}f" if re.search(r"[.e]", text) else f"{text}.0f"


def _describe(fused: FusedOperation) -> str:
    """Say in a comment what an operation computes, and the shapes of its input and output."""
    operation, window = fused.operation, fused.window
    if isinstance(operation, QuantizedConv2d | MaxPool2d):
        words = "max pool" if isinstance(operation, MaxPool2d) else "convolution"
        words += " {}x{}".format(*window.kernel_size)
        for field, pair, default in (
            ("stride", window.stride, (1, 1)),
            ("padding", window.padding, (0, 0)),
            ("padding after", window.after, window.padding),
            ("dilation", window.dilation, (1, 1)),
        ):
            words += f", {field} {pair[0]}x{pair[1]}" if pair != default else ""
    elif isinstance(operation, Upsample):
        words = "upsample {}x{}".format(*operation.factor)
    else:
        words = operation.function if isinstance(operation, Table) else type(operation).__name__.lower()
    if isinstance(operation, QuantizedConv2d):
        words += f", {operation.groups} groups" if operation.groups > 1 else ""
        words += ", relu" if operation.relu else ""
    words += ", then max pool 2x2" if fused.pool else ""
    *inputs, output = (
        "x".join(map(str, (shape[1], shape[2], shape[0]))) for shape in (*fused.input_shapes, fused.output_shape)
    )
    return f"{words}; {', '.join(inputs)} -> {output} (height x width x channels)"


def _format_multiplier(multiplier: float, ties_away: bool) -> str:
    """Write a multiplier as a float32, and as an integer with a shift."""
    significands, shifts = split_multiplier(np.array([multiplier]))
    return f"EM_MULTIPLIER({format_float(np.float32(multiplier))}, {significands[0]}, {shifts[0]}, {int(ties_away)})"


def _format_weights(weight: NDArray[np.int8], fillers: int) -> list[str]:
    """Write packed weights, one group of taps on a line.

    Args:
        weight: int8, as `pack_weights` returns it.
        fillers: the number of output channels that only fill up the last block, which a macro can leave out.
    """
    if weight.ndim == 4:
        return _join_lines(map(str, weight.ravel()), 24)
    lines = []
    for index, block in enumerate(weight):
        count = fillers if index == len(weight) - 1 else 0
        for group in block.reshape(-1, LANES, TAPS):
            line = ", ".join(map(str, group[: LANES - count].ravel()))
            lines.append(f"{line}," + (f" EM_FILL({' '.join(['EM_NONE'] * count)})" if count else ""))
    return lines


def _join(items: Iterable[object]) -> str:
    """Join the elements of an array into one line."""
    return ", ".join(map(str, items)) + ","


def _join_lines(items: Iterable[str], per_line: int) -> list[str]:
    """Join the elements of an array into lines of `per_line` elements."""
    values = list(items)
    return [", ".join(values[start : start + per_line]) + "," for start in range(0, len(values), per_line)]


def _format_array(element_type: str, name: str, lines: Iterable[str], last: str = "") -> str:
    """Define a constant array; `last` is one more line, or empty."""
    body = "".join(f"    {line}\n" for line in (*lines, last) if line)
    return f"static const {element_type} {name}[] = {{\n{body}}};\n"
