"""A quantized network as C99 without dependencies: `model.c`, which is complete, and `model.h`, which declares it.

The kernels (kernels/*.h) are the same for every network and are copied into model.c unchanged: first the types, then
the tables of the network, then the code. Each layer keeps only the last few rows of its input, in a ring buffer, and
computes a row of its output as soon as it can: no feature map is ever complete in memory, unless a layer needs all of
it. A 2x2 max pool is taken of a convolution's sums, before they are requantized.

There are two kinds of model.c. A chain of convolutions and max pools over pixels, in which each layer feeds the next
one, has the tables of `chain` and the code of kernels/chain.h. Every other network has those of `graph` and
kernels/graph.h, and only the kernels that it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from edge_mnist.export.c.chain import count_chain_values, format_chain_tables, is_chain, place_rings
from edge_mnist.export.c.graph import (
    count_graph_values,
    count_rows_at_once,
    find_last_readers,
    find_same_sizes,
    format_graph_tables,
    place_values,
)
from edge_mnist.export.c.tables import FusedOperation, format_constants, format_float, fuse_operations
from edge_mnist.formats.table import FORMATS
from edge_mnist.graph.operations import FloatGraph, QuantizedConv2d, QuantizedGraph, bound_accumulators
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import METADATA_KEY

_MACHINES = ("tiles.h", "x86.h", "arm.h", "portable.h")
"""The files of what each instruction set does."""

_CHAIN_KERNELS: tuple[str, ...] = ("convolution.h", "chain_convolution.h", "grouped.h", "pool.h", "chain.h")
"""The files of the code of a chain, in the order in which model.c needs them."""

_GRAPH_KERNELS = {
    "EM_CONV": ("convolution.h", "graph_convolution.h"),
    "EM_CONV_POOL": ("convolution.h", "graph_convolution.h"),
    "EM_GROUPED": ("grouped.h",),
    "EM_DEPTHWISE": ("depthwise.h",),
    "EM_POOL": ("clipped_pool.h",),
    "EM_ADD": ("add.h",),
    "EM_MULTIPLY": ("multiply.h",),
    "EM_TABLE": ("table.h",),
    "EM_CONCATENATE": ("concatenate.h",),
    "EM_UPSAMPLE": ("upsample.h",),
}
"""The files of each kernel that a graph may need."""

_LARGEST_NUMBER = (1 << 31) - 1
"""What the types of the kernels hold."""


def write_c(graph: FloatGraph | QuantizedGraph) -> bytes:
    """Write a graph as model.c, which computes the int8 outputs of one input.

    Raises:
        EdgeMnistError: the graph is a float graph, or has a layer that the kernels cannot compute; it is named.
    """
    if isinstance(graph, FloatGraph):
        raise EdgeMnistError("C is written from the quantized network only: export --int8")
    operations = fuse_operations(graph)
    if not operations:
        raise EdgeMnistError("the network has no layers, expected at least one convolution or max pool")
    for fused in operations:
        _check_range(fused, graph)
    identifiers = graph.identifiers()
    names = [identifiers[fused.operation.name] for fused in operations]
    constants = "\n".join(format_constants(fused, name, graph) for fused, name in zip(operations, names, strict=True))
    if is_chain(graph, operations):
        types, tables, code = "chain_types.h", format_chain_tables(operations, names), _CHAIN_KERNELS
    else:
        used = tuple(dict.fromkeys(name for fused in operations for name in _GRAPH_KERNELS[fused.kernel]))
        types, tables, code = "graph_types.h", format_graph_tables(operations, names), (*used, "graph.h")
    interface = _describe_interface(graph, operations)
    start = _SOURCE_START.format(
        key=METADATA_KEY,
        contract=FORMATS["c"].make_contract(graph).to_json(),
        macros=_format_macros(graph, operations),
        **vars(interface),
    )
    # The tables need the types, and the code needs the tables.
    parts = [
        start,
        _read_kernel("types.h"),
        _read_kernel(types),
        constants,
        tables,
        *map(_read_kernel, (*_MACHINES, *code)),
    ]
    return "\n".join([*parts, _SOURCE_END.format(**vars(interface))]).encode()


def write_header(graph: QuantizedGraph) -> bytes:
    """Write model.h: the function of model.c, the sizes of its arguments, and the scale of the outputs."""
    channels, height, width = graph.shapes()[0]
    operations = fuse_operations(graph)
    text = _HEADER.format(
        guard="EDGE_MNIST_MODEL_H",
        model=FORMATS["c"].make_contract(graph).model,
        height=height,
        width=width,
        channels=channels,
        classes=int(np.prod(graph.shapes()[-1])),
        arena=_count_arena_values(graph, operations),
        **vars(_describe_interface(graph, operations)),
    )
    return text.encode()


def _check_range(fused: FusedOperation, graph: QuantizedGraph) -> None:
    """Refuse a layer with numbers that the integer types of the kernels cannot hold."""
    operation, window = fused.operation, fused.window
    for channels, height, width in (*fused.input_shapes, fused.output_shape):
        values = (height + sum(window.extent)) * (width + sum(window.extent) + 16) * channels
        if values > _LARGEST_NUMBER:
            raise EdgeMnistError(f"{operation.name}: the C kernels take maps of up to 2^31 values, found {values}")
    if not isinstance(operation, QuantizedConv2d):
        return
    bound = bound_accumulators(operation.weight, operation.bias, fused.input_quantization.zero_point)
    multiplier = graph.multipliers()[operation.name].astype(np.float64)
    if (bound * multiplier >= 2.0**30).any() or (multiplier < 2.0**-30).any():
        raise EdgeMnistError(
            f"{operation.name}: a multiplier of {multiplier.max():g} takes sums of up to {bound.max()} out of the "
            "range of the C kernels (2^-30 and more, products below 2^30)"
        )


def _count_runs(fused: FusedOperation) -> int:
    """The number of pointers to runs of consecutive input values that em_conv_row needs."""
    window = fused.window
    columns = 1 if window.dilation[1] == 1 else window.kernel_size[1]
    return window.kernel_size[0] * columns * (2 if fused.pool else 1)


def _read_kernel(name: str) -> str:
    """The text of a file of the kernels."""
    return (files("edge_mnist.export.c") / "kernels" / name).read_text(encoding="utf-8")


def _count_arena_values(graph: QuantizedGraph, operations: Sequence[FusedOperation]) -> int:
    """The number of values in the arena."""
    if is_chain(graph, operations):
        return count_chain_values(place_rings(operations))
    return count_graph_values(place_values(operations))


def _format_macros(graph: QuantizedGraph, operations: Sequence[FusedOperation]) -> str:
    """Write the macros on which the kernels depend."""
    kernels = {fused.kernel for fused in operations}
    convolutions = [index for index, fused in enumerate(operations) if fused.kernel.startswith("EM_CONV")]
    described = "the layers that are convolutions of all channels"
    rows, runs = (max(map(count, operations)) for count in (lambda fused: fused.input_rows, _count_runs))
    chain = is_chain(graph, operations)
    if not chain:
        # Of two rows that are computed at once, the second one begins a stride further down.
        rows = max(f.input_rows + (count_rows_at_once(f) - 1) * f.window.stride[0] for f in operations)
        same_sizes = find_same_sizes(operations)
        any_sizes = any(same_sizes[index] < 0 for index in convolutions)
        convolutions = sorted({same_sizes[index] for index in convolutions} - {-1})
        described = "convolutions of all channels, one for each of the sizes that have code of their own"
    if "EM_DEPTHWISE" in kernels:
        rows = max(rows, 3)  # its code for windows of 3x3 is compiled in any case
    macros = {
        "LAYERS": str(len(operations)),
        "ROWS": f"{rows} /* of an input that a row of an output sees, at the most */",
        "RUNS": f"{runs} /* of consecutive values that it sees */",
        "ARENA": f"{_count_arena_values(graph, operations)} /* values */",
        "HAS_GROUPED": str(int("EM_GROUPED" in kernels)),
        "HAS_POOL": str(int("EM_POOL" in kernels)),
        "HAS_CONV_POOL": str(int("EM_CONV_POOL" in kernels)),
        "CONVOLUTIONS(DO)": f"{' '.join(f'DO({index})' for index in convolutions)} /* {described} */",
    }
    if not chain:
        names = ("DEPTHWISE", "ADD", "MULTIPLY", "TABLE", "CONCATENATE", "UPSAMPLE")
        macros |= {f"HAS_{name}": str(int(f"EM_{name}" in kernels)) for name in names}
        macros["HAS_CONV"] = str(int(bool(convolutions)))
        macros["HAS_CONV_OF_ANY_SIZE"] = str(int(any_sizes))
        macros["INPUT_READER"] = f"{find_last_readers(operations)[0]} /* the last layer that takes the input */"
    return "".join(f"#define EM_{name} {text}\n" for name, text in macros.items())


@dataclass(frozen=True)
class _Interface:
    """How model.c and model.h call and describe the arguments of edge_mnist_run.

    Attributes:
        input_name: the name of the first argument.
        output_name: the name of the second argument.
        signature: the declaration of the function without the semicolon.
        source_text: lines of the comment at the beginning of model.c.
        header_text: lines of the comment before the function in model.h.
        scales: the macros of model.h for the scales.
    """

    input_name: str
    output_name: str
    signature: str
    source_text: str
    header_text: str
    scales: str


def _describe_interface(graph: QuantizedGraph, operations: Sequence[FusedOperation]) -> _Interface:
    """Describe the arguments of a network's function."""
    output = graph.quantizations()[-1]
    logit_scale = format_float(np.float32(output.scale))
    if is_chain(graph, operations):
        return _Interface(
            "pixels",
            "logits",
            _SIGNATURE.format("const uint8_t *pixels, int8_t *logits"),
            _CHAIN_SOURCE_TEXT.format(scale=output.scale),
            _CHAIN_HEADER_TEXT,
            f"#define EDGE_MNIST_LOGIT_SCALE {logit_scale} /* a logit is this times its int8 */\n",
        )
    scales = (
        f"#define EDGE_MNIST_LOGIT_SCALE {logit_scale} /* an output q stands for this times (q - zero point) */\n"
        f"#define EDGE_MNIST_LOGIT_ZERO_POINT ({output.zero_point})\n"
    )
    name = "pixels"
    if graph.features is not None:
        name = "features"
        scales += (
            f"#define EDGE_MNIST_INPUT_SCALE {format_float(np.float32(graph.features.scale))} /* as of an output */\n"
            f"#define EDGE_MNIST_INPUT_ZERO_POINT {graph.features.zero_point + 128}\n"
        )
    described = {"input_name": name, "input": _describe_input(graph), "output": _describe_output(graph)}
    return _Interface(
        name,
        "outputs",
        _SIGNATURE.format(f"const uint8_t *{name}, int8_t *outputs"),
        _GRAPH_SOURCE_TEXT.format(**described),
        _GRAPH_HEADER_TEXT.format(**described),
        scales,
    )


