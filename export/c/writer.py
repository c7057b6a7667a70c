"""A quantized graph as C99 without dependencies: `model.c`, which holds everything, and `model.h`, which declares it.

The kernels (c_*.h) are the same for every network and stand in model.c as they are: first the types, after them one
table a layer, then the code. Rows flow through the layers through rings of lines, so that a map is
never whole in memory; a 2x2 max pool is taken of the sums, before they are requantized, which is the same, as
requantization is monotonic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from edge_mnist.export.c.tables import LANES, FusedOperation, format_constants, format_float, fuse_operations
from edge_mnist.formats.table import FORMATS
from edge_mnist.graph.operations import FloatGraph, MaxPool2d, QuantizedGraph, bound_accumulators
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import METADATA_KEY

_KERNELS = ("types.h", "tiles.h", "x86.h", "arm.h", "portable.h", "rows.h")
"""In the order in which they stand in model.c."""

_SLACK = 16
"""Values that vector loads may read, and stores write, beyond a line."""


@dataclass(frozen=True)
class _Ring:
    """The lines between two stages, see em_ring in types.h."""

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


def write_c(graph: FloatGraph | QuantizedGraph) -> bytes:
    """The graph as model.c: uint8 pixels (height, width, channels) of one image to int8 logits (classes,).

    Raises:
        EdgeMnistError: a float graph, or a layer that the kernels cannot compute, by name.
    """
    if isinstance(graph, FloatGraph):
        raise EdgeMnistError("C is written from the quantized network only: export --int8")
    steps = fuse_operations(graph)
    if not steps:
        raise EdgeMnistError("the network has no layers, expected at least one convolution or max pool")
    for stage in steps:
        _check(stage, graph)
    rings = _rings(steps)
    kinds = {stage.kind for stage in steps}
    folder = files("edge_mnist.export.c") / "kernels"
    # The tables come after the types, and before the code that walks through them.
    types, *code = ((folder / name).read_text(encoding="utf-8") for name in _KERNELS)
    terms = FORMATS["c"].make_contract(graph)
    text = _HEAD.format(
        key=METADATA_KEY,
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
    identifiers = graph.identifiers()
    names = [identifiers[stage.operation.name] for stage in steps]
    tables = "\n".join(format_constants(stage, name, graph) for stage, name in zip(steps, names, strict=True))
    records = "".join(_record(stage, name) for stage, name in zip(steps, names, strict=True))
    lines = "".join(_ring_text(ring, name) for ring, name in zip(rings, ["pixels", *names], strict=True))
    joined = (
        f"{text}\n{types}\n{tables}\n"
        f"static const em_layer em_layers[EM_LAYERS] = {{\n{records}}};\n\n"
        f"/* The input's lines, and those of each layer's output. */\n"
        f"static const em_ring em_rings[EM_LAYERS + 1] = {{\n{lines}}};\n\n" + "\n".join([*code, _ENTRY])
    )
    return joined.encode()


def write_header(graph: QuantizedGraph, include_guard: str = "EDGE_MNIST_MODEL_H") -> bytes:
    """The header of model.c: its function, the sizes to call it with, and what the logits mean."""
    channels, height, width = graph.input_shape
    terms = FORMATS["c"].make_contract(graph)
    classes = int(np.prod(graph.shapes()[-1]))
    text = _HEADER.format(
        guard=include_guard,
        height=height,
        width=width,
        channels=channels,
        classes=classes,
        arena=_arena(_rings(fuse_operations(graph))),
        terms=terms,
        scale=format_float(np.float32(terms.output_scale)),
    )
    return text.encode()


def _check(stage: FusedOperation, graph: QuantizedGraph) -> None:
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
    bound = bound_accumulators(operation.weight, operation.bias, stage.entering.zero_point)
    multiplier = graph.multipliers()[operation.name].astype(np.float64)
    if (bound * multiplier >= 2.0**30).any() or (multiplier < 2.0**-30).any():
        raise EdgeMnistError(
            f"{operation.name}: a multiplier of {multiplier.max():g} takes sums of up to {bound.max()} out of the "
            "range of the C kernels (2^-30 and more, products below 2^30)"
        )


def _rings(steps: Sequence[FusedOperation]) -> list[_Ring]:
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


def _runs(stage: FusedOperation) -> int:
    """Pointers that em_conv_row needs."""
    window = stage.operation.window
    columns = 1 if window.dilation[1] == 1 else window.kernel_size[1]
    return window.kernel_size[0] * columns * (2 if stage.pool else 1)


def _record(stage: FusedOperation, name: str) -> str:
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


def _ring_text(ring: _Ring, name: str) -> str:
    numbers = (ring.at, ring.line, ring.slots, ring.height, ring.width, ring.beside, int(ring.below), ring.zero)
    return f"    {{{', '.join(map(str, numbers))}}}, /* {name} */\n"


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
