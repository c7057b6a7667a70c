"""What model.c holds for each layer: the kernel that computes it, and its constants in the order that this reads."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_mnist.graph.arithmetic import split_multiplier
from edge_mnist.graph.geometry import MapShape, Window
from edge_mnist.graph.interpreter import rounds_ties_away
from edge_mnist.graph.operations import MaxPool2d, Quantization, QuantizedConv2d, QuantizedGraph

LANES, TAPS = 8, 4
"""Output channels, and taps (weights of one output channel), in each group of weights that the kernels load at once."""

_LONGEST_CHAIN = {2: 4, 4: 16}
"""The most groups of taps that a kernel adds in 16 bits, by the number of products of a group in one 16-bit lane.

The first is that of the AVX2 kernel in x86.h, the second that of the NEON kernel in arm.h.
"""

_ACTIVATION_MAGNITUDES = {2: 255, 4: 128}
"""The largest magnitude of an activation, by the number of products of a group in one 16-bit lane."""


@dataclass(frozen=True)
class FusedOperation:
    """What one kernel call computes: a convolution, which may include the 2x2 max pool after it, or a max pool.

    Attributes:
        operation: the convolution or the max pool.
        pool: the max pool that is taken of the convolution's sums, if there is one.
        input_shape: channels, height and width of the input.
        output_shape: channels, height and width of the output, after `pool`.
        input_quantization: the quantization of the input.
        output_quantization: the quantization of the output.
    """

    operation: QuantizedConv2d | MaxPool2d
    pool: MaxPool2d | None
    input_shape: MapShape
    output_shape: MapShape
    input_quantization: Quantization
    output_quantization: Quantization

    @property
    def kernel(self) -> str:
        """The kernel by its name in types.h."""
        if isinstance(self.operation, MaxPool2d):
            return "EM_POOL"
        if self.operation.groups > 1:
            return "EM_GROUPED"
        return "EM_CONV_POOL" if self.pool else "EM_CONV"

    @property
    def input_rows(self) -> int:
        """The number of input rows from which one output row is computed."""
        window = self.operation.window
        return window.extent[0] + (window.stride[0] if self.pool else 0)


def fuse_operations(graph: QuantizedGraph) -> tuple[FusedOperation, ...]:
    """Join each max pool that can be taken of a convolution's sums to that convolution.

    That is exact because requantization is monotonic: the largest sum becomes the largest output.
    """
    fused: list[FusedOperation] = []
    shapes, quantizations = graph.shapes(), graph.quantizations()
    for index, operation in enumerate(graph.operations):
        previous = fused[-1] if fused else None
        if isinstance(operation, MaxPool2d) and operation.window == Window((2, 2), (2, 2)) and previous:
            if previous.kernel == "EM_CONV":
                fused[-1] = replace(previous, pool=operation, output_shape=shapes[index + 1])
                continue
        (shape, next_shape), (source, target) = shapes[index : index + 2], quantizations[index : index + 2]
        fused.append(FusedOperation(operation, None, shape, next_shape, source, target))
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
    if isinstance(operation, MaxPool2d):
        return text
    weight = pack_weights(operation)
    outputs = len(operation.weight)
    fillers = 0 if fused.kernel == "EM_GROUPED" else -outputs % LANES  # see EM_FILL in types.h
    sums = operation.weight.astype(np.int64).reshape(outputs, -1).sum(axis=1)  # (out,)
    # The kernels keep an activation q as q + 128.
    biases = operation.bias - (fused.input_quantization.zero_point + 128) * sums
    multipliers = graph.multipliers()[operation.name]
    significands, shifts = split_multiplier(multipliers)
    away = rounds_ties_away(operation)
    bias_items = [f"EM_BIAS({b}, {s})" for b, s in zip(biases, sums, strict=True)]
    fill = "EM_FILL(EM_NONE EM_NONE)" if fillers else ""
    multiplier_items = [
        f"EM_MULTIPLIER({format_float(m)}, {q}, {s}, {int(t)})"
        for m, q, s, t in zip(multipliers, significands, shifts, away, strict=True)
    ]
    text += _format_array("em_weight", f"{name}_weight", _format_weights(weight, fillers))
    text += _format_array("int32_t", f"{name}_bias", _join_lines(bias_items, 4), fill)
    text += _format_array("em_multiplier", f"{name}_multiplier", _join_lines(multiplier_items, 2), fill)
    if fused.kernel != "EM_GROUPED":
        of_two, of_four = (
            _format_array("uint8_t", f"{name}_chain", _join_lines(map(str, choose_chain_lengths(weight, products)), 24))
            for products in (2, 4)
        )
        text += f"#if EM_CHAIN == 2\n{of_two}#elif EM_CHAIN == 4\n{of_four}#endif\n"
    return text


def pack_weights(operation: QuantizedConv2d) -> NDArray[np.int8]:
    """Arrange the weights in the order in which the kernel of a convolution reads them.

    Returns:
        int8 (blocks of 8 output channels, runs, groups of 4 taps, 8, 4), filled up with zeros. The weights of a
        convolution with groups of channels are not packed: (out, kernel height, kernel width, in / groups).
    """
    rows = operation.weight.transpose(0, 2, 3, 1)  # (out, kernel height, kernel width, in / groups)
    if operation.groups > 1:
        return np.ascontiguousarray(rows)
    outputs, height, width, _channels = rows.shape
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
    operation, window = fused.operation, fused.operation.window
    words = "max pool" if isinstance(operation, MaxPool2d) else "convolution"
    words += " {}x{}".format(*window.kernel_size)
    for field, pair, default in (
        ("stride", window.stride, (1, 1)),
        ("padding", window.padding, (0, 0)),
        ("dilation", window.dilation, (1, 1)),
    ):
        words += f", {field} {pair[0]}x{pair[1]}" if pair != default else ""
    if not isinstance(operation, MaxPool2d):
        words += f", {operation.groups} groups" if operation.groups > 1 else ""
        words += ", relu" if operation.relu else ""
    words += ", then max pool 2x2" if fused.pool else ""
    shapes = ("x".join(map(str, (shape[1], shape[2], shape[0]))) for shape in (fused.input_shape, fused.output_shape))
    return f"{words}; {' -> '.join(shapes)} (height x width x channels)"


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


def _join_lines(items: Iterable[str], per_line: int) -> list[str]:
    """Join the elements of an array into lines of `per_line` elements."""
    values = list(items)
    return [", ".join(values[start : start + per_line]) + "," for start in range(0, len(values), per_line)]


def _format_array(element_type: str, name: str, lines: Iterable[str], last: str = "") -> str:
    """Define a constant array; `last` is one more line, or empty."""
    body = "".join(f"    {line}\n" for line in (*lines, last) if line)
    return f"static const {element_type} {name}[] = {{\n{body}}};\n"
