"""A quantized graph as C99 without dependencies: `model.c`, which holds everything, and `model.h`, which declares it.

The kernels (c_kernels.h) are the same for every network and stand in model.c as they are; before them stand the sizes
that they need, after them one table a layer. Rows flow through the layers through rings of lines, so that a map is
never whole in memory; a 2x2 max pool is taken of the sums, before they are requantized, which is the same, as
requantization is monotonic.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from edge_mnist.arithmetic import fixed_point_multiplier
from edge_mnist.contract import KEY, Contract, contract
from edge_mnist.errors import EdgeMnistError
from edge_mnist.graph import (
    FloatGraph,
    MaxPool2d,
    Quantization,
    QuantizedConv2d,
    QuantizedGraph,
    Shape,
    Window,
    accumulator_bound,
)
from edge_mnist.interpreter import ties_away

LANES, TAPS = 8, 4
"""Output channels and taps that the kernels take at a time."""

_LONGEST_CHAIN = {2: 4, 4: 16}
"""By products of a group that fall into one 16-bit lane: the groups of taps that a kernel adds there at the most."""

_SLACK = 16
"""Values that vector loads may read, and stores write, beyond a line."""


@dataclass(frozen=True)
class Stage:
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
    source: Shape
    target: Shape
    entering: Quantization
    leaving: Quantization

    @property
    def kind(self) -> str:
        """The kernel, as c_kernels.h calls it."""
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


@dataclass(frozen=True)
class _Ring:
    """The lines between two stages, see em_ring in c_kernels.h."""

    at: int
    line: int
    slots: int
    height: int
    width: int
    beside: int
    below: bool
    zero: int

    @property
    def end(self) -> int:
        return self.at + self.line * (self.slots + self.below)


def stages(graph: QuantizedGraph) -> tuple[Stage, ...]:
    """The operations of a graph, with each max pool that can be taken of a convolution's sums joined to it."""
    found: list[Stage] = []
    shapes, quantizations = graph.shapes(), graph.quantizations()
    for index, operation in enumerate(graph.operations):
        source, target = shapes[index], shapes[index + 1]
        last = found[-1] if found else None
        if isinstance(operation, MaxPool2d) and operation.window == Window((2, 2), (2, 2)) and last:
            if last.kind == "EM_CONV":
                found[-1] = replace(last, pool=operation, target=target)
                continue
        found.append(Stage(operation, None, source, target, quantizations[index], quantizations[index + 1]))
    return tuple(found)


def c_contract(graph: QuantizedGraph) -> Contract:
    """The contract of model.c: uint8 pixels (height, width, channels) in, int8 logits out."""
    signed = contract(graph, "int8", "NHWC")
    return replace(signed, input_type="uint8")


def write_c(graph: FloatGraph | QuantizedGraph) -> bytes:
    """The graph as model.c: uint8 pixels (height, width, channels) of one image to int8 logits (classes,).

    Raises:
        EdgeMnistError: a float graph, or a layer that the kernels cannot compute, by name.
    """
    if isinstance(graph, FloatGraph):
        raise EdgeMnistError("C is written from the quantized network only: export --int8")
    steps = stages(graph)
    if not steps:
        raise EdgeMnistError("the network has no layers, expected at least one convolution or max pool")
    for stage in steps:
        _check(stage, graph)
    rings = _rings(steps)
    kinds = {stage.kind for stage in steps}
    kernels = (files("edge_mnist.export") / "c_kernels.h").read_text(encoding="utf-8")
    # The tables come after the types, and before the code that walks through them.
    types, code = kernels.split("/* Requantization of one sum. */")
    terms = c_contract(graph)
    text = _HEAD.format(
        key=KEY,
        contract=terms.to_json(),
        layers=len(steps),
        rows=max(stage.rows for stage in steps),
        runs=max(_runs(stage) for stage in steps),
        grouped=int("EM_GROUPED" in kinds),
        pool=int("EM_POOL" in kinds),
        conv_pool=int("EM_CONV_POOL" in kinds),
        arena=_arena(rings),
        convolutions=" ".join(f"DO({i})" for i, stage in enumerate(steps) if stage.kind.startswith("EM_CONV")),
        terms=terms,
    )
    tables = "\n".join(_table(stage, name, graph) for stage, name in zip(steps, _names(steps), strict=True))
    records = "".join(_record(stage, name) for stage, name in zip(steps, _names(steps), strict=True))
    lines = "".join(_ring_text(ring, stage) for ring, stage in zip(rings, [None, *steps], strict=True))
    joined = (
        f"{text}\n{types}{tables}\n"
        f"static const em_layer em_layers[EM_LAYERS] = {{\n{records}}};\n\n"
        f"/* The input's lines, and those of each layer's output. */\n"
        f"static const em_ring em_rings[EM_LAYERS + 1] = {{\n{lines}}};\n\n"
        f"/* Requantization of one sum. */{code}\n{_ENTRY}"
    )
    return joined.encode()


