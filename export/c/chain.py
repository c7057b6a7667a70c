"""The tables of a model.c of a chain: each layer takes the rows of the layer before it (kernels/chain.h)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_mnist.export.c.tables import LANES, SLACK, FusedOperation
from edge_mnist.graph.operations import MaxPool2d, QuantizedConv2d, QuantizedGraph


@dataclass(frozen=True)
class _Ring:
    """The ring buffer of the rows between two layers.

    The fields are those of em_ring in chain_types.h, which explains them. All counts are of values, not bytes.
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


def is_chain(graph: QuantizedGraph, operations: Sequence[FusedOperation]) -> bool:
    """Whether the code of chains can compute a network; the other networks take the code of graphs."""
    return graph.is_pixels and graph.is_chain and all(map(_fits, operations))


def _fits(fused: FusedOperation) -> bool:
    """Whether an operation is one of those of chains, with numbers that em_layer and em_ring can hold."""
    operation, window = fused.operation, fused.window
    sizes = (*window.kernel_size, *window.stride, *window.dilation, *window.padding)
    lines = (
        max(channels, height, (width + 2 * window.padding[1]) * channels)
        for channels, height, width in (fused.input_shape, fused.output_shape)
    )
    return (
        isinstance(operation, QuantizedConv2d | MaxPool2d)
        and fused.kernel != "EM_DEPTHWISE"
        and window.after == window.padding
        and max(sizes) <= 255
        and max(lines) <= 32767
    )


def place_rings(operations: Sequence[FusedOperation]) -> list[_Ring]:
    """Place the ring buffers of the input and of each operation's output in the arena, one after the other."""
    rings: list[_Ring] = []
    shapes = [operations[0].input_shape, *(fused.output_shape for fused in operations)]
    for index, (channels, height, width) in enumerate(shapes):
        reader = operations[index] if index < len(operations) else None  # what reads the rows; nothing reads the logits
        down, right = reader.window.padding if reader else (0, 0)
        slots = min(reader.input_rows, height) if reader else height
        beside = right * channels
        # What is outside the map of a max pool must never be the largest value: it is 0, the smallest.
        zero = reader.input_quantization.zero_point + 128 if reader and reader.kernel != "EM_POOL" else 0
        line = -(-(width * channels + 2 * beside + LANES) // 4) * 4  # a multiple of 4 keeps each line aligned
        at = rings[-1].end if rings else 0
        rings.append(_Ring(at, line, slots, height, width * channels, beside, down > 0, zero))
    return rings


def count_chain_values(rings: Sequence[_Ring]) -> int:
    """The number of values in the arena of a chain."""
    return rings[-1].end + SLACK


def format_chain_tables(operations: Sequence[FusedOperation], names: Sequence[str]) -> str:
    """Write em_layers and em_rings; `names` are the identifiers of the operations."""
    layers = "".join(_format_layer(fused, name) for fused, name in zip(operations, names, strict=True))
    rings = place_rings(operations)
    lines = "".join(_format_ring(ring, name) for ring, name in zip(rings, ["pixels", *names], strict=True))
    return (
        f"static const em_layer em_layers[EM_LAYERS] = {{\n{layers}}};\n\n"
        f"/* The input's lines, and those of each layer's output. */\n"
        f"static const em_ring em_rings[EM_LAYERS + 1] = {{\n{lines}}};\n"
    )


def _format_layer(fused: FusedOperation, name: str) -> str:
    """Write one element of em_layers, in the order of the fields of em_layer in chain_types.h."""
    operation, window = fused.operation, fused.window
    groups, arrays = 1, "0, 0, 0, 0"
    if isinstance(operation, QuantizedConv2d):
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
    """Write one element of em_rings, in the order of the fields of em_ring in chain_types.h."""
    numbers = (ring.at, ring.line, ring.slots, ring.height, ring.width, ring.beside, int(ring.below), ring.zero)
    return f"    {{{', '.join(map(str, numbers))}}}, /* {name} */\n"
