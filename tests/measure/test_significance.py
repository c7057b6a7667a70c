from __future__ import annotations

import itertools
import math
from fractions import Fraction
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mnist.measure.significance import mcnemar_exact, median_interval, wilson_interval

shares = st.integers(1, 100_000).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials)))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_published_values(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(shares, st.floats(0.5, 0.999))
def test_wilson_ends_are_where_the_score_test_turns(share: tuple[int, int], confidence: float) -> None:
    successes, trials = share
    low, high = wilson_interval(successes, trials, confidence)
    assert 0 <= low <= successes / trials <= high <= 1
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    for end in (low, high):  # the definition: |share - end| is z standard errors of `end` itself
        error = math.sqrt(end * (1 - end) / trials)
        assert abs(successes / trials - end) == pytest.approx(z * error, rel=1e-6, abs=1e-9)
    mirrored = wilson_interval(trials - successes, trials, confidence)
    assert mirrored == (pytest.approx(1 - high, abs=1e-12), pytest.approx(1 - low, abs=1e-12))


@given(st.integers(0, 11), st.integers(0, 11))
def test_mcnemar_is_the_share_of_throws_at_least_as_uneven(first: int, second: int) -> None:
    throws = first + second
    uneven = abs(first - second)
    # Heads minus tails of every outcome, by how many heads it has.
    counted = sum(math.comb(throws, heads) for heads in range(throws + 1) if abs(2 * heads - throws) >= uneven)
    assert mcnemar_exact(first, second) == float(Fraction(counted, 2**throws))
    assert mcnemar_exact(second, first) == mcnemar_exact(first, second)


def test_mcnemar_over_every_outcome_of_nine_throws() -> None:
    sums = [abs(sum(throw)) for throw in itertools.product((1, -1), repeat=9)]
    for heads in range(10):
        assert mcnemar_exact(heads, 9 - heads) == sum(s >= abs(2 * heads - 9) for s in sums) / 2**9


def test_mcnemar_known_and_large() -> None:
    assert mcnemar_exact(0, 0) == mcnemar_exact(5, 5) == mcnemar_exact(1, 0) == 1.0
    assert mcnemar_exact(5, 0) == 0.0625
    assert mcnemar_exact(1, 9) == 11 / 512
    # Where floats of the terms would overflow and underflow: the normal law with the correction for continuity.
    assert mcnemar_exact(34_600, 35_400) == pytest.approx(2 * NormalDist().cdf(-799 / math.sqrt(70_000)), rel=1e-3)
    assert mcnemar_exact(0, 1_000) == 2.0**-999
    assert mcnemar_exact(0, 10_000) == 0.0


@pytest.mark.parametrize("arguments", [(1, 0), (-1, 5), (6, 5), (1, 5, 0.0), (1, 5, 1.0), (1, 5, math.nan)])
def test_what_is_no_share_is_refused(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        wilson_interval(*arguments)
    with pytest.raises(ValueError, match="expected"):
        mcnemar_exact(-1, 3)


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (5, 1), (6, 1), (9, 2), (20, 6), (50, 18), (100, 40)])
def test_median_interval_has_the_ranks_of_published_tables(count: int, rank: int) -> None:
    # W. J. Conover, Practical Nonparametric Statistics; below six values no two of them reach 95 %.
    values = [float(value) for value in range(1, count + 1)]
    assert median_interval(values[::-1]) == ((count + 1) / 2, rank, count + 1 - rank)


def test_median_interval_holds_the_median_as_often_as_it_says() -> None:
    for count, confidence in ((8, 0.9), (13, 0.95), (30, 0.99)):
        low = median_interval([float(value) for value in range(count)], confidence)[1]
        missed = 2 * sum(math.comb(count, below) for below in range(int(low) + 1)) / 2**count
        next_missed = missed + 2 * math.comb(count, int(low) + 1) / 2**count
        assert missed <= 1 - confidence < next_missed
    with pytest.raises(ValueError):
        median_interval([])
