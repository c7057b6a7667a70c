"""The reader that finds digits first: what is found is read, in lines and numbers, and never a number with a hole."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
pytest.importorskip("ai_edge_litert")

from edge_mnist.data import strokes  # noqa: E402
from edge_mnist.demo.reading import digit_confidence, find_and_read  # noqa: E402
from edge_mnist.demo.reading.find_and_read import Reader, ReaderParameters, turn  # noqa: E402
from edge_mnist.demo.sources import scenes  # noqa: E402

DRAWN = strokes.draw(600, 11)


@dataclass(frozen=True, eq=False)
class Boxes:
    """What a finder has found."""

    boxes: np.ndarray
    confidence: np.ndarray
    logits: np.ndarray


class InkFinder:
    """Finds every piece of ink that is darker than grey 150, from left to right, with given confidences."""

    def __init__(self, confidences: dict[int, float] | None = None) -> None:
        self.confidences = confidences or {}
        self.frames: list[tuple[int, int]] = []

    def find(self, grey: np.ndarray) -> Boxes:
        self.frames.append(grey.shape)
        _, _, found, _ = cv2.connectedComponentsWithStats((grey < 150).astype(np.uint8))
        found = found[1:][found[1:, 4] > 30]
        found = found[np.argsort(found[:, 0], kind="stable")].astype(np.float32)
        boxes = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4]], 1)
        confidence = np.array([self.confidences.get(index, 0.99) for index in range(len(boxes))], np.float32)
        return Boxes(boxes, confidence, np.zeros((len(boxes), 10), np.float32))


def write(rows: list[str], height: int = 60) -> np.ndarray:
    """A grey sheet, uint8 (H, W), with numbers that a wide gap parts where the text has a space."""
    sheet = np.full(((2 * len(rows) + 1) * height, 1 + max(map(len, rows)) * 2 * height), 225, np.uint8)
    for row, text in enumerate(rows):
        x, y = height, round((0.5 + 2 * row) * height)
        for place, digit in enumerate(text):
            if digit == " ":
                x += 2 * height
                continue
            image = scenes._pen(DRAWN.images[np.flatnonzero(DRAWN.labels == int(digit))[7 * row + place]], height, 0.9)
            part = sheet[y : y + image.shape[0], x : x + image.shape[1]]
            np.minimum(part, np.rint(225 - 180 * image).astype(np.uint8), out=part)
            x += image.shape[1] + round(0.3 * height)
    return sheet


SHEET = write(["3141", "592 65"])


def test_lines_and_numbers_are_read_in_order() -> None:
    reading = Reader(InkFinder()).read(SHEET)
    assert reading.lines == ("3141", "59265") and reading.unsure == ()
    assert [(number.text, number.line, number.complete) for number in reading.numbers] == [
        ("3141", 0, True), ("592", 1, True), ("65", 1, True)
    ]  # fmt: skip
    assert [digit.place for digit in reading.digits] == [0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert all(0.65 <= number.confidence <= 1 for number in reading.numbers)
    for number in reading.numbers:
        x, y, width, height = number.box
        assert (SHEET[y : y + height, x : x + width] < 100).any() and height < 90
    assert reading.milliseconds["total"] >= sum(reading.milliseconds.values()) / 2 - 1e-6
    assert {"find", "crops", "network", "layout"} <= set(reading.milliseconds)


@pytest.mark.parametrize("change", [lambda sheet: cv2.cvtColor(sheet, cv2.COLOR_GRAY2BGR), np.copy])
def test_colour_and_grey_are_the_same(change: object) -> None:
    assert Reader(InkFinder()).read(change(SHEET)).lines == ("3141", "59265")  # type: ignore[operator]


def test_a_doubtful_digit_keeps_its_place_in_its_number() -> None:
    sheet = write(["31415"])
    reading = Reader(InkFinder({2: 0.4})).read(sheet)
    assert reading.lines == ("31?15",) and [digit.place for digit in reading.unsure] == [2]
    (number,) = reading.numbers
    assert number.text == "31?15" and not number.complete and number.to_dict()["complete"] is False
    assert reading.doubtful() == {0: "31(4)15"}
    # a place that can hardly be a digit is none; a line in which nothing is sure is not read
    assert Reader(InkFinder({4: 0.02})).read(sheet).lines == ("3141",)
    assert Reader(InkFinder(dict.fromkeys(range(5), 0.4))).read(sheet).lines == ()
    assert Reader(InkFinder({2: 0.4}), threshold=0.3).read(sheet).lines == ("31415",)


def test_a_digit_that_is_found_but_cannot_be_told_is_never_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is likely to hold a digit, whichever it is: a number with a hole would be another number."""
    flat = np.full((5, 10), 0.1)

    def mix(classifier_logits: np.ndarray, finder_logits: np.ndarray) -> np.ndarray:
        labels = original(classifier_logits, finder_logits)
        weakest = int(np.argmin(np.abs(classifier_logits.argmax(1) - 4)))
        labels[weakest] = flat[weakest]
        return labels

    original = digit_confidence.mix_labels
    monkeypatch.setattr(find_and_read.digit_confidence, "mix_labels", mix)
    assert Reader(InkFinder()).read(write(["31415"])).lines == ("31?15",)


