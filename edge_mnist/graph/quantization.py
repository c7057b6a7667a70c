"""Quantizes a `FloatGraph`, from the statistics of its activations, to a `QuantizedGraph`.

The numbers are chosen so that runtimes cannot round differently (docs/bit-exactness.md): activation scales are powers
of two, accumulators stay below 2^24, weights within +-64, and biases survive a round trip through float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_mnist.graph.arithmetic import find_exact_bias_scale, round_up_to_power_of_two, sum_squared_errors
from edge_mnist.graph.calibration import BINS, Statistics
from edge_mnist.graph.operations import (
    ACCUMULATOR_LIMIT,
    Conv2d,
    FloatGraph,
    MaxPool2d,
    Quantization,
    QuantizedConv2d,
    QuantizedGraph,
    bound_accumulators,
)
from edge_mnist.system.errors import EdgeMnistError

Method = Literal["mse", "minmax"]
"""How the scale of an activation is chosen, see `quantize_graph`."""

SMALLEST_MULTIPLIER = 2.0**-20
"""The smallest multiplier M of a channel. With it even the largest accumulator moves the output by only
2^24 * 2^-20 = 16 steps. Runtimes refuse M below 2^-32."""

LEAST_WEIGHT_LEVELS = 4
"""The smallest number of weight levels on each side of zero. A channel that would keep fewer is refused."""


@dataclass(frozen=True)
class LayerReport:
    """How one convolution was quantized.

    Attributes:
        name: the name of the convolution.
        scale: the scale of its output.
        zero_point: the zero point of its output.
        clipped: the share of the calibration values that lie outside the int8 range, 0..1.
        bias_corrected: whether the bias of a channel was corrected, which is done where it lowers the shift.
        shift_before: by how much rounding the weights is expected to shift the output: the root mean square over the
            channels, in steps of the output.
        shift_after: the same with the exported bias.
        headroom: the limit of the accumulator divided by the largest possible accumulator, above 1.
    """

    name: str
    scale: float
    zero_point: int
    clipped: float
    bias_corrected: bool
    shift_before: float
    shift_after: float
    headroom: float


def quantize_graph(
    graph: FloatGraph, statistics: Statistics, *, weight_range: int = 64, method: Method = "mse"
) -> tuple[QuantizedGraph, tuple[LayerReport, ...]]:
    """Quantize a trained graph: int8 weights per output channel, int8 activations per tensor, int32 biases.

    Args:
        graph: the folded float network.
        statistics: the statistics of its activations, see `calibration`.
        weight_range: the largest magnitude of a weight, 8..127. Up to 64, the sums of two products in `vpmaddubsw`
            cannot saturate, so that x86 processors without VNNI compute the same bits; above 64, they may not.
        method: "mse" chooses the scale with the least squared error, which may clip values; "minmax" chooses the
            smallest scale that clips no value.

    Returns:
        The quantized graph, and how each of its convolutions was quantized.

    Raises:
        EdgeMnistError: the statistics do not fit the network or are of images that are all alike, or a layer cannot be
            quantized within the accumulator's 24 bits.
    """
    if not 8 <= weight_range <= 127:
        raise EdgeMnistError(f"weight range {weight_range} is outside 8..127")
    _check_statistics(graph, statistics)
    source = Quantization(1.0, graph.zero_pixel - 128)
    operations: list[QuantizedConv2d | MaxPool2d] = []
    reports = []
    for operation in graph.operations:
        if isinstance(operation, MaxPool2d):
            operations.append(operation)
            continue
        is_logits = operation is graph.operations[-1]
        output, clipped = _choose_output_quantization(operation, statistics, source, weight_range, method, is_logits)
        convolution, report = _quantize_convolution(operation, source, output, clipped, statistics, weight_range)
        operations.append(convolution)
        reports.append(report)
        source = output
    return QuantizedGraph(graph.input_shape, graph.zero_pixel, tuple(operations)), tuple(reports)


def _check_statistics(graph: FloatGraph, statistics: Statistics) -> None:
    """Check the statistics.

    Raises:
        EdgeMnistError: they are missing, damaged, of another network, or of images that are all alike.
    """
    pixel_counts = statistics.get("pixels.histogram")
    if pixel_counts is None:
        raise EdgeMnistError("the checkpoint holds no activation statistics: calibrate with --recalibrate")
    if np.count_nonzero(pixel_counts) < 2:
        value = int(np.argmax(pixel_counts))
        raise EdgeMnistError(
            f"every pixel of the calibration images is {value}, expected digits: calibrate with --recalibrate"
        )
    for convolution in graph.convolutions:
        name = convolution.name
        expected = {
            f"{name}.range": (2,),
            f"{name}.histogram": (BINS,),
            f"{name}.input_mean": (convolution.weight.shape[1] * convolution.groups, *convolution.window.kernel_size),
        }
        for key, shape in expected.items():
            found = statistics[key].shape if key in statistics else None
            if found != shape:
                raise EdgeMnistError(
                    f"statistics {key}: expected shape {shape}, found {found}: calibrate with --recalibrate"
                )
        low, high = statistics[f"{name}.range"].astype(np.float64)
        counts = statistics[f"{name}.histogram"]
        if low > high or counts.min() < 0 or counts.sum() == 0:
            raise EdgeMnistError(
                f"statistics of {name}: a histogram of {counts.sum():g} values from {low:g} to {high:g} is damaged: "
                "calibrate with --recalibrate"
            )
        if not (math.isfinite(low) and math.isfinite(high)) or low == high:
            raise EdgeMnistError(
                f"{name}: every output is {low:g} on the calibration images, expected values that differ: "
                "the layer is dead, or the images are all alike"
            )


def _choose_output_quantization(
    operation: Conv2d,
    statistics: Statistics,
    source: Quantization,
    weight_range: int,
    method: Method,
    is_logits: bool,
) -> tuple[Quantization, float]:
    """Choose the scale and zero point of a convolution's output; also return the share of values that they clip."""
    low, high = (float(value) for value in statistics[f"{operation.name}.range"])
    counts = statistics[f"{operation.name}.histogram"].astype(np.float64)
    values: NDArray[np.float64] = low + (np.arange(BINS, dtype=np.float64) + 0.5) * ((high - low) / BINS)

    def zero_points(scale: float) -> tuple[int, ...]:
        if operation.relu:
            return (-128,)
        return (0,) if is_logits else (0, max(-128, min(127, -128 - round(low / scale))))

    # M must stay below 1, so an output step must be larger than a weight step times an input step.
    product_step = float(np.abs(operation.weight).max()) / weight_range * source.scale
    span = high / 255 if operation.relu else max(high, -low) / 127
    covering = round_up_to_power_of_two(max(span, product_step * 1.001, 2.0**-40))
    candidates = [covering] if method == "minmax" else [covering / 2**finer for finer in range(6)]
    choices = [(scale, zero) for scale in candidates if scale > product_step for zero in zero_points(scale)]
    # If two errors are equal, the coarser scale, which comes first, is chosen.
    scale, zero_point = min(choices, key=lambda choice: sum_squared_errors(values, counts, *choice))
    outside = (values < (-128.5 - zero_point) * scale) | (values > (127.5 - zero_point) * scale)
    return Quantization(scale, zero_point), float(counts[outside].sum() / counts.sum())


