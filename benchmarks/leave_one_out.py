"""What each kind of pages gives to the finder: `python -m benchmarks.leave_one_out RUNS --fonts FONTS`.

Trains short finders in folders of RUNS: one with pages of all kinds, and for each kind one that sees no page of it.
Then each looks at pages of the kind that it never saw, drawn from the part "choose" of the sources. Prints, by kind,
for the finder that saw all kinds and for the one that did not see this one: how many of the digits are found, and how
many boxes a page are found where no digit is. Boxes with a confidence of at least 0.3 count, before DigitNet reads them
and in int8 as it is shipped.

The same command goes on where it was stopped. A finder whose training is complete is not trained again.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks import run_command
from benchmarks.finding import LEAST_OVERLAP, LEAST_SIZE, draw_pages, intersection_over_union
from edge_mnist import runtime
from edge_mnist.demo.reading.finder import Finder
from edge_mnist.demo.reading.reader import ReaderParameters
from edge_mnist.export.tflite.writer import write_tflite
from edge_mnist.graph import checkpoint, folding
from edge_mnist.graph.quantization import quantize_graph
from edge_mnist.system.tables import make_console
from edge_mnist.training.finder import loop, pages
from edge_mnist.training.finder.pages import Picture

CONFIDENCE = 0.3
"""The confidence of the finder, 0 to 1, from which on a box counts."""


def train(run: Path, fonts: Path, folder: Path | None, settings: loop.Settings, workers: int) -> Path:
    """Train a finder, unless it has been trained; returns its checkpoint."""
    path = run / loop.CHECKPOINT
    if not loop.is_complete(run, settings):
        for record in loop.train(run, fonts, folder, settings, workers):
            if sys.stderr.isatty():
                print(f"\r{run.name}: step {record['step']} of {settings.steps} ", end="", file=sys.stderr, flush=True)
    return path


def open_finder(path: Path) -> Finder:
    """The finder of a checkpoint, in int8."""
    source = checkpoint.load(path)
    quantized, _ = quantize_graph(folding.fold(source), source.statistics)
    usual = ReaderParameters()
    network = runtime.load_bytes(write_tflite(quantized), str(path))
    return Finder(network, least=CONFIDENCE, finest=usual.finest, looks=usual.looks, step=usual.step)


def count(picture: Picture, boxes: NDArray[np.float32]) -> Counter[str]:
    """Count "digits" of a page, those that are "found", and "false" boxes where there is no digit.

    Args:
        picture: the page. Its digits count if their longer side has 10 pixels and they can be read.
        boxes: float32 (N, 4), what was found, the most confident first.
    """
    size = (picture.boxes[:, 2:] - picture.boxes[:, :2]).max(1, initial=0)
    counts = (size >= LEAST_SIZE) & (picture.labels >= 0)
    is_free = np.ones(len(size), bool)
    result = Counter(pages=1, digits=int(counts.sum()))
    for box in boxes:
        overlap = intersection_over_union(box[None], picture.boxes)[0] * is_free
        best = int(overlap.argmax()) if len(overlap) else -1
        if best < 0 or overlap[best] < LEAST_OVERLAP:
            result["false"] += 1
            continue
        is_free[best] = False
        result["found"] += int(counts[best])
    return result


def look(finder: Finder, pictures: list[Picture]) -> Counter[str]:
    """Count on some pages, see `count`."""
    return sum((count(picture, finder.find(picture.frame).boxes) for picture in pictures), Counter())


def measure(options: argparse.Namespace) -> dict[str, tuple[Counter[str], Counter[str]]]:
    """Train, and look at all pages.

    Returns:
        By kind, what the finder that saw all kinds finds, and the one that never saw this kind.
    """

    def open_trained(without: str) -> Finder:
        settings = loop.Settings(steps=options.steps, width=options.width, without=without)
        run = options.runs / (f"without-{without}" if without else "all-kinds")
        return open_finder(train(run, options.fonts, options.data, settings, options.workers))

    pictures: dict[str, list[Picture]] = {kind: [] for kind in options.kinds}
    for picture in draw_pages("choose", options.fonts, options.data, options.count, tuple(options.kinds)):
        pictures[picture.kind].append(picture)
    usual = open_trained("")
    return {kind: (look(usual, some), look(open_trained(kind), some)) for kind, some in pictures.items()}


def main() -> None:
    """Train, look and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, metavar="RUNS", help="the folder of the trainings")
    parser.add_argument("--fonts", type=Path, required=True, help="a folder with fonts in its folders hand and print")
    parser.add_argument("--data", type=Path, help="the folder with MNIST's files")
    parser.add_argument("--kinds", nargs="+", choices=[*pages.KINDS], default=[*pages.KINDS], help="by default all")
    parser.add_argument("--steps", type=int, default=3000, help="steps of each training")
    parser.add_argument("--width", type=int, default=loop.Settings.width, help="channels of the finder, see Settings")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw pages")
    parser.add_argument("--count", type=int, default=40, help="pages of each kind to look at")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    columns = ("found", "found without", "false a page", "false a page without")
    table = Table("kind", "pages", "digits", *columns, title=f"{options.steps} steps each")
    for kind, both in measure(options).items():
        found = [f"{row['found'] / row['digits']:.1%}" if row["digits"] else "-" for row in both]
        false = [f"{row['false'] / row['pages']:.2f}" for row in both]
        table.add_row(kind, str(both[0]["pages"]), str(both[0]["digits"]), *found, *false)
    make_console().print(table)


if __name__ == "__main__":
    run_command(main)
