"""How well the reader reads: `python -m benchmarks.reading TRUTH.json --scenes PART --pages PART --negatives PART`.

At least one of these is needed:

- TRUTH.json names photographs: a list of {"path", "lines", "order_defined", "kind"}, paths relative to it.
- `--scenes` renders scenes of MNIST's digits; "train" and "held-out" have other digits and other seeds.
- `--pages` draws pages from images of MNIST, fonts and photographs that the finder has not learned from: "choose" is
  there to choose constants by, "judge" to judge by. It needs `--fonts`.
- `--negatives` are frames without a digit, of a part to tune on and of one to judge by.

The error rate is the number of wrong digits over the number of digits that are written. Wrong digits are the fewest to
insert, to delete or to replace for the text that was read to become the text that is written (the edit distance). Where
the order of the digits is not defined, the texts are compared as multisets; on drawn pages, whose boxes are known, each
digit that was read is compared with the digit at its place. A `?`, which stands for a doubtful digit, is counted in two
ways: as no error, whatever is written there ("error rate"), and as a wrong digit ("with ?"). Everything that is not a
digit is left out.

Of frames without digits the tables give the digits that are read in a frame nevertheless, and the frames with any.

With `--sensitivity`, none of these is read. Instead, a table shows how the error rate of pages of the part "choose"
changes when each constant of the reader is 20 percent less or more.

With `--moved`, each frame is also read after it was moved a few pixels to the right and down. To a person that is the
same frame, so the spread of the counts shows how much of the number of wrong digits is chance.

`--pictures FOLDER` writes a picture for each group: the frames with the most wrong digits, what is written on them and
what is read, with its confidence.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import wrap

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks import finding, negatives, reading_sensitivity, run_command
from edge_mnist import runtime
from edge_mnist.data import mnist
from edge_mnist.demo.reading.reader import DOUBTFUL, THRESHOLD, Digit, Reader, Reading
from edge_mnist.demo.sources import images
from edge_mnist.demo.sources import scenes as rendered
from edge_mnist.demo.sources.scenes import Scene
from edge_mnist.demo.views import drawing
from edge_mnist.system.tables import make_console

GROUPS = (
    ("blank/", "", "empty cells"),
    ("grids/", "", "grids"),
    ("strips/", "", "cheques"),
    ("single/", "camera", "single digits, camera"),
    ("single/", "", "single digits, drawn"),
    ("pages/", "desk", "desks"),
    ("pages/", "turned", "turned page"),
    ("pages/", "one red digit", "one digit that fills the frame"),
    ("pages/", "", "pages"),
)
"""How the path of a photograph begins, a part of its kind, and its group: the first that fits."""
SHOWN = 6
"""Frames of each group that `--pictures` shows."""
MOVES = ((1, 1), (2, 3), (3, 2), (5, 4), (7, 6))
"""Pixels by which `--moved` moves a frame to the right and down; its edge is repeated."""
WIDTH = 640
"""The longer side of each frame, in pixels."""


@dataclass(frozen=True, eq=False)
class Case:
    """A frame and what is written on it.

    Attributes:
        group: the row of the table that it belongs to.
        name: of its file, or its number.
        frame: uint8 (H, W) grey or (H, W, 3) BGR.
        lines: the digits of each line, in reading order.
        ordered: whether their order is defined.
    """

    group: str
    name: str
    frame: NDArray[np.uint8]
    lines: list[str]
    ordered: bool = True


@dataclass
class Score:
    """What was read in the frames of a group.

    Attributes:
        frames: their number.
        digits: that are written.
        wrong: digits, where a doubtful one is no error.
        wrong_or_doubtful: digits, where a doubtful one is an error.
        doubtful: digits.
        right: frames without a wrong or doubtful digit.
        invented: digits that were read in frames without digits.
        disturbed: frames without digits in which something was read.
    """

    frames: int = 0
    digits: int = 0
    wrong: int = 0
    wrong_or_doubtful: int = 0
    doubtful: int = 0
    right: int = 0
    invented: int = 0
    disturbed: int = 0

    def add(self, lines: Sequence[str], case: Case) -> None:
        """Count what was read in one more frame."""
        strict = errors(lines, case, doubtful_is_wrong=True)
        self.frames += 1
        self.digits += sum(map(len, case.lines))
        self.wrong += errors(lines, case)
        self.wrong_or_doubtful += strict
        self.doubtful += "".join(lines).count(DOUBTFUL)
        self.right += not strict
        if not any(case.lines):
            read = len("".join(lines).replace(DOUBTFUL, ""))
            self.invented += read
            self.disturbed += read > 0


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
        path, kind = entry["path"], entry["kind"].lower()
        fitting = (group for begin, part, group in GROUPS if path.startswith(begin) and part in kind)
        group = next(fitting, path.split("/")[0])
        yield Case(group, path, images.load(truth.parent / path), entry["lines"], entry["order_defined"])


def distance(found: str, expected: str, doubtful_is_wrong: bool = False) -> int:
    """The least number of digits to insert, delete or replace (Levenshtein 1966).

    A `?` in `found` may be any digit or none; if `doubtful_is_wrong`, it is a digit that differs from all others.
    """
    row = list(range(len(expected) + 1))
    for digit in found:
        cost = doubtful_is_wrong or digit != DOUBTFUL
        before, row[0] = row[0], row[0] + cost
        for place, other in enumerate(expected, 1):
            differs = cost and digit != other
            before, row[place] = row[place], min(row[place] + cost, row[place - 1] + 1, before + differs)
    return row[-1]


def errors(lines: Sequence[str], case: Case, doubtful_is_wrong: bool = False) -> int:
    """The wrong digits of the lines that were read, as the docstring of this module defines them."""
    found, expected = "".join(lines), "".join(case.lines)
    if case.ordered:
        return distance(found, expected, doubtful_is_wrong)
    doubtful = found.count(DOUBTFUL)
    sure = Counter(found.replace(DOUBTFUL, ""))
    missing, more = (Counter(expected) - sure).total(), (sure - Counter(expected)).total()
    return max(missing, more + doubtful) if doubtful_is_wrong else max(missing - doubtful, more)


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which pictures are read, except drawn pages."""
    parser.add_argument("truth", type=Path, nargs="?", metavar="TRUTH.json", help="photographs and what is on them")
    parser.add_argument("--scenes", choices=["train", "held-out"], help="rendered scenes")
    parser.add_argument("--negatives", choices=["train", "held-out"], help="frames without digits")
    parser.add_argument("--count", type=int, default=10, help="scenes of each condition, or pages of each kind")
    parser.add_argument("--data", type=Path, help="the folder with MNIST's files")


