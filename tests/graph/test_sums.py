"""Sums and products of int8 values: every way in which a runtime computes them gives the oracle's integers.

The ways are written here again in NumPy, from the sources of the runtimes, so that the law is tried on all 65,536 pairs
for many scales. `tests/export` tries the runtimes themselves.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mnist.graph.arithmetic import (
    add,
    multiply,
    multiply_fixed_point,
    next_exact_scale,
    tie_margin_of_add,
    tie_margin_of_multiply,
)
from edge_mnist.graph.operations import Quantization
from edge_mnist.graph.quantization import SUM_FACTORS

A, B = (grid.ravel().astype(np.int8) for grid in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
FLOAT = np.float32


def clamp(q: NDArray[np.generic], zero_point: int) -> NDArray[np.int8]:
    return np.clip(q.astype(np.int64) + zero_point, -128, 127).astype(np.int8)


def add_as_xnnpack(a: Quantization, b: Quantization, out: Quantization) -> NDArray[np.int8]:
    """Multipliers of at most 21 bits, one rounding shift (src/microparams-init.c, xnn_init_qs8_add_minmax_params)."""
    ratios = [FLOAT(a.scale) / FLOAT(out.scale), FLOAT(b.scale) / FLOAT(out.scale)]
    shift = 20 - (math.frexp(float(max(ratios)))[1] - 1)
    first, second = (int(np.rint(math.ldexp(float(ratio), shift))) for ratio in ratios)
    total = (A.astype(np.int64) - a.zero_point) * first + (B.astype(np.int64) - b.zero_point) * second
    return clamp((total + (1 << (shift - 1))) >> shift, out.zero_point)


def rescale(values: NDArray[np.int64], real: float) -> NDArray[np.int64]:
    """TensorFlow Lite's MultiplyByQuantizedMultiplierSmallerThanOneExp: a 31-bit product, then a rounding shift."""
    fraction, exponent = math.frexp(real)
    significand = round(fraction * (1 << 31))
    product = values * significand
    high = (product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))) // (1 << 31)
    high = np.where(product < 0, -((-product + (1 << 30) - 1) >> 31), (product + (1 << 30)) >> 31)
    right = max(-exponent, 0)
    mask = (1 << right) - 1
    threshold = (mask >> 1) + (high < 0)
    return np.asarray((high >> right) + ((high & mask) > threshold))


def add_as_tensorflow_lite(a: Quantization, b: Quantization, out: Quantization) -> NDArray[np.int8]:
    """Each operand is brought to 2^-20 of twice the larger scale (kernels/add.cc, reference_ops::AddElementwise)."""
    twice = 2 * max(a.scale, b.scale)
    first = rescale((A.astype(np.int64) - a.zero_point) << 20, a.scale / twice)
    second = rescale((B.astype(np.int64) - b.zero_point) << 20, b.scale / twice)
    return clamp(rescale(first + second, twice / ((1 << 20) * out.scale)), out.zero_point)


def add_as_mlas(a: Quantization, b: Quantization, out: Quantization) -> NDArray[np.int8]:
    """In float32, of uint8 values from which no zero point is subtracted (qladd.cpp)."""
    first, second = FLOAT(a.scale) / FLOAT(out.scale), FLOAT(b.scale) / FLOAT(out.scale)
    zeros = [FLOAT(quantization.zero_point + 128) for quantization in (a, b, out)]
    offset = zeros[2] - (first * zeros[0] + second * zeros[1])
    total = offset + (A.astype(FLOAT) + FLOAT(128)) * first + (B.astype(FLOAT) + FLOAT(128)) * second
    return (np.clip(np.rint(total), 0, 255) - 128).astype(np.int8)


def add_as_fbgemm(a: Quantization, b: Quantization, out: Quantization) -> NDArray[np.int8]:
    """In float32: dequantize, add, multiply by the reciprocal of the scale (QuantizedOpKernels.cpp)."""
    total = (A.astype(FLOAT) - a.zero_point) * FLOAT(a.scale) + (B.astype(FLOAT) - b.zero_point) * FLOAT(b.scale)
    return clamp(np.rint(total * (FLOAT(1) / FLOAT(out.scale))), out.zero_point)


def multiply_as_tensorflow_lite(a: Quantization, b: Quantization, out: Quantization) -> NDArray[np.int8]:
    """An integer product and a 31-bit multiplier (kernels/mul.cc)."""
    product = (A.astype(np.int64) - a.zero_point) * (B.astype(np.int64) - b.zero_point)
    real = a.scale * b.scale / out.scale
    # what is above 1 is first multiplied by a power of two
    up = max(math.frexp(real)[1], 0)
    return clamp(rescale(product << up, real / (1 << up)), out.zero_point)


