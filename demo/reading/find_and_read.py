"""Reads the numbers that are written in a frame: finds the digits, then reads each of them.

frame -> grey -> boxes of digits -> the page turned upright -> 28x28 images -> one batch through the network ->
confidences -> lines and numbers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist import runtime
from edge_mnist.demo.reading import digit_confidence, layout
from edge_mnist.demo.reading.digit_images import SIZE, CropParameters, DigitImage, cut_digits
from edge_mnist.demo.reading.layout import LayoutParameters
from edge_mnist.demo.reading.reader import THRESHOLD, UNSURE, Digit, Reading
from edge_mnist.pretrained import SHIPPED_INT8
from edge_mnist.runtime import Classifier

_Bytes = NDArray[np.uint8]
_Floats = NDArray[np.float32]


class Found(Protocol):
    """What a finder has found in a frame."""

    @property
    def boxes(self) -> _Floats:
        """Left, top, right, bottom in pixels of the frame, float32 (N, 4)."""

    @property
    def confidence(self) -> _Floats:
        """That a digit is there, float32 (N,), 0 to 1."""

    @property
    def logits(self) -> _Floats:
        """Which digit the finder takes it for, float32 (N, 10)."""


class Finder(Protocol):
    """Finds the digits in a frame."""

    def find(self, grey: _Bytes) -> Found:
        """The digits in a grey frame, uint8 (H, W)."""


@dataclass(frozen=True)
class ReaderParameters:
    """Everything that the reader has of constants.

    Attributes:
        threshold: the confidence that a digit needs, 0 to 1; published figures are measured with 0.65.
        unsure: the probability, 0 to 1, that a digit is somewhere from which on its place is kept: in line with digits
            that are sure, it is a doubtful digit.
        most: how many digits are read in a frame, 100 to 2000: the surest ones. Time grows with it.
        tilt: how many degrees the writing may fall or rise before the frame is turned and searched again, 5 to 20. The
            networks have learned to read digits that are turned by less.
        doubtful: if a smaller part of the places than this, 0 to 1, is sure, the frame is also read upside down. With 0
            it never is.
        crops: how digits are cut out.
        layout: how digits are arranged.
    """

    threshold: float = THRESHOLD
    unsure: float = UNSURE
    most: int = 1000
    tilt: float = 12.0
    doubtful: float = 0.75
    crops: CropParameters = field(default_factory=CropParameters)
    layout: LayoutParameters = field(default_factory=LayoutParameters)


@dataclass(frozen=True, eq=False)
class Places:
    """The places of a frame where a digit may be.

    Attributes:
        boxes: float32 (N, 4), left, top, right, bottom in pixels of the view that was read.
        images: the digits, cut out.
        features: float64 (N, 4), see `digit_confidence.NAMES`.
        probabilities: float64 (N,), 0 to 1, that a digit is there.
        labels: float64 (N, 10), the probability of each label if so.
        finder_logits: float32 (N, 10).
        classifier_logits: float32 (N, 10).
    """

    boxes: _Floats
    images: list[DigitImage]
    features: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    labels: NDArray[np.float64]
    finder_logits: _Floats
    classifier_logits: _Floats

    @property
    def confidences(self) -> NDArray[np.float64]:
        """The probability (N,) that the digit with the most probable label is there."""
        result: NDArray[np.float64] = self.probabilities * self.labels.max(1, initial=0)
        return result


class Reader:
    """Two networks, one that finds digits and one that reads them, and how much they must be sure."""

    def __init__(
        self,
        finder: Finder,
        classifier: Classifier | None = None,
        *,
        threshold: float | None = None,
        invert: str = "auto",
        parameters: ReaderParameters | None = None,
    ) -> None:
        """Take the networks.

        Args:
            finder: finds digits.
            classifier: an artifact of ten classes, int8 or float; None for the shipped int8 TFLite model.
            threshold: the confidence, 0 to 1, that a digit needs; None for that of the parameters.
            invert: whether the ink is lighter than its ground: yes, no or auto.
            parameters: None for the usual ones.
        """
        self.finder = finder
        self.classifier = classifier or runtime.load(SHIPPED_INT8)
        self.parameters = parameters or ReaderParameters()
        self.threshold = self.parameters.threshold if threshold is None else threshold
        self.invert = invert

    def read(self, frame: _Bytes) -> Reading:
        """Read a frame, uint8 (H, W) grey or (H, W, 3) BGR."""
        clock = _Clock()
        grey = frame if frame.ndim == 2 else np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8)
        height, width = grey.shape
        clock.tick("grey")
        found = self.finder.find(grey)
        clock.tick("find")
        tilt = layout.estimate_tilt(found.boxes[: self.parameters.most])
        back = np.eye(2, 3)  # from the view to the frame
        if abs(tilt) > self.parameters.tilt:
            view, back = turn(grey, -tilt)
            clock.tick("tilt")
            found = self.finder.find(view)
            clock.tick("find")
        else:
            view = grey
            clock.tick("tilt")
        places = self.look(view, found, clock)
        if self._is_doubtful(places):
            other = np.asarray(cv2.rotate(view, cv2.ROTATE_180), np.uint8)
            clock.tick("tilt")
            found = self.finder.find(other)
            clock.tick("find")
            reverse = self.look(other, found, clock)
            if self._sum_sure(reverse) > self._sum_sure(places):
                half = np.array([[-1, 0, other.shape[1]], [0, -1, other.shape[0]], [0, 0, 1]], float)
                places, back = reverse, back @ half
        digits, unsure = self._arrange(places, back, (height, width))
        clock.tick("layout")
        return Reading(tuple(digits), tuple(unsure), clock.milliseconds())

    def look(self, grey: _Bytes, found: Found, clock: _Clock | None = None) -> Places:
        """Read the digits that were found in a grey frame, uint8 (H, W), that is upright."""
        clock = clock or _Clock()
        order = np.argsort(-found.confidence, kind="stable")[: self.parameters.most]
        boxes = found.boxes[order]
        light = {"yes": True, "no": False}.get(self.invert)
        images = cut_digits(grey, boxes, light, self.parameters.crops)
        clock.tick("crops")
        pixels = np.array([digit.image for digit in images], np.uint8).reshape(-1, SIZE, SIZE)
        logits = np.zeros((0, 10), np.float32)
        if len(pixels):
            logits = np.asarray(self.classifier.logits(pixels), np.float32)
        clock.tick("network")
        opinions = found.logits[order]
        contrasts = np.array([digit.contrast for digit in images], np.float32)
        features = digit_confidence.measure_features(found.confidence[order], opinions, logits, contrasts)
        probabilities = digit_confidence.estimate_digit(features)
        labels = digit_confidence.mix_labels(logits, opinions)
        clock.tick("confidence")
        return Places(boxes, images, features, probabilities, labels, opinions, logits)

    def _sum_sure(self, places: Places) -> float:
        """The sum of the confidences that suffice."""
        sure = places.confidences
        return float(sure[sure >= self.threshold].sum())

    def _is_doubtful(self, places: Places) -> bool:
        """Whether most of what was found cannot be read: the page may be upside down."""
        likely = int((places.probabilities >= self.parameters.unsure).sum())
        sure = int((places.confidences >= self.threshold).sum())
        return likely > 1 and sure < self.parameters.doubtful * likely

    def _arrange(
        self, places: Places, back: NDArray[np.float64], shape: tuple[int, int]
    ) -> tuple[list[Digit], list[Digit]]:
        """The digits that are sure, and the doubtful ones in line with them.

        Args:
            places: in the view.
            back: float64 (2, 3), takes a point (x, y, 1) of the view to the frame.
            shape: of the frame, height and width.
        """
        confidences = places.confidences
        # A place that is likely to hold a digit is kept whichever digit it is, so that no number loses a digit.
        least = min(self.parameters.unsure, self.threshold)
        kept = np.flatnonzero((places.probabilities >= least) | (confidences >= self.threshold))
        arranged = layout.arrange(places.boxes[kept], places.probabilities[kept], self.parameters.layout)
        numbers_of: dict[int, list[tuple[int, ...]]] = {}
        for indices, line in zip(arranged.numbers, arranged.number_lines, strict=True):
            numbers_of.setdefault(line, []).append(indices)
        digits: list[Digit] = []
        unsure: list[Digit] = []
        count = 0
        for line in range(len(arranged.lines)):
            entries = [
                (number, int(kept[index])) for number, indices in enumerate(numbers_of[line]) for index in indices
            ]
            if not any(confidences[index] >= self.threshold for _, index in entries):
                continue
            for place, (number, index) in enumerate(entries):
                digit = Digit(
                    int(places.labels[index].argmax()),
                    float(confidences[index]),
                    _to_frame(places.images[index].box, back, shape),
                    count,
                    place,
                    places.images[index].image,
                    tuple(places.features[index].tolist()),
                    number,
                )
                (digits if digit.confidence >= self.threshold else unsure).append(digit)
            count += 1
        return digits, unsure


def turn(grey: _Bytes, degrees: float) -> tuple[_Bytes, NDArray[np.float64]]:
    """Turn a grey frame, uint8 (H, W), clockwise, so that all of it is seen; its edge is repeated at the corners.

    Returns:
        The view, uint8 (h, w), and float64 (2, 3), which takes a point (x, y, 1) of it to the frame.
    """
    height, width = grey.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1.0)
    cosine, sine = abs(matrix[0, 0]), abs(matrix[0, 1])
    size = max(1, round(width * cosine + height * sine)), max(1, round(width * sine + height * cosine))
    matrix[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    view = cv2.warpAffine(grey, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(view, np.uint8), np.asarray(cv2.invertAffineTransform(matrix), np.float64)


def _to_frame(box: _Floats, back: NDArray[np.float64], shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box in the frame, x, y, width, height in whole pixels, around a box of the view."""
    left, top, right, bottom = box
    corners = np.array([[left, right, left, right], [top, top, bottom, bottom], [1, 1, 1, 1]])
    places = back @ corners  # (2, 4)
    height, width = shape
    first = np.clip(np.rint(places.min(1)), 0, (width - 1, height - 1)).astype(int).tolist()
    last = np.clip(np.rint(places.max(1)), 1, (width, height)).astype(int).tolist()
    return first[0], first[1], max(1, last[0] - first[0]), max(1, last[1] - first[1])


class _Clock:
    """Measures the milliseconds of each stage; a stage that comes again adds to its time."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._stages: dict[str, float] = {}

    def tick(self, stage: str) -> None:
        """End a stage."""
        now = time.perf_counter()
        self._stages[stage] = self._stages.get(stage, 0.0) + (now - self._last) * 1e3
        self._last = now

    def milliseconds(self) -> dict[str, float]:
        """The milliseconds of each stage, and in "total"."""
        return {**self._stages, "total": (self._last - self._start) * 1e3}
