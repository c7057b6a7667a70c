"""What a model.c holds of each layer: the kernel that computes it, its constants in the order that the kernel reads."""

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
"""Output channels and taps that the kernels take at a time."""

_LONGEST_CHAIN = {2: 4, 4: 16}
"""By products of a group that fall into one 16-bit lane: the groups of taps that a kernel adds there at the most."""


@dataclass(frozen=True)
class FusedOperation:
    """What is computed row by row in one go: a convolution, also with the 2x2 max pool after it, or a max pool.

    Attributes:
        operation: the convolution or max pool.
        pool: the max pool that is taken of the convolution's sums.
        source: shape of the input.
        target: shape of the output, after the pool.
        entering: quantization of the input.
        leaving: quantization of the output.
    """

    operation: QuantizedConv2d | MaxPool2d
    pool: MaxPool2d | None
    source: MapShape
    target: MapShape
    entering: Quantization
    leaving: Quantization

    @property
    def kind(self) -> str:
        """The kernel, as c_types.h calls it."""
        if isinstance(self.operation, MaxPool2d):
            return "EM_POOL"
        if self.operation.groups > 1:
            return "EM_GROUPED"
        return "EM_CONV_POOL" if self.pool else "EM_CONV"

    @property
    def rows(self) -> int:
        """Rows of the input that a row of the output sees."""
        window = self.operation.window
        return window.extent[0] + (window.stride[0] if self.pool else 0)


def fuse_operations(graph: QuantizedGraph) -> tuple[FusedOperation, ...]:
    """The operations of a graph, with each max pool that can be taken of a convolution's sums joined to it."""
    found: list[FusedOperation] = []
    shapes, quantizations = graph.shapes(), graph.quantizations()
    for index, operation in enumerate(graph.operations):
        source, target = shapes[index], shapes[index + 1]
        last = found[-1] if found else None
        if isinstance(operation, MaxPool2d) and operation.window == Window((2, 2), (2, 2)) and last:
            if last.kind == "EM_CONV":
                found[-1] = replace(last, pool=operation, target=target)
                continue
        found.append(FusedOperation(operation, None, source, target, quantizations[index], quantizations[index + 1]))
    return tuple(found)