def multiply_as_xnnpack(a: Quantization, b: Quantization, out: Quantization) -> NDArray[np.int8]:
    """An integer product times a float32 scale (qs8-vmul)."""
    product = (A.astype(np.int64) - a.zero_point) * (B.astype(np.int64) - b.zero_point)
    return clamp(np.rint(product.astype(FLOAT) * (FLOAT(a.scale) * FLOAT(b.scale) / FLOAT(out.scale))), out.zero_point)


def multiply_as_fbgemm(a: Quantization, b: Quantization, out: Quantization) -> NDArray[np.int8]:
    """In float32: dequantize, multiply, multiply by the reciprocal of the scale."""
    product = ((A.astype(FLOAT) - a.zero_point) * FLOAT(a.scale)) * ((B.astype(FLOAT) - b.zero_point) * FLOAT(b.scale))
    return clamp(np.rint(product * (FLOAT(1) / FLOAT(out.scale))), out.zero_point)


ADDITIONS = (add_as_xnnpack, add_as_tensorflow_lite, add_as_mlas, add_as_fbgemm)
PRODUCTS = (multiply_as_xnnpack, multiply_as_fbgemm)
FACTORS = (1.0, *SUM_FACTORS)

zero_points = st.one_of(st.sampled_from([-128, 0]), st.integers(-128, 127))


def quantizations(exponents: tuple[int, int], factors: tuple[float, ...]) -> st.SearchStrategy[Quantization]:
    scales = st.builds(lambda e, f: 2.0**e * f, st.integers(*exponents), st.sampled_from(factors))
    return st.builds(Quantization, scales, zero_points)


@settings(deadline=None, max_examples=60)
@given(quantizations((-6, -2), FACTORS), quantizations((-6, -2), FACTORS), quantizations((-5, -1), FACTORS))
def test_a_sum_away_from_ties_is_the_same_everywhere(a: Quantization, b: Quantization, out: Quantization) -> None:
    assume(tie_margin_of_add(a, b, out) > 0)
    expected = add(A, B, a, b, out)
    for way in ADDITIONS:
        assert np.array_equal(way(a, b, out), expected), way.__name__


@settings(deadline=None, max_examples=60)
@given(quantizations((-6, -2), FACTORS), quantizations((-6, -2), FACTORS), quantizations((-5, 1), FACTORS))
def test_a_product_away_from_ties_is_the_same_everywhere(a: Quantization, b: Quantization, out: Quantization) -> None:
    assume(tie_margin_of_multiply(a, b, out) > 0)
    expected = multiply(A, B, a, b, out)
    for way in PRODUCTS:
        assert np.array_equal(way(a, b, out), expected), way.__name__
    assert np.array_equal(multiply_as_tensorflow_lite(a, b, out), multiply_fixed_point(A, B, a, b, out))


@pytest.mark.parametrize("scale", [2.0**-3, 2.0**-2])
def test_a_power_of_two_has_ties_and_a_factor_near_one_has_none(scale: float) -> None:
    a, b = Quantization(2.0**-4, -128), Quantization(2.0**-4, 3)
    tied, clear = Quantization(scale, -128), Quantization(scale * (1 + 2.0**-12), -128)
    assert tie_margin_of_add(a, b, tied) < 0 < tie_margin_of_add(a, b, clear)
    assert any(not np.array_equal(way(a, b, tied), add(A, B, a, b, tied)) for way in ADDITIONS)


@settings(deadline=None)
@given(
    st.floats(2.0**-20, 2.0**10, width=32),
    quantizations((-6, 3), (*FACTORS, 1.5, 1.25)),
    quantizations((-6, 3), (1.0, 1.5, 1.25, 1.75)),
)
def test_weight_scales_leave_nothing_to_round(scale: float, source: Quantization, output: Quantization) -> None:
    found = next_exact_scale(FLOAT(scale), source, output)
    assert scale <= found <= scale * (1 + 2.0**-6)
    product = found * FLOAT(source.scale)
    assert float(product) == float(found) * source.scale
    assert float(product / FLOAT(output.scale)) * output.scale == float(product)


def test_contributing_names_every_place_of_an_operation() -> None:
    root = Path(__file__).parents[2]
    text = (root / "CONTRIBUTING.md").read_text("utf-8")
    table = text.partition("### An operation, for example")[2].partition("Before the first line")[0]
    named = {row.split("`")[1] for row in table.splitlines() if row.startswith("| `")}
    knowing = {
        path.relative_to(root).as_posix()
        for folder in ("edge_mnist/graph", "edge_mnist/bundle", "export")
        for path in (root / folder).rglob("*.py")
        if re.search(r"^    Add,$|^from edge_mnist.graph.operations import .*\bAdd\b", path.read_text("utf-8"), re.M)
    }
    defining = {f"edge_mnist/{name}.py" for name in ("graph/layers", "graph/operations", "training/torch_operations")}
    assert knowing | defining | {"edge_mnist/formats/contract.py", "tests/support/networks.py"} == named
