"""Quantizes a `FloatGraph`, from the statistics of its activations, to a `QuantizedGraph`.

The numbers are chosen so that runtimes cannot round differently (docs/bit-exactness.md): activation scales are powers
of two, or such numbers times a small odd integer where a sum must not be near a tie or a range must end at a bound;
accumulators stay below 2^24, weights within +-64, and biases survive a round trip through float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from edge_mnist.graph.arithmetic import (
    apply_function,
    dequantize,
    find_exact_bias_scale,
    quantize,
    round_up_to_power_of_two,
    sum_squared_errors,
    tie_margin_of_add,
    tie_margin_of_multiply,
)
from edge_mnist.graph.calibration import BINS, Statistics
from edge_mnist.graph.operations import (
    ACCUMULATOR_LIMIT,
    RELU,
    UNBOUNDED,
    Activation,
    Add,
    Bounds,
    Concatenate,
    Conv2d,
    FloatGraph,
    FloatOperation,
    MaxPool2d,
    Multiply,
    Quantization,
    QuantizedConv2d,
    QuantizedGraph,
    QuantizedOperation,
    Table,
    Upsample,
    bound_accumulators,
)
from edge_mnist.system.errors import EdgeMnistError

Method = Literal["mse", "minmax"]
"""How the scale of an activation is chosen, see `quantize_graph`."""

WEIGHT_RANGES = (8, 127)
"""The least and the greatest of the numbers that may be the largest magnitude of a weight."""

SMALLEST_MULTIPLIER = 2.0**-20
"""The smallest multiplier M of a channel. With it even the largest accumulator moves the output by only
2^24 * 2^-20 = 16 steps. Runtimes refuse M below 2^-32."""

LEAST_WEIGHT_LEVELS = 4
"""The smallest number of weight levels on each side of zero. A channel that would keep fewer is refused."""


FINER_SCALES = 6
"""How many scales are tried for an activation, each half the one before; the first clips nothing."""

_MOST_REJECTED = 200
"""How many quantizations of a group may turn out not to suit the rest of the graph."""

SUM_FACTORS = tuple(1 + sign * offset / 4096 for offset in range(1, 17) for sign in (1, -1))
"""Factors by which the scale of a sum or a product may differ from a power of two, so that no result is near a tie.

