"""A quantized network as C99 without dependencies: `model.c`, which is complete, and `model.h`, which declares it.

The kernels (kernels/*.h) are the same for every network and are copied into model.c unchanged: first the types, then
the tables of the network, then the code. Each layer keeps only the last few rows of its input, in a ring buffer, and
computes a row of its output as soon as it can: no feature map is ever complete in memory. A 2x2 max pool is taken of a
convolution's sums, before they are requantized.
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
"""The files of the kernels in the order in which model.c needs them."""

_SLACK = 16
"""Values by which vector instructions may read or write beyond the end of a line: one 128-bit register of bytes."""


@dataclass(frozen=True)
class _Ring:
    """The ring buffer of the rows between two layers. The fields are those of em_ring in types.h, which explains them.

    All counts are of values, not bytes.
    """

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
        """Where the next ring buffer may start in the arena."""
        return self.at + self.line * (self.slots + self.below)


def write_c(graph: FloatGraph | QuantizedGraph) -> bytes:
    """Write a graph as model.c, which computes int8 logits (classes,) of one image, uint8 (height, width, channels).

    Raises:
        EdgeMnistError: the graph is a float graph, or has a layer that the kernels cannot compute; it is named.
    """
    if isinstance(graph, FloatGraph):
        raise EdgeMnistError("C is written from the quantized network only: export --int8")
    operations = fuse_operations(graph)
    if not operations:
        raise EdgeMnistError("the network has no layers, expected at least one convolution or max pool")
    for fused in operations:
        _check_limits(fused, graph)
    rings = _place_rings(operations)
    used_kernels = {fused.kernel for fused in operations}
    folder = files("edge_mnist.export.c") / "kernels"
    # The tables need the types, and the code needs the tables.
    types, *code = ((folder / name).read_text(encoding="utf-8") for name in _KERNELS)
    contract = FORMATS["c"].make_contract(graph)
    start = _SOURCE_START.format(
        key=METADATA_KEY,
        contract=contract.to_json(),
        layers=len(operations),
        rows=max(fused.input_rows for fused in operations),
        runs=max(_count_runs(fused) for fused in operations),
        grouped=int("EM_GROUPED" in used_kernels),
        pool=int("EM_POOL" in used_kernels),
        conv_pool=int("EM_CONV_POOL" in used_kernels),
        arena=_count_arena_values(rings),
        convolutions=" ".join(f"DO({i})" for i, fused in enumerate(operations) if fused.kernel.startswith("EM_CONV")),
        terms=contract,
    )
    identifiers = graph.identifiers()
    names = [identifiers[fused.operation.name] for fused in operations]
    constants = "\n".join(format_constants(fused, name, graph) for fused, name in zip(operations, names, strict=True))
    layers = "".join(_format_layer(fused, name) for fused, name in zip(operations, names, strict=True))
    lines = "".join(_format_ring(ring, name) for ring, name in zip(rings, ["pixels", *names], strict=True))
    source = (
        f"{start}\n{types}\n{constants}\n"
        f"static const em_layer em_layers[EM_LAYERS] = {{\n{layers}}};\n\n"
        f"/* The input's lines, and those of each layer's output. */\n"
        f"static const em_ring em_rings[EM_LAYERS + 1] = {{\n{lines}}};\n\n" + "\n".join([*code, _SOURCE_END])
    )
    return source.encode()


def write_header(graph: QuantizedGraph, include_guard: str = "EDGE_MNIST_MODEL_H") -> bytes:
    """Write model.h: the function of model.c, the sizes of its arguments, and the scale of the logits."""
    channels, height, width = graph.input_shape
    contract = FORMATS["c"].make_contract(graph)
    text = _HEADER.format(
        guard=include_guard,
        height=height,
        width=width,
        channels=channels,
        classes=int(np.prod(graph.shapes()[-1])),
        arena=_count_arena_values(_place_rings(fuse_operations(graph))),
        terms=contract,
        scale=format_float(np.float32(contract.output_scale)),
    )
    return text.encode()


def _check_limits(fused: FusedOperation, graph: QuantizedGraph) -> None:
    """Refuse a layer with numbers that the integer types of the kernels cannot hold."""
    operation = fused.operation
    window = operation.window
    for number in (*window.kernel_size, *window.stride, *window.dilation, *window.padding):
        if number > 255:
            raise EdgeMnistError(f"{operation.name}: the C kernels take windows of up to 255, found {number}")
    for channels, height, width in (fused.input_shape, fused.output_shape):
        if max(channels, height, (width + 2 * window.padding[1]) * channels) > 32767:
            raise EdgeMnistError(
                f"{operation.name}: the C kernels take lines of up to 32767 values, found {width} times {channels}"
            )
    if isinstance(operation, MaxPool2d):
        return
    bound = bound_accumulators(operation.weight, operation.bias, fused.input_quantization.zero_point)
    multiplier = graph.multipliers()[operation.name].astype(np.float64)
    if (bound * multiplier >= 2.0**30).any() or (multiplier < 2.0**-30).any():
        raise EdgeMnistError(
            f"{operation.name}: a multiplier of {multiplier.max():g} takes sums of up to {bound.max()} out of the "
            "range of the C kernels (2^-30 and more, products below 2^30)"
        )


def _place_rings(operations: Sequence[FusedOperation]) -> list[_Ring]:
    """Place the ring buffers of the input and of each operation's output in the arena, one after the other."""
    rings: list[_Ring] = []
    shapes = [operations[0].input_shape, *(fused.output_shape for fused in operations)]
    for index, (channels, height, width) in enumerate(shapes):
        reader = operations[index] if index < len(operations) else None  # what reads the rows; nothing reads the logits
        down, right = reader.operation.window.padding if reader else (0, 0)
        slots = min(reader.input_rows, height) if reader else height
        beside = right * channels
        # What is outside the map of a max pool must never be the largest value: it is 0, the smallest.
        zero = reader.input_quantization.zero_point + 128 if reader and reader.kernel != "EM_POOL" else 0
        line = -(-(width * channels + 2 * beside + LANES) // 4) * 4  # a multiple of 4 keeps each line aligned
        at = rings[-1].end if rings else 0
        rings.append(_Ring(at, line, slots, height, width * channels, beside, down > 0, zero))
    return rings


def _count_arena_values(rings: Sequence[_Ring]) -> int:
    """The number of values in the arena."""
    return rings[-1].end + _SLACK


def _count_runs(fused: FusedOperation) -> int:
    """The number of pointers to runs of consecutive input values that em_conv_row needs."""
    window = fused.operation.window
    columns = 1 if window.dilation[1] == 1 else window.kernel_size[1]
    return window.kernel_size[0] * columns * (2 if fused.pool else 1)


def _format_layer(fused: FusedOperation, name: str) -> str:
    """Write one element of em_layers, in the order of the fields of em_layer in types.h."""
    operation, window = fused.operation, fused.operation.window
    groups, arrays = 1, "0, 0, 0, 0"
    if not isinstance(operation, MaxPool2d):
        groups = operation.groups
        chain = "0" if fused.kernel == "EM_GROUPED" else f"EM_CHAIN_OF({name}_chain)"
        arrays = f"{name}_weight, {name}_bias, {name}_multiplier, {chain}"
    (inputs, _, _), (outputs, height, width) = fused.input_shape, fused.output_shape
    numbers = (
        *(*window.kernel_size, *window.stride, *window.dilation, window.padding[0]),
        *(height, width, inputs, outputs, fused.output_quantization.zero_point + 128, groups),
    )
    return f"    {{{fused.kernel}, {', '.join(map(str, numbers))}, {arrays}}},\n"


def _format_ring(ring: _Ring, name: str) -> str:
    """Write one element of em_rings, in the order of the fields of em_ring in types.h."""
    numbers = (ring.at, ring.line, ring.slots, ring.height, ring.width, ring.beside, int(ring.below), ring.zero)
    return f"    {{{', '.join(map(str, numbers))}}}, /* {name} */\n"


_SOURCE_START = """\
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

_SOURCE_END = """\
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
