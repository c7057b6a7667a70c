"""Which digits form a line, in which order lines are read, and where one number ends and the next begins.

Everything follows from the boxes of single digits, without their image:

1. The page is leveled: its tilt, its perspective, and the bow of a curled sheet are taken out.
2. Runs: digits whose gaps are narrow, each beside the line that the last few digits before it make, so that a run may
   be bowed.
3. Lines: runs are joined across a wide gap where the rows on both sides of it line up, as in a table.
4. Reading order: from the top down, but separate columns, whose rows do not line up, one after the other.
5. Numbers: lines are split where a gap is wider than usual.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Floats: TypeAlias = NDArray[np.float64]
_Indices: TypeAlias = NDArray[np.intp]

NEIGHBOURS = 4
"""How many of the nearest digits around each one show the direction of the writing: in a grid, one on each side."""
REACH = 3.0
"""Digits that are farther apart than this many times their longer side show no direction."""
AGREE = 12.0
"""Directions that differ by fewer degrees agree: two digits of a line may be offset by a fifth of their distance."""
MAJORITY = 0.45
"""The part of all votes that must agree with a direction or be at right angles to it; of votes at random, 0.27 do."""
ASPECT = 0.6
"""The width of a usual digit as a part of its height, the mean of MNIST's."""
MOST_TILT = 30.0
"""Pages are leveled by no more degrees: from there on, boxes no longer show the width of a digit."""
BAND = 3
"""So many digits at the end of a run show where its line continues; more would not follow a bow."""


@dataclass(frozen=True)
class LayoutParameters:
    """What decides which digits belong together. All but `ratio` are lengths in heights of a digit.

    Attributes:
        near: the gap up to which neighbours in a row are always in one line, 0.5 to 2. Wider gaps are crossed where
            the rows on both sides line up.
        offset: how far the middle of a digit may be above or below the middle of its line, 0.3 to 0.7.
        ratio: how many times as high as its line, or as low, a digit may be, 1.5 to 4.
        aligned: the mean offset up to which the rows on both sides of a gap line up, 0.15 to 0.4. It is about 0.1 in
            tables, and 0.4 between columns that have nothing to do with each other.
        space: by how much a gap between two numbers is wider than the usual gap between two digits, 0.3 to 0.8.
        widest: the widest gap between two digits of a number, 1 to 2. Forms have boxes for one digit each.
    """

    near: float = 1.0
    offset: float = 0.5
    ratio: float = 2.5
    aligned: float = 0.25
    space: float = 0.5
    widest: float = 1.5


@dataclass(frozen=True)
class Layout:
    """The lines and numbers of a frame: every box is in exactly one line and one number.

    Attributes:
        lines: in reading order; of each the indices of its boxes from left to right.
        numbers: in reading order; of each the indices of its boxes from left to right.
        number_lines: for each number, the index of its line.
    """

    lines: tuple[tuple[int, ...], ...]
    numbers: tuple[tuple[int, ...], ...]
    number_lines: tuple[int, ...]


def estimate_tilt(boxes: ArrayLike) -> float:
    """Estimate by how many degrees the writing falls to the right (clockwise), more than -90 and at most 90.

    The directions from each digit to the nearest ones of similar size vote (O'Gorman, "The Document Spectrum for Page
    Layout Analysis", PAMI 1993). In a grid, or in a column of single digits, neighbours are also at right angles to the
    writing. Which of two directions it is, is seen from the boxes, since digits are higher than wide; where they are
    square, because the page is turned by 45 degrees or the writer's digits are wide, the smaller tilt is more likely.

    Boxes cannot show whether a page is upside down: the writing may also run exactly the other way.

    Args:
        boxes: (N, 4), left, top, right and bottom of each digit, in pixels.

    Returns:
        The tilt; 0 where there are fewer than three digits, or where their directions do not agree.
    """
    centres, extents = _measure(boxes)
    return _vote(centres, extents, *_pair_neighbours(centres, extents))


