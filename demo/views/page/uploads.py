"""Reads what visitors of the page send: a drawn digit, or a photograph.

It has a reader of its own, so that the live reading does not wait for it.
"""

from __future__ import annotations

import threading
from typing import Any

import cv2
import numpy as np

from edge_mnist.demo.live.models import OpenedModel
from edge_mnist.demo.reading.digit_images import cut_digits
from edge_mnist.demo.reading.reader import Reader
from edge_mnist.demo.sources import images
from edge_mnist.demo.sources.decoder import Decoder
from edge_mnist.demo.views.page.corrections import Corrections, encode_data_url
from edge_mnist.runtime import softmax
from edge_mnist.system.errors import EdgeMnistError

_MAX_DRAWING = 512
"""The longest side of a drawing in pixels; the page sends 112."""
_INK = 64
"""The grey value, 0 to 255, above which a pixel of a drawing is ink."""


class UploadReader:
    """Reads one drawing or photograph after the other. Any thread may use it.

    A photograph is decoded in a process of its own; others are read meanwhile.
    """

    def __init__(self, corrections: Corrections, threshold: float) -> None:
        """Begin without a classifier.

        Args:
            corrections: remembers the digits that were read, so that they can be corrected.
            threshold: the confidence, 0 to 1, that a digit needs.
        """
        self._corrections, self._threshold = corrections, threshold
        self._opened: tuple[OpenedModel, Reader] | None = None
        self._lock = threading.Lock()
        self._decoder = Decoder("the photograph")

    def read_drawing(self, data: bytes, model: OpenedModel) -> dict[str, Any]:
        """Classify a drawn digit.

        Args:
            data: a PNG with light ink on black.
            model: the network.

        Returns:
            The ten probabilities, whether the digit is doubtful, its key and its picture; of an empty drawing only
            "probabilities", which are None.

        Raises:
            EdgeMnistError: the data is not a small PNG.
        """
        image = images.decode(data, "the drawing", max_bytes=4 * _MAX_DRAWING**2, formats=("PNG",))
        if max(image.shape[:2]) > _MAX_DRAWING:
            raise EdgeMnistError(f"the drawing has {max(image.shape[:2])} pixels, expected {_MAX_DRAWING} at most")
        strength = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if image.ndim == 3 else image, np.uint8)
        x, y, width, height = cv2.boundingRect(cv2.compare(strength, _INK, cv2.CMP_GT))
        if not width:
            return {"probabilities": None}
        box = np.array([[x, y, x + width, y + height]], np.float32)
        digit = cut_digits(strength, box, light=True)[0].image  # (28, 28)
        with self._lock:
            probabilities = softmax(self._open_reader(model).classifier.logits(digit[None])[0])  # (10,)
        return {
            "probabilities": [round(float(p), 4) for p in probabilities],
            "unsure": bool(probabilities.max() < self._threshold),
            "key": self._corrections.remember(digit),
            "image": encode_data_url(digit),
        }

    def read_photograph(self, data: bytes, model: OpenedModel) -> dict[str, Any]:
        """Read the numbers in a photograph.

        Args:
            data: an image file.
            model: the network.

        Returns:
            The lines, the numbers, the digits, the milliseconds, and the size in pixels at which the photograph was
            read.

        Raises:
            EdgeMnistError: the data is not an image, or takes too much memory or time.
        """
        image = self._decoder.decode(data)
        with self._lock:
            reading = self._open_reader(model).read(image)
        return {
            "lines": list(reading.lines),
            "numbers": [number.to_dict() for number in reading.numbers],
            "digits": self._corrections.describe_digits(reading.digits, reading.unsure),
            "milliseconds": round(reading.milliseconds["total"], 1),
            "width": image.shape[1],
            "height": image.shape[0],
        }

    def close(self) -> None:
        """End the process that waits for a photograph."""
        self._decoder.close()

    def _open_reader(self, model: OpenedModel) -> Reader:
        """Open a reader with the network, unless that was done before."""
        if self._opened is None or self._opened[0] is not model:
            self._opened = model, Reader(model.open_again(), threshold=self._threshold)
        return self._opened[1]
