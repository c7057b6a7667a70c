"""How far a measured accuracy can be trusted, and whether two of them differ. Needs no NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from statistics import NormalDist, median


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a share, which stays within 0..1 and holds near both ends.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the American
    Statistical Association 22 (1927).

    Args:
        successes: how often it was so, 0 to `trials`.
        trials: of how many, at least 1.
        confidence: how often such an interval holds the true share, above 0 and below 1.

    Returns:
        The lower and the upper end, 0..1.

    Raises:
        ValueError: an argument is out of range.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"wilson_interval: {successes} of {trials}, expected 0 to all of at least 1")
    if not 0 < confidence < 1:
        raise ValueError(f"wilson_interval: confidence {confidence}, expected above 0 and below 1")
    # The lower tail, because 0.5 + confidence / 2 would round to 1 sooner.
    z = -NormalDist().inv_cdf((1 - confidence) / 2)
    share, weight = successes / trials, z * z / trials
    middle = share + weight / 2
    half = z * math.sqrt((share * (1 - share) + weight / 4) / trials)
    # Both ends are exact in the formula where the share is 0 or 1, but not in floating point.
    low = 0.0 if successes == 0 else (middle - half) / (1 + weight)
    high = 1.0 if successes == trials else (middle + half) / (1 + weight)
    return low, high


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """The median of values, and an interval that holds the true median, whatever the distribution is.

    The ends are two of the values: the number of values below the true median is binomial, so it lies between their
    ranks with at least this confidence (W. R. Thompson, "On confidence ranges for the median", Annals of Mathematical
    Statistics 7, 1936). Few values cannot reach the confidence; then the ends are the smallest and the largest value.

    Args:
        values: at least one number.
        confidence: how often such an interval holds the true median, above 0 and below 1.

    Returns:
        The median, and the lower and the upper end.

    Raises:
        ValueError: there are no values, or the confidence is out of range.
    """
    if not values or not 0 < confidence < 1:
        raise ValueError(f"median_interval: {len(values)} values, confidence {confidence}, expected at least one value")
    ordered, count = sorted(values), len(values)
    ways = accumulate(math.comb(count, below) for below in range((count + 1) // 2))  # of at most so many values below
    rank = max(0, sum(1 for way in ways if way / 2**count <= (1 - confidence) / 2) - 1)
    return median(ordered), ordered[rank], ordered[-1 - rank]


def mcnemar_exact(first_only: int, second_only: int) -> float:
    """The two-sided p-value of McNemar's test, from the binomial distribution itself and rounded once.

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947). If both classifiers are equally good, each image that only one of them reads right is a
    fair coin's throw; p is the chance of throws at least as uneven as these.

    Args:
        first_only: images that only the first reads right, at least 0.
        second_only: images that only the second reads right, at least 0.

    Returns:
        p, 0..1; 1.0 if both counts are 0.

    Raises:
        ValueError: a count is negative.
    """
    if min(first_only, second_only) < 0:
        raise ValueError(f"mcnemar_exact: {first_only} and {second_only}, expected counts of at least 0")
    throws = first_only + second_only
    term = total = 1  # binomial coefficients, as integers: their quotient below is correctly rounded at any size
    for heads in range(min(first_only, second_only)):
        term = term * (throws - heads) // (heads + 1)
        total += term
    return 1.0 if 2 * total >= 1 << throws else 2 * total / (1 << throws)
