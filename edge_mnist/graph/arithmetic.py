"""Scales, zero points, rounding and hashing: pure functions on arrays that give the same bits on every machine.

They use single IEEE 754 operations and `math.fsum`, which is exact. So nothing depends on the order of a sum or on a
math library, and an export gives the same bytes everywhere.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.graph.layers import ACTIVATIONS
from edge_mnist.graph.operations import Quantization, Table

FloatArray = NDArray[np.float64]

_FUNCTION_ERROR = 2.0**-21
"""How much a float32 kernel may err in a function f of a number x, as a share of 1 + |x| + |f(x)|. In LiteRT and ONNX
Runtime the elementary functions err by a few times 2^-24 |f(x)|, and the formula of gelu by 7.5e-8 |x|."""


def round_up_to_power_of_two(value: float) -> float:
    """The smallest power of two that is at least `value`, which is above 0."""
    fraction, exponent = math.frexp(value)  # value = fraction * 2^exponent, 0.5 <= fraction < 1
    return math.ldexp(1.0, exponent - 1 if fraction == 0.5 else exponent)


def quantize(values: FloatArray, scale: float, zero_point: int) -> FloatArray:
    """The int8 values that represent real `values`: rounded to nearest, ties to even, then clamped.

    Returns:
        float64 of the shape of `values`, integers -128..127.
    """
    return np.asarray(np.clip(np.rint(values / scale) + zero_point, -128, 127))


def dequantize(q: NDArray[np.generic], scale: float, zero_point: int) -> FloatArray:
    """The real numbers that the integers `q` represent: float64, of the same shape."""
    return (q.astype(np.float64) - zero_point) * scale


def sum_squared_errors(values: FloatArray, weights: FloatArray, scale: float, zero_point: int) -> float:
    """The sum over `values` of weight times squared quantization error; the error is that of rounding and clamping."""
    error = values - dequantize(quantize(values, scale, zero_point), scale, zero_point)
    return math.fsum(weights * error * error)


def requantize(accumulator: NDArray[np.float32], multiplier: NDArray[np.float32], zero_point: int) -> NDArray[np.int8]:
    """Bring accumulators to the output's scale: `clamp(round_half_even(float32(acc) * M) + zero_point, -128, 127)`.

    Args:
        accumulator: float32 (..., channels), integers below 2^24 in magnitude, which float32 holds exactly.
        multiplier: float32 (channels,), M.
        zero_point: the zero point of the output, -128..127.

    Returns:
        int8, of the accumulator's shape. XNNPACK, MLAS (ONNX Runtime), FBGEMM and QNNPACK compute the same.
    """
    scaled = np.rint(accumulator * multiplier)  # one IEEE multiplication in float32; rint rounds ties to even
    return np.asarray(np.clip(scaled + np.float32(zero_point), -128, 127), dtype=np.int8)


def split_multiplier(multiplier: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split M into a 31-bit significand and a shift: `M = significand * 2^(shift - 31)`, 2^30 <= significand < 2^31.

    This is TensorFlow Lite's `QuantizeMultiplier` (kernels/internal/quantization_util.cc). It is exact, because M has
    24 significant bits.

    Args:
        multiplier: float32 (channels,), M.

    Returns:
        The significands and the shifts, each int64 (channels,).
    """
    fraction, shift = np.frexp(multiplier.astype(np.float64))
    return np.rint(fraction * (1 << 31)).astype(np.int64), shift.astype(np.int64)


def requantize_fixed_point(
    accumulator: NDArray[np.int64],
    multiplier: NDArray[np.floating[Any]],
    zero_point: int,
    ties_away: NDArray[np.bool_] | bool = False,
) -> NDArray[np.int8]:
    """Requantize with integers only and two roundings to nearest, as TensorFlow Lite's kernels without XNNPACK do.

    The first is gemmlowp's `SaturatingRoundingDoublingHighMul`, the second is a rounding shift to the right. The second
    rounds ties upward in ruy (ruy/apply_multiplier.cc), and away from zero in gemmlowp's `RoundingDivideByPOT`
    (fixedpoint/fixedpoint.h).

    Args:
        accumulator: int64 (..., channels), within int32.
        multiplier: (channels,), M.
        zero_point: the zero point of the output, -128..127.
        ties_away: whether the second rounding takes ties away from zero rather than upward; one value, or one for each
            channel.

    Returns:
        int8, of the accumulator's shape. For equal accumulators it differs from `requantize` by at most one.
    """
    significand, shift = split_multiplier(multiplier)
    product = (accumulator << np.maximum(shift, 0)) * significand
    nudge = np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    high = (np.abs(product + nudge) >> 31) * np.sign(product)  # C's division by 2^31, which rounds toward zero
    right = np.maximum(-shift, 0)
    half = (np.int64(1) << right) >> 1
    rounded = (high + half - ((high < 0) & (right > 0) & ties_away)) >> right
    return np.asarray(np.clip(rounded + zero_point, -128, 127), dtype=np.int8)