def format_constants(stage: FusedOperation, name: str, graph: QuantizedGraph) -> str:
    """The constants of a stage, with a comment that says what it computes."""
    operation = stage.operation
    title = f"/* {name}: {_described(stage)} */\n"
    if isinstance(operation, MaxPool2d):
        return title
    weight = pack_weights(operation)
    padded = len(operation.weight) if stage.kind == "EM_GROUPED" else -(-len(operation.weight) // LANES) * LANES
    sums = operation.weight.astype(np.int64).reshape(len(operation.weight), -1).sum(axis=1)
    biases = operation.bias - (stage.entering.zero_point + 128) * sums  # activations are kept as q + 128
    multipliers = graph.multipliers()[operation.name]
    significands, shifts = split_multiplier(multipliers)
    away = rounds_ties_away(operation)
    none = padded - len(biases)  # channels that fill up the last eight, see EM_FILL
    bias_items = [f"EM_BIAS({b}, {s})" for b, s in zip(biases, sums, strict=True)]
    fill = "EM_FILL(EM_NONE EM_NONE)" if none else ""
    multiplier_items = [
        f"EM_MULTIPLIER({format_float(m)}, {q}, {s}, {int(t)})"
        for m, q, s, t in zip(multipliers, significands, shifts, away, strict=True)
    ]
    text = title
    text += _array("em_weight", f"{name}_weight", _weight_lines(weight, none))
    text += _array("int32_t", f"{name}_bias", _lines(bias_items, 4), fill)
    text += _array("em_multiplier", f"{name}_multiplier", _lines(multiplier_items, 2), fill)
    if stage.kind != "EM_GROUPED":
        pairs, singles = (
            _array("uint8_t", f"{name}_chain", _lines(map(str, choose_chain_lengths(weight, n)), 24)) for n in (2, 4)
        )
        text += f"#if EM_CHAIN == 2\n{pairs}#elif EM_CHAIN == 4\n{singles}#endif\n"
    return text


def pack_weights(operation: QuantizedConv2d) -> NDArray[np.int8]:
    """Weights in the order in which a kernel reads them.

    Returns:
        int8 (blocks of 8 outputs, runs, groups of 4 taps, 8, 4), filled up with zeros; with groups of channels
        (outputs, kernel height, kernel width, inputs) as it is.
    """
    rows = operation.weight.transpose(0, 2, 3, 1)  # (out, kernel height, kernel width, in / groups)
    if operation.groups > 1:
        return np.ascontiguousarray(rows)
    outputs, height, width, channels = rows.shape
    runs = height if operation.window.dilation[1] == 1 else height * width
    rows = rows.reshape(outputs, runs, -1)
    full = np.zeros((-(-outputs // LANES) * LANES, runs, -(-rows.shape[2] // TAPS) * TAPS), np.int8)
    full[:outputs, :, : rows.shape[2]] = rows
    blocks = full.reshape(-1, LANES, runs, full.shape[2] // TAPS, TAPS)
    return np.ascontiguousarray(blocks.transpose(0, 2, 3, 1, 4))


def choose_chain_lengths(weight: NDArray[np.int8], taps: int) -> list[int]:
    """How many groups of taps may be added in 16 bits before the sum is widened, for a kernel with 16-bit lanes.

    Whatever the activations are, a lane's sum stays within int16: of activations 0..255 while its positive weights add
    up to 32767 / 255 = 128 at the most, and its negative ones too; of activations -128..127 while the magnitudes of its
    weights add up to 32767 / 128 = 255 at the most.

    Args:
        weight: as `pack_weights` gives it, without groups of channels.
        taps: products of one group that fall into one lane: 2 (`vpmaddubsw`, activations 0..255) or 4 (`mla`,
            activations -128..127).

    Returns:
        The lengths of the chains, each within a run, in the order of the runs of the last block, then of the one before
        it. 0 stands for one group whose products may leave 16 bits.
    """
    lengths = []
    for block in weight.astype(np.int64)[::-1]:
        for run in block:  # (groups, 8, 4)
            lanes = run.reshape(len(run), -1, taps)
            positive, negative = (np.maximum(sign * lanes, 0).sum(axis=2) for sign in (1, -1))  # (groups, lanes)
            sums = np.stack([positive, negative] if taps == 2 else [positive + negative])
            limit = 32767 // (255 if taps == 2 else 128)
            start = 0
            while start < len(run):
                length = 0
                while length < min(_LONGEST_CHAIN[taps], len(run) - start):
                    if sums[:, start : start + length + 1].sum(axis=1).max() > limit:
                        break
                    length += 1
                lengths.append(length)
                start += max(length, 1)
    return lengths


def _described(stage: FusedOperation) -> str:
    """What a stage computes, in words and shapes."""
    operation, window = stage.operation, stage.operation.window
    words = "max pool" if isinstance(operation, MaxPool2d) else "convolution"
    words += " {}x{}".format(*window.kernel_size)
    for what, pair, usual in (
        ("stride", window.stride, (1, 1)),
        ("padding", window.padding, (0, 0)),
        ("dilation", window.dilation, (1, 1)),
    ):
        words += f", {what} {pair[0]}x{pair[1]}" if pair != usual else ""
    if not isinstance(operation, MaxPool2d):
        words += f", {operation.groups} groups" if operation.groups > 1 else ""
        words += ", relu" if operation.relu else ""
    words += ", then max pool 2x2" if stage.pool else ""
    shapes = ("x".join(map(str, (shape[1], shape[2], shape[0]))) for shape in (stage.source, stage.target))
    return f"{words}; {' -> '.join(shapes)} (height x width x channels)"


def _weight_lines(weight: NDArray[np.int8], none: int) -> list[str]:
    """Weights as `pack_weights` gives them, a group of taps on a line; the last `none` of its outputs apart."""
    if weight.ndim == 4:
        return _lines(map(str, weight.ravel()), 24)
    lines = []
    for index, block in enumerate(weight):
        fill = none if index == len(weight) - 1 else 0
        for group in block.reshape(-1, LANES, TAPS):
            line = ", ".join(map(str, group[: LANES - fill].ravel()))
            lines.append(f"{line}," + (f" EM_FILL({' '.join(['EM_NONE'] * fill)})" if fill else ""))
    return lines


def _lines(items: Iterable[str], each: int) -> list[str]:
    """Items of an array, `each` of them a line."""
    values = list(items)
    return [", ".join(values[start : start + each]) + "," for start in range(0, len(values), each)]


def _array(kind: str, name: str, lines: Iterable[str], last: str = "") -> str:
    """The definition of a constant array."""
    return f"static const {kind} {name}[] = {{\n" + "".join(f"    {line}\n" for line in (*lines, last) if line) + "};\n"


def format_float(value: np.float32) -> str:
    """A float32 as a C constant that reads back as itself: nine significant digits suffice."""
    text = f"{float(value):.9g}"
    return f"{text}f" if re.search(r"[.e]", text) else f"{text}.0f"