@pytest.mark.parametrize("degrees", [-50, -20, 20, 50])
def test_a_turned_page_is_turned_back(degrees: float) -> None:
    finder = InkFinder()
    turned, back = turn(SHEET, degrees)
    reading = Reader(finder).read(turned)
    assert reading.lines == ("3141", "59265") and len(finder.frames) >= 2
    upright = Reader(InkFinder()).read(SHEET)
    for one, other in zip(reading.digits, upright.digits, strict=True):
        x, y, width, height = one.box
        centre = back @ (x + width / 2, y + height / 2, 1)
        x, y, width, height = other.box
        assert np.abs(centre - (x + width / 2, y + height / 2)).max() < 12


def test_a_page_upside_down_is_read_if_that_is_surer() -> None:
    sheet = write(["3447", "2475"])
    reading = Reader(InkFinder()).read(np.ascontiguousarray(sheet[::-1, ::-1]))
    assert reading.lines == ("3447", "2475")
    height, width = sheet.shape
    upright = Reader(InkFinder()).read(sheet)
    for one, other in zip(reading.digits, upright.digits, strict=True):
        x, y, wide, high = one.box
        assert np.abs(np.array((width - x - wide, height - y - high, wide, high)) - other.box).max() <= 2


@pytest.mark.parametrize(("invert", "lines"), [("auto", ("3141", "59265")), ("yes", ("3141", "59265"))])
def test_light_ink_is_read(invert: str, lines: tuple[str, ...]) -> None:
    class Inverted(InkFinder):
        def find(self, grey: np.ndarray) -> Boxes:
            return super().find(255 - grey)

    assert Reader(Inverted(), invert=invert).read(255 - SHEET).lines == lines


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (480, 640)])
def test_where_nothing_is_found_nothing_is_read(shape: tuple[int, int]) -> None:
    reading = Reader(InkFinder()).read(np.full(shape, 200, np.uint8))
    assert reading.lines == () and reading.numbers == () and reading.milliseconds["total"] > 0


def test_no_more_digits_are_read_than_asked_for() -> None:
    parameters = replace(ReaderParameters(), most=4)
    finder = InkFinder(dict.fromkeys(range(4, 9), 0.9))
    assert sum(map(len, Reader(finder, parameters=parameters).read(SHEET).lines)) == 4


def test_confidence_grows_with_what_speaks_for_a_digit() -> None:
    logits = np.zeros((2, 10), np.float32)
    logits[1, 3] = 8
    found = np.array([0.3, 0.9], np.float32)
    contrasts = np.array([0.5, 0.5], np.float32)
    rows = digit_confidence.measure_features(found, logits, logits, contrasts)
    assert rows.shape == (2, len(digit_confidence.NAMES)) and np.isfinite(rows).all() and (rows[1] >= rows[0]).all()
    first, second = digit_confidence.estimate_digit(rows)
    assert 0 < first < second < 1
    labels = digit_confidence.mix_labels(logits, logits)
    assert labels[1].argmax() == 3 and np.allclose(labels.sum(1), 1)


def test_the_weights_of_the_confidence_are_recovered_from_samples() -> None:
    """Of labels and digits that are drawn with some weights, the fit finds these again, nearly."""
    pytest.importorskip("torch")
    from benchmarks.fit_confidence import Samples, fit_digit, fit_labels

    random = np.random.RandomState(0)
    count = 20_000
    features = random.normal(0, 0.5, (count, len(digit_confidence.NAMES)))
    weights = np.array([-0.5, 3.0, 2.0, -1.0, 0.5])
    there = random.random_sample(count) < digit_confidence.estimate_digit(features, weights)
    logits = random.normal(0, 2, (2, count, 10)).astype(np.float32)
    chances = digit_confidence.mix_labels(*logits, np.array([0.8, 0.3]))
    labels = (chances.cumsum(1) < random.random_sample((count, 1))).sum(1).clip(max=9)
    samples = Samples(features, np.where(there, labels, -1), *logits, np.ones(count))
    assert np.abs(fit_digit(samples) - weights).max() < 0.15
    assert np.abs(fit_labels(samples) - (0.8, 0.3)).max() < 0.05
