"""How well the reader reads: `python -m benchmarks.reading TRUTH.json | --scenes PART | --negatives PART`.

Of photographs with truth, of scenes that are rendered, or of frames without a digit. The last two have a half to tune
on, "train", and a half to judge by, "held-out", of other writers, seeds and pictures. Prints, by group: wrong digits
(the edit distance, in which the `?` of a doubtful digit costs nothing, whatever is written there), their part of all
digits, doubtful digits, images of which all is right, wrong digits an image, and milliseconds by stage. `--failures
DIR` keeps pictures of what was not right.

TRUTH.json: a list of {"path", "lines", "order_defined", "kind"}, paths relative to it.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks import negatives
from edge_mnist import runtime
from edge_mnist.data import mnist
from edge_mnist.demo.reading.reader import DOUBTFUL, Reader, Reading
from edge_mnist.demo.sources import images
from edge_mnist.demo.sources import scenes as rendered
from edge_mnist.demo.sources.scenes import Scene
from edge_mnist.demo.views import drawing
from edge_mnist.system.tables import make_console


@dataclass
class Case:
    """A frame and what it says."""

    group: str
    name: str
    frame: NDArray[np.uint8]
    lines: list[str]
    ordered: bool = True


def scenes(part: str, count: int, folder: Path | None) -> Iterator[tuple[str, Scene]]:
    """`count` scenes of each condition: "train" and "held-out" have other digits and other seeds."""
    digits = mnist.load("train", folder)
    first = 0 if part == "train" else 1
    own = mnist.Digits(digits.images[first::2], digits.labels[first::2], digits.source, digits.sha256)
    for number, (condition, style) in enumerate(rendered.STYLES.items()):
        for index in range(count):
            random = np.random.RandomState(100_000 * (1 + first) + 1000 * number + index)
            yield condition, rendered.render(random, own, style)


def photographs(truth: Path) -> Iterator[Case]:
    """The photographs of a truth file."""
    for entry in json.loads(truth.read_text()):
        group, kind = entry["path"].split("/")[0], entry["kind"]
        group += " desk" if "desk" in kind else " camera" if "Camera" in kind else ""
        frame = images.load(truth.parent / entry["path"])
        yield Case(group, entry["path"], frame, entry["lines"], entry["order_defined"])


def distance(found: str, expected: str) -> int:
    """The least number of digits to insert, delete or replace (Levenshtein 1966).

    A `?` in `found` may be any digit, or none.
    """
    row = list(range(len(expected) + 1))
    for digit in found:
        cost = digit != DOUBTFUL
        before, row[0] = row[0], row[0] + cost
        for place, other in enumerate(expected, 1):
            differs = cost and digit != other
            before, row[place] = row[place], min(row[place] + cost, row[place - 1] + 1, before + differs)
    return row[-1]


def errors(reading: Reading, case: Case) -> int:
    """Wrong digits: by edit distance, or as multisets where the order is not defined. Doubtful ones are not wrong."""
    found, expected = "".join(reading.lines), "".join(case.lines)
    if case.ordered:
        return distance(found, expected)
    doubtful = found.count(DOUBTFUL)
    sure = Counter(found.replace(DOUBTFUL, ""))
    missing, more = Counter(expected) - sure, sure - Counter(expected)
    return max(missing.total() - doubtful, more.total())


def main() -> None:
    """Read all, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth", type=Path, nargs="?")
    parser.add_argument("--scenes", choices=["train", "held-out"])
    parser.add_argument("--negatives", choices=["train", "held-out"])
    parser.add_argument("--count", type=int, default=10, help="scenes of each condition")
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--failures", type=Path, metavar="DIR")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    if sum(map(bool, (options.truth, options.scenes, options.negatives))) != 1:
        parser.error("one of TRUTH.json, --scenes and --negatives")
    cv2.setNumThreads(1)
    threshold = {} if options.threshold is None else {"threshold": options.threshold}
    reader = Reader(runtime.load(options.model) if options.model else None, **threshold)
    if options.truth:
        cases = photographs(options.truth)
    elif options.scenes:
        rendering = scenes(options.scenes, options.count, options.data)
        cases = (Case(group, f"{group}-{n}", s.frame, list(s.lines)) for n, (group, s) in enumerate(rendering))
    else:
        drawn = negatives.make_frames(options.negatives)
        cases = (Case(kind, f"{kind}-{n}", frame, []) for n, (kind, frame) in enumerate(drawn))
    rows: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    stages: dict[str, list[float]] = defaultdict(list)
    for case in cases:
        reading = reader.read(case.frame)
        for group in (case.group, "all"):
            row = rows[group]
            row["images"] += 1
            row["digits"] += sum(map(len, case.lines))
            row["wrong"] += errors(reading, case)
            row["doubtful"] += len(reading.unsure)
            row["right"] += list(reading.lines) == case.lines
        for stage, spent in reading.milliseconds.items():
            stages[stage].append(spent)
        if options.failures and list(reading.lines) != case.lines:
            _keep(options.failures, case, reading)
    if options.as_json:
        print(
            json.dumps(
                {"groups": rows, "milliseconds": {name: float(np.median(all_)) for name, all_ in stages.items()}}
            )
        )
        return
    table = Table(
        "group", "images", "digits", "wrong digits", "error rate", "doubtful digits", "all right", "wrong an image"
    )
    for group, row in sorted(rows.items(), key=lambda item: item[0] == "all"):
        rate = f"{row['wrong'] / row['digits']:.2%}" if row["digits"] else "-"
        counts = (f"{row[name]:.0f}" for name in ("images", "digits", "wrong"))
        right, each = f"{row['right'] / row['images']:.1%}", f"{row['wrong'] / row['images']:.3f}"
        table.add_row(group, *counts, rate, f"{row['doubtful']:.0f}", right, each)
    make_console().print(table)
    print("median ms: " + ", ".join(f"{stage} {np.median(spent):.2f}" for stage, spent in stages.items()))


def _keep(folder: Path, case: Case, reading: Reading) -> None:
    """Save a picture of what was read, with what is written in its name."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{case.name.replace('/', '_').rsplit('.', 1)[0]} is {'_'.join(case.lines)} read {'_'.join(reading.lines)}"
    name = name.replace(DOUBTFUL, "x")
    cv2.imwrite(str(folder / f"{name[:200]}.png"), drawing.draw_digits(case.frame, reading.digits, reading.unsure))


if __name__ == "__main__":
    main()
