"""How well digits are arranged: `python -m benchmarks.layout --fonts FOLDER [--count N] [--sensitivity]`.

Pages of eight kinds are drawn, and seen in five ways. The layout was developed on these pages, so the figures are not
those of pages that it never saw.
Their boxes are disturbed as a finder disturbs them: each side by 4 % of the digit, 3 % of the digits are missing, and
as many boxes are false. Prints by kind and by view: the digits out of order (those that must move to make the order
right), the lines that are not exactly right, and, of the pages seen flat or tilted, those whose tilt is wrong by more
than 6 degrees. The columns of a page are drawn with rows that are not related, and some line up by chance: what is out
of order there is not all wrong.

With `--sensitivity` also what becomes of all when each parameter of the layout is 20 % less or more.
"""

from __future__ import annotations

import argparse
import bisect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks import run_command
from edge_mnist.demo.reading import layout
from edge_mnist.demo.reading.layout import LayoutParameters
from edge_mnist.system.tables import make_console
from edge_mnist.training.finder import pages, sources

KINDS = ("lines", "touching", "columns", "grid", "sudoku", "boxes", "equations", "form")
"""The kinds of pages whose reading order is known."""
VIEWS = ("flat", "tilted by 6", "tilted by 20", "perspective", "bowed")
"""How a page is seen: "tilted by 6" by 0 to 6 degrees either way, "tilted by 20" by 10 to 20 degrees either way."""


@dataclass(frozen=True, eq=False)
class Case:
    """The boxes of a page, and their truth.

    Attributes:
        kind: of the page.
        view: how it is seen.
        boxes: float32 (N, 4), left, top, right, bottom in pixels.
        places: int64 (N,), the place of each in the reading order; -1 where it is false.
        lines: int64 (N,), the line of each.
        tilt: in degrees.
    """

    kind: str
    view: str
    boxes: NDArray[np.float32]
    places: NDArray[np.int64]
    lines: NDArray[np.int64]
    tilt: float


@dataclass
class Count:
    """What is wrong on some pages, and of how many."""

    digits: int = 0
    moved: int = 0
    lines: int = 0
    broken: int = 0
    pages: int = 0
    tilted: int = 0

    def rates(self) -> list[str]:
        """Of digits, lines and pages, in percent."""
        parts = (self.moved, self.digits), (self.broken, self.lines), (self.tilted, self.pages)
        return [f"{100 * wrong / max(count, 1):.1f} %" for wrong, count in parts]


def draw(made_from: pages.Sources, count: int) -> Iterator[Case]:
    """`count` pages of each kind, in all views."""
    for number, kind in enumerate(KINDS):
        for index in range(count):
            random = np.random.RandomState([77, number, index])
            height, width = (480, 640) if random.rand() < 0.8 else (640, 480)
            page = pages.Page(np.zeros((height, width), np.float32), made_from)
            pages.KINDS[kind][1](random, page)
            if page.labels:
                outlines = np.stack(page.outlines).astype(np.float64)  # (N, 16, 2)
                for view in VIEWS:
                    yield disturb(random, kind, view, *see(random, view, outlines, width, height), page.lines)


def see(
    random: np.random.RandomState, view: str, outlines: NDArray[np.float64], width: int, height: int
) -> tuple[NDArray[np.float32], float]:
    """The boxes (N, 4) of outlines (N, K, 2) on a page of a size that is seen in some way, and its tilt in degrees."""
    points: NDArray[np.floating] = outlines.reshape(-1, 2).copy()
    tilt = 0.0
    if view == "perspective":
        corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
        moved = corners + random.uniform(-0.18, 0.18, (4, 2)).astype(np.float32) * width
        points = cv2.perspectiveTransform(points[None], cv2.getPerspectiveTransform(corners, moved))[0]
    elif view == "bowed":
        points[:, 1] += random.choice([-1, 1]) * random.uniform(0.1, 0.3) * width * (points[:, 0] / width - 0.5) ** 2
    elif view.startswith("tilted"):
        least, most = (-6, 6) if view == "tilted by 6" else (10, 20)
        tilt = float(random.uniform(least, most) * random.choice([-1, 1]))
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), -tilt, 1)
        points = points @ turn[:, :2].T + turn[:, 2]
    points = points.reshape(outlines.shape)
    return np.concatenate([points.min(1), points.max(1)], 1).astype(np.float32), tilt


