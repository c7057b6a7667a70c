"""What quantization promises of every network, and what it does with channels that no network should have."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from edge_mnist.data import strokes
from edge_mnist.formats.contract import hash_graph
from edge_mnist.graph import calibration
from edge_mnist.graph import checkpoint as checkpoints
from edge_mnist.graph.arithmetic import dequantize
from edge_mnist.graph.folding import fold
from edge_mnist.graph.geometry import Window
from edge_mnist.graph.interpreter import run_float, run_quantized
from edge_mnist.graph.operations import (
    ACCUMULATOR_LIMIT,
    RELU,
    UNBOUNDED,
    Conv2d,
    FloatGraph,
    QuantizedGraph,
    bound_accumulators,
)
from edge_mnist.graph.quantization import SMALLEST_MULTIPLIER, LayerReport, quantize_graph
from edge_mnist.pretrained import SHIPPED
from edge_mnist.system.errors import EdgeMnistError
from tests.support.networks import random_checkpoint, random_images

Quantized = tuple[FloatGraph, QuantizedGraph, tuple[LayerReport, ...], np.ndarray]


def quantized_network(seed: int, **options: object) -> Quantized | None:
    """A random network, float and int8; None if a layer is dead on its images, which is refused by name."""
    source = random_checkpoint(seed)
    graph, images = fold(source), random_images(source, 30, seed)
    try:
        found, reports = quantize_graph(graph, calibration.collect(graph, images), **options)  # type: ignore[arg-type]
    except EdgeMnistError as error:
        assert any(f"{layer.name}: every output is" in str(error) for layer in graph.convolutions)
        return None
    return graph, found, reports, images


@pytest.fixture(scope="module")
def networks() -> list[Quantized]:
    found = [network for seed in range(500, 560) if (network := quantized_network(seed)) is not None]
    assert len(found) > 50
    return found


def test_what_bit_exactness_rests_on_holds(networks: list[Quantized]) -> None:
    for graph, found, _, _ in networks:
        assert found.shapes() == graph.shapes()
        sources = found.quantizations()
        assert all(math.frexp(source.scale)[0] == 0.5 for source in sources)
        assert sources[-1].zero_point == (-128 if found.convolutions[-1].relu else 0)
        for operation, source in zip(found.operations, sources, strict=False):
            if operation not in found.convolutions:
                continue
            assert np.abs(operation.weight.astype(int)).max() <= 64
            bound = bound_accumulators(operation.weight, operation.bias, source.zero_point)
            assert bound.max() < ACCUMULATOR_LIMIT
            assert operation.output.zero_point == -128 or not operation.relu
            # FBGEMM keeps the bias as a float32 and divides it by the scale when it runs.
            step = operation.weight_scale * np.float32(source.scale)
            assert step.dtype == np.float32 and np.array_equal(
                step, operation.weight_scale.astype(float) * source.scale
            )
            assert np.array_equal((operation.bias.astype(np.float32) * step) / step, operation.bias.astype(np.float32))
            multiplier = found.multipliers()[operation.name]
            assert multiplier.dtype == np.float32 and (multiplier < 1).all()
            assert (multiplier >= SMALLEST_MULTIPLIER * 0.999).all()


def test_reports_say_what_was_done(networks: list[Quantized]) -> None:
    corrected = 0
    for _, found, reports, _ in networks:
        assert [report.name for report in reports] == [operation.name for operation in found.convolutions]
        for report, operation, source in zip(reports, found.convolutions, sources(found), strict=True):
            assert (report.scale, report.zero_point) == (operation.output.scale, operation.output.zero_point)
            assert report.shift_after <= report.shift_before
            assert report.bias_corrected or report.shift_after == report.shift_before
            corrected += report.bias_corrected
            assert 0 <= report.clipped < 0.05
            worst = bound_accumulators(operation.weight, operation.bias, source).max()
            assert report.headroom == ACCUMULATOR_LIMIT / worst > 1
    assert corrected > 50


def sources(graph: QuantizedGraph) -> list[int]:
    """The zero point of each convolution's input."""
    pairs = zip(graph.operations, graph.quantizations(), strict=False)
    return [source.zero_point for operation, source in pairs if operation in graph.convolutions]


def test_int8_stays_close_to_float(networks: list[Quantized]) -> None:
    errors = []
    for graph, found, _, images in networks:
        expected = run_float(graph, images)
        logits = int8_logits(found, images)
        errors.append(np.sqrt(np.mean((logits - expected) ** 2)) / np.sqrt(np.mean(expected**2)))
    assert np.median(errors) < 0.02 and max(errors) < 0.1


def int8_logits(graph: QuantizedGraph, images: np.ndarray) -> np.ndarray:
    """What the int8 network's integers stand for."""
    output = graph.quantizations()[-1]
    return dequantize(run_quantized(graph, images), output.scale, output.zero_point)


