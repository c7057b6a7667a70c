"""The statistics are those of the activations, and statistics that say nothing are refused."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from edge_mnist.graph import calibration
from edge_mnist.graph.folding import fold
from edge_mnist.graph.geometry import Window
from edge_mnist.graph.interpreter import BATCH_SIZE, float_activations
from edge_mnist.graph.operations import FloatGraph, MaxPool2d
from edge_mnist.graph.quantization import quantize_graph
from edge_mnist.system.errors import EdgeMnistError
from tests.support.networks import random_checkpoint, random_images

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