def disturb(
    random: np.random.RandomState,
    kind: str,
    view: str,
    boxes: NDArray[np.float32],
    tilt: float,
    lines: list[int],
) -> Case:
    """What a finder would find of some boxes (N, 4), in any order."""
    count = len(boxes)
    extents = boxes[:, 2:] - boxes[:, :2]
    found = boxes + random.normal(0, 0.04, boxes.shape) * np.tile(extents, 2)
    kept = random.rand(count) >= 0.03
    kept[random.randint(count)] = True
    false = np.flatnonzero(random.rand(count) < 0.03)
    centres = random.uniform(boxes[:, :2].min(0), boxes[:, 2:].max(0), (len(false), 2))
    invented = np.concatenate([centres - extents[false] / 2, centres + extents[false] / 2], 1)
    low = np.maximum(invented[:, None, :2], boxes[:, :2])
    high = np.minimum(invented[:, None, 2:], boxes[:, 2:])
    invented = invented[~(high > low).all(2).any(1)]  # a finder gives no two boxes for one place
    everything = np.concatenate([found[kept], invented]).astype(np.float32)
    places = np.concatenate([np.flatnonzero(kept), np.full(len(invented), -1)])
    order = random.permutation(len(everything))
    return Case(
        kind, view, everything[order], places[order],
        np.array([*lines, -1])[places][order], tilt,
    )  # fmt: skip


def count_moved(places: list[int]) -> int:
    """How many of some places must move for all to be in order: all but the longest increasing subsequence."""
    ends: list[int] = []
    for place in places:
        at = bisect.bisect_left(ends, place)
        ends[at : at + 1] = [place]
    return len(places) - len(ends)


def judge(cases: list[Case], parameters: LayoutParameters) -> dict[str, Count]:
    """What is wrong by kind, by view, and in all."""
    counts: dict[str, Count] = defaultdict(Count)
    for case in cases:
        arranged = layout.arrange(case.boxes, parameters)
        lines = [[int(case.places[index]) for index in line if case.places[index] >= 0] for line in arranged.lines]
        read = [place for line in lines for place in line]
        true = [np.sort(case.places[case.lines == line]).tolist() for line in np.unique(case.lines[case.places >= 0])]
        wrong = (layout.estimate_tilt(case.boxes) - case.tilt + 90) % 180 - 90
        for name in (case.kind, case.view, "all"):
            count = counts[name]
            count.digits += len(read)
            count.moved += count_moved(read)
            count.lines += len(true)
            count.broken += sum(line not in lines for line in true)
            if "tilt" in case.view or case.view == "flat":
                count.pages += 1
                count.tilted += int(abs(wrong) > 6)
    return counts


def main() -> None:
    """Judge, print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fonts", type=Path, required=True, help="a folder with fonts in its folders hand and print")
    parser.add_argument("--data", type=Path, help="where MNIST is")
    parser.add_argument("--count", type=int, default=25, help="pages of each kind")
    parser.add_argument("--sensitivity", action="store_true", help="move each parameter by 20 percent too")
    options = parser.parse_args()
    cases = list(draw(sources.load("judge", options.fonts, options.data), options.count))
    usual = LayoutParameters()
    counts = judge(cases, usual)
    table = Table("pages", "digits", "out of order", "lines not right", "tilt not right")
    for name in (*KINDS, *VIEWS, "all"):
        table.add_row(name, str(counts[name].digits), *counts[name].rates())
    make_console().print(table)
    if options.sensitivity:
        table = Table("parameter", "value", "out of order", "lines not right")
        table.add_row("none moved", "", *counts["all"].rates()[:2])
        for field in fields(usual):
            for factor in (0.8, 1.2):
                value = factor * getattr(usual, field.name)
                moved = judge(cases, replace(usual, **{field.name: value}))["all"]
                table.add_row(field.name, f"{value:.2f}", *moved.rates()[:2])
        make_console().print(table)


if __name__ == "__main__":
    run_command(main)
