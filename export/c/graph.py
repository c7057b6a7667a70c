"""The tables of a model.c of any other network: layers that take the rows of several others (kernels/graph.h).

Where several layers can compute a row, the last of them goes first. Following that order for one input shows how many
rows of each value must be kept, and in which steps they are used first and last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from edge_mnist.export.c.tables import SLACK, FusedOperation
from edge_mnist.graph.operations import QuantizedConv2d, Upsample

_MOST_SIZES = 24
"""The most sizes of convolutions that have code of their own."""


_SHORT_ROW = 6
"""The most positions of a row of which two are computed at a time: half of the largest tile, that of AVX-512."""


@dataclass(frozen=True)
class _Ring:
    """The ring buffer of the rows of a value.

    The fields are those of em_ring in graph_types.h, which explains them. All counts are of values, not bytes.
    """

    at: int
    line: int
    slots: int
    height: int
    width: int
    left: int
    right: int
    below: bool
    zero: int


def find_last_readers(operations: Sequence[FusedOperation]) -> list[int]:
    """For each value, the last operation that takes it; for the output the operation that computes it."""
    last = list(range(-1, len(operations)))
    for index, fused in enumerate(operations):
        for source in fused.sources:
            last[source] = index
    return last


def count_rows_at_once(fused: FusedOperation) -> int:
    """How many rows of its output an operation computes at a time.

    Two, where they are so short that their positions fill a tile only together.
    """
    _, height, width = fused.output_shape
    return 2 if fused.kernel == "EM_CONV" and height > 1 and width <= _SHORT_ROW else 1


def find_same_sizes(operations: Sequence[FusedOperation]) -> list[int]:
    """For each operation, the first convolution of the same sizes, with which it shares its code.

    Code in which all sizes are constants is faster, but the compiler takes long for it. So only the sizes that take
    most of the time have such code.

    Returns:
        -1 for operations that are not convolutions, or that take code for any sizes.
    """
    products: dict[tuple[object, ...], int] = {}
    keys = []
    for fused in operations:
        key: tuple[object, ...] = ()
        if isinstance(fused.operation, QuantizedConv2d) and fused.operation.groups == 1:
            window, (outputs, _, width) = fused.window, fused.output_shape
            key = (
                *(fused.kernel, fused.operation.weight.shape, window.stride, window.dilation),
                *(outputs, width, count_rows_at_once(fused)),
            )
            positions = fused.output_shape[1] * width * (4 if fused.pool else 1)
            products[key] = products.get(key, 0) + fused.operation.weight.size * positions
        keys.append(key)
    chosen = sorted(products, key=lambda key: -products[key])[:_MOST_SIZES]
    return [keys.index(key) if key in chosen else -1 for key in keys]


def place_values(operations: Sequence[FusedOperation]) -> list[_Ring]:
    """Find the size of the ring buffer of each value, and place all of them in the arena.

    Two values that are never needed at the same time may have the same place.
    """
    slots, lifetimes = _follow_order(operations)
    rings: list[_Ring] = []
    shapes = [operations[0].input_shape, *(fused.output_shape for fused in operations)]
    for value, (channels, height, width) in enumerate(shapes):
        # A max pool leaves out what is outside of its input, so only convolutions need a padding.
        readers = [f for f in operations if value in f.sources and isinstance(f.operation, QuantizedConv2d)]
        left = max((fused.window.padding[1] for fused in readers), default=0) * channels
        right = max((_count_columns_after(fused) for fused in readers), default=0) * channels
        below = any(fused.window.padding[0] or fused.window.after[0] for fused in readers)
        zero = readers[0].input_quantization.zero_point + 128 if readers else 0
        line = -(-(width * channels + left + right + SLACK) // 4) * 4  # a multiple of 4 keeps each line aligned
        rings.append(_Ring(0, line, slots[value], height, width * channels, left, right, below, zero))
    places = _place([ring.line * (ring.slots + ring.below) for ring in rings], lifetimes)
    return [replace(ring, at=place) for ring, place in zip(rings, places, strict=True)]


def count_graph_values(rings: Sequence[_Ring]) -> int:
    """The number of values in the arena of a graph."""
    return max(ring.at + ring.line * (ring.slots + ring.below) for ring in rings) + SLACK


def format_graph_tables(operations: Sequence[FusedOperation], names: Sequence[str]) -> str:
    """Write em_layers, em_rings and the sources; `names` are the identifiers of the operations."""
    readers = find_last_readers(operations)
    sources = "".join(
        f"static const int32_t {name}_sources[] = {{{', '.join(map(str, fused.sources))}}};\n"
        for fused, name in zip(operations, names, strict=True)
    )
    layers = "".join(
        _format_layer(fused, name, like, reader)
        for fused, name, like, reader in zip(operations, names, find_same_sizes(operations), readers[1:], strict=True)
    )
    lines = "".join(
        _format_ring(ring, name) for ring, name in zip(place_values(operations), ["input", *names], strict=True)
    )
    return (
        f"/* The values that each layer takes: 0 is the input, i + 1 the output of layer i. */\n{sources}\n"
        f"static const em_layer em_layers[EM_LAYERS] = {{\n{layers}}};\n\n"
        f"/* The input's lines, and those of each layer's output. */\n"
        f"static const em_ring em_rings[EM_LAYERS + 1] = {{\n{lines}}};\n"
    )


def _count_columns_after(fused: FusedOperation) -> int:
    """How many columns to the right of its input a convolution sees."""
    window, width = fused.window, fused.input_shape[2]
    columns = fused.output_shape[2] * (2 if fused.pool else 1)
    return max(0, (columns - 1) * window.stride[1] - window.padding[1] + window.extent[1] - width)


def _run_in_order(operations: Sequence[FusedOperation]) -> Iterator[tuple[int, list[int]]]:
    """Follow the order in which rows are computed.

    Yields:
        The value of which rows are computed, and how many rows of each value there are then; the list is changed later.
    """
    heights = [operations[0].input_shape[1], *(fused.output_shape[1] for fused in operations)]
    readers = find_last_readers(operations)
    done = [0] * len(heights)
    index = -1
    while index >= 0 or done[0] < heights[0]:
        row, rows = done[index + 1], 1
        if index >= 0:
            rows = min(count_rows_at_once(operations[index]), heights[index + 1] - row)
        if index >= 0 and (
            rows == 0
            or any(
                done[source] < operations[index].find_rows(row + rows - 1, heights[source])[1]
                for source in operations[index].sources
            )
        ):
            index -= 1
            continue
        done[index + 1] += rows
        yield index + 1, done
        index = readers[index + 1]


def _follow_order(operations: Sequence[FusedOperation]) -> tuple[list[int], list[tuple[int, int]]]:
    """Find what must be kept of each value.

    Returns:
        For each value, how many rows its ring buffer needs; and the first and the last step in which it is used.
    """
    heights = [operations[0].input_shape[1], *(fused.output_shape[1] for fused in operations)]
    readers: list[list[int]] = [[] for _ in heights]
    for index, fused in enumerate(operations):
        for source in dict.fromkeys(fused.sources):
            readers[source].append(index)
    slots, first, last = [0] * len(heights), [-1] * len(heights), [0] * len(heights)
    for step, (value, done) in enumerate(_run_in_order(operations)):
        first[value] = step if first[value] < 0 else first[value]
        for used in (value, *(operations[value - 1].sources if value else ())):
            last[used] = step
        # The rows from the first one on that a reader has still to see; all of them of the output.
        starts = [
            operations[reader].find_rows(done[reader + 1], heights[value])[0]
            for reader in readers[value]
            if done[reader + 1] < heights[reader + 1]
        ]
        needed = min(starts, default=done[value] - 1) if readers[value] else 0
        slots[value] = max(slots[value], done[value] - needed)
    last[-1] = step
    return [min(count, height) for count, height in zip(slots, heights, strict=True)], list(
        zip(first, last, strict=True)
    )


def _place(sizes: Sequence[int], lifetimes: Sequence[tuple[int, int]]) -> list[int]:
    """Place blocks of memory, the largest first, each at the lowest address that is free during its lifetime."""
    places = [0] * len(sizes)
    placed: list[int] = []
    for block in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        first, last = lifetimes[block]
        others = sorted(
            (places[other], places[other] + sizes[other])
            for other in placed
            if lifetimes[other][0] <= last and first <= lifetimes[other][1]
        )
        at = 0
        for start, end in others:
            if start - at >= sizes[block]:
                break
            at = max(at, end)
        places[block] = at
        placed.append(block)
    return places


def _format_layer(fused: FusedOperation, name: str, like: int, reader: int) -> str:
    """Write one element of em_layers, in the order of the fields of em_layer in graph_types.h."""
    operation, window = fused.operation, fused.window
    arrays = dict.fromkeys(("weight", "bias", "multiplier", "chain", "factors", "table"), "0")
    for kind in _ARRAYS[fused.kernel]:
        arrays[kind] = f"EM_CHAIN_OF({name}_chain)" if kind == "chain" else f"{name}_{kind}"
    kernel_size = operation.factor if isinstance(operation, Upsample) else window.kernel_size
    groups = operation.groups if isinstance(operation, QuantizedConv2d) else 1
    (inputs, _, _), (outputs, height, width) = fused.input_shape, fused.output_shape
    numbers = (
        *(*kernel_size, *window.stride, *window.dilation, *window.padding, fused.input_rows),
        *(height, width, inputs, outputs, fused.output_quantization.zero_point + 128, groups),
    )
    items = (
        fused.kernel,
        *numbers,
        *arrays.values(),
        f"{name}_sources",
        len(fused.sources),
        count_rows_at_once(fused),
        like,
        reader,
    )
    return f"    {{{', '.join(map(str, items))}}},\n"


_CONVOLUTION = ("weight", "bias", "multiplier")
_ARRAYS: dict[str, tuple[str, ...]] = {
    "EM_CONV": (*_CONVOLUTION, "chain"),
    "EM_CONV_POOL": (*_CONVOLUTION, "chain"),
    "EM_GROUPED": _CONVOLUTION,
    "EM_DEPTHWISE": _CONVOLUTION,
    "EM_POOL": (),
    "EM_ADD": ("factors",),
    "EM_MULTIPLY": ("factors", "multiplier"),
    "EM_TABLE": ("table",),
    "EM_CONCATENATE": (),
    "EM_UPSAMPLE": (),
}
"""The arrays of constants that each kernel reads."""


def _format_ring(ring: _Ring, name: str) -> str:
    """Write one element of em_rings, in the order of the fields of em_ring in graph_types.h."""
    numbers = (
        *(ring.at, ring.line, ring.slots, ring.height, ring.width),
        *(ring.left, ring.right, int(ring.below), ring.zero),
    )
    return f"    {{{', '.join(map(str, numbers))}}}, /* {name} */\n"