def requantize_single_rounding(
    accumulator: NDArray[np.int64], multiplier: NDArray[np.float32], zero_point: int
) -> NDArray[np.int8]:
    """Requantize with integers only and one rounding, as ruy's kernels for ARM do: to nearest, with ties upward.

    Found by comparison with LiteRT 2.3 on ARM, for multipliers from 1/8 to 8.

    Args:
        accumulator: int64 (..., channels), within int32.
        multiplier: float32 (channels,), M.
        zero_point: the zero point of the output, -128..127.

    Returns:
        int8, of the accumulator's shape. For equal accumulators it differs from `requantize` by at most one.
    """
    significand, shift = split_multiplier(multiplier)
    right = 31 - shift
    rounded = (accumulator * significand + (np.int64(1) << (right - 1))) >> right
    return np.asarray(np.clip(rounded + zero_point, -128, 127), dtype=np.int8)


def add(
    a: NDArray[np.int8], b: NDArray[np.int8], source_a: Quantization, source_b: Quantization, output: Quantization
) -> NDArray[np.int8]:
    """Add two int8 tensors of one shape: `clamp(round((scale_a * a' + scale_b * b') / scale_out) + zero_out)`.

    Here a' is `a - zero_a`. The sums are exact in float64, and none is near a tie, see `tie_margin_of_add`.
    """
    real = (a.astype(np.float64) - source_a.zero_point) * source_a.scale
    real += (b.astype(np.float64) - source_b.zero_point) * source_b.scale
    return quantize(real, output.scale, output.zero_point).astype(np.int8)


def multiply(
    a: NDArray[np.int8], b: NDArray[np.int8], source_a: Quantization, source_b: Quantization, output: Quantization
) -> NDArray[np.int8]:
    """Multiply two int8 tensors, of which b may be broadcast: `clamp(round(a' * b' * M) + zero_out)`.

    Here a' is `a - zero_a`, and M is `scale_a * scale_b / scale_out`. No product is near a tie, see
    `tie_margin_of_multiply`.
    """
    real = (a.astype(np.float64) - source_a.zero_point) * (b.astype(np.float64) - source_b.zero_point)
    return quantize(real * (source_a.scale * source_b.scale), output.scale, output.zero_point).astype(np.int8)


def multiply_fixed_point(
    a: NDArray[np.int8], b: NDArray[np.int8], source_a: Quantization, source_b: Quantization, output: Quantization
) -> NDArray[np.int8]:
    """Multiply as TensorFlow Lite's own kernels do: the product of the integers is requantized in fixed point.

    Their first rounding, to an integer, is coarse where M is small, so that it makes ties of products that are none.
    """
    product = (a.astype(np.int64) - source_a.zero_point) * (b.astype(np.int64) - source_b.zero_point)
    multiplier = np.array([source_a.scale * source_b.scale / output.scale])
    return requantize_fixed_point(product, multiplier, output.zero_point, ties_away=True)


