"""What the reader finds, reads and invents on drawn pages: `python -m benchmarks.finding --fonts FONTS [--part judge]`.

Pages are those of `edge_mnist.training.finder.pages`, made from fonts, images of MNIST and photographs that the finder
has not learned from. Each digit that is read is matched with the true box that it overlaps most. Prints, by kind of
page: true digits, those that are read right, doubtful (`?` in place of the digit), read as another digit, and missed;
digits that are read where none is written; and the error rate: wrong, missed and invented digits over true ones, see
`benchmarks/reading.py`. Digits whose longer side is below 10 pixels are not counted, nor are digits that are turned by
more than 50 degrees.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Container, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks import run_command
from edge_mnist.demo.reading.reader import Digit, Reader
from edge_mnist.system.tables import make_console
from edge_mnist.training.finder import pages, sources

LEAST_OVERLAP = 0.3
"""The least intersection over union of the box of a digit that is read and the true one."""
LEAST_SIZE = 10
"""The smallest longer side, in pixels, of digits that count."""


def compare(picture: pages.Picture, digits: tuple[Digit, ...], unsure: tuple[Digit, ...]) -> Counter[str]:
    """Count what was read on one page: "digits", "right", "doubtful", "wrong", "missed" and "invented"."""
    size = (picture.boxes[:, 2:] - picture.boxes[:, :2]).max(1, initial=0)
    counts = (size >= LEAST_SIZE) & (picture.labels >= 0)
    is_free = np.ones(len(size), bool)
    found = Counter(digits=int(counts.sum()))
    for is_sure, some in ((True, digits), (False, unsure)):
        for digit in sorted(some, key=lambda one: -one.confidence):
            x, y, width, height = digit.box
            box = np.array([x, y, x + width, y + height], np.float32)
            overlap = intersection_over_union(box[None], picture.boxes)[0] * is_free
            best = int(overlap.argmax()) if len(overlap) else -1
            if best < 0 or overlap[best] < LEAST_OVERLAP:
                found["invented"] += is_sure
                continue
            is_free[best] = False
            if counts[best]:
                verdict = "right" if digit.label == picture.labels[best] else "wrong"
                found[verdict if is_sure else "doubtful"] += 1
    found["missed"] = int((counts & is_free).sum())
    return found


def intersection_over_union(some: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of boxes (N, 4) with others (M, 4), left, top, right, bottom: float32 (N, M), 0 to 1."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    areas, others_areas = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (some, others))
    result: NDArray[np.float32] = shared / np.maximum(areas[:, None] + others_areas[None] - shared, 1e-6)
    return result


def draw_pages(
    part: str, fonts: Path, folder: Path | None, count: int, kinds: Container[str] = tuple(pages.KINDS)
) -> Iterator[pages.Picture]:
    """`count` pages of each of some kinds, from a part of the sources, see `sources.load`."""
    made_from = sources.load(part, fonts, folder)
    for number, kind in enumerate(pages.KINDS):
        for index in range(count if kind in kinds else 0):
            yield pages.draw(np.random.RandomState([1, number, index]), made_from, kind)


def print_counts(title: str, counts: dict[str, Counter[str]]) -> None:
    """Print what was read, by kind and in all."""
    columns = ("right", "doubtful", "wrong", "missed")
    table = Table("kind", "pages", "digits", *columns, "invented a page", "error rate", "with ?", title=title)
    for kind, row in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        wrong = row["wrong"] + row["missed"] + row["invented"]
        parts = (*(row[name] for name in columns), wrong, wrong + row["doubtful"])
        shares = [f"{part / row['digits']:.1%}" if row["digits"] else "-" for part in parts]
        invented = f"{row['invented'] / row['pages']:.2f}"
        table.add_row(kind, str(row["pages"]), str(row["digits"]), *shares[:4], invented, *shares[4:])
    make_console().print(table)


def main() -> None:
    """Read all pages, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fonts", type=Path, required=True, help="a folder with fonts in its folders hand and print")
    parser.add_argument("--data", type=Path, help="the folder with MNIST's files")
    parser.add_argument("--part", choices=["choose", "judge"], default="choose")
    parser.add_argument("--count", type=int, default=20, help="pages of each kind")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    reader = Reader()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for picture in draw_pages(options.part, options.fonts, options.data, options.count):
        reading = reader.read(picture.frame)
        counts[picture.kind] += compare(picture, reading.digits, reading.unsure) + Counter(pages=1)
    if options.as_json:
        print(json.dumps(counts))
    else:
        print_counts(f"drawn pages, {options.part}", counts)


if __name__ == "__main__":
    run_command(main)