def write_header(graph: QuantizedGraph, include_guard: str = "EDGE_MNIST_MODEL_H") -> bytes:
    """The header of model.c: its function, the sizes to call it with, and what the logits mean."""
    channels, height, width = graph.input_shape
    terms = c_contract(graph)
    classes = int(np.prod(graph.shapes()[-1]))
    text = _HEADER.format(
        guard=include_guard,
        height=height,
        width=width,
        channels=channels,
        classes=classes,
        arena=_arena(_rings(stages(graph))),
        terms=terms,
        scale=_real(np.float32(terms.output_scale)),
    )
    return text.encode()


def _check(stage: Stage, graph: QuantizedGraph) -> None:
    """Refuse what the kernels' integers cannot hold."""
    operation = stage.operation
    window = operation.window
    for number in (*window.kernel_size, *window.stride, *window.dilation, *window.padding):
        if number > 255:
            raise EdgeMnistError(f"{operation.name}: the C kernels take windows of up to 255, found {number}")
    for channels, height, width in (stage.source, stage.target):
        if max(channels, height, (width + 2 * window.padding[1]) * channels) > 32767:
            raise EdgeMnistError(
                f"{operation.name}: the C kernels take lines of up to 32767 values, found {width} times {channels}"
            )
    if isinstance(operation, MaxPool2d):
        return
    bound = accumulator_bound(operation.weight, operation.bias, stage.entering.zero_point)
    multiplier = graph.multipliers()[operation.name].astype(np.float64)
    if (bound * multiplier >= 2.0**30).any() or (multiplier < 2.0**-30).any():
        raise EdgeMnistError(
            f"{operation.name}: a multiplier of {multiplier.max():g} takes sums of up to {bound.max()} out of the "
            "range of the C kernels (2^-30 and more, products below 2^30)"
        )


