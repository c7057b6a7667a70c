"""Reads the numbers that are written in a frame.

frame -> ink -> components -> lines -> possible digits -> 28x28 images -> one batch through the network -> the best path
through each line.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist import runtime
from edge_mnist.demo.reading import confidence as credit
from edge_mnist.demo.reading import crops, ink, levels, lines, pieces, segmentation, view
from edge_mnist.demo.reading import sheet as paper
from edge_mnist.demo.reading.digit_images import SIZE
from edge_mnist.demo.reading.ink import Ink
from edge_mnist.demo.reading.lines import Line
from edge_mnist.demo.reading.pieces import Piece
from edge_mnist.demo.reading.segmentation import Candidate, Part
from edge_mnist.demo.reading.view import View
from edge_mnist.pretrained import SHIPPED_INT8
from edge_mnist.runtime import Classifier, softmax

THRESHOLD = 0.65
"""The confidence that a digit needs; every published figure is measured with it."""
UNSURE = 0.2
"""A component with less, but at least this, that is in line with digits that have enough is a doubtful digit."""
DOUBTFUL = "?"
"""What `Reading.lines` hold in the place of a doubtful digit: without it they would give another, shorter number."""
LEAST_HEIGHT = 12
"""What is lower, in pixels, is no digit by itself."""
LEAST_AREA = 8
MOST_COMPONENTS = 300
"""Of a frame; the largest count."""
MOST_PIECES = 40
"""What holds more pieces is no line of numbers but a texture."""
MOST_CANDIDATES = 4_000
"""Of a frame: lines beyond are left out. Photographs of pages have up to 1,300."""
WEAK = 0.66
"""In a line that somebody has cut out, what is weaker than this part of the strongest ink was not written with it."""
STRIP = 1.6
"""If it is so many times as long as high, the line goes along it."""
TILT = 14.0
"""Lines that fall by more degrees are read from a turned view; the network has learned to read the others."""
WIDE = 0.3
"""A piece whose box takes this part of the frame, and of which its ink"""
FILLS = 0.04
"""fills no more, is the outline of something."""
LARGE = 0.12
"""A piece longer than this part of the frame's shorter side may be a shadow:"""
SOFT = 0.45
"""its edge is softer than a pen's, see `ink.sharpness`."""
HUGS, CUT_HUGS = 0.4, 0.75
"""What lies along the frame's edge by this part of its longer side is the edge of something, not a digit; the second
where somebody may have cut through a digit."""


@dataclass(frozen=True, eq=False)
class Digit:
    """A digit that was read.

    Attributes:
        label: 0 to 9.
        confidence: 0 to 1, the probability that it is this digit.
        box: x, y, width, height in pixels of the frame.
        line: number of its line, from 0.
        place: its index in the line's text, from 0: doubtful digits are counted too.
        image: uint8 (28, 28), what the network was given.
        features: what the confidence was made from, see `credit.NAMES`.
        number: the index of its number in the line, from 0.
    """

    label: int
    confidence: float
    box: tuple[int, int, int, int]
    line: int
    place: int
    image: NDArray[np.uint8]
    features: tuple[float, ...] = ()
    number: int = 0


@dataclass(frozen=True)
class WrittenNumber:
    """A number that was read: digits side by side in a line, without a wide gap between them.

    Attributes:
        text: its labels, and `?` in the place of each doubtful digit.
        box: x, y, width, height around its digits, in pixels of the frame.
        confidence: the mean confidence, 0 to 1, of the digits that are not doubtful; 0 if all are.
        line: the number of its line, from 0.
        complete: whether no digit is doubtful.
    """

    text: str
    box: tuple[int, int, int, int]
    confidence: float
    line: int
    complete: bool

    def to_dict(self) -> dict[str, Any]:
        """The number, as JSON holds it."""
        return {
            "text": self.text,
            "box": list(self.box),
            "confidence": round(self.confidence, 4),
            "line": self.line,
            "complete": self.complete,
        }