There are several because those of the inputs must not cancel that of the output."""

BOUND_FACTORS = (3, 5, 7)
"""Mantissas of scales that are tried besides 1 where the int8 range must not exceed the bounds of an operation: 6 / 256
is 3 * 2^-7."""


@dataclass(frozen=True)
class LayerReport:
    """How the output of one operation was quantized.

    Attributes:
        name: the name of the operation.
        scale: the scale of its output.
        zero_point: the zero point of its output.
        clipped: the share of the calibration values that lie outside the int8 range, 0..1.
        bias_corrected: whether the bias of a channel was corrected, which is done where it lowers the shift.
        shift_before: by how much rounding the weights is expected to shift the output: the root mean square over the
            channels, in steps of the output. 0.0 for an operation without weights.
        shift_after: the same with the exported bias.
        headroom: the limit of the accumulator divided by the largest possible accumulator, above 1. The limit itself
            for an operation without weights.
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
        The quantized graph, and how the output of each of its operations was quantized.

    Raises:
        EdgeMnistError: the statistics do not fit the network or are of images that are all alike, or a layer cannot be
            quantized within the accumulator's 24 bits.
    """
    if not WEIGHT_RANGES[0] <= weight_range <= WEIGHT_RANGES[1]:
        raise EdgeMnistError(f"weight range {weight_range} is outside {WEIGHT_RANGES[0]}..{WEIGHT_RANGES[1]}")
    _check_statistics(graph, statistics)
    scales = _choose_quantizations(graph, statistics, weight_range, method)
    operations: list[QuantizedOperation] = []
    reports = []
    for index, operation in enumerate(graph.operations):
        source, output = scales[graph.sources(index)[0]], scales[index + 1]
        if isinstance(operation, MaxPool2d | Upsample | Concatenate):
            operations.append(operation)
            continue
        clipped = _measure_clipping(statistics, operation.name, output)
        report = LayerReport(
            operation.name, output.scale, output.zero_point, clipped, False, 0.0, 0.0, float(ACCUMULATOR_LIMIT)
        )
        quantized: QuantizedOperation
        match operation:
            case Conv2d():
                quantized, report = _quantize_convolution(operation, source, output, clipped, statistics, weight_range)
            case Add():
                quantized = Add(operation.name, operation.bounds, output, sources=operation.sources)
            case Multiply():
                quantized = Multiply(operation.name, output, sources=operation.sources)
            case Activation():
                quantized = _make_table(operation, source, output)
        operations.append(quantized)
        reports.append(report)
    features = None if graph.is_pixels else scales[0]
    quantized_graph = QuantizedGraph(
        graph.input_shape, graph.zero_pixel, tuple(operations), ending=graph.ending, features=features
    )
    return quantized_graph, tuple(reports)


def _check_statistics(graph: FloatGraph, statistics: Statistics) -> None:
    """Check the statistics.

    Raises:
        EdgeMnistError: they are missing, damaged, of another network, or of images that are all alike.
    """
    if graph.is_pixels:
        pixel_counts = statistics.get("pixels.histogram")
        if pixel_counts is None:
            raise EdgeMnistError("the checkpoint holds no activation statistics: calibrate with --recalibrate")
        if np.count_nonzero(pixel_counts) < 2:
            value = int(np.argmax(pixel_counts))
            raise EdgeMnistError(
                f"every pixel of the calibration images is {value}, expected digits: calibrate with --recalibrate"
            )
    elif "input.range" not in statistics:
        raise EdgeMnistError("the checkpoint holds no statistics of its inputs: calibrate with --calibrate")
    names = [] if graph.is_pixels else ["input"]
    for operation in graph.operations:
        if isinstance(operation, MaxPool2d | Upsample | Concatenate):
            continue
        names.append(operation.name)
        if isinstance(operation, Conv2d):
            channels = operation.weight.shape[1] * operation.groups
            _check_shape(statistics, f"{operation.name}.input_mean", (channels, *operation.window.kernel_size))
    for name in names:
        _check_shape(statistics, f"{name}.range", (2,))
        _check_shape(statistics, f"{name}.histogram", (BINS,))
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


def _check_shape(statistics: Statistics, key: str, shape: tuple[int, ...]) -> None:
    found = statistics[key].shape if key in statistics else None
    if found != shape:
        raise EdgeMnistError(f"statistics {key}: expected shape {shape}, found {found}: calibrate with --recalibrate")


class _Distribution:
    """The calibration values of one operation's output, as the centres of the bins of its histogram."""

    def __init__(self, statistics: Statistics, name: str) -> None:
        self.low, self.high = (float(value) for value in statistics[f"{name}.range"])
        self.counts = statistics[f"{name}.histogram"].astype(np.float64)
        step = (self.high - self.low) / BINS
        self.values: NDArray[np.float64] = self.low + (np.arange(BINS, dtype=np.float64) + 0.5) * step


@dataclass
class _ScaleGroup:
    """Values that share one quantization, because they are joined, or because an operation only moves them.

    Attributes:
        members: the indices of the values that get a new quantization; 0 is the input.
        least: the scale is larger than this.
        rejected: quantizations that an operation of the group cannot have.
        chosen: the quantization, once it is chosen.
    """

    members: tuple[int, ...]
    least: float = 0.0
    rejected: set[Quantization] = field(default_factory=set)
    chosen: Quantization | None = None


class _Retry(Exception):
    """An operation cannot have the quantization that was chosen for its group; the group now knows."""


def _choose_quantizations(
    graph: FloatGraph, statistics: Statistics, weight_range: int, method: Method
) -> list[Quantization]:
    """Choose the quantization of each value of a graph.

    A group's quantization is chosen at its first value in the order of the graph. If a later value of the group cannot
    have it, the choice is begun anew without it.
    """
    groups_by_members = {members: _ScaleGroup(members) for members in graph.joined_values()}
    groups = [groups_by_members[members] for members in graph.joined_values()]
    while True:
        try:
            return _try_quantizations(graph, statistics, weight_range, method, groups)
        except _Retry:
            for group in groups:
                group.chosen = None


