"""Prepares a graph for quantization: values that are joined have to be clamped to the same bounds.

An int8 value is clamped by the range of its quantization. Values that a concatenation joins have one quantization, so
they have one range. Where some of them are clamped and others are not, or to other bounds, a depthwise convolution that
changes nothing takes the first ones to the wider range.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from edge_mnist.graph.geometry import Window
from edge_mnist.graph.operations import (
    UNBOUNDED,
    Bounds,
    Concatenate,
    Conv2d,
    FloatGraph,
    FloatOperation,
    MaxPool2d,
    Upsample,
)

MOVES = (MaxPool2d, Upsample, Concatenate)
"""The operations that only move values: their output has the quantization of their inputs."""


def separate_bounds(graph: FloatGraph) -> FloatGraph:
    """The same graph, in which all values that share a quantization are clamped to the same bounds."""
    wider = _find_wider_bounds(graph)
    if not wider:
        return graph
    names = {operation.name for operation in graph.operations}
    shapes = graph.shapes()
    operations: list[FloatOperation] = []
    moved = {0: 0}  # by the index of a value in the old graph, its index in the new one
    widened: dict[int, int] = {}  # the same for what is joined instead of the value
    for index, operation in enumerate(graph.operations):
        is_move = isinstance(operation, MOVES)
        places = widened if is_move else {}
        sources = tuple(places.get(source, moved[source]) for source in graph.sources(index))
        operations.append(dataclasses.replace(operation, sources=() if sources == (len(operations),) else sources))
        moved[index + 1] = len(operations)
        if index + 1 in wider:
            name = f"{operation.name} unclamped"
            while name in names:
                name += "_"
            operations.append(_make_identity(name, shapes[index + 1][0], wider[index + 1]))
            names.add(name)
            widened[index + 1] = len(operations)
    return dataclasses.replace(graph, operations=tuple(operations))


def _find_wider_bounds(graph: FloatGraph) -> dict[int, Bounds]:
    """The bounds to which the values have to be taken that are joined with values of other bounds, by their indices."""
    wider: dict[int, Bounds] = {}
    readers = graph.readers()
    for members in set(graph.joined_values()):
        found = {
            member: getattr(graph.operations[member - 1], "bounds", UNBOUNDED) if member else UNBOUNDED
            for member in members
        }
        hull = (min(low for low, _ in found.values()), max(high for _, high in found.values()))
        for value in (member for member, bounds in found.items() if bounds != hull and member):
            moves = [index for index in readers[value] if isinstance(graph.operations[index], MOVES)]
            while len(moves) == 1 and isinstance(graph.operations[moves[0]], MaxPool2d):
                value = moves[0] + 1  # after the pool there is less to convolve
                moves = [index for index in readers[value] if isinstance(graph.operations[index], MOVES)]
            wider[value] = hull
    return wider


def _make_identity(name: str, channels: int, bounds: Bounds) -> Conv2d:
    """A depthwise convolution whose output is its input."""
    weight = np.ones((channels, 1, 1, 1), np.float32)
    return Conv2d(name, weight, np.zeros(channels, np.float32), Window((1, 1)), channels, bounds)
