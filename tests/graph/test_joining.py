"""Values that a concatenation joins are clamped to the same bounds, and nothing else changes."""

from __future__ import annotations

import numpy as np

from edge_mnist.graph.geometry import Window
from edge_mnist.graph.interpreter import run_float
from edge_mnist.graph.joining import separate_bounds
from edge_mnist.graph.operations import RELU, UNBOUNDED, Bounds, Concatenate, Conv2d, FloatGraph, MaxPool2d


def convolution(name: str, bounds: Bounds, source: int) -> Conv2d:
    rng = np.random.default_rng(len(name))
    weight = rng.standard_normal((2, 2, 1, 1)).astype(np.float32)
    return Conv2d(name, weight, np.zeros(2, np.float32), Window((1, 1)), bounds=bounds, sources=(source,))


def test_only_what_is_clamped_otherwise_is_taken_to_the_wider_bounds() -> None:
    pool = MaxPool2d("pool", Window((2, 2), (1, 1), (0, 0), padding_after=(1, 1)), sources=(1,))
    operations = (
        convolution("a", RELU, 0),
        convolution("bb", (0.0, 6.0), 0),
        convolution("ccc", (0.0, 1.0), 2),
        pool,
        Concatenate("join", sources=(4, 2, 3)),
    )
    graph = FloatGraph((2, 5, 5), 0, operations)
    joined = separate_bounds(graph)
    added = {operation.name: operation for operation in joined.operations if "unclamped" in operation.name}
    assert set(added) == {"bb unclamped", "ccc unclamped"}
    assert all(isinstance(operation, Conv2d) and operation.bounds == RELU for operation in added.values())
    images = np.random.default_rng(1).integers(0, 256, (3, 2, 5, 5), dtype=np.uint8)
    assert np.array_equal(run_float(joined, images), run_float(graph, images))
    assert separate_bounds(joined) is joined


def test_a_graph_without_clamps_stays_as_it_is() -> None:
    operations = (convolution("a", UNBOUNDED, 0), convolution("b", RELU, 1))
    graph = FloatGraph((2, 5, 5), 0, operations)
    assert separate_bounds(graph) is graph