def _try_quantizations(
    graph: FloatGraph, statistics: Statistics, weight_range: int, method: Method, groups: Sequence[_ScaleGroup]
) -> list[Quantization]:
    """Choose the quantizations in order.

    Raises:
        _Retry: an operation cannot have what was chosen for its group.
    """
    pixels = Quantization(1.0, graph.zero_pixel - 128) if graph.is_pixels else None
    result: list[Quantization] = []
    for index, group in enumerate(groups):
        operation = graph.operations[index - 1] if index else None
        sources = [result[source] for source in graph.sources(index - 1)] if index else []
        if isinstance(operation, MaxPool2d | Upsample | Concatenate):
            result.append(sources[0])
            continue
        if index == 0 and pixels is not None:
            group.chosen = pixels
        if isinstance(operation, Conv2d):
            # M must stay below 1, so an output step must be larger than a weight step times an input step.
            product_step = float(np.abs(operation.weight).max()) / weight_range * sources[0].scale
            group.least = max(group.least, product_step)
            if group.chosen is not None and group.chosen.scale * _most_multiplier(operation.bounds) <= product_step:
                _refuse(group, operation, pixels)
        if group.chosen is None:
            mantissas = _find_partners(graph, groups, group)
            group.chosen = _choose(graph, statistics, group, operation, sources, mantissas, method)
            if group.chosen is None:
                # Another choice for what is added or multiplied may leave one for the result.
                read = graph.sources(index - 1) if index else ()
                free = [groups[source] for source in read if groups[source].chosen != pixels]
                _refuse(free[-1] if free else group, operation, pixels)
        elif operation is not None and not _is_exact(operation, sources, group.chosen):
            _refuse(group, operation, pixels)
        result.append(group.chosen)
    return result


def _refuse(group: _ScaleGroup, operation: FloatOperation | None, pixels: Quantization | None) -> NoReturn:
    """Begin the choice anew without the quantization that was chosen for a group."""
    if group.chosen is None or group.chosen == pixels or len(group.rejected) >= _MOST_REJECTED:
        name = operation.name if operation else "the input"
        raise EdgeMnistError(
            f"{name}: no scales of its inputs and its output give the same integers in all runtimes: put "
            "a 1x1 convolution before it"
        )
    group.rejected.add(group.chosen)
    raise _Retry


def _find_partners(graph: FloatGraph, groups: Sequence[_ScaleGroup], group: _ScaleGroup) -> list[int]:
    """The mantissas of the scales to which values of a group are added, as far as these are chosen.

    If both scales of a sum have one mantissa, their ratios to the output's scale are those of powers of two, and one
    factor keeps every sum away from ties.
    """
    mantissas = []
    for index, operation in enumerate(graph.operations):
        if isinstance(operation, Add):
            pair = [groups[source] for source in graph.sources(index)]
            for own, other in (pair, pair[::-1]):
                if own is group and other is not group and other.chosen is not None:
                    mantissas.append(other.chosen.mantissa)
    return mantissas