def _describe_input(graph: QuantizedGraph) -> str:
    """Say what the input of a graph is."""
    channels, height, width = graph.shapes()[0]
    sizes = f"({height}, {width}, {channels}): height, width, channels"
    if len(graph.input_shape) < 3:
        sizes = f"({channels})" if len(graph.input_shape) == 1 else f"({width}, {channels}): length, channels"
    if graph.features is None:
        return f"uint8 {sizes}; 0 to 255, without normalisation"
    return f"uint8 {sizes}; u stands for {graph.features.scale:.9g} * (u - {graph.features.zero_point + 128})"


def _describe_output(graph: QuantizedGraph) -> str:
    """Say what the output of a graph is."""
    output = graph.quantizations()[-1]
    channels, height, width = graph.shapes()[-1]
    sizes = (
        f"({channels})" if (height, width) == (1, 1) else f"({channels}, {height}, {width}): channels, height, width"
    )
    text = f"int8 {sizes}; q stands for {output.scale:.9g} * (q - {output.zero_point})"
    return text + (f"; the network's {graph.ending} is left out" if graph.ending else "")


_SIGNATURE = "int edge_mnist_run({}, void *arena, size_t arena_size)"

_CHAIN_SOURCE_TEXT = """\
 * pixels are uint8 (height, width, channels), 0 the background and 255 the pen; a logit is {scale:g} * the
 * int8. The result is the class, that is the position of the largest logit, or a negative error.
"""

