"""The statistics are those of the activations, and statistics that say nothing are refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from edge_mnist.graph import calibration
from edge_mnist.graph.folding import fold
from edge_mnist.graph.geometry import Window
from edge_mnist.graph.interpreter import BATCH_SIZE, float_activations
from edge_mnist.graph.operations import Activation, Add, Conv2d, FloatGraph, MaxPool2d, Multiply
from edge_mnist.graph.quantization import quantize_graph
from edge_mnist.system.errors import EdgeMnistError
from tests.support.networks import random_checkpoint, random_features, random_graph, random_images

SEEDS = range(300, 312)


def test_statistics_are_those_of_all_activations_at_once() -> None:
    pooled = 0
    for seed in SEEDS:
        graph = fold(random_checkpoint(seed))
        images = random_images(random_checkpoint(seed), BATCH_SIZE + 9, seed)
        found = calibration.collect(graph, images)
        # In the same batches: the last bits of a float32 matrix product depend on its size.
        batches = [list(float_activations(graph, part)) for part in (images[:BATCH_SIZE], images[BATCH_SIZE:])]
        inputs = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        expected_keys = {"pixels.histogram"}
        for index, operation in enumerate(graph.operations):
            if isinstance(operation, MaxPool2d):
                continue
            name = operation.name
            expected_keys |= {f"{name}.range", f"{name}.histogram", f"{name}.input_mean"}
            following = index + 1  # the next convolution sees the output of the pools after this one
            while following < len(graph.operations) and isinstance(graph.operations[following], MaxPool2d):
                following += 1
                pooled += 1
            values = inputs[following]
            low, high = values.min(), values.max()
            assert found[f"{name}.range"].tolist() == [low, high]
            counts = found[f"{name}.histogram"]
            assert counts.dtype == np.int64 and counts.sum() == values.size
            assert np.array_equal(counts, np.histogram(values, calibration.BINS, (float(low), float(high)))[0])
            mean = slow_input_mean(inputs[index], operation.window)
            np.testing.assert_allclose(found[f"{name}.input_mean"], mean, rtol=1e-9, atol=1e-9)
        assert found.keys() == expected_keys
        assert np.array_equal(found["pixels.histogram"], [(images == value).sum() for value in range(256)])
    assert pooled


def test_statistics_of_graphs_are_those_of_what_is_read() -> None:
    kinds: set[str] = set()
    for seed in range(40):
        source = replace(random_graph(seed), is_pixels=seed % 2 == 0)
        graph = fold(source)
        inputs = (random_images if source.is_pixels else random_features)(source, 20, seed)
        found = calibration.collect(graph, inputs)
        values = list(float_activations(graph, inputs))
        readers = graph.readers()
        expected = {"input": 0} if not source.is_pixels else {}
        for index, operation in enumerate(graph.operations):
            if isinstance(operation, Conv2d):
                mean = slow_input_mean(values[graph.sources(index)[0]], operation.window)
                np.testing.assert_allclose(found[f"{operation.name}.input_mean"], mean, rtol=1e-6, atol=1e-6)
            if isinstance(operation, Conv2d | Add | Multiply | Activation):
                kinds.add(type(operation).__name__)
                expected[operation.name] = index + 1
        for name, value in expected.items():
            while len(readers[value]) == 1 and isinstance(pool := graph.operations[readers[value][0]], MaxPool2d):
                value = graph.operations.index(pool) + 1
            assert found[f"{name}.range"].tolist() == [values[value].min(), values[value].max()]
            assert found[f"{name}.histogram"].sum() == values[value].size
        keys = {key for key in found if not key.endswith(".input_mean")}
        pixels = {"pixels.histogram"} if source.is_pixels else set()
        assert keys == pixels | {f"{name}.{key}" for name in expected for key in ("range", "histogram")}
    assert kinds == {"Conv2d", "Add", "Multiply", "Activation"}


def test_the_range_is_that_after_a_max_pool_only_if_nothing_else_takes_the_value() -> None:
    weight, bias = np.full((1, 1, 1, 1), 1, np.float32), np.zeros(1, np.float32)
    pool = MaxPool2d("pool", Window((2, 2), (2, 2)))
    first = Conv2d("a", weight, bias, Window((1, 1)))
    shrink = Conv2d("c", np.ones((1, 1, 2, 2), np.float32), bias, Window((2, 2), (2, 2)), sources=(1,))
    pixels = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    for operations, low in (((first, pool), 5), ((first, pool, shrink, Add("sum", sources=(2, 3))), 0)):
        found = calibration.collect(FloatGraph((1, 4, 4), 0, operations), pixels)
        assert found["a.range"].tolist() == [low, 15]


def slow_input_mean(values: np.ndarray, window: Window) -> np.ndarray:
    """Mean of what each tap sees over all images and positions, padding included: (channels, rows, columns)."""
    height, width = values.shape[1:3]
    rows, columns = window.output_size((height, width))
    result = np.zeros((values.shape[3], *window.kernel_size))
    for down, right in product(*map(range, window.kernel_size)):
        for row, column in product(range(rows), range(columns)):
            y = row * window.stride[0] + down * window.dilation[0] - window.padding[0]
            x = column * window.stride[1] + right * window.dilation[1] - window.padding[1]
            if 0 <= y < height and 0 <= x < width:
                result[:, down, right] += values[:, y, x].sum(axis=0, dtype=np.float64)
    return result / (len(values) * rows * columns)


@pytest.fixture(scope="module")
def graph() -> FloatGraph:
    return fold(random_checkpoint(SEEDS[0]))


@pytest.mark.parametrize("value", [0, 255])
def test_images_that_show_nothing_are_refused(graph: FloatGraph, value: int) -> None:
    statistics = calibration.collect(graph, np.full((4, *graph.input_shape), value, dtype=np.uint8))
    with pytest.raises(EdgeMnistError, match=f"^every pixel of the calibration images is {value}, expected digits"):
        quantize_graph(graph, statistics)


def test_statistics_that_do_not_fit_are_refused(graph: FloatGraph) -> None:
    images = random_images(random_checkpoint(SEEDS[0]), 8, 0)
    good = calibration.collect(graph, images)
    name = graph.convolutions[0].name
    bad = {
        "no activation statistics": {},
        f"{name}.range: expected shape .2,., found None": {k: v for k, v in good.items() if k != f"{name}.range"},
        f"{name}.histogram: expected shape": {**good, f"{name}.histogram": np.zeros(7, dtype=np.int64)},
        f"{name}.input_mean: expected shape": {**good, f"{name}.input_mean": np.zeros((1, 1, 1))},
        f"{name}: every output is nan": {**good, f"{name}.range": np.array([np.nan, 1.0])},
        f"{name}: every output is 3": {**good, f"{name}.range": np.array([3.0, 3.0])},
    }
    for text, statistics in bad.items():
        with pytest.raises(EdgeMnistError, match=text) as caught:
            quantize_graph(graph, statistics)
        assert "\n" not in str(caught.value)


def test_inputs_that_are_missing_or_not_finite_are_refused() -> None:
    source = replace(random_checkpoint(SEEDS[0]), is_pixels=False)
    graph, features = fold(source), random_features(source, 6, 0)
    features[2], features[4] = np.nan, np.inf
    with pytest.raises(EdgeMnistError, match="^calibration data: 2 of 6 inputs hold NaN .* the first is number 2"):
        calibration.collect(graph, features)
    with pytest.raises(EdgeMnistError, match="^inputs: expected float32 .*, found float64 "):
        calibration.collect(graph, features.astype(np.float64))
    with pytest.raises(EdgeMnistError, match="^there is no calibration data"):
        calibration.collect(graph, features[:0])
    with pytest.raises(EdgeMnistError, match=f"^{graph.operations[0].name}: gives values that are not finite"):
        calibration.collect(graph, np.full((2, *graph.input_shape), 3e38, dtype=np.float32))


@pytest.mark.parametrize("value", [1e30, 3.0, 0.0])
def test_values_that_are_nearly_equal_are_counted(value: float) -> None:
    values = np.full(100, value, np.float32)
    values[:3] = np.nextafter(values[:3], np.float32(np.inf))
    counts = calibration._count_values(values, float(values.min()), float(values.max()))
    assert counts.shape == (calibration.BINS,) and counts.sum() == 100