def _choose(
    graph: FloatGraph,
    statistics: Statistics,
    group: _ScaleGroup,
    operation: FloatOperation | None,
    sources: Sequence[Quantization],
    mantissas: Sequence[int],
    method: Method,
) -> Quantization | None:
    """Choose the quantization of a group: of those that are exact, that with the least squared error.

    Args:
        graph: the graph.
        statistics: the statistics of its values.
        group: the group.
        operation: the first operation of the group; None for the input.
        sources: the quantizations of the operation's inputs.
        mantissas: the mantissas that its scale should have, see `_find_partners`.
        method: as in `quantize_graph`.

    Returns:
        The quantization, or None if there is no exact one that was not rejected.
    """
    names = [graph.operations[member - 1].name if member else "input" for member in group.members]
    distributions = [_Distribution(statistics, name) for name in names]
    is_output = len(graph.operations) in group.members
    bounds = _join_bounds(graph, group)
    has_sums = any(isinstance(graph.operations[member - 1], Add | Multiply) for member in group.members if member)
    factors = [*(mantissa / round_up_to_power_of_two(mantissa) for mantissa in mantissas), 1.0]
    factors += SUM_FACTORS if has_sums else ()

    def measure_error(choice: Quantization) -> float:
        errors = [sum_squared_errors(d.values, d.counts, choice.scale, choice.zero_point) for d in distributions]
        return math.fsum(errors)

    least = group.least / _most_multiplier(bounds)
    choices = list(_list_candidates(distributions, bounds, least, method, is_logits=is_output))
    # If two errors are equal, the coarser scale, which comes first, is chosen.
    for choice in sorted(choices, key=lambda choice: (choice.scale <= group.least, measure_error(choice))):
        near = dict.fromkeys(_vary_scale(choice, factors, bounds))
        exact = [
            candidate
            for candidate in near
            if candidate not in group.rejected
            and candidate.scale > least
            and (operation is None or _is_exact(operation, sources, candidate))
        ]
        if isinstance(operation, Add | Multiply):
            exact.sort(key=lambda candidate: -_measure_margin(operation, sources, candidate))
        if exact:
            return exact[0]
    return None


def _most_multiplier(bounds: Bounds) -> int:
    """What M stays below. It is 1, unless bounds limit the scale of the output; runtimes accept M below 256."""
    return 1 if bounds in (RELU, UNBOUNDED) else 64


def _join_bounds(graph: FloatGraph, group: _ScaleGroup) -> Bounds:
    """The bounds of the values of a group, which are the same for all of them, see `joining`."""
    bounds = {
        getattr(graph.operations[member - 1], "bounds", UNBOUNDED) if member else UNBOUNDED for member in group.members
    }
    if len(bounds) > 1:
        name = graph.operations[group.members[-1] - 1].name
        raise EdgeMnistError(f"{name}: is joined with values that are clamped to other bounds")
    return bounds.pop()


def _list_candidates(
    distributions: Sequence[_Distribution], bounds: Bounds, least: float, method: Method, *, is_logits: bool
) -> Iterator[Quantization]:
    """The scales and zero points that are tried for a group of values, the coarser scales first.

    Args:
        distributions: those of the values.
        bounds: what the values are clamped to.
        least: scales up to this are left out.
        method: as in `quantize_graph`.
        is_logits: whether the values are the output of the graph, whose zero point is 0.
    """
    low, high = min(d.low for d in distributions), max(d.high for d in distributions)
    span = high / 255 if bounds == RELU else max(high, -low) / 127
    covering = round_up_to_power_of_two(max(span, least * 1.001, 2.0**-40))
    factors = (1,) if bounds in (RELU, UNBOUNDED) else (1, *BOUND_FACTORS)
    if factors != (1,):  # the range within the bounds limits the scale
        covering = max(covering, round_up_to_power_of_two(max(high - low, least) / 255))
    for finer in range(1 if method == "minmax" and factors == (1,) else FINER_SCALES):
        for factor in factors:
            scale = covering / 2**finer * factor / (1 << factor.bit_length() - 1)
            if scale <= least:
                continue
            zeros: tuple[int, ...] = (0, max(-128, min(127, -128 - round(low / scale))))
            if bounds == RELU:
                zeros = (-128,)
            elif bounds != UNBOUNDED:
                zeros = tuple(_fit_zero_points(bounds, scale, zeros))
            elif is_logits:
                zeros = (0,)
            for zero_point in zeros:
                yield Quantization(scale, zero_point)


def _fit_zero_points(bounds: Bounds, scale: float, zeros: Sequence[int]) -> Iterator[int]:
    """The zero points with which the int8 range stays within the bounds.

    Args:
        bounds: what the values are clamped to.
        scale: the scale.
        zeros: the zero points that are tried, beside that with which the range begins or ends at a bound.
    """
    low, high = bounds
    at_bound = -128 - round(low / scale) if low > -math.inf else 127 - math.floor(high / scale + 0.5)
    for zero_point in dict.fromkeys((at_bound, *zeros)):
        if -128 <= zero_point <= 127:
            least, most = Quantization(scale, zero_point).range
            if least >= low - scale / 2 and most <= high + scale / 2:
                yield zero_point


