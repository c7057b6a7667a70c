"""Scales, zero points, rounding and hashing: pure functions on arrays that give the same bits on every machine.

They use single IEEE 754 operations and `math.fsum`, which is exact. So nothing depends on the order of a sum or on a
math library, and an export gives the same bytes everywhere.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


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


def split_multiplier(multiplier: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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
    multiplier: NDArray[np.float32],
    zero_point: int,
    ties_away: NDArray[np.bool_] | bool = False,
) -> NDArray[np.int8]:
    """Requantize with integers only and two roundings to nearest, as TensorFlow Lite's kernels without XNNPACK do.

    The first is gemmlowp's `SaturatingRoundingDoublingHighMul`, the second is a rounding shift to the right. The second
    rounds ties upward in ruy (ruy/apply_multiplier.cc), and away from zero in gemmlowp's `RoundingDivideByPOT`
    (fixedpoint/fixedpoint.h).

    Args:
        accumulator: int64 (..., channels), within int32.
        multiplier: float32 (channels,), M.
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
    """Requantize with integers only, as ruy's kernels for ARM do: SQDMULH, which truncates, then SRSHL, which rounds.

    Where M is below 1/2, the two together round `acc * M` once, to nearest with ties upward. Where M is 1/2 or above,
    the product is truncated (ruy/apply_multiplier.cc; ruy/kernel_arm64.cc).

    Args:
        accumulator: int64 (..., channels), within int32.
        multiplier: float32 (channels,), M.
        zero_point: the zero point of the output, -128..127.

    Returns:
        int8, of the accumulator's shape. For equal accumulators it differs from `requantize` by at most one.
    """
    significand, shift = split_multiplier(multiplier)
    high = ((accumulator << np.maximum(shift, 0)) * significand) >> 31
    right = np.maximum(-shift, 0)
    rounded = (high + ((np.int64(1) << right) >> 1)) >> right
    return np.asarray(np.clip(rounded + zero_point, -128, 127), dtype=np.int8)


def find_exact_bias_scale(bias: float, scale: np.float32, input_scale: float) -> tuple[np.float32, int]:
    """The first weight scale from `scale` upward at which the integer bias survives a round trip through float32.

    PyTorch's quantized convolutions carry the bias as a float and divide it by `weight_scale * input_scale` again; the
    quotient must be exactly the integer that the other formats store.

    Args:
        bias: the real bias.
        scale: the preferred weight scale, positive.
        input_scale: the scale of the convolution's input, a power of two.

    Returns:
        The scale, which is at most a few units in the last place above the preferred one, and the bias as an integer.
    """
    while True:
        step = scale * np.float32(input_scale)  # exact: a power of two changes only the exponent
        integer = round(bias / float(step))
        stored = np.float32(integer) * step
        if stored / step == np.float32(integer):
            return scale, integer
        scale = np.nextafter(scale, np.float32(np.inf))


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
