"""Digits that visitors of the page correct: remembers recent digits, and saves corrected ones for training."""

from __future__ import annotations

import base64
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import cv2

from edge_mnist.data.user_digits import NONE
from edge_mnist.demo.reading.reader import Digit, in_order
from edge_mnist.demo.sources.cameras import Image
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import write_whole
from edge_mnist.system.hashes import sha256

LABELS = (*map(str, range(10)), NONE)
"""The labels that a digit may be given: 0 to 9, or that it is no digit."""
_REMEMBERED = 300
"""The number of recent digits that can be corrected."""


class Corrections:
    """Remembers recent digits under keys, and saves those that are corrected. Any thread may use it.

    Attributes:
        saved: how many corrected digits the folder contains, by label; labels without any are left out.
    """

    def __init__(self, folder: Path) -> None:
        """Begin with no remembered digits; `folder` is where corrected ones are saved."""
        self._folder = folder
        self._images: OrderedDict[str, Image] = OrderedDict()
        self._lock = threading.Lock()
        self.saved = self._count_saved()

    def remember(self, image: Image) -> str:
        """Remember a digit, uint8 (28, 28), and return its key, which is made from its hash."""
        key = sha256(image.tobytes())[:16]
        with self._lock:
            # The copy lets go of the array with all digits of the frame, which the image is a view of.
            self._images[key] = image.copy()
            self._images.move_to_end(key)
            while len(self._images) > _REMEMBERED:
                self._images.popitem(last=False)
        return key

    def describe_digits(self, digits: Iterable[Digit], unsure: Collection[Digit]) -> list[dict[str, Any]]:
        """Describe digits and doubtful digits for the page, in reading order, and remember them."""
        return [
            {
                "key": self.remember(digit.image),
                "label": digit.label,
                "confidence": round(digit.confidence, 4),
                "box": list(digit.box),
                "line": digit.line,
                "unsure": digit in unsure,
                "image": encode_data_url(digit.image),
            }
            for digit in in_order([*digits, *unsure])
        ]

    def save(self, key: object, label: object) -> Path:
        """Save a digit under its right label, as `train --user-digits` expects it; an earlier label is replaced.

        Args:
            key: the key of the digit, as a visitor sent it.
            label: one of `LABELS`, as a visitor sent it.

        Returns:
            The file of the digit.

        Raises:
            EdgeMnistError: there is no such digit or label, or the disk is full.
        """
        if not isinstance(label, str) or label not in LABELS:
            raise EdgeMnistError(f"the label is {label!r}, expected one of {', '.join(LABELS)}")
        image = self._images.get(key) if isinstance(key, str) else None
        if image is None:
            raise EdgeMnistError("this digit is no longer remembered: correct a newer one")
        path = self._folder / label / f"{key}.png"
        write_whole(path, cv2.imencode(".png", image)[1].tobytes())
        self._delete(f"{key}.png", {*LABELS} - {label})
        return path

    def undo(self, key: object) -> None:
        """Delete the saved file of a digit, whatever its label is.

        Raises:
            EdgeMnistError: there is no such digit, or the file cannot be deleted.
        """
        if not isinstance(key, str) or key not in self._images:
            raise EdgeMnistError("this digit is no longer remembered: delete its file in the folder of corrections")
        self._delete(f"{key}.png", LABELS)

    def _delete(self, name: str, labels: Iterable[str]) -> None:
        """Delete the file of a digit under each of some labels, and count what is left."""
        try:
            for label in labels:
                (self._folder / label / name).unlink(missing_ok=True)
        except OSError as error:
            raise EdgeMnistError(f"{error.filename}: cannot be deleted: {error.strerror}") from error
        finally:
            self.saved = self._count_saved()

    def _count_saved(self) -> dict[str, int]:
        counts = {label: len(list((self._folder / label).glob("*.png"))) for label in LABELS}
        return {label: count for label, count in counts.items() if count}


def encode_data_url(image: Image) -> str:
    """Encode a digit, uint8 (28, 28), as a data URL with a PNG."""
    return "data:image/png;base64," + base64.b64encode(cv2.imencode(".png", image)[1].tobytes()).decode()
