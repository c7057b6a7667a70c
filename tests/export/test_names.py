"""Whatever a user calls the layers, no format confuses them with its own names, and each computes the same integers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mnist import runtime
from edge_mnist.bundle.reference import deserialize, make_reference, serialize
from edge_mnist.export import WRITERS
from edge_mnist.export.c.writer import write_c
from edge_mnist.export.proof.localize import find_first_difference
from edge_mnist.formats.table import FORMATS
from edge_mnist.graph import calibration
from edge_mnist.graph.folding import fold
from edge_mnist.graph.geometry import Window
from edge_mnist.graph.interpreter import run_float, run_quantized
from edge_mnist.graph.operations import FloatGraph, MaxPool2d, QuantizedGraph
from edge_mnist.graph.quantization import quantize_graph
from edge_mnist.runtime import compiled_c
from tests.support.networks import random_checkpoint, random_images

OURS = [
    *("pixels", "logits", "centred", "zero_pixel", "s1", "z128", "centre", "integers", "flatten", "layer", "L0", "L1_"),
    *("em_layers", "em_run", "EM_LAYERS", "edge_mnist_run", "uint8_t", "main", "memcpy", "serving_default", "N"),
    *("L0_conv0", "L1_conv0.w", "pixels.w", "logits.shape", "reshape"),
]
KEYWORDS = [
    "class",
    "def",
    "None",
    "lambda",
    "int",
    "static",
    "for",
    "forward",
    "training",
    "__init__",
    "self",
    "torch",
]
HOSTILE = [
    *("a*/ b", "/*", "*/ #error", "//", "\\", 'a"b', "it's", "a\nb", "\n#error", "a\r\nb", "a\tb", "a\0b", "%s%n"),
    *("features.0", ".", "..", "a/b", "a:0", " ", "", "0", "7up", "-", "_", "??/", "$(false)", "<b>", "[red]", "{0}"),
    *("日本語", "é", "ß", "\u202e", "\U0001f600", "x" * 5000),
]

hostile_names = st.one_of(
    st.sampled_from(OURS + KEYWORDS + HOSTILE), st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
)


def renamed(graph: Any, names: list[str]) -> Any:
    """Give the layers of a graph other names."""
    operations = tuple(replace(o, name=name) for o, name in zip(graph.operations, names, strict=False))
    return type(graph)(graph.input_shape, graph.zero_pixel, operations)


@pytest.fixture(scope="module")
def networks() -> list[tuple[FloatGraph, QuantizedGraph, np.ndarray]]:
    """Networks with a padded input, max pools and convolutions; some end in a fully connected layer, some do not."""
    found: list[tuple[FloatGraph, QuantizedGraph, np.ndarray]] = []
    for seed in (1003, 1007, 1009, 1033):
        source = random_checkpoint(seed)
        graph, images = fold(source), random_images(source, 16, seed)
        found.append((graph, quantize_graph(graph, calibration.collect(graph, images))[0], images))
    assert any(graph.zero_pixel for graph, _, _ in found)
    assert any(isinstance(operation, MaxPool2d) for graph, _, _ in found for operation in graph.operations)
    lasts = [(graph.operations[-1].window, graph.shapes()[-2][1:]) for graph, _, _ in found]
    assert {window.kernel_size == size for window, size in lasts} == {True, False}
    return found


# WebAssembly is left out: it has its names from C, and to compile ten networks takes long.
@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind != "wasm"])
@settings(max_examples=10)
@given(names=st.lists(hostile_names, min_size=12, max_size=12, unique=True), index=st.integers(0, 3))
def test_every_runtime_computes_the_same_integers_whatever_the_names(
    kind: str, networks: list[tuple[FloatGraph, QuantizedGraph, np.ndarray]], names: list[str], index: int
) -> None:
    real, quantized, images = networks[index]
    real, quantized = renamed(real, names), renamed(quantized, names)
    found = runtime.load_bytes(WRITERS[kind](quantized), kind).outputs(images)
    np.testing.assert_array_equal(found, run_quantized(quantized, images))
    if "float" in FORMATS[kind].precisions:
        expected = run_float(real, images)
        found = runtime.load_bytes(WRITERS[kind](real), kind).outputs(images)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max() / 10))


def test_c_compiles_whatever_the_names(
    networks: list[tuple[FloatGraph, QuantizedGraph, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_c, "FLAGS", ("-O0", "-std=c99", "-fPIC", "-shared", "-Wall", "-Werror"))
    everything = OURS + KEYWORDS + HOSTILE
    for start in range(0, len(everything), 10):
        names = (everything * 2)[start : start + 12]
        _, quantized, images = networks[start % len(networks)]
        quantized = renamed(quantized, names)
        source = write_c(quantized)
        assert source.isascii()
        found = runtime.load_bytes(source, "model.c").outputs(images)
        np.testing.assert_array_equal(found, run_quantized(quantized, images))


@given(st.lists(hostile_names, min_size=1, max_size=12, unique=True))
def test_identifiers_are_unique_and_valid_everywhere(names: list[str]) -> None:
    graph = FloatGraph((1, 4, 4), 0, tuple(MaxPool2d(name, Window((1, 1))) for name in names))
    found = graph.identifiers()
    assert list(found) == names
    assert len(set(found.values())) == len(names)
    for index, identifier in enumerate(found.values()):
        assert re.fullmatch(rf"L{index}(_[A-Za-z0-9_]+)?", identifier, re.ASCII) and len(identifier) <= 50


@pytest.mark.parametrize("kind", WRITERS)
def test_a_changed_layer_is_reported_by_the_name_that_the_user_gave(
    kind: str, networks: list[tuple[FloatGraph, QuantizedGraph, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_c, "FLAGS", ("-O0", "-fPIC", "-shared", "-DEDGE_MNIST_PORTABLE"))
    _, quantized, images = networks[0]
    names = ["logits", "a*/ b", "日本語", "pixels", "features.0", "class", "z128", "a\nb"]
    quantized = renamed(quantized, names)
    reference = make_reference(renamed(networks[0][0], names), quantized, (), None)
    again = deserialize(serialize(reference), "reference").quantized_graph
    assert again is not None and [o.name for o in again.operations] == [o.name for o in quantized.operations]
    every = 1 if kind != "wasm" else 3  # clang takes a second for each
    for convolution in quantized.convolutions[::every]:
        bias = convolution.bias.copy()
        bias += 900
        other = replace(convolution, bias=bias)
        operations = tuple(other if o is convolution else o for o in quantized.operations)
        graph = QuantizedGraph(quantized.input_shape, quantized.zero_pixel, operations)
        data = write_c(graph) if kind == "c" else WRITERS[kind](graph)
        assert find_first_difference(data, again, images, trust=True)[0] == convolution.name
