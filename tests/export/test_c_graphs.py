"""The C code of graphs: every operation computes the oracle's integers, with every kind of kernels."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_mnist.export.c.graph import count_graph_values, place_values
from edge_mnist.export.c.tables import fuse_operations
from edge_mnist.export.c.writer import write_c
from edge_mnist.graph.arithmetic import tie_margin_of_add, tie_margin_of_multiply
from edge_mnist.graph.geometry import MapShape, Pair, Window
from edge_mnist.graph.interpreter import Rounding, quantized_activations, run_quantized
from edge_mnist.graph.layers import Shape
from edge_mnist.graph.operations import (
    UNBOUNDED,
    Add,
    Concatenate,
    MaxPool2d,
    Multiply,
    Quantization,
    QuantizedConv2d,
    QuantizedGraph,
    QuantizedOperation,
    Table,
    Upsample,
)
from edge_mnist.runtime import compiled_c
from edge_mnist.system.errors import EdgeMnistError
from tests.support.c_programs import STRICT, run_program

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler: apt install gcc")

SANITIZE = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
AVX_512 = ("-mavx2", "-mavx512vl", "-mavx512vnni")
VARIANTS = {
    "portable": ("-O1", "-DEDGE_MNIST_PORTABLE"),
    "fixed point": ("-O1", "-DEDGE_MNIST_FIXED_POINT"),
    "SSE2": ("-O1", "-msse2"),
    "AVX2": ("-O1", "-mavx2"),
    "AVX-512 VNNI": ("-O1", *AVX_512),
}
X86 = {"SSE2": "sse2", "AVX2": "avx2", "AVX-512 VNNI": "avx512_vnni"}
"""What /proc/cpuinfo calls the instructions of a variant."""


class Builder:
    """A quantized graph under construction, with random weights. A value is given by its index."""

    def __init__(self, shape: Shape, seed: int, features: Quantization | None = None) -> None:
        channels, height, width = {1: (*shape, 1, 1), 2: (*shape[:1], 1, *shape[1:])}.get(len(shape), shape)
        self.rng = np.random.default_rng(seed)
        self.input_shape, self.features = shape, features
        self.operations: list[QuantizedOperation] = []
        self.shapes: list[MapShape] = [(channels, height, width)]
        self.quantizations = [features or Quantization(1.0, -128)]

    def push(self, operation: QuantizedOperation, output: Quantization) -> int:
        self.shapes.append(operation.output_shape(*(self.shapes[source] for source in operation.sources)))
        self.quantizations.append(output)
        self.operations.append(operation)
        return len(self.operations)

    def name(self, kind: str) -> str:
        return f"{kind}{len(self.operations)}"

    def draw_quantization(self) -> Quantization:
        zero_point = -128 if self.rng.random() < 0.5 else int(self.rng.integers(-100, 100))
        return Quantization(2.0 ** -int(self.rng.integers(2, 5)), zero_point)

    def convolve(
        self,
        source: int,
        outputs: int,
        window: Window,
        groups: int = 1,
        output: Quantization | None = None,
    ) -> int:
        output = output or self.draw_quantization()
        channels = self.shapes[source][0] // groups
        weight = self.rng.normal(0, 40, (outputs, channels, *window.kernel_size)).clip(-127, 127).astype(np.int8)
        step = self.rng.uniform(0.5, 1.2, outputs) / np.sqrt(weight[0].size) / 40
        scale = (step * output.scale / self.quantizations[source].scale).astype(np.float32)
        scale = (scale.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)  # a short mantissa
        bias = self.rng.integers(-2000, 2000, outputs).astype(np.int32)
        return self.push(
            QuantizedConv2d(
                self.name("conv"), weight, scale, bias, window, groups, UNBOUNDED, output, sources=(source,)
            ),
            output,
        )

    def pool(self, source: int, window: Window) -> int:
        return self.push(MaxPool2d(self.name("pool"), window, sources=(source,)), self.quantizations[source])

    def upsample(self, source: int, factor: Pair) -> int:
        return self.push(Upsample(self.name("upsample"), factor, sources=(source,)), self.quantizations[source])

    def concatenate(self, *sources: int) -> int:
        return self.push(Concatenate(self.name("concatenate"), sources=sources), self.quantizations[sources[0]])

    def add(self, a: int, b: int) -> int:
        first, second = self.quantizations[a], self.quantizations[b]
        largest = 2.0 ** np.ceil(np.log2(max(first.scale, second.scale)))
        for factor in (1 + 2**-12, 1 - 2**-12, 1 + 2**-10, 1 - 2**-10):
            output = Quantization(2 * largest * factor, int(self.rng.integers(-128, 100)))
            if tie_margin_of_add(first, second, output) > 0:
                return self.push(Add(self.name("add"), UNBOUNDED, output, sources=(a, b)), output)
        raise AssertionError((first, second))

    def multiply(self, a: int, b: int) -> int:
        first, second = self.quantizations[a], self.quantizations[b]
        product = 2.0 ** np.ceil(np.log2(first.scale * second.scale * 100))
        for factor in (1 + 2**-12, 1 - 2**-12, 1 + 2**-10, 1 - 2**-10):
            output = Quantization(product * factor, int(self.rng.integers(-128, 100)))
            if tie_margin_of_multiply(first, second, output) > 0:
                return self.push(Multiply(self.name("multiply"), output, sources=(a, b)), output)
        raise AssertionError((first, second))

    def look_up(self, source: int) -> int:
        values, output = self.rng.permutation(np.arange(-128, 128)).astype(np.int8), self.draw_quantization()
        return self.push(Table(self.name("table"), "tanh", 0.0, values, output, sources=(source,)), output)

    def build(self) -> QuantizedGraph:
        return QuantizedGraph(self.input_shape, 0, tuple(self.operations), features=self.features)


SAME = Window((3, 3), padding=(1, 1))
POINT = Window((1, 1))


def make_residual_graph(seed: int) -> QuantizedGraph:
    """Sums of different scales, a projection of stride 2, padding on one side, and a dense layer."""
    b = Builder((3, 12, 10), seed)
    x = b.convolve(0, 16, SAME)
    x = b.add(b.convolve(b.convolve(x, 16, SAME), 16, SAME), x)
    after = Window((3, 3), (2, 2), (0, 0), (1, 1), (1, 1))
    x = b.add(b.convolve(x, 21, Window((1, 1), (2, 2))), b.convolve(b.convolve(x, 5, after), 21, SAME))
    x = b.add(x, x)
    b.convolve(x, 10, Window(b.shapes[x][1:]))
    return b.build()


def make_inception_graph(seed: int) -> QuantizedGraph:
    """Branches of one value that a padded convolution, padded max pools and others take; the output is maps."""
    b = Builder((2, 9, 11), seed)
    x = b.convolve(0, 6, SAME, output=Quantization(0.25, 17))
    kept = b.quantizations[x]
    pooled = b.pool(x, Window((3, 3), (1, 1), (1, 1)))
    aside = b.pool(x, Window((2, 2), (1, 1), (0, 0), (1, 1), (1, 1)))
    dilated = b.convolve(x, 9, Window((3, 2), (1, 1), (2, 1), (2, 2)), output=kept)
    joined = b.concatenate(pooled, x, dilated, b.convolve(x, 3, POINT, output=kept), aside, x)
    small = b.pool(b.convolve(joined, 8, Window((4, 2))), Window((2, 2), (2, 2)))
    grown = b.upsample(small, (3, 2))
    b.convolve(b.look_up(grown), 4, Window((2, 3), (1, 2), (1, 0), (1, 1), (0, 2)), groups=2)
    return b.build()


def make_mobile_graph(seed: int) -> QuantizedGraph:
    """Depthwise convolutions of every stride, and gates for each channel and for each value."""
    b = Builder((3, 17, 14), seed)
    x = b.convolve(0, 24, Window((3, 3), (2, 2), (0, 0), (1, 1), (1, 1)))
    x = b.convolve(x, 24, SAME, groups=24)
    x = b.convolve(x, 13, POINT)
    x = b.convolve(x, 13, Window((3, 3), (2, 1), (1, 1)), groups=13)
    x = b.convolve(x, 24, POINT)
    x = b.convolve(x, 24, Window((5, 5), (1, 1), (2, 2)), groups=24)
    gate = b.convolve(x, 24, Window(b.shapes[x][1:]), groups=24)
    gate = b.look_up(b.convolve(gate, 24, POINT))
    x = b.multiply(x, gate)
    x = b.convolve(b.multiply(x, b.convolve(x, 24, POINT)), 48, Window((2, 2), (2, 2), (1, 0)), groups=24)
    x = b.convolve(x, 48, Window((3, 3), (2, 2), (1, 1)), groups=48)
    x = b.convolve(x, 40, POINT)
    x = b.convolve(x, 40, Window((1, 2), (1, 1), (0, 1), (1, 2)), groups=40)
    b.convolve(x, 7, Window(b.shapes[x][1:]))
    return b.build()


def make_sequence_graph(seed: int) -> QuantizedGraph:
    """Features (channels, length)."""
    b = Builder((3, 21), seed, Quantization(0.125, -5))
    x = b.convolve(0, 10, Window((1, 5), (1, 2), (0, 2)))
    x = b.pool(b.add(x, b.look_up(x)), Window((1, 2), (1, 2)))
    b.convolve(x, 4, Window(b.shapes[x][1:]))
    return b.build()


def make_vector_graph(seed: int) -> QuantizedGraph:
    """Features (count,)."""
    b = Builder((19,), seed, Quantization(0.0625, 12))
    x = b.convolve(0, 33, POINT)
    b.multiply(b.convolve(x, 19, POINT), b.convolve(b.look_up(x), 19, POINT))
    return b.build()


def make_narrow_graph(seed: int) -> QuantizedGraph:
    """Rows of 33 values, which vectors exceed by 15, beside the padding of the next row; rows of two at once."""
    b = Builder((2, 7, 11), seed)
    left = Window((3, 3), (1, 1), (0, 2), (1, 1), (0, 0))
    x = b.convolve(0, 3, SAME)
    x = b.convolve(b.add(x, b.convolve(x, 3, POINT)), 3, left)
    x = b.convolve(b.multiply(x, b.convolve(x, 3, POINT)), 3, left, groups=3)
    x = b.convolve(x, 19, Window((1, 3), (1, 2), (0, 1)))
    x = b.convolve(b.convolve(x, 9, POINT), 12, Window((2, 2), (1, 1), (1, 1)))
    b.convolve(x, 20, Window((3, 3), (2, 2), (1, 1)))
    return b.build()


GRAPHS = (
    make_narrow_graph,
    make_residual_graph,
    make_inception_graph,
    make_mobile_graph,
    make_sequence_graph,
    make_vector_graph,
)


def draw_inputs(graph: QuantizedGraph, count: int = 5) -> np.ndarray:
    """Random inputs, and those that are as small and as large as possible."""
    rng = np.random.default_rng(7)
    if graph.is_pixels:
        inputs = rng.integers(0, 256, (count, *graph.input_shape)).astype(np.uint8)
        inputs[:2] = np.array([0, 255]).reshape(2, *(1 for _ in graph.input_shape))
        return inputs
    return rng.normal(0, 4, (count, *graph.input_shape)).astype(np.float32)


def to_bytes(graph: QuantizedGraph, inputs: np.ndarray) -> np.ndarray:
    """What the C takes: uint8 (N, height, width, channels)."""
    values = next(iter(quantized_activations(graph, inputs)))
    return np.ascontiguousarray(values).view(np.uint8) ^ 0x80


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of compiled libraries that the tests of this session share, instead of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "c_cache"))


def check(graph: QuantizedGraph, flags: tuple[str, ...], rounding: Rounding) -> None:
    """Compare the output of each operation with the oracle's."""
    inputs = draw_inputs(graph)
    operations = fuse_operations(graph)
    library = compiled_c.open_library(write_c(graph), "model.c", (*STRICT, *flags), traced=True)
    outputs = library.trace(to_bytes(graph, inputs), len(operations))
    expected = list(quantized_activations(graph, inputs, rounding))[1:]
    names = [operation.name for operation in graph.operations]
    for fused, values in zip(operations, outputs, strict=True):
        name = (fused.pool or fused.operation).name
        assert np.array_equal(values, expected[names.index(name)].reshape(len(inputs), -1)), (name, fused.kernel)