def _quantize_convolution(
    operation: Conv2d,
    source: Quantization,
    output: Quantization,
    clipped: float,
    statistics: Statistics,
    weight_range: int,
) -> tuple[QuantizedConv2d, LayerReport]:
    """Quantize a convolution channel by channel, its biases corrected for the rounding errors of its weights."""
    inputs = statistics[f"{operation.name}.input_mean"].astype(np.float64)
    group_channels = operation.weight.shape[1]
    group_outputs = len(operation.weight) // operation.groups
    weights, scales, biases, before, after = [], [], [], [], []
    for channel, (taps, bias) in enumerate(zip(operation.weight.astype(np.float64), operation.bias, strict=True)):
        first = channel // group_outputs * group_channels
        mean = inputs[first : first + group_channels]
        where = f"{operation.name}, channel {channel}"
        quantized = _quantize_channel(where, taps, float(bias), mean, source, output, weight_range)
        weights.append(quantized.weight)
        scales.append(quantized.scale)
        biases.append(quantized.bias)
        before.append(quantized.shift_before)
        after.append(quantized.shift_after)
    weight, bias_integers = np.stack(weights), np.array(biases, dtype=np.int32)
    convolution = QuantizedConv2d(
        operation.name,
        weight,
        np.array(scales, dtype=np.float32),
        bias_integers,
        operation.window,
        operation.groups,
        operation.relu,
        output,
    )
    worst = int(bound_accumulators(weight, bias_integers, source.zero_point).max())
    report = LayerReport(
        operation.name,
        output.scale,
        output.zero_point,
        clipped,
        any(a != b for a, b in zip(before, after, strict=True)),
        _root_mean_square(before) / output.scale,
        _root_mean_square(after) / output.scale,
        ACCUMULATOR_LIMIT / max(worst, 1),
    )
    return convolution, report