def _vote(centres: _Floats, extents: _Floats, first: _Indices, second: _Indices) -> float:
    """The tilt for which pairs of neighbours, indices (P,) and (P,), vote, see `estimate_tilt`."""
    if len(centres) < 3 or not len(first):
        return 0.0
    steps = centres[second] - centres[first]  # (P, 2)
    angles = np.degrees(np.arctan2(steps[:, 1], steps[:, 0]))
    distances = np.hypot(*steps.T) / np.maximum(extents[first].max(1), extents[second].max(1))
    # Digits far apart are seldom in one line, and the direction between digits that touch is noisy.
    votes = np.minimum(distances, 1 / distances) ** 2
    directions = np.arange(-89.0, 91.0)
    apart = _subtract_directions(angles, directions[:, None])  # (180, P)
    near = np.abs(apart) < 3 * AGREE  # what lies farther adds less than float64 holds
    weights = np.zeros_like(apart)
    weights[near] = np.exp(-0.5 * (3 * apart[near] / AGREE) ** 2)
    along = (weights * votes).sum(1)
    scores = along + 0.15 * np.concatenate([along[90:], along[:90]])
    # The widths by heights of boxes around usual digits that are turned by each direction.
    radians = np.radians(directions)
    cosine, sine = np.abs(np.cos(radians)), np.abs(np.sin(radians))
    expected = np.log((ASPECT * cosine + sine) / (ASPECT * sine + cosine))
    found = np.log(extents[:, 0] / extents[:, 1])
    scores *= np.exp(-0.5 * (_median(found) - expected) ** 2 / (0.25**2 + 0.35**2 / len(found)))
    scores *= np.exp(-((directions / 90) ** 2))
    best = directions[scores.argmax()]
    beside = [_subtract_directions(angles, best + turn) for turn in (0, 90)]
    agreeing = [np.abs(apart) < AGREE for apart in beside]
    shares = [votes[agree].sum() / votes.sum() for agree in agreeing]
    if sum(shares) < MAJORITY:
        return 0.0
    # Only where lines have a single digit each do their columns show the direction.
    way = 0 if shares[0] >= 0.15 else 1
    agree = agreeing[way]
    mean = (beside[way][agree] * votes[agree]).sum() / votes[agree].sum()
    return float(_subtract_directions(best + mean, 0))


def arrange(boxes: ArrayLike, parameters: LayoutParameters | None = None, *, may_be_tilted: bool = True) -> Layout:
    """Arrange digits in lines and numbers, in reading order.

    Lines may be tilted by up to 20 degrees, converge in perspective, or be bowed; pages that are turned further must be
    turned back first, see `estimate_tilt`.

    Numbers side by side, with a wide gap between them, are one line where the rows on both sides of the gap line up:
    people read a table, a grid or a sum row by row. Where rows do not line up, they were not written in relation to
    each other: these are separate columns, and the left one is read before the right one. The rows on both sides of a
    gap decide together, since a row of one column may be level with one of the other by chance.

    A line is split into numbers where a gap is wider than the usual gap within it, or so wide that nobody spreads a
    number so far. So digits that are evenly spaced are one number, as a wide hand writes it and as the boxes of a form
    ask for it; the digits of a Sudoku whose cells are next to each other cannot be told from these.

    Args:
        boxes: (N, 4), left, top, right and bottom of each digit, in pixels. Time and memory grow with N squared: a
            caller leaves all but some thousand out. Doubtful digits have a place in their line as well, so that a
            number with a doubtful digit is not taken for a shorter one.
        parameters: None for the usual ones.
        may_be_tilted: False where the writing is known to be level, whatever the boxes show.
    """
    parameters = parameters or LayoutParameters()
    if not np.size(boxes):
        return Layout((), (), ())
    places = _level(boxes, may_be_tilted)
    lines, columns = _join_runs(places, _link_digits(places, parameters), parameters)
    lines = [lines[index] for index in _sort_lines(places, lines, columns)]
    numbers, number_lines = _split_lines(places, lines, parameters)
    return Layout(tuple(map(tuple, lines)), tuple(map(tuple, numbers)), tuple(number_lines))


@dataclass(frozen=True, eq=False)
class _Places:
    """Where digits are on a leveled page, whose lines are horizontal: float64 (N,) each, in pixels."""

    left: _Floats
    right: _Floats
    middle: _Floats
    height: _Floats


def _measure(boxes: ArrayLike) -> tuple[_Floats, _Floats]:
    """The centres (N, 2), and the widths and heights (N, 2), of boxes (N, 4)."""
    corners = np.asarray(boxes, np.float64).reshape(-1, 2, 2)
    return corners.mean(1), np.maximum(corners[:, 1] - corners[:, 0], 1e-6)


def _median(values: _Floats) -> float:
    """The median of a few values (N,), for which `np.median` takes ten times as long."""
    ordered = sorted(values.tolist())
    half = len(ordered) // 2
    return float(ordered[half] + ordered[~half]) / 2