def tie_margin_of_add(a: Quantization, b: Quantization, output: Quantization) -> float:
    """By how much the sums of all pairs of int8 values keep away from ties, beyond what the coarsest runtime needs.

    A tie is a sum halfway between two integers, which runtimes round differently. How exactly runtimes add:

    - XNNPACK (qs8-vadd) and QNNPACK multiply by integers of at most 21 bits, which round `scale / scale_out`;
    - TensorFlow Lite rounds each operand once to 2^-20 of twice the larger one, and then the sum;
    - MLAS (ONNX Runtime) adds in float32 without subtracting the zero points first; each of its five roundings is at
      most 2^-24 of the largest magnitude;
    - FBGEMM adds in float32 as well, with fewer roundings.

    Returns:
        The smallest distance between a sum and a tie, in steps of the output, less the largest error of these four.
        Only sums within the output's range count. Above 0, all runtimes give the same integers. -1 if the scale of an
        input is below 2^-14 of the output's, which QNNPACK refuses.
    """
    ratios = [a.scale / output.scale, b.scale / output.scale]
    if min(ratios) < 2.0**-14:
        return -1.0
    reaches = [max(127 - source.zero_point, 128 + source.zero_point) for source in (a, b)]
    shift = 20 - math.frexp(max(ratios))[1] + 1
    multiplier_error = sum(
        abs(round(math.ldexp(ratio, shift)) - math.ldexp(ratio, shift)) * math.ldexp(reach, -shift)
        for ratio, reach in zip(ratios, reaches, strict=True)
    )
    two_step_error = math.ldexp(max(ratios), -19)
    float_error = 5 * math.ldexp(255 * sum(ratios) + 128, -24)
    units, divisor = _to_integers([Fraction(a.scale), Fraction(b.scale)], Fraction(output.scale))
    first, second = (
        unit * (np.arange(-128, 128) - source.zero_point) for unit, source in zip(units, (a, b), strict=True)
    )
    distance = _nearest_tie(first[:, None] + second[None], divisor, output)
    return distance - max(multiplier_error, two_step_error, float_error)


def tie_margin_of_multiply(a: Quantization, b: Quantization, output: Quantization) -> float:
    """The same as `tie_margin_of_add` for products, in XNNPACK, QNNPACK, MLAS and FBGEMM.

    They multiply the integers exactly, and the product by a float32; four roundings in float32 are the most. The
    kernels of TensorFlow Lite itself round twice, see `multiply_fixed_point`.
    """
    (unit,), divisor = _to_integers([Fraction(a.scale) * Fraction(b.scale)], Fraction(output.scale))
    first, second = (np.arange(-128, 128) - source.zero_point for source in (a, b))
    distance = _nearest_tie(unit * (first[:, None] * second[None]), divisor, output)
    return distance - 4 * math.ldexp(256 + 128, -24)


def _to_integers(numerators: list[Fraction], denominator: Fraction) -> tuple[list[int], int]:
    """Integers in the same proportions as positive fractions."""
    common = math.lcm(denominator.denominator, *(value.denominator for value in numerators))
    integers = [int(value * common) for value in (*numerators, denominator)]
    divisor = math.gcd(*integers)
    *units, last = (value // divisor for value in integers)
    return units, last


def _nearest_tie(numerators: NDArray[np.int64], divisor: int, output: Quantization) -> float:
    """The smallest distance of `numerators / divisor` from a tie, of those within the output's range.

    Returns:
        0..0.5. 0.0 if the numbers are too large for an exact answer, or if one reaches 2^15 steps of the output with
        its zero point: LiteRT's own kernels of ADD and MUL keep them in 16 bits, and wrap around before they clamp.
    """
    largest = int(np.abs(numerators).max())
    if max(largest, divisor) >= 1 << 60 or largest >= ((1 << 15) - 256) * divisor:
        return 0.0
    doubled, period = 2 * numerators, 2 * divisor
    low, high = ((limit - output.zero_point) * period for limit in (-129, 128))
    inside = doubled[(doubled > low) & (doubled < high)]
    if not inside.size:
        return 0.5
    return float(np.abs(inside % period - divisor).min() / period)


def apply_function(values: FloatArray, function: str, parameter: float) -> FloatArray:
    """Apply a function of `layers.ACTIVATIONS` to each value, with the definition that torch.nn.functional gives it."""
    x = values
    match function:
        case "sigmoid":
            return _sigmoid(x)
        case "tanh":
            return np.tanh(x)
        case "hardsigmoid":
            return np.clip(x + 3, 0, 6) / 6
        case "hardswish":
            return np.asarray(x * np.clip(x + 3, 0, 6) / 6)
        case "silu":
            return np.asarray(x * _sigmoid(x))
        case "leaky_relu":
            return np.where(x >= 0, x, x * parameter)
        case "elu":
            return np.where(x > 0, x, parameter * np.expm1(np.minimum(x, 0)))
        case "gelu":
            return np.asarray(x * 0.5 * (1 + _erf(x / math.sqrt(2))))
        case "softplus":
            return np.logaddexp(x, 0.0)
        case "mish":
            return np.asarray(x * np.tanh(np.logaddexp(x, 0.0)))
        case _:
            raise ValueError(f"unknown function {function}")


def _sigmoid(x: FloatArray) -> FloatArray:
    return np.asarray(np.exp(-np.logaddexp(0.0, -x)))


def _erf(x: FloatArray) -> FloatArray:
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x), dtype=np.float64)