def _rings(steps: Sequence[Stage]) -> list[_Ring]:
    """The rings of lines before, between and after the stages, one after the other in the arena."""
    rings: list[_Ring] = []
    shapes = [steps[0].source, *(stage.target for stage in steps)]
    for index, (channels, height, width) in enumerate(shapes):
        reader = steps[index] if index < len(steps) else None
        down, right = reader.operation.window.padding if reader else (0, 0)
        slots = min(reader.rows, height) if reader else height
        beside = right * channels
        zero = 0
        if reader and reader.kind != "EM_POOL":  # what lies outside a max pool's map never wins: 0 is the smallest
            zero = reader.entering.zero_point + 128
        line = -(-(width * channels + 2 * beside + LANES) // 4) * 4
        at = rings[-1].end if rings else 0
        rings.append(_Ring(at, line, slots, height, width * channels, beside, down > 0, zero))
    return rings


def _arena(rings: Sequence[_Ring]) -> int:
    """Values that the arena holds."""
    return rings[-1].end + _SLACK


def _runs(stage: Stage) -> int:
    """Pointers that em_conv_row needs."""
    window = stage.operation.window
    columns = 1 if window.dilation[1] == 1 else window.kernel_size[1]
    return window.kernel_size[0] * columns * (2 if stage.pool else 1)


def _names(steps: Sequence[Stage]) -> list[str]:
    """A name in C for each stage: the layer's, if C allows it."""
    names: list[str] = []
    for index, stage in enumerate(steps):
        name = re.sub(r"\W", "_", stage.operation.name, flags=re.ASCII)
        names.append(f"layer{index}_{name}" if not name[:1].isalpha() or name in names else name)
    return names


def _table(stage: Stage, name: str, graph: QuantizedGraph) -> str:
    """The constants of a stage, with a comment that says what it computes."""
    operation = stage.operation
    title = f"/* layer {operation.name.replace('*/', '')}: {_described(stage)} */\n"
    if isinstance(operation, MaxPool2d):
        return title
    weight = packed(operation)
    padded = len(operation.weight) if stage.kind == "EM_GROUPED" else -(-len(operation.weight) // LANES) * LANES
    sums = operation.weight.astype(np.int64).reshape(len(operation.weight), -1).sum(axis=1)
    biases = operation.bias - (stage.entering.zero_point + 128) * sums  # activations are kept as q + 128
    multipliers = graph.multipliers()[operation.name]
    significands, shifts = fixed_point_multiplier(multipliers)
    away = ties_away(operation)
    none = padded - len(biases)  # channels that fill up the last eight, see EM_FILL
    bias_items = [f"EM_BIAS({b}, {s})" for b, s in zip(biases, sums, strict=True)]
    fill = "EM_FILL(EM_NONE EM_NONE)" if none else ""
    multiplier_items = [
        f"EM_MULTIPLIER({_real(m)}, {q}, {s}, {int(t)})"
        for m, q, s, t in zip(multipliers, significands, shifts, away, strict=True)
    ]
    text = title
    text += _array("em_weight", f"{name}_weight", _weight_lines(weight, none))
    text += _array("int32_t", f"{name}_bias", _lines(bias_items, 4), fill)
    text += _array("em_multiplier", f"{name}_multiplier", _lines(multiplier_items, 2), fill)
    if stage.kind != "EM_GROUPED":
        pairs, singles = (_array("uint8_t", f"{name}_chain", _lines(map(str, chains(weight, n)), 24)) for n in (2, 4))
        text += f"#if EM_CHAIN == 2\n{pairs}#elif EM_CHAIN == 4\n{singles}#endif\n"
    return text


def packed(operation: QuantizedConv2d) -> NDArray[np.int8]:
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


def chains(weight: NDArray[np.int8], taps: int) -> list[int]:
    """How many groups of taps may be added in 16 bits before the sum is widened, for a kernel with 16-bit lanes.

    Whatever the activations are, a lane's sum stays within int16: of activations 0..255 while its positive weights add
    up to 32767 / 255 = 128 at the most, and its negative ones too; of activations -128..127 while the magnitudes of its
    weights add up to 32767 / 128 = 255 at the most.

    Args:
        weight: as `packed` gives it, without groups of channels.
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


def _record(stage: Stage, name: str) -> str:
    """One element of em_layers."""
    window = stage.operation.window
    is_pool = isinstance(stage.operation, MaxPool2d)
    tables = "0, 0, 0, 0"
    if not is_pool:
        chain = "0" if stage.kind == "EM_GROUPED" else f"EM_CHAIN_OF({name}_chain)"
        tables = f"{name}_weight, {name}_bias, {name}_multiplier, {chain}"
    numbers = (
        *(*window.kernel_size, *window.stride, *window.dilation, window.padding[0]),
        *(stage.target[1], stage.target[2], stage.source[0], stage.target[0], stage.leaving.zero_point + 128),
        1 if isinstance(stage.operation, MaxPool2d) else stage.operation.groups,
    )
    return f"    {{{stage.kind}, {', '.join(map(str, numbers))}, {tables}}},\n"


def _ring_text(ring: _Ring, stage: Stage | None) -> str:
    numbers = (ring.at, ring.line, ring.slots, ring.height, ring.width, ring.beside, int(ring.below), ring.zero)
    return f"    {{{', '.join(map(str, numbers))}}}, /* {stage.operation.name if stage else 'pixels'} */\n"


def _described(stage: Stage) -> str:
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
    """Weights as `packed` gives them, a group of taps on a line; the last `none` of its outputs apart."""
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


def _real(value: np.float32) -> str:
    """A float32 as a C constant that reads back as itself: nine significant digits suffice."""
    text = f"{float(value):.9g}"
    return f"{text}f" if re.search(r"[.e]", text) else f"{text}.0f"


_HEAD = """\
/* {key}: {contract} */
/*
 * A quantized network as dependency-free C99, written by edge-mnist. It computes the same int8 logits, bit for bit, as
 * the model's other formats. Weights are constants, for flash; nothing is allocated; calls with different arenas may
 * run at the same time. model.h declares:
 *
 *     int edge_mnist_run(const uint8_t *pixels, int8_t *logits, void *arena, size_t arena_size)
 *
 * pixels are uint8 (height, width, channels), 0 the background and 255 the pen; a logit is {terms.output_scale:g} * the
 * int8. The result is the class, that is the position of the largest logit, or a negative error.
 *
 * Define EDGE_MNIST_PORTABLE to leave out vector instructions, EDGE_MNIST_FIXED_POINT to leave out floating point (the
 * logits are then those of TensorFlow Lite's own kernels, which round otherwise); it is so by itself on ARM and RISC-V
 * without a float unit.
 */
#include <stdint.h>
#include <string.h>

#define EM_LAYERS {layers}
#define EM_ROWS {rows} /* of an input that a row of an output sees, at the most */
#define EM_RUNS {runs} /* of consecutive values that it sees */
#define EM_ARENA {arena} /* values */
#define EM_HAS_GROUPED {grouped}
#define EM_HAS_POOL {pool}
#define EM_HAS_CONV_POOL {conv_pool}
#define EM_CONVOLUTIONS(DO) {convolutions} /* the layers that are convolutions of all channels */
"""

_ENTRY = """\
#ifdef __cplusplus
extern "C" {
#endif
int edge_mnist_run(const uint8_t *pixels, int8_t *logits, void *arena, size_t arena_size);
#ifdef __cplusplus
}
#endif

int edge_mnist_run(const uint8_t *pixels, int8_t *logits, void *arena, size_t arena_size) {
    const size_t odd = (size_t)((uintptr_t)arena & 3); /* up to 3 bytes are left out to align it */
    const size_t needed = EM_ARENA * sizeof(em_value);
    if (!pixels || !logits || !arena) return -1;
    if (arena_size < needed + (odd ? 4 - odd : 0)) return -2;
    return em_run(pixels, logits, (em_value *)(void *)((uint8_t *)arena + (odd ? 4 - odd : 0)));
}
"""

_HEADER = """\
/* The network of model {terms.model}, quantized to int8; written by edge-mnist. C and C++ may include it. */
#ifndef {guard}
#define {guard}

#include <stddef.h>
#include <stdint.h>

#define EDGE_MNIST_MODEL "{terms.model}"
#define EDGE_MNIST_HEIGHT {height}
#define EDGE_MNIST_WIDTH {width}
#define EDGE_MNIST_CHANNELS {channels}
#define EDGE_MNIST_CLASSES {classes}
#define EDGE_MNIST_LOGIT_SCALE {scale} /* a logit is this times its int8 */

/* Bytes of working memory; activations take two bytes each where 64-bit ARM has no dot product. */
#if defined(__aarch64__)
#define EDGE_MNIST_ARENA_SIZE (2 * {arena} + 4)
#else
#define EDGE_MNIST_ARENA_SIZE ({arena} + 4)
#endif

#define EDGE_MNIST_NULL_POINTER (-1)
#define EDGE_MNIST_ARENA_TOO_SMALL (-2)

#ifdef __cplusplus
extern "C" {{
#endif

/*
 * Reads a digit.
 *   pixels      uint8 (height, width, channels): 0 is the background, 255 the pen; no normalisation
 *   logits      int8 (classes), written
 *   arena       working memory of EDGE_MNIST_ARENA_SIZE bytes, whose content does not matter before or after
 * Returns the class, 0 .. EDGE_MNIST_CLASSES - 1, or EDGE_MNIST_NULL_POINTER or EDGE_MNIST_ARENA_TOO_SMALL.
 */
int edge_mnist_run(const uint8_t *pixels, int8_t *logits, void *arena, size_t arena_size);

#ifdef __cplusplus
}}
#endif

#endif
"""
