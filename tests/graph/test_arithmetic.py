"""Rounding and scales, compared with exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_mnist.graph.arithmetic import (
    dequantize,
    find_exact_bias_scale,
    quantize,
    requantize,
    requantize_fixed_point,
    requantize_single_rounding,
    round_up_to_power_of_two,
    split_multiplier,
    sum_squared_errors,
)
from edge_mnist.graph.operations import Quantization

accumulators = st.integers(-(2**24) + 1, 2**24 - 1)
zero_points = st.integers(-128, 127)
# A significand of 24 bits, and exponents from "never leaves zero" to "next to 1".
multipliers = st.builds(
    lambda bits, exponent: np.float32(math.ldexp(bits, exponent - 24)),
    st.integers(2**23, 2**24 - 1),
    st.integers(-23, 0),
)


@st.composite
def near_ties(draw: st.DrawFn) -> tuple[int, np.float32]:
    """An accumulator whose product with the multiplier is within a rounding error of n + 1/2."""
    acc = draw(st.integers(300, 2**24 - 1))
    return draw(st.sampled_from([1, -1])) * acc, np.float32((draw(st.integers(0, 127)) + 0.5) / acc)


def to_float32(value: Fraction) -> Fraction:
    """Round to 24 significant bits, ties to even: IEEE 754 without its limits of range."""
    if not value:
        return value
    exponent = math.frexp(abs(value.numerator / value.denominator))[1]
    unit = Fraction(2) ** (exponent - 24)
    return round(value / unit) * unit


def clamp(value: int) -> int:
    return max(-128, min(127, value))


@settings(max_examples=1000)
@given(st.one_of(st.tuples(accumulators, multipliers), near_ties()), zero_points)
@example((1, np.float32(0.5)), 0)
@example((3, np.float32(0.5)), 0)
@example((-(2**24) + 1, np.float32(0.99999994)), 127)
def test_requantize_is_one_float32_product_rounded_to_even(pair: tuple[int, np.float32], zero_point: int) -> None:
    accumulator, multiplier = pair
    exact = accumulator * Fraction(float(multiplier))
    product = to_float32(exact)
    found = int(requantize(np.array([accumulator], np.float32), np.array([multiplier]), zero_point)[0])
    assert found == clamp(round(product) + zero_point)  # round() of a Fraction takes ties to even
    # It is also the exact product rounded, unless that lies within float32's error of a tie.
    if abs(exact - math.floor(exact) - Fraction(1, 2)) > abs(exact) * Fraction(1, 2**24):
        assert found == clamp(round(exact) + zero_point)


def doubling_high_mul(a: int, b: int) -> int:
    """gemmlowp's SaturatingRoundingDoublingHighMul; C divides toward zero."""
    product = a * b
    nudged = product + (1 << 30 if product >= 0 else 1 - (1 << 30))
    return nudged // (1 << 31) if nudged >= 0 else -(-nudged // (1 << 31))


def rounding_divide_by_power(value: int, exponent: int) -> int:
    """gemmlowp's RoundingDivideByPOT: ties away from zero."""
    mask = (1 << exponent) - 1
    threshold = (mask >> 1) + (value < 0)
    return (value >> exponent) + ((value & mask) > threshold)


@settings(max_examples=1000)
@given(st.one_of(st.tuples(accumulators, multipliers), near_ties()), zero_points, st.booleans())
@example((-1, np.float32(0.5)), 0, True)
@example((-1, np.float32(0.5)), 0, False)
@example((-3, np.float32(0.25)), 5, True)
def test_fixed_point_is_what_the_integer_kernels_compute(
    pair: tuple[int, np.float32], zero_point: int, ties_away: bool
) -> None:
    accumulator, multiplier = pair
    (significand,), (shift,) = (values.tolist() for values in split_multiplier(np.array([multiplier])))
    assert 2**30 <= significand < 2**31 and significand * Fraction(2) ** (shift - 31) == Fraction(float(multiplier))
    high, right = doubling_high_mul(accumulator << max(shift, 0), significand), max(-shift, 0)
    rounded = rounding_divide_by_power(high, right) if ties_away else (high + ((1 << right) >> 1)) >> right
    found = requantize_fixed_point(np.array([accumulator]), np.array([multiplier]), zero_point, ties_away)
    assert found.dtype == np.int8 and found[0] == clamp(rounded + zero_point)
    other = requantize(np.array([accumulator], np.float32), np.array([multiplier]), zero_point)
    assert abs(int(found[0]) - int(other[0])) <= 1