def _subtract_directions(some: ArrayLike, others: ArrayLike) -> _Floats:
    """Degrees between directions, more than -90 and at most 90: a direction and its opposite are the same."""
    apart = 90 - (np.asarray(some, np.float64) - np.asarray(others, np.float64))
    degrees: _Floats = 90 - (apart - 180 * np.floor(apart / 180))  # as with `%`, which takes many times as long
    return degrees


def _find_pairs(count: int, test: Callable[[slice], NDArray[np.bool_]]) -> tuple[_Indices, _Indices]:
    """The pairs of digits or runs for which a test holds: indices (P,) and (P,).

    Args:
        count: N, of digits or runs.
        test: bool (R, N), of each of the R ones in a slice with all. A slice bounds the memory that it takes.
    """
    rows = max(1, 2**18 // max(count, 1))
    found = [np.nonzero(test(slice(start, start + rows))) for start in range(0, max(count, 1), rows)]
    first = [start * rows + one for start, (one, _) in enumerate(found)]
    return np.concatenate(first), np.concatenate([other for _, other in found])


def find_neighbours(boxes: ArrayLike) -> tuple[_Indices, _Indices]:
    """Find the pairs of each digit with the nearest ones of similar size, `NEIGHBOURS` at most.

    Args:
        boxes: (N, 4), left, top, right and bottom of each digit, in pixels.

    Returns:
        The indices of digits, in ascending order, and those of their neighbours: int (P,) each.
    """
    return _pair_neighbours(*_measure(boxes))


def _pair_neighbours(centres: _Floats, extents: _Floats) -> tuple[_Indices, _Indices]:
    """The pairs of neighbours, see `find_neighbours`, from the centres and sizes (N, 2) of digits."""
    sizes = extents.max(1)
    x, y = centres.T

    def are_near(some: slice) -> NDArray[np.bool_]:
        size = sizes[some, None]
        squares = (x[some, None] - x) ** 2 + (y[some, None] - y) ** 2
        near = (squares > 0) & (squares < (REACH * np.maximum(size, sizes)) ** 2)
        return np.asarray(near & (sizes < 2 * size) & (size < 2 * sizes), np.bool_)

    first, second = _find_pairs(len(sizes), are_near)
    order = np.lexsort((np.hypot(*(centres[second] - centres[first]).T), first))
    first, second = first[order], second[order]
    nearest = np.arange(len(first)) - np.searchsorted(first, first) < NEIGHBOURS
    return first[nearest], second[nearest]


def _level(boxes: ArrayLike, may_be_tilted: bool) -> _Places:
    """Turn the page by its tilt, if any, and make lines that converge in perspective, or are bowed alike, level."""
    centres, extents = _measure(boxes)
    first, second = _pair_neighbours(centres, extents)
    degrees = _vote(centres, extents, first, second) if may_be_tilted else 0.0
    tilt = np.radians(np.clip(degrees, -MOST_TILT, MOST_TILT))
    cosine, sine = np.cos(tilt), np.sin(tilt)
    turned = (centres - centres.mean(0)) @ np.array([[cosine, -sine], [sine, cosine]])
    # The sides of the rectangle that touches its box's sides when it is turned by the tilt.
    wide, high = extents.T
    least = 0.2 * extents.max(1)
    width = np.maximum((wide * cosine - high * abs(sine)) / np.cos(2 * tilt), least)
    height = np.maximum((high * cosine - wide * abs(sine)) / np.cos(2 * tilt), least)
    x, y = turned.T
    slope, convergence, bow = _fit_lines(turned, first, second)
    # Each line is moved along itself, to where it crosses x = 0.
    middle = y - x * (slope - convergence * y) / (1 - convergence * x) - 0.5 * bow * x**2
    return _Places(x - width / 2, x + width / 2, middle, height / (1 - convergence * x))


def _fit_lines(centres: _Floats, first: _Indices, second: _Indices) -> tuple[float, float, float]:
    """The slope of the line through (0, 0), the convergence and the bow, each per pixel, of the lines of a page.

    The lines of a flat page go through one vanishing point: the one through (x, y) has the slope
    (slope - convergence * y) / (1 - convergence * x). Those of a sheet that is curled are bowed alike: bow * x is
    added. Fitted by least squares to neighbours that are nearly level; where these are few, lines stay nearly parallel.
    """
    steps = centres[second] - centres[first]
    level = np.abs(steps[:, 1]) < 0.36 * np.abs(steps[:, 0])  # 20 degrees
    if not level.any():
        return 0.0, 0.0, 0.0
    page = float(np.ptp(centres, axis=0).max())
    slopes = steps[level, 1] / steps[level, 0]
    x, y = (centres[first] + centres[second])[level].T / (2 * page)
    system = np.stack([np.ones_like(x), x * slopes - y, x], 1)
    # The fewer neighbours there are, the more these priors count: most sheets are flat.
    priors = np.diag([0.5, 0.5, 20.0])
    slope, convergence, bow = np.linalg.solve(system.T @ system + priors, system.T @ slopes)
    return float(slope), float(np.clip(convergence, -0.8, 0.8)) / page, float(bow) / page


def _link_digits(places: _Places, parameters: LayoutParameters) -> list[list[int]]:
    """Link digits whose gaps are narrow to runs, the nearest ones first; each run from left to right."""
    height, middle = places.height, places.middle
    centre = (places.left + places.right) / 2

    def may_follow(some: slice) -> NDArray[np.bool_]:
        larger = np.maximum(height[some, None], height)
        near = places.left - places.right[some, None] <= parameters.near * larger
        level = np.abs(middle - middle[some, None]) <= parameters.offset * larger
        return near & level & (centre[some, None] < centre)

    first, second = _find_pairs(len(height), may_follow)
    distance = places.left[second] - places.right[first] + np.abs(middle[second] - middle[first])
    order = np.argsort(distance / np.maximum(height[first], height[second]), kind="stable")
    runs = {index: [index] for index in range(len(height))}
    ends, starts = list(runs), list(runs)  # by digit, the run that ends or starts with it; -1 for none
    for one, other in zip(first[order].tolist(), second[order].tolist(), strict=True):
        before, after = ends[one], starts[other]
        if before < 0 or after < 0 or before == after or not _continues(places, runs[before], runs[after], parameters):
            continue
        runs[before] += runs.pop(after)
        ends[one] = starts[other] = -1
        ends[runs[before][-1]] = before
    return list(runs.values())


def _continues(places: _Places, before: list[int], after: list[int], parameters: LayoutParameters) -> bool:
    """Whether one run may be the continuation of another, by the digits where they meet."""
    ends = before[-BAND:], after[:BAND]
    low, high = sorted(_median(places.height[end]) for end in ends)
    one, other = (math.fsum(places.middle[end].tolist()) / len(end) for end in ends)
    offset = abs(one - other)
    return offset <= parameters.offset * high and high <= parameters.ratio * low


def _join_runs(
    places: _Places, runs: list[list[int]], parameters: LayoutParameters
) -> tuple[list[list[int]], _Indices]:
    """Join runs to lines where rows line up.

    Returns:
        The lines, each from left to right, and the pairs of indices (P, 2) of lines that are beside each other in
        separate columns.
    """
    left = np.array([places.left[run[0]] for run in runs])
    right = np.array([places.right[run[-1]] for run in runs])
    start = np.array([places.middle[run[:BAND]].mean() for run in runs])
    end = np.array([places.middle[run[-BAND:]].mean() for run in runs])
    height = np.array([_median(places.height[run]) for run in runs])

    # Two runs face each other if they overlap in height, and nothing is between them: the nearest one, and others
    # beside that one, seen from both.
    def may_face(some: slice) -> NDArray[np.bool_]:
        overlap = np.abs(end[some, None] - start) < 0.45 * (height[some, None] + height)
        follows = (left[some, None] < left) & (left[some, None] + right[some, None] < left + right)
        return np.asarray(overlap & follows, np.bool_)

    first, second = _find_pairs(len(runs), may_face)
    nearest_right, nearest_left = np.full(len(runs), np.inf), np.full(len(runs), -np.inf)
    np.minimum.at(nearest_right, first, right[second])
    np.maximum.at(nearest_left, second, left[first])
    facing = (left[second] < nearest_right[first]) & (right[first] > nearest_left[second])
    order = np.argsort((end[first] + start[second])[facing], kind="stable")
    first, second = first[facing][order], second[facing][order]
    offsets = np.abs(end[first] - start[second]) / (0.5 * (height[first] + height[second]))
    gutters = _find_gutters(right[first], left[second])
    means = np.bincount(gutters, offsets, len(gutters)) / np.maximum(np.bincount(gutters, minlength=len(gutters)), 1)
    aligned = means[gutters] <= parameters.aligned
    follower: dict[int, int] = {}
    followed: set[int] = set()
    for pair in np.argsort(offsets, kind="stable").tolist():
        one, other = int(first[pair]), int(second[pair])
        free = aligned[pair] and one not in follower and other not in followed
        if free and _continues(places, runs[one], runs[other], parameters):
            follower[one] = other
            followed.add(other)
    lines: list[list[int]] = []
    line_of = np.zeros(len(runs), np.intp)
    for index in range(len(runs)):
        if index not in followed:
            line: list[int] = []
            run = index
            while run >= 0:
                line += runs[run]
                line_of[run] = len(lines)
                run = follower.get(run, -1)
            lines.append(line)
    return lines, np.stack([line_of[first[~aligned]], line_of[second[~aligned]]], 1)


def _find_gutters(begin: _Floats, end: _Floats) -> _Indices:
    """Number the vertical gutters that gaps form, from the top down: gaps with the next below them that overlap.

    Args:
        begin: (P,), where each gap begins, from the top down.
        end: (P,), where it ends.
    """
    gutters = np.arange(len(begin))
    for gap in range(len(begin) - 1):
        beneath = (begin[gap + 1 :] < end[gap]) & (end[gap + 1 :] > begin[gap])
        if beneath.any():
            gutters[gutters == gutters[gap + 1 + beneath.argmax()]] = gutters[gap]
    return gutters


def _sort_lines(places: _Places, lines: list[list[int]], columns: _Indices) -> list[int]:
    """Sort lines into reading order: from the top down, and separate columns one after the other.

    Pages are cut recursively between columns (as by the XY cut of Nagy, Seth and Viswanathan, 1992). A line that goes
    across a cut, such as a title, is read between what is above and below it.

    Args:
        places: of the digits.
        lines: the digits of each line.
        columns: (P, 2), pairs of lines, left and right, that are beside each other in separate columns.

    Returns:
        The indices of the lines.
    """
    left = np.array([places.left[line].min() for line in lines])
    right = np.array([places.right[line].max() for line in lines])
    middle = np.array([places.middle[line].mean() for line in lines])
    result: list[int] = []
    columns = columns[right[columns[:, 0]] < left[columns[:, 1]]]
    parts = [(np.argsort(middle, kind="stable"), columns)]
    while parts:
        part, pairs = parts.pop()
        if not len(pairs):
            result += part.tolist()
            continue
        cuts = (right[pairs[:, 0]] + left[pairs[:, 1]]) / 2
        crossing = np.searchsorted(np.sort(left[part]), cuts) - np.searchsorted(np.sort(right[part]), cuts)
        cut = cuts[crossing.argmin()]
        across = (left[part] < cut) & (right[part] > cut)
        bands = []
        for band in np.split(part, np.flatnonzero(across[1:] != across[:-1]) + 1):
            before = right[band] <= cut
            is_cut = (np.isin(pairs[:, 0], band[before]) & np.isin(pairs[:, 1], band[~before])).any()
            bands += [band[before], band[~before]] if is_cut else [band]
        parts += [(band, pairs[np.isin(pairs, band).all(1)]) for band in reversed(bands)]
    return result


def _split_lines(
    places: _Places, lines: list[list[int]], parameters: LayoutParameters
) -> tuple[list[list[int]], list[int]]:
    """Split lines into numbers at wide gaps; returns the digits of each number, and the index of its line."""
    gaps = [(places.left[line[1:]] - places.right[line[:-1]]) / _median(places.height[line]) for line in lines]
    # A quarter of the gaps are narrower, so that the gaps between many short numbers do not count as usual.
    every = sorted(np.concatenate(gaps).tolist())
    usual = every[len(every) // 4] if every else 0.0
    numbers: list[list[int]] = []
    number_lines: list[int] = []
    for index, (line, between) in enumerate(zip(lines, gaps, strict=True)):
        # One gap of the page's usual width is added, which decides in lines of few digits.
        among = sorted([*between.tolist(), usual])
        limit = min(among[len(among) // 4] + parameters.space, parameters.widest)
        ends = [0, *(place for place, gap in enumerate(between.tolist(), 1) if gap > limit), len(line)]
        numbers += [line[first:last] for first, last in pairwise(ends)]
        number_lines += [index] * (len(ends) - 1)
    return numbers, number_lines