@dataclass(frozen=True, eq=False)
class Reading:
    """What a frame says.

    Attributes:
        digits: that have the confidence asked for, in reading order.
        unsure: the doubtful digits in the same lines, which have less, in reading order.
        milliseconds: by stage, and "total".
    """

    digits: tuple[Digit, ...]
    unsure: tuple[Digit, ...]
    milliseconds: dict[str, float]

    @property
    def lines(self) -> tuple[str, ...]:
        """The text of each line: the labels of its digits, and `?` in the place of each doubtful one: 641937?6."""
        return tuple(self._texts(DOUBTFUL).values())

    @property
    def numbers(self) -> tuple[WrittenNumber, ...]:
        """The numbers, in reading order."""
        sure = {id(digit) for digit in self.digits}
        groups: dict[tuple[int, int], list[Digit]] = {}
        for digit in in_order([*self.digits, *self.unsure]):
            groups.setdefault((digit.line, digit.number), []).append(digit)
        numbers = []
        for (line, _), digits in groups.items():
            text = "".join(str(digit.label) if id(digit) in sure else DOUBTFUL for digit in digits)
            left, top = min(digit.box[0] for digit in digits), min(digit.box[1] for digit in digits)
            right = max(digit.box[0] + digit.box[2] for digit in digits)
            bottom = max(digit.box[1] + digit.box[3] for digit in digits)
            confidences = [digit.confidence for digit in digits if id(digit) in sure]
            mean = sum(confidences) / len(confidences) if confidences else 0.0
            numbers.append(WrittenNumber(text, (left, top, right - left, bottom - top), mean, line, is_complete(text)))
        return tuple(numbers)

    def doubtful(self) -> dict[int, str]:
        """The lines, by number, that have a doubtful digit, with its most probable label in brackets: 641937(9)6."""
        texts = self._texts("({})")
        return {digit.line: texts[digit.line] for digit in self.unsure}

    def _texts(self, doubtful: str) -> dict[int, str]:
        """The text of each line, by number, with a format for the labels of doubtful digits."""
        shown = [(digit, "{}") for digit in self.digits] + [(digit, doubtful) for digit in self.unsure]
        texts: dict[int, str] = {}
        for digit, form in sorted(shown, key=lambda one: (one[0].line, one[0].place)):
            texts[digit.line] = texts.get(digit.line, "") + form.format(digit.label)
        return texts


def is_complete(text: str) -> bool:
    """Whether the text of a line or number has no doubtful digit."""
    return DOUBTFUL not in text


def in_order(digits: Iterable[Digit]) -> list[Digit]:
    """Digits as they are read: line by line, each from left to right."""
    return sorted(digits, key=lambda digit: (digit.line, digit.place))