@given(st.integers(-(2**24), 2**24), st.floats(2**-24, 8, width=32), zero_points)
@example(3, 0.25, 0)
@example(-2, 0.25, 0)
@example(25, 0.50031155, 0)  # LiteRT on ARM gives 13
def test_a_single_rounding_is_to_nearest_with_ties_upward(acc: int, multiplier: float, zero_point: int) -> None:
    scale = np.array([multiplier], np.float32)
    found = requantize_single_rounding(np.array([[acc]], np.int64), scale, zero_point)
    exact = acc * Fraction(float(scale[0]))
    assert int(found[0, 0]) == clamp(math.floor(exact + Fraction(1, 2)) + zero_point)


def test_requantize_is_by_channel() -> None:
    rng = np.random.default_rng(0)
    accumulator = rng.integers(-(2**20), 2**20, (5, 3, 2, 4))
    multiplier = (10.0 ** rng.uniform(-5, -3, 4)).astype(np.float32)
    ties_away = np.array([True, False, True, False])
    whole = requantize(accumulator.astype(np.float32), multiplier, -7)
    fixed = requantize_fixed_point(accumulator, multiplier, -7, ties_away)
    for channel in range(4):
        part = accumulator[..., [channel]]
        scale = multiplier[[channel]]
        assert np.array_equal(requantize(part.astype(np.float32), scale, -7), whole[..., [channel]])
        alone = requantize_fixed_point(part, scale, -7, bool(ties_away[channel]))
        assert np.array_equal(alone, fixed[..., [channel]])


@given(
    st.floats(-1e6, 1e6),
    st.floats(2**-30, 2**10, width=32),
    st.integers(-12, 12),
)
def test_a_bias_survives_float32(bias: float, scale: float, exponent: int) -> None:
    input_scale = 2.0**exponent
    # Quantization never asks for a bias of more than 22 bits: it makes the weights' scale coarser before.
    wanted = np.float32(max(scale, abs(bias) / input_scale / 2**22))
    source, output = Quantization(input_scale, 0), Quantization(1.0, 0)
    found, integer = find_exact_bias_scale(bias, wanted, source, output)
    assert found.dtype == np.float32 and wanted <= found <= wanted * np.float32(1 + 2**-18)
    step = np.float32(found * np.float32(input_scale))
    assert Fraction(float(step)) == Fraction(float(found)) * Fraction(input_scale)
    assert np.float32(np.float32(integer) * step) / step == integer
    # To the nearest integer; the quotient itself is rounded to float64 first.
    assert abs(integer - Fraction(bias) / Fraction(float(step))) <= Fraction(500_001, 1_000_000)


@given(st.floats(2.0**-1000, 2.0**1000))
@example(1.0)
@example(math.nextafter(1.0, 2))
def test_power_of_two_at_least(value: float) -> None:
    power = round_up_to_power_of_two(value)
    assert math.frexp(power)[0] == 0.5 and power / 2 < value <= power


@given(st.lists(st.floats(-1e4, 1e4), min_size=1), st.integers(-10, 10), zero_points)
def test_quantize_rounds_to_nearest_and_clamps(values: list[float], exponent: int, zero_point: int) -> None:
    scale = 2.0**exponent
    found = quantize(np.array(values), scale, zero_point)
    expected = [clamp(round(Fraction(value) / Fraction(scale)) + zero_point) for value in values]
    assert found.tolist() == expected
    back = dequantize(found, scale, zero_point)
    error = [value - (q - zero_point) * scale for value, q in zip(values, expected, strict=True)]
    assert (np.array(values) - back).tolist() == error
    assert sum_squared_errors(np.array(values), np.full(len(values), 3.0), scale, zero_point) == pytest.approx(
        3 * math.fsum(e * e for e in error)
    )


@given(st.integers(-10, 10), zero_points)
def test_every_integer_comes_back(exponent: int, zero_point: int) -> None:
    q = np.arange(-128, 128, dtype=np.int8)
    assert np.array_equal(quantize(dequantize(q, 2.0**exponent, zero_point), 2.0**exponent, zero_point), q)