def load_cases(options: argparse.Namespace) -> Iterator[tuple[str, Iterable[Case]]]:
    """The pictures that the options ask for: of each source its title and its cases."""
    if options.truth:
        yield "photographs", photographs(options.truth)
    if options.scenes:
        rendering = scenes(options.scenes, options.count, options.data)
        yield (
            f"scenes, {options.scenes}",
            (Case(group, f"{group}-{n}", scene.frame, list(scene.lines)) for n, (group, scene) in enumerate(rendering)),
        )
    if options.negatives:
        drawn = negatives.make_frames(options.negatives)
        yield (
            f"frames without digits, {options.negatives}",
            (Case(kind, f"{kind}-{n}", frame, []) for n, (kind, frame) in enumerate(drawn)),
        )


class Worst:
    """The frames of each group with the most errors."""

    def __init__(self) -> None:
        self._groups: dict[str, list[tuple[int, NDArray[np.uint8], str, Reading]]] = defaultdict(list)

    def add(self, group: str, wrong: int, frame: NDArray[np.uint8], written: str, reading: Reading) -> None:
        """Remember a frame, if it is among the worst."""
        if wrong:
            rows = self._groups[group]
            rows.append((wrong, frame, written, reading))
            rows.sort(key=lambda row: -row[0])
            del rows[SHOWN:]

    def save(self, folder: Path) -> None:
        """Write a JPEG for each group."""
        folder.mkdir(parents=True, exist_ok=True)
        for group, rows in self._groups.items():
            tiles = [_draw(frame, written, reading) for _, frame, written, reading in rows]
            path = folder / f"{re.sub('[^a-z0-9]+', '-', group.lower())}.jpg"
            cv2.imwrite(str(path), _arrange(tiles), [cv2.IMWRITE_JPEG_QUALITY, 85])


