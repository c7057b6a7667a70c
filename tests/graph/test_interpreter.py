"""The oracle, compared with loops over plain integers."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from edge_mnist.graph.geometry import Window
from edge_mnist.graph.interpreter import BATCH_SIZE, quantized_activations, run_quantized, to_nhwc
from edge_mnist.graph.operations import RELU, UNBOUNDED, MaxPool2d, Quantization, QuantizedConv2d, QuantizedGraph
from edge_mnist.system.errors import EdgeMnistError

Map = list[list[list[int]]]
"""By channel, row, column."""


def requantize(accumulator: int, multiplier: np.float32, zero_point: int) -> int:
    """Python's round() takes ties to even."""
    return max(-128, min(127, round(float(np.float32(accumulator) * multiplier)) + zero_point))


def slow_convolution(values: Map, operation: QuantizedConv2d, source: Quantization) -> Map:
    """The convolution as six loops; the padding has the value of the zero point, and so adds nothing."""
    height, width = len(values[0]), len(values[0][0])
    window, (outputs, group_channels, *kernel) = operation.window, operation.weight.shape
    rows, columns = window.output_size((height, width))
    result = [[[0] * columns for _ in range(rows)] for _ in range(outputs)]
    for out, row, column in product(range(outputs), range(rows), range(columns)):
        first = out // (outputs // operation.groups) * group_channels
        accumulator = int(operation.bias[out])
        for channel, down, right in product(range(group_channels), *map(range, kernel)):
            y = row * window.stride[0] + down * window.dilation[0] - window.padding[0]
            x = column * window.stride[1] + right * window.dilation[1] - window.padding[1]
            if 0 <= y < height and 0 <= x < width:
                weight = int(operation.weight[out, channel, down, right])
                accumulator += weight * (values[first + channel][y][x] - source.zero_point)
        multiplier = operation.weight_scale[out] * np.float32(source.scale / operation.output.scale)
        result[out][row][column] = requantize(accumulator, multiplier, operation.output.zero_point)
    return result


def slow_max_pool(values: Map, window: Window) -> Map:
    height, width = len(values[0]), len(values[0][0])
    rows, columns = window.output_size((height, width))

    def values_under_window(channel: list[list[int]], row: int, column: int) -> list[int]:
        tops = range(row * window.stride[0] - window.padding[0], height)[: window.kernel_size[0]]
        lefts = range(column * window.stride[1] - window.padding[1], width)[: window.kernel_size[1]]
        return [channel[y][x] for y in tops for x in lefts if y >= 0 and x >= 0]

    return [
        [[max(values_under_window(channel, r, c)) for c in range(columns)] for r in range(rows)] for channel in values
    ]


def random_graph(seed: int) -> QuantizedGraph:
    """A convolution, a max pool, a convolution: of random windows and groups, integers of all sizes."""
    rng = np.random.default_rng(seed)
    channels = int(rng.integers(1, 4))
    shape = (channels, int(rng.integers(6, 10)), int(rng.integers(6, 10)))
    operations: list[QuantizedConv2d | MaxPool2d] = []
    graph = QuantizedGraph(shape, int(rng.integers(0, 256)), ())
    while len(operations) < 3:
        kernel = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
        stride = (int(rng.integers(1, 4)), int(rng.integers(1, 3)))
        padding = (int(rng.integers(0, kernel[0] // 2 + 1)), int(rng.integers(0, kernel[1] // 2 + 1)))
        source, inputs = graph.quantizations()[-1], graph.shapes()[-1][0]
        if len(operations) == 1:
            operation: QuantizedConv2d | MaxPool2d = MaxPool2d("pool", Window(kernel, stride, padding))
        else:
            dilation = (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
            groups = int(rng.choice([1, inputs]))
            outputs = groups * int(rng.integers(1, 4))
            taps = (outputs, inputs // groups, *kernel)
            spread = 64 * 100 * np.sqrt(np.prod(taps[1:]))  # of the accumulator, roughly
            operation = QuantizedConv2d(
                f"conv{len(operations)}",
                rng.integers(-127, 128, taps).astype(np.int8),
                (rng.uniform(20, 80, outputs) / spread / source.scale * 0.125).astype(np.float32),
                rng.integers(-3000, 3000, outputs).astype(np.int32),
                Window(kernel, stride, padding, dilation),
                groups,
                RELU if (relu := bool(rng.random() < 0.5)) else UNBOUNDED,
                Quantization(0.125, -128 if relu else int(rng.integers(-40, 40))),
            )
        try:
            graph = QuantizedGraph(graph.input_shape, graph.zero_pixel, (*operations, operation))
        except EdgeMnistError:  # the window does not fit
            continue
        operations.append(operation)
    return graph


@pytest.mark.parametrize("seed", range(30))
def test_layers_equal_loops_over_integers(seed: int) -> None:
    graph = random_graph(seed)
    images = np.random.default_rng(seed).integers(0, 256, (2, *graph.input_shape), dtype=np.uint8)
    values: list[Map] = (images.astype(int) - 128).tolist()
    steps = quantized_activations(graph, images)
    assert np.array_equal(next(steps).transpose(0, 3, 1, 2), values)
    varied = set()
    for operation, source, found in zip(graph.operations, graph.quantizations(), steps, strict=False):
        if isinstance(operation, MaxPool2d):
            values = [slow_max_pool(image, operation.window) for image in values]
        else:
            values = [slow_convolution(image, operation, source) for image in values]
        assert found.dtype == np.int8 and np.array_equal(found.transpose(0, 3, 1, 2), values), operation.name
        varied |= set(found.ravel().tolist())
    assert len(varied) > 3  # otherwise the comparison would say nothing
    flat = run_quantized(graph, images)
    assert np.array_equal(flat, np.array(values).reshape(2, -1))


def test_the_batch_changes_nothing() -> None:
    graph = random_graph(1)
    images = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE + 3, *graph.input_shape), dtype=np.uint8)
    whole = run_quantized(graph, images)
    assert np.array_equal(whole, np.concatenate([run_quantized(graph, image[None]) for image in images]))
    assert run_quantized(graph, images[:0]).shape == (0, whole.shape[1])
    for count, shape in enumerate(graph.shapes()[1:], start=1):
        prefix = replace(graph, operations=graph.operations[:count])
        assert run_quantized(prefix, images[:2]).shape == (2, np.prod(shape))


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_another_shape_or_type_are_refused(channels: int) -> None:
    graph = QuantizedGraph((channels, 6, 8), 0, ())
    good = np.zeros((2, channels, 6, 8), dtype=np.uint8)
    assert to_nhwc(graph, good).shape == (2, 6, 8, channels)
    squeezed = good[:, 0]
    if channels == 1:
        assert np.array_equal(to_nhwc(graph, squeezed), to_nhwc(graph, good))
    bad = [good[0, 0], good[:, :, :5], good.transpose(0, 2, 3, 1), good.astype(np.float32), good.astype(np.int8)]
    for images in [*bad, *([squeezed] if channels > 1 else [])]:
        with pytest.raises(EdgeMnistError, match=r"images: expected uint8 \(N, .*6, 8\), found .* \(.*\)"):
            run_quantized(graph, images)