@dataclass(frozen=True)
class _Channel:
    """One quantized output channel."""

    weight: NDArray[np.int8]  # (in / groups, kernel height, kernel width)
    scale: np.float32
    bias: int
    shift_before: float  # by how much rounding is expected to shift the output, in real units
    shift_after: float  # the same with the corrected bias


def _quantize_channel(
    where: str,
    taps: NDArray[np.float64],
    bias: float,
    mean: NDArray[np.float64],
    source: Quantization,
    output: Quantization,
    weight_range: int,
) -> _Channel:
    """Quantize one output channel with the finest weight scale that the limits allow.

    The limits are the weight range, the bound of the accumulator and the smallest multiplier.

    Args:
        where: the layer and the channel, with which the text of an error begins.
        taps: float64 (in / groups, kernel height, kernel width), the weights.
        bias: the bias.
        mean: float64, of the shape of `taps`, the mean input of each weight.
        source: the quantization of the input.
        output: the quantization of the output.
        weight_range: the largest magnitude of a weight.

    Raises:
        EdgeMnistError: the accumulator would exceed 24 bits even with the fewest levels.
    """
    unit = output.scale / source.scale  # the weight scale at which M is 1
    # A huge bias may take at most a quarter of the accumulator; compared with it the weights hardly matter.
    smallest = max(unit * SMALLEST_MULTIPLIER, abs(bias) / source.scale / (ACCUMULATOR_LIMIT // 4))
    levels = weight_range
    while levels >= LEAST_WEIGHT_LEVELS:
        finest = np.float32(max(float(np.abs(taps).max()) / levels, smallest))

        def round_weights(scale: np.float32, limit: int = levels) -> tuple[NDArray[np.float64], float]:
            """The rounded weights, and by how much rounding shifts the mean of the sum of products, in real units."""
            rounded = np.clip(np.rint(taps / float(scale)), -limit, limit)
            return rounded, math.fsum(((rounded * float(scale) - taps) * mean).ravel())

        candidates = []
        for target in (bias, bias - round_weights(finest)[1]):
            scale, integer = find_exact_bias_scale(target, finest, source.scale)
            rounded, shift = round_weights(scale)
            shift += integer * float(scale) * source.scale - bias
            candidates.append((rounded.astype(np.int8), scale, integer, shift))
        weight, scale, integer, shift = min(candidates, key=lambda candidate: abs(candidate[3]))
        bound = bound_accumulators(weight[None], np.array([integer], dtype=np.int32), source.zero_point)
        if int(bound[0]) < ACCUMULATOR_LIMIT:
            return _Channel(weight, scale, integer, candidates[0][3], shift)
        levels //= 2
    raise EdgeMnistError(
        f"{where}: {taps.size} weights of these sizes need more than 24 bits of accumulator even with "
        f"{LEAST_WEIGHT_LEVELS} levels: split the layer into narrower ones"
    )


def _root_mean_square(values: list[float]) -> float:
    return math.sqrt(math.fsum(value * value for value in values) / len(values))