def _draw(frame: NDArray[np.uint8], written: str, reading: Reading) -> NDArray[np.uint8]:
    """A frame with what was read in it, above what is written and what was read."""
    scale = WIDTH / max(frame.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    large = drawing.to_bgr(np.asarray(cv2.resize(frame, None, fx=scale, fy=scale, interpolation=method), np.uint8))

    def place(digits: tuple[Digit, ...]) -> list[Digit]:
        return [replace(one, box=tuple(round(side * scale) for side in one.box)) for one in digits]

    picture = drawing.draw_digits(large, place(reading.digits), place(reading.unsure))
    text = [*wrap(f"written: {written or '-'}", 62), *wrap(f"read: {' '.join(reading.lines) or '-'}", 62)]
    below, beside = 24 * len(text) + 12, WIDTH - picture.shape[1]
    tile = cv2.copyMakeBorder(picture, 0, below, 0, beside, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    for number, line in enumerate(text, 1):
        place_of_line = (6, picture.shape[0] + 24 * number)
        cv2.putText(tile, line, place_of_line, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40, 40, 40), 1, cv2.LINE_AA)
    return np.asarray(tile, np.uint8)


def _arrange(tiles: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Tiles of one width side by side in rows of up to three."""
    rows = []
    for first in range(0, len(tiles), 3):
        some = tiles[first : first + 3]
        height = max(len(tile) for tile in some)
        blank = [np.full((height, WIDTH, 3), 255, np.uint8)] * (min(3, len(tiles)) - len(some))
        padded = [
            cv2.copyMakeBorder(one, 0, height - len(one), 0, 0, cv2.BORDER_CONSTANT, value=(255,) * 3) for one in some
        ]
        rows.append(np.hstack([*padded, *blank]))
    return np.asarray(np.vstack(rows), np.uint8)


def score_pages(reader: Reader, options: argparse.Namespace, worst: Worst) -> dict[str, Counter[str]]:
    """What was read on drawn pages, by kind, see `finding.compare`."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for picture in finding.draw_pages(options.pages, options.fonts, options.data, options.count):
        reading = reader.read(picture.frame)
        row = finding.compare(picture, reading.digits, reading.unsure)
        counts[picture.kind] += row + Counter(pages=1)
        texts = (
            "".join(str(label) for label in picture.labels[picture.lines == n] if label >= 0)
            for n in np.unique(picture.lines)
        )
        wrong = row["wrong"] + row["missed"] + row["invented"]
        worst.add(f"drawn {picture.kind}", wrong, picture.frame, " ".join(texts), reading)
    return counts


def print_scores(title: str, scores: dict[str, Score]) -> None:
    """Print the groups that have digits in one table, and those that have none in another."""
    written = {group: score for group, score in scores.items() if score.digits}
    if written:
        columns = (
            "frames",
            "digits",
            "wrong",
            "error rate",
            "doubtful",
            "with ?",
            "frames all right",
        )
        table = Table("group", *columns, title=title)
        for group, score in [*written.items(), ("all", _add(written.values()))][: None if len(written) > 1 else 1]:
            rates = (f"{part / score.digits:.2%}" for part in (score.wrong, score.wrong_or_doubtful))
            table.add_row(
                group, str(score.frames), str(score.digits), str(score.wrong), next(rates), str(score.doubtful),
                next(rates), f"{score.right / score.frames:.1%}",
            )  # fmt: skip
        make_console().print(table)
    empty = {group: score for group, score in scores.items() if not score.digits}
    if empty:
        table = Table(
            "nothing is written", "frames", "invented a frame", "frames in which something is read", title=title
        )
        for group, score in [*empty.items(), ("all", _add(empty.values()))][: None if len(empty) > 1 else 1]:
            share = f"{score.disturbed} ({score.disturbed / score.frames:.1%})"
            table.add_row(group, str(score.frames), f"{score.invented / score.frames:.3f}", share)
        make_console().print(table)


def _add(scores: Iterable[Score]) -> Score:
    """The sum of some scores."""
    rows = [asdict(score) for score in scores]
    return Score(**{name: sum(row[name] for row in rows) for name in asdict(Score())})


def print_moved(title: str, scores: dict[str, Score], moved: list[dict[str, Score]]) -> None:
    """Print how the number of wrong digits of each group, and of all, changes when the frames are moved."""
    table = Table("group", "digits", "wrong as it lies", "moved: fewest", "mean", "most", "mean with ?", title=title)
    groups = {group: [score, *(other[group] for other in moved)] for group, score in scores.items() if score.digits}
    if len(groups) > 1:
        groups["all"] = [_add(column) for column in zip(*groups.values(), strict=True)]
    for group, (score, *others) in groups.items():
        wrong = [other.wrong for other in others]
        strict = np.mean([other.wrong_or_doubtful for other in others])
        mean = f"{np.mean(wrong):.1f} ({np.mean(wrong) / score.digits:.2%})"
        table.add_row(
            group, str(score.digits), str(score.wrong), str(min(wrong)), mean, str(max(wrong)),
            f"{strict:.1f} ({strict / score.digits:.2%})",
        )  # fmt: skip
    make_console().print(table)


def main() -> None:
    """Read all, print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--pages", choices=["choose", "judge"], help="drawn pages")
    parser.add_argument("--fonts", type=Path, help="a folder with fonts in its folders hand and print")
    parser.add_argument("--sensitivity", action="store_true", help="move each constant of the reader by 20 percent")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="the confidence that a digit needs")
    parser.add_argument("--model", type=Path, help="the network that reads digits; by default the shipped one")
    parser.add_argument("--finder", type=Path, help="the network that finds digits; by default the shipped one")
    parser.add_argument("--moved", action="store_true", help="also read each frame moved by a few pixels")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="write pictures of the worst frames there")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    if not any((options.truth, options.scenes, options.pages, options.negatives, options.sensitivity)):
        parser.error("expected TRUTH.json, --scenes, --pages, --negatives or --sensitivity")
    if (options.pages or options.sensitivity) and not options.fonts:
        parser.error("--pages and --sensitivity need --fonts")
    cv2.setNumThreads(1)
    networks = [runtime.load(path) if path else None for path in (options.model, options.finder)]
    if options.sensitivity:
        pictures = finding.draw_pages("choose", options.fonts, options.data, options.count)
        reading_sensitivity.print_table(list(pictures), *networks)
        return
    reader = Reader(networks[0], threshold=options.threshold, finder=networks[1])
    worst = Worst()
    facts: dict[str, object] = {}
    stages: dict[str, list[float]] = defaultdict(list)
    for title, cases in load_cases(options):
        scores: dict[str, Score] = defaultdict(Score)
        moved: list[dict[str, Score]] = [defaultdict(Score) for _ in MOVES]
        for case in cases:
            reading = reader.read(case.frame)
            scores[case.group].add(reading.lines, case)
            for others, (right, down) in zip(moved, MOVES if options.moved else (), strict=False):
                frame = cv2.copyMakeBorder(case.frame, down, 0, right, 0, cv2.BORDER_REPLICATE)
                others[case.group].add(reader.read(np.asarray(frame, np.uint8)).lines, case)
            worst.add(case.group, errors(reading.lines, case), case.frame, " ".join(case.lines), reading)
            for stage, spent in reading.milliseconds.items():
                stages[stage].append(spent)
        facts[title] = {group: asdict(score) for group, score in scores.items()}
        if not options.as_json:
            print_scores(title, scores)
            if options.moved:
                print_moved(f"{title}, moved", scores, moved)
    if options.pages:
        counts = score_pages(reader, options, worst)
        facts[f"drawn pages, {options.pages}"] = counts
        if not options.as_json:
            finding.print_counts(f"drawn pages, {options.pages}", counts)
    if options.pictures:
        worst.save(options.pictures)
    medians = {stage: float(np.median(spent)) for stage, spent in stages.items()}
    if options.as_json:
        print(json.dumps({**facts, "milliseconds": medians}))
    elif medians:
        print("median ms: " + ", ".join(f"{stage} {spent:.2f}" for stage, spent in medians.items()))


if __name__ == "__main__":
    run_command(main)