def _vary_scale(choice: Quantization, factors: Sequence[float], bounds: Bounds) -> Iterator[Quantization]:
    """A quantization with its scale times each factor, if it is a power of two and the range stays within bounds."""
    for factor in factors if choice.mantissa == 1 else (1.0,):
        # A factor of just below 1 stands for twice that of just below 1/2.
        scale = choice.scale * (2 * factor if factor <= 0.5 + 1 / 128 else factor)
        varied = Quantization(scale, choice.zero_point)
        low, high = varied.range
        if low >= bounds[0] - scale / 2 and high <= bounds[1] + scale / 2:
            yield varied


def _measure_margin(operation: Add | Multiply, sources: Sequence[Quantization], output: Quantization) -> float:
    """By how much the results keep away from ties, see `arithmetic.tie_margin_of_add`; above 0 they are exact."""
    margin = tie_margin_of_add if isinstance(operation, Add) else tie_margin_of_multiply
    return margin(sources[0], sources[1], output)


def _is_exact(operation: FloatOperation, sources: Sequence[Quantization], output: Quantization) -> bool:
    """Whether an operation gives the same integers in all runtimes with these quantizations."""
    match operation:
        case Add() | Multiply():
            return _measure_margin(operation, sources, output) > 0
        case Activation():
            return not _is_near_tie(operation, sources[0], output)
        case _:
            mantissas = sources[0].mantissa * output.mantissa // math.gcd(sources[0].mantissa, output.mantissa)
            return mantissas.bit_length() <= 20


def _is_near_tie(operation: Activation, source: Quantization, output: Quantization) -> bool:
    """Whether a value of a table is so near a tie that the mathematical libraries of two machines may differ in it."""
    if operation.function in ("hardsigmoid", "hardswish", "leaky_relu"):
        return False  # single operations of IEEE 754, which are the same everywhere
    steps = _compute_function(operation, source) / output.scale
    return bool((np.abs(steps - np.floor(steps) - 0.5) < 1e-9).any())


def _make_table(operation: Activation, source: Quantization, output: Quantization) -> Table:
    values = quantize(_compute_function(operation, source), output.scale, output.zero_point).astype(np.int8)
    return Table(operation.name, operation.function, operation.parameter, values, output, sources=operation.sources)


def _compute_function(operation: Activation, source: Quantization) -> NDArray[np.float64]:
    """The function of each of the 256 real numbers that an input may have: float64 (256,)."""
    inputs = dequantize(np.arange(-128, 128), source.scale, source.zero_point)
    return apply_function(inputs, operation.function, operation.parameter)


def _measure_clipping(statistics: Statistics, name: str, output: Quantization) -> float:
    """The share of an operation's calibration values that lie outside the int8 range."""
    found = _Distribution(statistics, name)
    scale, zero_point = output.scale, output.zero_point
    outside = (found.values < (-128.5 - zero_point) * scale) | (found.values > (127.5 - zero_point) * scale)
    return float(found.counts[outside].sum() / found.counts.sum())


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
        operation.bounds,
        output,
        sources=operation.sources,
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
            scale, integer = find_exact_bias_scale(target, finest, source, output)
            rounded, shift = round_weights(scale)
            shift += integer * float(scale) * source.scale - bias
            candidates.append((rounded.astype(np.int8), scale, integer, shift))
        weight, scale, integer, shift = min(candidates, key=lambda candidate: abs(candidate[3]))
        bound = bound_accumulators(weight[None], np.array([integer], dtype=np.int32), source.zero_point)
        if int(bound[0]) < ACCUMULATOR_LIMIT:
            return _Channel(weight, scale, integer, candidates[0][3], shift)
        # The bound is nearly proportional to the levels.
        levels = min(levels - 1, int(levels * ACCUMULATOR_LIMIT / int(bound[0])))
    raise EdgeMnistError(
        f"{where}: {taps.size} weights of these sizes need more than 24 bits of accumulator even with "
        f"{LEAST_WEIGHT_LEVELS} levels: split the layer into narrower ones"
    )


def _root_mean_square(values: list[float]) -> float:
    return math.sqrt(math.fsum(value * value for value in values) / len(values))