@pytest.mark.parametrize(
    "variant",
    [pytest.param(name, marks=[pytest.mark.slow] if name in X86 and name != "SSE2" else []) for name in VARIANTS],
)
@pytest.mark.parametrize("make_graph", GRAPHS)
def test_every_operation_gives_the_oracles_integers(make_graph: Callable[[int], QuantizedGraph], variant: str) -> None:
    if variant in X86 and X86[variant] not in Path("/proc/cpuinfo").read_text():
        pytest.skip(f"needs a processor with {variant}")
    check(make_graph(1), VARIANTS[variant], "fixed-point" if variant == "fixed point" else "float")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make_graph", "flags"),
    [
        *((make_graph, flags) for make_graph in GRAPHS for flags in (("-O1",), ("-O1", "-DEDGE_MNIST_PORTABLE"))),
        # Compiling the checks of the longest vectors takes minutes. In this graph they write far beyond a short row.
        (make_narrow_graph, ("-O1", *AVX_512, "--param", "asan-instrumentation-with-call-threshold=0")),
    ],
)
def test_no_value_is_read_or_written_outside_of_the_arena(
    make_graph: Callable[[int], QuantizedGraph], flags: tuple[str, ...], tmp_path: Path
) -> None:
    if "-mavx2" in flags and X86["AVX-512 VNNI"] not in Path("/proc/cpuinfo").read_text():
        pytest.skip("needs a processor with AVX-512 VNNI")
    graph = make_graph(2)
    inputs = draw_inputs(graph)
    images = to_bytes(graph, inputs).transpose(0, 3, 1, 2)
    outputs = run_program(graph, images, tmp_path, ("gcc", *STRICT, *SANITIZE, *flags))
    np.testing.assert_array_equal(outputs, run_quantized(graph, inputs))


