"""What a visitor of the page brings: a drawn digit, a photograph, a correction.

It has a classifier of its own, so that none of it makes the live reading wait.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_mnist.data.user_digits import NONE
from edge_mnist.demo.live.models import Model
from edge_mnist.demo.reading import crops, pieces
from edge_mnist.demo.reading.reader import Digit, Reader, in_order
from edge_mnist.demo.sources import images
from edge_mnist.demo.sources.cameras import Image
from edge_mnist.demo.sources.decoder import Decoder
from edge_mnist.runtime import Classifier, softmax
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import write_whole

LABELS = (*map(str, range(10)), NONE)
"""What a correction may say."""
_KEPT = 300
"""Digits that can still be corrected."""
_LONGEST_PAD = 512
"""Pixels of a drawing's longer side."""


class Desk:
    """Reads what visitors bring, one thing at a time; any thread may call it.

    A photograph is decoded in a process of its own, meanwhile others are read.
    """

    def __init__(self, corrections: Path, threshold: float) -> None:
        """With the folder that corrected digits are saved in, and the confidence, 0 to 1, that a digit needs."""
        self._corrections, self._threshold = corrections, threshold
        self.saved = self._count()
        """How many corrected digits the folder holds of each label that it holds."""
        self._opened: tuple[Model, Classifier] | None = None
        self._kept: OrderedDict[str, Image] = OrderedDict()
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._decoder = Decoder("the photograph")

    def drawing(self, data: bytes, model: Model) -> dict[str, Any]:
        """The ten probabilities of a digit that was drawn.

        Args:
            data: a PNG, light ink on black.
            model: the network.

        Raises:
            EdgeMnistError: it is no small image.
        """
        image = images.decode(data, "the drawing", most_bytes=4 * _LONGEST_PAD**2, formats=("PNG",))
        if max(image.shape[:2]) > _LONGEST_PAD:
            raise EdgeMnistError(f"the drawing has {max(image.shape[:2])} pixels, expected {_LONGEST_PAD} at most")
        strength = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if image.ndim == 3 else image, np.uint8)
        mask = np.asarray(cv2.threshold(strength, 64, 255, cv2.THRESH_BINARY)[1], np.uint8)
        piece = pieces.trimmed(0, 0, mask)
        if piece is None:
            return {"probabilities": None}
        digit = crops.normalize(strength, piece)
        with self._reading:
            chances = softmax(self._classifier(model).logits(digit[None])[0])
        key = self.keep(digit)
        return {
            "probabilities": [round(float(p), 4) for p in chances],
            "unsure": bool(chances.max() < self._threshold),
            "key": key,
            "image": picture(digit),
        }

    def photograph(self, data: bytes, model: Model) -> dict[str, Any]:
        """What a photograph says, and the size at which it was read.

        Raises:
            EdgeMnistError: it is no image, or takes too much memory or time.
        """
        image = self._decoder.decode(data)
        with self._reading:
            reading = Reader(self._classifier(model), threshold=self._threshold).read(image)
        return {
            "lines": list(reading.lines),
            "digits": self.digits(reading.digits, reading.unsure),
            "milliseconds": round(reading.milliseconds["total"], 1),
            "width": image.shape[1],
            "height": image.shape[0],
        }

    def digits(self, digits: Iterable[Digit], unsure: Collection[Digit]) -> list[dict[str, Any]]:
        """Digits, and the doubtful ones among them, for the page, in reading order; they may now be corrected."""
        return [
            {
                "key": self.keep(digit.image),
                "label": digit.label,
                "confidence": round(digit.confidence, 4),
                "box": list(digit.box),
                "line": digit.line,
                "unsure": digit in unsure,
                "image": picture(digit.image),
            }
            for digit in in_order([*digits, *unsure])
        ]

    def keep(self, image: Image) -> str:
        """Remember a digit, uint8 (28, 28), under a key that is its hash."""
        key = hashlib.sha256(image.tobytes()).hexdigest()[:16]
        with self._lock:
            self._kept[key] = image.copy()  # a digit is a view of all that was cut out of its frame
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return key

    def correct(self, key: object, label: object) -> Path:
        """Save a digit under its right label, 0 to 9 or none, as `train --extra` takes it.

        A digit that is corrected twice has the last label.

        Raises:
            EdgeMnistError: there is no such digit or label, or the disk is full.
        """
        if not isinstance(label, str) or label not in LABELS:
            raise EdgeMnistError(f"the label is {label!r}, expected one of {', '.join(LABELS)}")
        image = self._kept.get(key) if isinstance(key, str) else None
        if image is None:
            raise EdgeMnistError("this digit is not kept any more: correct a newer one")
        path = self._corrections / label / f"{key}.png"
        write_whole(path, cv2.imencode(".png", image)[1].tobytes())
        self._remove(f"{key}.png", label)
        return path

    def forget(self, key: object) -> None:
        """Undo the correction of a digit: it is saved no more, under whatever label.

        Raises:
            EdgeMnistError: there is no such digit.
        """
        if not isinstance(key, str) or key not in self._kept:
            raise EdgeMnistError("this digit is not kept any more: delete its file in the folder of corrections")
        self._remove(f"{key}.png")

    def close(self) -> None:
        """End the process that waits for a photograph."""
        self._decoder.close()

    def _remove(self, name: str, kept: str = "") -> None:
        """Delete a digit's file under each label but one."""
        try:
            for label in LABELS:
                if label != kept:
                    (self._corrections / label / name).unlink(missing_ok=True)
        except OSError as error:
            raise EdgeMnistError(f"{error.filename}: cannot be deleted: {error.strerror}") from error
        finally:
            self.saved = self._count()

    def _count(self) -> dict[str, int]:
        found = {label: len(list((self._corrections / label).glob("*.png"))) for label in LABELS}
        return {label: count for label, count in found.items() if count}

    def _classifier(self, model: Model) -> Classifier:
        if self._opened is None or self._opened[0] is not model:
            self._opened = model, model.open_again()
        return self._opened[1]


def picture(image: Image) -> str:
    """A digit, uint8 (28, 28), as the address of a PNG that holds its data."""
    return "data:image/png;base64," + base64.b64encode(cv2.imencode(".png", image)[1].tobytes()).decode()