def is_exact_in_float(table: Table, source: Quantization) -> bool:
    """Whether every value of a table is the same if the function is computed in float32, because none is near a tie.

    Args:
        table: the table, which holds a function of `layers.ACTIVATIONS`, or else is not exact.
        source: the quantization of its input.
    """
    if table.function not in ACTIVATIONS:
        return False
    inputs = dequantize(np.arange(-128, 128), source.scale, source.zero_point)
    results = apply_function(inputs, table.function, table.parameter)
    steps = results / table.output.scale
    # The quotient is rounded to float32 as well, and so is its sum with the zero point.
    error = _FUNCTION_ERROR * (1 + np.abs(inputs) + np.abs(results)) / table.output.scale + 2.0**-14
    lowest, highest = (np.rint(steps + shift) + table.output.zero_point for shift in (-error, error))
    return all(np.array_equal(np.clip(limit, -128, 127), table.values) for limit in (lowest, highest))


def find_exact_bias_scale(
    bias: float, scale: np.float32, source: Quantization, output: Quantization
) -> tuple[np.float32, int]:
    """The first weight scale from `scale` upward from which runtimes derive everything else without rounding.

    With it `weight_scale * source.scale` and `M = weight_scale * source.scale / output.scale` are exact in float32. And
    the integer bias survives a round trip through float32: PyTorch's quantized convolutions carry the bias as a float
    and divide it by `weight_scale * source.scale` again; the quotient must be exactly the integer that the other
    formats store.

    Args:
        bias: the real bias.
        scale: the preferred weight scale, positive.
        source: the quantization of the convolution's input.
        output: that of its output.

    Returns:
        The scale, and the bias as an integer. Where both activation scales are powers of two, it is at most a few units
        in the last place above the preferred one; else the mantissas of the activation scales take some of its bits.
    """
    scale = next_exact_scale(scale, source, output)
    while True:
        step = scale * np.float32(source.scale)
        integer = round(bias / float(step))
        stored = np.float32(integer) * step
        if stored / step == np.float32(integer):
            return scale, integer
        scale = next_exact_scale(np.nextafter(scale, np.float32(np.inf)), source, output)


def next_exact_scale(scale: np.float32, source: Quantization, output: Quantization) -> np.float32:
    """The smallest weight scale that is at least `scale` and with which all products and quotients are exact.

    Let the mantissas of the activation scales be m_in and m_out without their common divisor. The weight scale is
    `m_out * k * 2^e` with an integer k, so that M is `m_in * k`, and the product with the input's scale is
    `m_in * m_out * k`; both have to fit into the 24 bits of a float32.
    """
    common = math.gcd(source.mantissa, output.mantissa)
    divisor = output.mantissa // common
    bits = 24 - (source.mantissa * divisor).bit_length()
    if (source.mantissa, divisor) == (1, 1):
        return scale
    if bits < 4:
        raise ValueError(f"scales {source.scale} and {output.scale} leave {bits} bits of a weight scale")
    _, exponent = math.frexp(float(scale) / divisor)  # 2^(exponent - 1) <= scale / divisor
    unit = math.ldexp(divisor, exponent - bits)
    return np.float32(math.ceil(float(scale) / unit) * unit)


SPLITMIX64_STEP = np.uint64(0x9E3779B97F4A7C15)
"""The step of SplitMix64's state from one number to the next: 2^64 divided by the golden ratio, rounded to odd."""


def splitmix64(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The number that SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) computes from each state.

    Args:
        state: uint64 of any shape. The sums and products wrap around, as the algorithm requires.

    Returns:
        uint64 of the same shape; different states give different numbers.
    """
    mixed: NDArray[np.uint64] = state + SPLITMIX64_STEP
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
