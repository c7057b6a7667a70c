"""Reads the numbers that are written in a frame: one network finds the digits, another one reads each of them.

frame -> finder -> boxes -> 28x28 images -> DigitNet -> lines and numbers -> confidence of each digit
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist import runtime
from edge_mnist.demo.reading import confidence, layout
from edge_mnist.demo.reading.digit_images import CropParameters, DigitImage, cut_digits
from edge_mnist.demo.reading.finder import Finder, Found, find_parts
from edge_mnist.demo.reading.layout import Layout, LayoutParameters
from edge_mnist.pretrained import SHIPPED_FINDER, SHIPPED_INT8
from edge_mnist.runtime import Classifier, softmax
from edge_mnist.system.errors import UsageError

THRESHOLD = 0.68
"""The confidence that a digit needs: the lowest at which no more than one digit is invented in 20 of the frames without
digits that are kept for tuning. Every published figure is measured with it."""
UNSURE = 0.2
"""The least confidence of a doubtful digit, which is below the threshold and in line with a digit that is not."""
UPSIDE_DOWN = 1.2
"""A page is taken to be turned by more than 135 degrees only if its confidences then add up to this many times as much:
few people hold a page upside down."""
DOUBTFUL = "?"
"""What `Reading.lines` hold in the place of a doubtful digit: without it they would give another, shorter number."""


@dataclass(frozen=True)
class ReaderParameters:
    """The constants of the reader.

    Attributes:
        least: the finder's confidence, 0 to 1, from which on DigitNet is asked.
        finest: the longer side, in pixels, to which the finder reduces larger frames, 640 to 4000.
        looks: the most tiles of the finer scales that the finder looks at in one frame, 0 to 100.
        step: octaves from one of the finer scales that the finder looks at to the next, 0.25 to 1.
        film: whether each frame follows the one before, as a camera's do; see `Finder.follow`.
        most: the number of digits in a frame, the most likely ones, that are read, 10 to 2000.
        turn: the tilt in degrees above which the frame is also read turned, both ways up, 5 to 30.
        crops: how digits are cut out.
        layout: which digits belong together.
    """

    least: float = 0.3
    finest: int = 1408
    looks: int = 40
    step: float = 0.5
    film: bool = False
    most: int = 500
    turn: float = 12.0
    crops: CropParameters = field(default_factory=CropParameters)
    layout: LayoutParameters = field(default_factory=LayoutParameters)


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
        features: what the confidence was made from, see `confidence.FEATURES`.
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
    """What was read in a frame.

    Attributes:
        digits: the digits whose confidence reaches the threshold, in reading order.
        unsure: the doubtful digits in the same lines, whose confidence is below it, in reading order.
        milliseconds: the duration of each stage by its name, and their sum as "total".
    """

    digits: tuple[Digit, ...]
    unsure: tuple[Digit, ...]
    milliseconds: dict[str, float]

    @property
    def lines(self) -> tuple[str, ...]:
        """The text of each line: the labels of its digits, and `?` in the place of each doubtful one: 641937?6.

        There is no space between numbers: `Digit.place` is an index in the text.
        """
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

    @property
    def may_be_turned(self) -> bool:
        """Whether so many digits are doubtful, two or more and an eighth of all, that the frame may be upside down."""
        return len(self.unsure) >= max(2, (len(self.digits) + len(self.unsure)) / 8)

    def doubtful(self) -> dict[int, str]:
        """The lines, by number, that have a doubtful digit, for a person to read.

        Numbers have a space between them, and a doubtful digit is its most probable label in brackets: 31 641937(9)6.
        """
        texts = self._texts("({})", space=" ")
        return {digit.line: texts[digit.line] for digit in self.unsure}

    def _texts(self, doubtful: str, space: str = "") -> dict[int, str]:
        """The text of each line, by number: `doubtful` is the format of doubtful digits, `space` is between numbers."""
        shown = [(digit, "{}") for digit in self.digits] + [(digit, doubtful) for digit in self.unsure]
        numbers: dict[int, dict[int, str]] = {}
        for digit, form in sorted(shown, key=lambda one: (one[0].line, one[0].place)):
            texts = numbers.setdefault(digit.line, {})
            texts[digit.number] = texts.get(digit.number, "") + form.format(digit.label)
        return {line: space.join(texts.values()) for line, texts in numbers.items()}


def is_complete(text: str) -> bool:
    """Whether the text of a line or number has no doubtful digit."""
    return DOUBTFUL not in text


def in_order(digits: Iterable[Digit]) -> list[Digit]:
    """Digits as they are read: line by line, each from left to right."""
    return sorted(digits, key=lambda digit: (digit.line, digit.place))


Invert = Literal["auto", "yes", "no"]
"""Whether the ink is lighter than its ground: "auto" judges by the pixels, "yes" and "no" state it."""


class Reader:
    """Reads the numbers in frames: one network finds the digits, another reads them. It serves one thread at a time."""

    def __init__(
        self,
        classifier: Classifier | None = None,
        *,
        threshold: float = THRESHOLD,
        invert: Invert = "auto",
        finder: Classifier | None = None,
        parameters: ReaderParameters | None = None,
    ) -> None:
        """Open the networks.

        Args:
            classifier: the network that reads digits, with ten classes; None for the shipped int8 TFLite model.
            threshold: the confidence, 0 to 1, that a digit needs.
            invert: whether the ink is lighter than its ground: yes, no or auto.
            finder: the network that finds digits; None for the shipped one.
            parameters: the constants; None for the usual ones.

        Raises:
            UsageError: the threshold is not within 0 to 1, or `invert` is not one of `Invert`.
        """
        if not 0 <= threshold <= 1:
            raise UsageError(f"threshold {threshold}: expected 0 to 1")
        if invert not in get_args(Invert):
            raise UsageError(f"invert {invert!r}: expected {', '.join(get_args(Invert))}")
        self.classifier = classifier or runtime.load(SHIPPED_INT8)
        self.threshold = threshold
        self.invert = invert
        self.parameters = parameters or ReaderParameters()
        self.finder = Finder(
            finder or runtime.load(SHIPPED_FINDER),
            least=self.parameters.least,
            finest=self.parameters.finest,
            looks=self.parameters.looks,
            step=self.parameters.step,
        )

    def read(self, frame: NDArray[np.uint8]) -> Reading:
        """Read a frame, uint8 (H, W) grey or (H, W, 3) BGR."""
        clock = _Clock()
        grey = np.asarray(frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8)
        if self.invert == "yes":
            grey = np.asarray(cv2.bitwise_not(grey), np.uint8)
        light = None if self.invert == "auto" else False
        found = self._take_likely(self.finder.follow(grey) if self.parameters.film else self.finder.find(grey))
        clock.tick("finding")
        tilt = layout.estimate_tilt(found.boxes[found.confidence >= 0.5])
        if abs(tilt) <= self.parameters.turn:
            return self._read(grey, found, light, np.eye(2, 3), clock)
        # Boxes cannot show whether a page is upside down, and mislead where few digits, or slanted ones, form no clear
        # rows: what can be read best is right.
        readings = [self._read(grey, found, light, np.eye(2, 3), clock, may_be_tilted=False)]
        for degrees in (-tilt, 180 - tilt):
            turned, back = _turn(grey, degrees)
            found = self._take_likely(self.finder.find(turned))
            clock.tick("finding")
            readings.append(self._read(turned, found, light, back, clock))
        as_it_is, upright, other = (sum(digit.confidence for digit in reading.digits) for reading in readings)
        other /= UPSIDE_DOWN if abs(tilt) <= 45 else 1
        return readings[int(np.argmax([as_it_is, upright, other]))]

    def _take_likely(self, found: Found) -> Found:
        return found.take(slice(0, self.parameters.most))

    def _read(
        self,
        grey: NDArray[np.uint8],
        found: Found,
        light: bool | None,
        back: NDArray[np.float64],
        clock: _Clock,
        may_be_tilted: bool = True,
    ) -> Reading:
        """Read what was found in a frame; `back` (2, 3) takes a point (x, y, 1) of it to the frame that is shown."""
        least = min(UNSURE, self.threshold)
        cuts = cut_digits(grey, found.boxes, light, self.parameters.crops)
        is_part = find_parts(found, np.array([one.box for one in cuts], np.float32).reshape(-1, 4))
        if is_part.any():  # the ink of a part belongs to its digit
            found = found.take(~is_part)
            cuts = cut_digits(grey, found.boxes, light, self.parameters.crops)
        clock.tick("crops")
        chances = self._classify(cuts)
        labels = confidence.choose_labels(chances, found)
        clock.tick("network")
        rows = confidence.measure(found, chances, labels)
        certain = confidence.estimate(rows)
        kept = np.flatnonzero(certain >= least)  # what is certainly no digit must not bring lines together or order
        placed = layout.arrange(found.boxes[kept], self.parameters.layout, may_be_tilted=may_be_tilted)
        inks = np.array([one.box for one in cuts], np.float32).reshape(-1, 4)  # more exact than the finder's boxes
        shown, boxes = self._believe(certain[kept].tolist(), placed), _turn_boxes(inks[kept], back)
        digits: tuple[list[Digit], list[Digit]] = [], []
        for member, line, place, number in shown:
            index = kept[member]
            label, chance, features = int(labels[index]), float(certain[index]), tuple(rows[index].tolist())
            digit = Digit(label, chance, boxes[member], line, place, cuts[index].image, features, number)
            digits[chance < self.threshold].append(digit)
        clock.tick("layout")
        return Reading(tuple(digits[0]), tuple(digits[1]), clock.milliseconds())

    def _classify(self, cuts: list[DigitImage]) -> NDArray[np.float64]:
        """The probabilities (N, 10) that DigitNet gives to images."""
        if not cuts:
            return np.zeros((0, 10))
        return softmax(self.classifier.logits(np.stack([one.image for one in cuts])))

    def _believe(self, chances: list[float], placed: Layout) -> list[tuple[int, int, int, int]]:
        """The digits of lines in which any has the confidence asked for: index, line, place and number of each."""
        number_of = {member: number for number, members in enumerate(placed.numbers) for member in members}
        lines = [line for line in placed.lines if any(chances[member] >= self.threshold for member in line)]
        return [
            (member, count, place, number_of[member] - number_of[line[0]])
            for count, line in enumerate(lines)
            for place, member in enumerate(line)
        ]


def _turn(grey: NDArray[np.uint8], degrees: float) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A frame turned clockwise, large enough to hold all of it, and the way back, float64 (2, 3).

    What comes in at the corners repeats its edge.
    """
    height, width = grey.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1.0)
    cosine, sine = abs(turn[0, 0]), abs(turn[0, 1])
    size = round(width * cosine + height * sine), round(width * sine + height * cosine)
    turn[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    turned = cv2.warpAffine(grey, turn, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(turned, np.uint8), np.asarray(cv2.invertAffineTransform(turn), np.float64)


def _turn_boxes(boxes: NDArray[np.float32], back: NDArray[np.float64]) -> list[tuple[int, int, int, int]]:
    """The boxes, x, y, width, height, around boxes (N, 4), left, top, right, bottom, of a turned frame."""
    left, top, right, bottom = boxes.T.astype(np.float64)
    across, down = np.stack([left, right, left, right]), np.stack([top, top, bottom, bottom])  # (4, N)
    x, y = (row[0] * across + row[1] * down + row[2] for row in back)
    start = np.rint([x.min(0), y.min(0)])
    size = np.maximum(np.rint([x.max(0), y.max(0)]) - start, 1)
    return [(x, y, wide, high) for x, y, wide, high in np.concatenate([start, size]).T.astype(int).tolist()]


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