def test_the_classifier_gives_maps_and_takes_features(monkeypatch: pytest.MonkeyPatch) -> None:
    for make_graph in (make_inception_graph, make_vector_graph):
        graph = make_graph(1)
        inputs = draw_inputs(graph)
        monkeypatch.setattr(compiled_c, "FLAGS", (*compiled_c.FLAGS, "-DEDGE_MNIST_PORTABLE"))
        classifier = compiled_c.CClassifier(write_c(graph), "model.c", 1)
        np.testing.assert_array_equal(classifier.outputs(inputs), run_quantized(graph, inputs))


def test_a_pool_is_taken_of_the_sums_only_if_nothing_else_reads_the_convolution() -> None:
    b = Builder((1, 8, 8), 1)
    x = b.convolve(0, 8, SAME)
    pooled = b.pool(x, Window((2, 2), (2, 2)))
    b.convolve(b.concatenate(b.upsample(pooled, (2, 2)), x), 3, Window((8, 8)))
    assert [fused.kernel for fused in fuse_operations(b.build())] == [
        *("EM_CONV", "EM_POOL", "EM_UPSAMPLE", "EM_CONCATENATE", "EM_CONV")
    ]
    check(b.build(), VARIANTS["portable"], "float")


def test_sums_on_a_tie_are_refused_by_name() -> None:
    graph = QuantizedGraph((1, 2, 2), 0, (Add("sum", UNBOUNDED, Quantization(4.0, 0), sources=(0, 0)),))
    with pytest.raises(EdgeMnistError, match="sum: .* of 65536 sums differently"):
        write_c(graph)


def test_values_that_are_never_needed_together_share_their_place() -> None:
    """A gate needs all of the map that it is computed from; the maps before and after it do not overlap in time."""
    b = Builder((1, 32, 32), 1)
    x = 0
    for _ in range(4):
        x = b.convolve(x, 16, SAME)
        gate = b.look_up(b.convolve(x, 16, Window((32, 32)), groups=16))
        x = b.multiply(x, gate)
    b.convolve(x, 16, Window((32, 32)), groups=16)
    rings = place_values(fuse_operations(b.build()))
    complete = 32 * 32 * 16
    assert 2 * complete < count_graph_values(rings) < 3 * complete
