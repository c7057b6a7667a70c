"""Reads the numbers in picture files, as `edge-mnist predict` does."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist.demo.live import models
from edge_mnist.demo.reading.reader import THRESHOLD, Digit, Invert, Reader, Reading, is_complete
from edge_mnist.demo.sources import images
from edge_mnist.demo.views.drawing import draw_digits
from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.system.files import check_folder, write_whole
from edge_mnist.system.hashes import sha256
from edge_mnist.system.progress import is_live, make_bar

_LOG = logging.getLogger(__name__)

_MANY = 8
"""The least number of pictures for which a command shows a bar."""


@dataclass(frozen=True, eq=False)
class PictureResult:
    """What was read in a picture, or why it could not be read.

    Attributes:
        name: the path as it was given, or "-" for standard input.
        count: the number of pictures that are read in all.
        reading: what was read; None after an error.
        error: why the picture could not be read, or what was asked for could not be saved; else None.
    """

    name: str
    count: int
    reading: Reading | None = None
    error: EdgeMnistError | None = None

    def to_dict(self) -> dict[str, Any]:
        """What was read, as JSON holds it.

        Raises:
            EdgeMnistError: the picture could not be read.
        """
        if self.reading is None:
            raise self.error or EdgeMnistError(f"{self.name}: was not read")
        return {
            "image": self.name,
            "lines": list(self.reading.lines),
            "complete": [is_complete(line) for line in self.reading.lines],
            "numbers": [number.to_dict() for number in self.reading.numbers],
            "digits": _list_digits(self.reading.digits),
            "unsure": _list_digits(self.reading.unsure),
            "milliseconds": {stage: round(spent, 3) for stage, spent in self.reading.milliseconds.items()},
        }


def read_pictures(
    *sources: str | os.PathLike[str],
    model: str | os.PathLike[str] | None = None,
    trust: bool = False,
    threshold: float | None = None,
    invert: Invert = "auto",
    rotate: Literal[0, 90, 180, 270] = 0,
    annotate: str | os.PathLike[str] | None = None,
    save_digits: str | os.PathLike[str] | None = None,
) -> Iterator[PictureResult]:
    """Read the numbers in pictures, one after the other.

    Args:
        sources: picture files, folders of them, or "-" for a picture on standard input.
        model: an artifact, float or int8; None for the shipped int8 TFLite.
        trust: open a TorchScript archive or a model.c of which no manifest beside it holds the hash; they carry code.
        threshold: the least confidence, 0 to 1, that a digit needs; None for the reader's.
        invert: whether the ink is lighter than its ground.
        rotate: the degrees by which the pictures are first turned clockwise.
        annotate: a folder to save the pictures with boxes in.
        save_digits: a folder to save the digits in, 28x28, in folders 0 to 9.

    Returns:
        An iterator of a result for each picture. A picture that cannot be read is a result with an error.

    Raises:
        UsageError: a source is not a path.
        EdgeMnistError: the model cannot be opened, or a folder cannot be written.

    Examples:
        >>> import edge_mnist
        >>> [result.error for result in edge_mnist.read_pictures("docs/misread.jpg")]
        [None]
    """
    for source in sources:
        if not isinstance(source, str | os.PathLike):
            raise UsageError(f"read_pictures: expected paths, found a {type(source).__name__}: read_pictures(*paths)")
    folders = [None if folder is None else Path(folder) for folder in (annotate, save_digits)]
    for option, folder in zip(("--annotate", "--save-digits"), folders, strict=True):
        if folder is not None:
            check_folder(folder, option)
    if rotate not in (0, 90, 180, 270):
        raise UsageError(f"rotate {rotate}: expected 0, 90, 180 or 270")
    classifier = models.load_safely(Path(model), trust=trust).classifier if model is not None else None
    reader = Reader(classifier, threshold=THRESHOLD if threshold is None else threshold, invert=invert)
    return _read(sources, reader, rotate, *folders)


def _read(
    sources: Sequence[str | os.PathLike[str]],
    reader: Reader,
    rotate: int,
    annotated_folder: Path | None,
    digits_folder: Path | None,
) -> Iterator[PictureResult]:
    names: list[str] = []
    errors: list[tuple[str, EdgeMnistError]] = []
    for source in sources:
        try:
            names += _list_pictures(os.fspath(source))
        except EdgeMnistError as error:
            errors.append((os.fspath(source), error))
    for source, trouble in errors:
        yield PictureResult(os.fspath(source), len(names), error=trouble)
    taken: set[str] = set()
    given = {Path(name).resolve() for name in names if name != "-"}
    for name in _show_progress(names):
        try:
            if name == "-" and sys.stdin is None:
                raise EdgeMnistError("-: standard input is closed")
            frame = images.load_from(sys.stdin.buffer, name) if name == "-" else images.load(Path(name))
            frame = images.rotate(frame, rotate)  # (H, W, 3)
            reading = reader.read(frame)
            _LOG.debug("%s: read in %.1f ms", name, reading.milliseconds["total"])
            if annotated_folder is not None:
                path = annotated_folder / _choose_name(_stem(name), taken)
                if path.resolve() in given:
                    raise UsageError(f"--annotate {annotated_folder}: would overwrite {path}: name another folder")
                _write_png(path, draw_digits(frame, reading.digits, reading.unsure))
            if digits_folder is not None:
                _save_digits(digits_folder, name, reading)
        except EdgeMnistError as error:
            yield PictureResult(name, len(names), error=error)
            continue
        yield PictureResult(name, len(names), reading)


def _list_pictures(source: str) -> list[str]:
    """A file as it is, the images of a folder by name."""
    if not source:
        raise UsageError("the name of a picture is empty: expected a picture, a folder, or - for standard input")
    if source != "-" and Path(source).is_dir():
        return [str(path) for path in images.list_images(Path(source))]
    return [source]


def _show_progress(names: list[str]) -> Iterator[str]:
    """The names, each logged as a step; a command shows a bar if there are many.

    The bar has no thread of its own: the memory of decoding is limited only in a process without threads.
    """
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    bar = None
    with ExitStack() as stack:
        if len(names) >= _MANY and is_live():
            columns = (TextColumn("reading"), BarColumn(), TimeRemainingColumn())
            bar = stack.enter_context(make_bar(*columns, auto_refresh=False))
            task = bar.add_task("", total=len(names))
        for number, name in enumerate(names, 1):
            _LOG.info("reading picture %s of %s: %s", number, len(names), name)
            yield name
            if bar is not None:
                bar.update(task, completed=number, refresh=True)


def _list_digits(digits: Sequence[Digit]) -> list[dict[str, Any]]:
    return [
        {
            "label": digit.label,
            "confidence": round(digit.confidence, 4),
            "box": list(digit.box),
            "line": digit.line,
            "place": digit.place,
        }
        for digit in digits
    ]


def _choose_name(stem: str, taken: set[str]) -> str:
    """A file name that no other picture of this run has: pictures of one name in two folders are both kept."""
    number = next(number for number in count(1) if (stem if number == 1 else f"{stem}-{number}") not in taken)
    name = stem if number == 1 else f"{stem}-{number}"
    taken.add(name)
    return f"{name}.png"


def _save_digits(folder: Path, name: str, reading: Reading) -> None:
    """Save the 28x28 image of each digit under its label; equal images have equal names."""
    for digit in reading.digits:
        digest = sha256(digit.image.tobytes())[:8]
        _write_png(folder / str(digit.label) / f"{_stem(name)}-{digest}.png", digit.image)


def _stem(name: str) -> str:
    return "stdin" if name == "-" else Path(name).stem


def _write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture, uint8 (H, W) or (H, W, 3) BGR, as PNG, whole or not at all."""
    _, data = cv2.imencode(".png", picture)
    write_whole(path, data.tobytes())