class Reader:
    """A network, and how much it must be sure of what it reads."""

    def __init__(
        self, classifier: Classifier | None = None, *, threshold: float = THRESHOLD, invert: str = "auto"
    ) -> None:
        """With an artifact of ten classes, int8 or float, or else the shipped int8 TFLite model.

        Args:
            classifier: the network.
            threshold: the confidence, 0 to 1, that a digit needs.
            invert: whether the ink is lighter than its ground: yes, no or auto.
        """
        self.classifier = classifier or runtime.load(SHIPPED_INT8)
        self.threshold = threshold
        self.invert = invert

    def read(self, frame: NDArray[np.uint8]) -> Reading:
        """Read a frame, uint8 (H, W) grey or (H, W, 3) BGR."""
        clock = _Clock()
        seen = view.view(frame)
        sheet = paper.sheet(seen.grey)
        light: bool | None = self.invert == "yes"
        if self.invert == "auto" and sheet is None:
            light = ink.is_light(seen.grey)
        digits, unsure = max(
            (
                self._read(view.inverted(seen) if inverted else seen, sheet, clock)
                for inverted in ((False, True) if light is None else (light,))
            ),
            key=lambda both: sum(digit.confidence for digit in both[0]),
        )
        return Reading(tuple(digits), tuple(unsure), clock.milliseconds())

    def _read(self, seen: View, sheet: NDArray[np.float32] | None, clock: _Clock) -> tuple[list[Digit], list[Digit]]:
        """The digits of dark ink in a view, and the doubtful ones in their lines."""
        found, marks = _marks(seen, sheet)
        clock.tick("ink")
        tilt = 0.0 if _is_strip(seen) else lines.tilt(marks, LEAST_HEIGHT)
        if abs(tilt) > TILT:
            seen = view.turned(seen, -tilt)
            found, marks = _marks(seen, None if sheet is None else paper.sheet(seen.grey))
            tilt = 0.0
        clock.tick("tilt")
        written = _written(lines.group(marks, LEAST_HEIGHT, tilt))
        clock.tick("segmentation")
        considered = [candidate.piece for own in written for candidate in own.candidates]
        images = np.zeros((len(considered), SIZE, SIZE), np.uint8)
        for image, piece in zip(images, considered, strict=True):
            image[:] = crops.normalize(found.strength, piece)
        clock.tick("crops")
        chances = self._chances(images)
        clock.tick("network")
        both = self._believed(seen, found, written, len(marks), images, chances)
        clock.tick("choice")
        return both

    def _chances(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Probabilities (N, 10) of images uint8 (N, 28, 28)."""
        if not len(images):
            return np.zeros((0, 10))
        return softmax(self.classifier.logits(images))

    def _believed(
        self,
        seen: View,
        found: Ink,
        written: list[_Written],
        marks: int,
        images: NDArray[np.uint8],
        chances: NDArray[np.float64],
    ) -> tuple[list[Digit], list[Digit]]:
        """The digits on the best path through each line that can be believed, and the doubtful ones in these lines.

        Args:
            seen: the view.
            found: its ink.
            written: its lines.
            marks: how many components it has.
            images: (N, 28, 28), of the candidates of all lines.
            chances: (N, 10), what the network says of them.
        """
        paths, first = [], 0
        for own in written:
            here = chances[first : first + len(own.candidates)].max(1, initial=0)
            path = segmentation.best_path(own.parts, own.candidates, here, own.line.height)
            paths.append([first + index for index in path])
            first += len(own.candidates)
        pieces_of = [candidate.piece for own in written for candidate in own.candidates]
        used = [[pieces_of[index] for index in path] for path in paths]
        strongest = max((credit.line_strength(found, chosen) for chosen in used), default=0.0)
        digits: list[Digit] = []
        unsure: list[Digit] = []
        count, least = 0, min(UNSURE, self.threshold)
        for own, path, chosen in zip(written, paths, used, strict=True):
            if not path:
                continue
            skipped = 1 - sum(piece.area for piece in chosen) / sum(part.piece.area for part in own.parts)
            rows = credit.features(found, chosen, chances[path].max(1), own.line.height, skipped, marks, strongest)
            # where somebody cut it out there is no doubt whether something is written
            certain = (credit.chance if view.is_cut(found.mask.shape) else credit.confidence)(rows)
            kept = [entry for entry in zip(path, chosen, certain, rows, strict=True) if entry[2] >= least]
            likely = [
                Digit(
                    int(chances[index].argmax()),
                    float(sure),
                    _box(seen, piece),
                    count,
                    place,
                    images[index],
                    tuple(row),
                )
                for place, (index, piece, sure, row) in enumerate(kept)
            ]
            believed = [digit for digit in likely if digit.confidence >= self.threshold]
            if believed:
                digits += believed
                unsure += [digit for digit in likely if digit.confidence < self.threshold]
                count += 1
        return digits, unsure


@dataclass(frozen=True, eq=False)
class _Written:
    """A line, the parts that it is cut into, and what may be a digit."""

    line: Line
    parts: list[Part]
    candidates: list[Candidate]


def _written(found: list[Line]) -> list[_Written]:
    """The lines of a frame, cut, as long as there are not too many candidates."""
    written, left = [], MOST_CANDIDATES
    for line in found:
        if len(line.pieces) <= MOST_PIECES:
            parts = segmentation.parts(line)
            candidates = segmentation.candidates(parts, line.height)
            left -= len(candidates)
            if left < 0:
                break
            written.append(_Written(line, parts, candidates))
    return written


def _marks(seen: View, sheet: NDArray[np.float32] | None) -> tuple[Ink, list[Piece]]:
    """The ink of a view, on its sheet if it shows one, and its components."""
    found = ink.find(seen.grey)
    if sheet is not None:
        found = replace(found, mask=cv2.min(found.mask, paper.within(sheet, seen.grey.shape)))
    marks = pieces.components(found.mask, LEAST_AREA, MOST_COMPONENTS)
    large, hugs = LARGE * min(seen.grey.shape), HUGS
    if view.is_cut(seen.grey.shape):
        hugs = CUT_HUGS
        strong = WEAK * levels.quantile(found.strength, 0.985)
        marks = [piece for piece in marks if credit.strength(found, piece) >= strong]
    return found, [
        piece
        for piece in marks
        if pieces.contact(piece, found.mask.shape) < hugs
        and (piece.width * piece.height < WIDE * found.mask.size or piece.area > FILLS * piece.width * piece.height)
        and (max(piece.width, piece.height) < large or ink.sharpness(found, piece) > SOFT)
    ]


def _is_strip(seen: View) -> bool:
    """Whether somebody has cut a line out of a page, along it."""
    lower, longer = sorted(seen.grey.shape)
    return view.is_cut(seen.grey.shape) and longer > STRIP * lower


def _box(seen: View, piece: Piece) -> tuple[int, int, int, int]:
    return view.box(seen, piece.x, piece.y, piece.width, piece.height)


class _Clock:
    """Milliseconds by stage."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._stages: dict[str, float] = {}

    def tick(self, stage: str) -> None:
        """A stage is over."""
        now = time.perf_counter()
        self._stages[stage] = self._stages.get(stage, 0.0) + (now - self._last) * 1e3
        self._last = now

    def milliseconds(self) -> dict[str, float]:
        """Of each stage, and of all."""
        return {**self._stages, "total": (self._last - self._start) * 1e3}