def test_the_same_statistics_give_the_same_bytes() -> None:
    source = checkpoints.load(SHIPPED)
    first, second = (quantize_graph(fold(source), source.statistics)[0] for _ in range(2))
    assert hash_graph(first) == hash_graph(second)
    images = strokes.draw(300, seed=9).images
    same = run_quantized(first, images).argmax(axis=1) == run_float(fold(source), images).argmax(axis=1)
    assert same.mean() > 0.98


def test_minmax_clips_nothing() -> None:
    for seed in range(500, 510):
        network = quantized_network(seed, method="minmax")
        if network is not None:
            assert all(report.clipped == 0 for report in network[2])


def test_weight_range_is_a_limit() -> None:
    source = checkpoints.load(SHIPPED)
    graph = fold(source)
    for weight_range in (8, 127):
        found, _ = quantize_graph(graph, source.statistics, weight_range=weight_range)
        largest = max(int(np.abs(operation.weight.astype(int)).max()) for operation in found.convolutions)
        assert largest == weight_range
    for weight_range in (7, 128):
        with pytest.raises(EdgeMnistError, match=f"weight range {weight_range} is outside 8..127"):
            quantize_graph(graph, source.statistics, weight_range=weight_range)


Spoil = Callable[[np.ndarray, np.ndarray], None]


def all_zero(weight: np.ndarray, bias: np.ndarray) -> None:
    weight[1], bias[1] = 0, 0


def constant(weight: np.ndarray, bias: np.ndarray) -> None:
    weight[1], bias[1] = 0, 0.5 * np.abs(bias).max()


def tiny_weights_huge_bias(weight: np.ndarray, bias: np.ndarray) -> None:
    weight[1] *= 1e-6
    bias[1] = 1e4 * np.abs(bias).max()


def one_huge_weight(weight: np.ndarray, bias: np.ndarray) -> None:
    weight[1, 0, 0, 0] = 1e4 * np.abs(weight).max()


def subnormal(weight: np.ndarray, bias: np.ndarray) -> None:
    weight[1] = np.float32(1e-42)


def small_graph(layer: int, spoil: Spoil) -> tuple[FloatGraph, np.ndarray]:
    """Two convolutions, ReLU between them, one of them spoiled; and images for them."""
    rng = np.random.default_rng(layer)
    operations = []
    for index, taps in enumerate([(6, 1, 3, 3), (5, 6, 4, 4)]):
        size = (1 / 255 if index == 0 else 1.0) / math.sqrt(math.prod(taps[1:]))
        weight = rng.normal(0, size, taps).astype(np.float32)
        bias = rng.normal(0, 0.2, taps[0]).astype(np.float32)
        if index == layer:
            spoil(weight, bias)
        kernel = (taps[2], taps[3])
        operations.append(
            Conv2d(f"conv{index}", weight, bias, Window(kernel), bounds=RELU if index == 0 else UNBOUNDED)
        )
    return FloatGraph((1, 6, 6), 0, tuple(operations)), rng.integers(0, 256, (200, 6, 6), dtype=np.uint8)


@pytest.mark.parametrize("spoil", [all_zero, constant, tiny_weights_huge_bias, one_huge_weight, subnormal])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("weight_range", [64, 127])
def test_degenerate_channels_are_repaired(layer: int, spoil: Spoil, weight_range: int) -> None:
    graph, images = small_graph(layer, spoil)
    found, reports = quantize_graph(graph, calibration.collect(graph, images), weight_range=weight_range)
    expected = run_float(graph, images)
    logits = int8_logits(found, images)
    assert np.abs(logits - expected).max() <= 0.08 * np.abs(expected).max()
    assert all(report.headroom > 1 for report in reports)


def wide_graph(channels: int, spoil: float) -> FloatGraph:
    """One 1x1 convolution over many channels."""
    weight = np.full((2, channels, 1, 1), 0.5 / channels / 255, dtype=np.float32)
    weight[1, ::2] *= spoil
    return FloatGraph((channels, 1, 1), 0, (Conv2d("wide", weight, np.zeros(2, dtype=np.float32), Window((1, 1))),))


@pytest.mark.parametrize("channels", [3_000, 12_000])
def test_a_wide_layer_keeps_within_24_bits_with_fewer_levels(channels: int) -> None:
    assert channels * 64 * 255 > ACCUMULATOR_LIMIT
    graph = wide_graph(channels, 0.1)
    images = np.random.default_rng(0).integers(0, 256, (40, channels, 1, 1), dtype=np.uint8)
    found, (report,) = quantize_graph(graph, calibration.collect(graph, images))
    assert report.headroom > 1
    expected = run_float(graph, images)
    logits = int8_logits(found, images)
    assert np.abs(logits - expected).max() <= 0.08 * np.abs(expected).max()


def test_a_layer_that_cannot_keep_within_24_bits_is_refused_by_name() -> None:
    graph = wide_graph(20_000, 1.0)
    images = np.random.default_rng(0).integers(0, 256, (10, 20_000, 1, 1), dtype=np.uint8)
    with pytest.raises(EdgeMnistError, match="^wide, channel 0: 20000 weights .* 24 bits .* split the layer"):
        quantize_graph(graph, calibration.collect(graph, images))