_GRAPH_SOURCE_TEXT = """\
 * {input_name}: {input}.
 * outputs: {output}.
 * The result is the position of the largest output, or a negative error.
"""

_CHAIN_HEADER_TEXT = """\
 * Reads a digit.
 *   pixels      uint8 (height, width, channels): 0 is the background, 255 the pen; no normalisation
 *   logits      int8 (classes), written
 *   arena       working memory of EDGE_MNIST_ARENA_SIZE bytes, whose content does not matter before or after
 * Returns the class, 0 .. EDGE_MNIST_CLASSES - 1, or EDGE_MNIST_NULL_POINTER or EDGE_MNIST_ARENA_TOO_SMALL.
"""

_GRAPH_HEADER_TEXT = """\
 * Runs the network on one input.
 *   {input_name:<11} {input}
 *   outputs     {output}
 *   arena       working memory of EDGE_MNIST_ARENA_SIZE bytes, whose content does not matter before or after
 * Returns the position of the largest output, 0 .. EDGE_MNIST_CLASSES - 1, or EDGE_MNIST_NULL_POINTER or
 * EDGE_MNIST_ARENA_TOO_SMALL.
"""

_SOURCE_START = """\
/* {key}: {contract} */
/*
 * A quantized network as dependency-free C99, written by edge-mnist. It computes the same int8 logits, bit for bit, as
 * the model's other formats. Weights are constants, for flash; nothing is allocated; calls with different arenas may
 * run at the same time. model.h declares:
 *
 *     {signature}
 *
{source_text} *
 * Define EDGE_MNIST_PORTABLE to leave out vector instructions, EDGE_MNIST_FIXED_POINT to leave out floating point (the
 * logits are then those of TensorFlow Lite's own kernels, which round otherwise); it is so by itself on ARM and RISC-V
 * without a float unit.
 */
#include <stdint.h>
#include <string.h>

{macros}"""

_SOURCE_END = """\
#ifdef __cplusplus
extern "C" {{
#endif
{signature};
#ifdef __cplusplus
}}
#endif

{signature} {{
    const size_t odd = (size_t)((uintptr_t)arena & 3); /* up to 3 bytes are left out to align it */
    const size_t needed = EM_ARENA * sizeof(em_value);
    if (!{input_name} || !{output_name} || !arena) return -1;
    if (arena_size < needed + (odd ? 4 - odd : 0)) return -2;
    return em_run({input_name}, {output_name}, (em_value *)(void *)((uint8_t *)arena + (odd ? 4 - odd : 0)));
}}
"""

_HEADER = """\
/* The network of model {model}, quantized to int8; written by edge-mnist. C and C++ may include it. */
#ifndef {guard}
#define {guard}

#include <stddef.h>
#include <stdint.h>

#define EDGE_MNIST_MODEL "{model}"
#define EDGE_MNIST_HEIGHT {height}
#define EDGE_MNIST_WIDTH {width}
#define EDGE_MNIST_CHANNELS {channels}
#define EDGE_MNIST_CLASSES {classes}
{scales}
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
{header_text} */
{signature};

#ifdef __cplusplus
}}
#endif

#endif
"""
