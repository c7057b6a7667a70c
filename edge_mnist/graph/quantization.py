"""From a `FloatGraph` and the statistics of its activations to a `QuantizedGraph`.

The freedom that runtimes take in rounding is taken away here (docs/bit-exactness.md): activation scales are powers of
two, accumulators stay below 2^24, weights within +-64, and biases survive a float32 round trip.
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

SMALLEST_MULTIPLIER = 2.0**-20
"""Below it a channel's weights cannot move the output; runtimes refuse M under 2^-32."""

LEAST_WEIGHT_LEVELS = 4
"""A channel whose weights keep fewer levels on each side of zero than this is refused rather than exported."""


@dataclass(frozen=True)
class LayerReport:
    """What quantization did to one convolution.

    Attributes:
        name: the layer.
        scale: of its output.
        zero_point: of its output.
        clipped: share of the calibration values outside the int8 range, 0..1.
        bias_corrected: whether the bias correction was applied: it lowered the shift.
        shift_before: root mean square over the channels of the expected output shift by rounded weights, in output
            steps.
        shift_after: the same with the bias as exported.
        headroom: accumulator limit divided by the largest possible accumulator, above 1.
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
    """Quantize after training: int8 weights per output channel, int8 activations per tensor, int32 biases.

    Args:
        graph: the folded float network.
        statistics: of its activations, see `calibration`.
        weight_range: largest magnitude of a weight, 8..127. Up to 64 the sums of two products of `vpmaddubsw` cannot
            saturate, so that x86 processors without VNNI compute the same bits; above, they do not.
        method: "mse" chooses the scale of least squared error, clipping allowed; "minmax" the least that clips nothing.

    Raises:
        EdgeMnistError: the statistics do not fit the network, or hold nothing (all-black images), or a layer cannot be
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
        output, clipped = _output_quantization(operation, statistics, source, weight_range, method, is_logits)
        convolution, report = _quantize_convolution(operation, source, output, clipped, statistics, weight_range)
        operations.append(convolution)
        reports.append(report)
        source = output
    return QuantizedGraph(graph.input_shape, graph.zero_pixel, tuple(operations)), tuple(reports)


def _check_statistics(graph: FloatGraph, statistics: Statistics) -> None:
    """Refuse statistics of another network, or of images that show nothing."""
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
                "the layer is dead, or the images show nothing"
            )


def _output_quantization(
    operation: Conv2d,
    statistics: Statistics,
    source: Quantization,
    weight_range: int,
    method: Method,
    is_logits: bool,
) -> tuple[Quantization, float]:
    """Scale and zero point of a convolution's output, and the share of calibration values that they clip."""
    low, high = (float(value) for value in statistics[f"{operation.name}.range"])
    counts = statistics[f"{operation.name}.histogram"].astype(np.float64)
    values: NDArray[np.float64] = low + (np.arange(BINS, dtype=np.float64) + 0.5) * ((high - low) / BINS)

    def zero_points(scale: float) -> tuple[int, ...]:
        if operation.relu:
            return (-128,)
        return (0,) if is_logits else (0, max(-128, min(127, -128 - round(low / scale))))

    # M must stay below 1: an output step is coarser than a weight step times an input step.
    product_step = float(np.abs(operation.weight).max()) / weight_range * source.scale
    span = high / 255 if operation.relu else max(high, -low) / 127
    covering = round_up_to_power_of_two(max(span, product_step * 1.001, 2.0**-40))
    candidates = [covering] if method == "minmax" else [covering / 2**finer for finer in range(6)]
    choices = [(scale, zero) for scale in candidates if scale > product_step for zero in zero_points(scale)]
    # Of equal errors the coarser scale, which comes first, is kept.
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
    """Quantize channel by channel: weights, and biases corrected for the weights' rounding errors."""
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
    shift_before: float  # expected shift of the output by rounding, in real units
    shift_after: float


def _quantize_channel(
    where: str,
    taps: NDArray[np.float64],
    bias: float,
    mean: NDArray[np.float64],
    source: Quantization,
    output: Quantization,
    weight_range: int,
) -> _Channel:
    """The finest weight scale that the range, the accumulator's bound and the smallest multiplier allow."""
    unit = output.scale / source.scale  # the weight scale at which M is 1
    # A huge bias is given a quarter of the accumulator at the most: beside it the weights hardly matter.
    floor = max(unit * SMALLEST_MULTIPLIER, abs(bias) / source.scale / (ACCUMULATOR_LIMIT // 4))
    levels = weight_range
    while levels >= LEAST_WEIGHT_LEVELS:
        wanted = np.float32(max(float(np.abs(taps).max()) / levels, floor))

        def shift(scale: np.float32, bound: int = levels) -> tuple[NDArray[np.float64], float]:
            """Rounded weights, and by how much their rounding moves the mean of the accumulated sum, in real units."""
            rounded = np.clip(np.rint(taps / float(scale)), -bound, bound)
            return rounded, math.fsum(((rounded * float(scale) - taps) * mean).ravel())

        candidates = []
        for target in (bias, bias - shift(wanted)[1]):
            scale, integer = find_exact_bias_scale(target, wanted, source.scale)
            rounded, moved = shift(scale)
            moved += integer * float(scale) * source.scale - bias
            candidates.append((rounded.astype(np.int8), scale, integer, moved))
        weight, scale, integer, moved = min(candidates, key=lambda candidate: abs(candidate[3]))
        bound = bound_accumulators(weight[None], np.array([integer], dtype=np.int32), source.zero_point)
        if int(bound[0]) < ACCUMULATOR_LIMIT:
            return _Channel(weight, scale, integer, candidates[0][3], moved)
        levels //= 2
    raise EdgeMnistError(
        f"{where}: {taps.size} weights of these sizes need more than 24 bits of accumulator even with "
        f"{LEAST_WEIGHT_LEVELS} levels: split the layer into narrower ones"
    )


def _root_mean_square(values: list[float]) -> float:
    return math.sqrt(math.fsum(value * value for value in values) / len(values))
