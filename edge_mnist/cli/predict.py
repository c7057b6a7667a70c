"""The command that reads pictures: `predict`."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_mnist.cli import options
from edge_mnist.system.errors import EdgeMnistError, missing_for_pictures
from edge_mnist.system.files import check_folder
from edge_mnist.system.progress import is_live, make_bar

if TYPE_CHECKING:
    from edge_mnist.demo.reading.reader import Digit, Reading

_LOG = logging.getLogger(__name__)


@click.command(short_help="Read the numbers in pictures.")
@click.argument("sources", nargs=-1, required=True, metavar="IMAGE|FOLDER|-...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object an image.")
@click.option("--annotate", type=click.Path(path_type=Path), metavar="DIR", help="Save pictures with boxes there.")
@click.option(
    "--save-digits",
    "crops",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Save the digits, 28x28, in folders 0 to 9 there, for train --extra.",
)
@click.option(
    "--invert",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    show_default=True,
    help="Light ink on a dark ground.",
)
@click.option(
    "--rotate",
    type=click.Choice(["0", "90", "180", "270"]),
    default="0",
    show_default=True,
    help="Degrees by which pictures that lie on their side are first turned clockwise; boxes are of what is read.",
)
@options.threshold
@options.reading_model
@options.trust_model
def predict(
    sources: tuple[str, ...],
    as_json: bool,
    annotate: Path | None,
    crops: Path | None,
    invert: str,
    rotate: str,
    threshold: float | None,
    model: Path | None,
    trust: bool,
) -> None:
    """Read the numbers in pictures: photographs of pages, strips, single digits; `-` is standard input.

    One picture's lines are printed as they are, those of several behind the picture's name. Where a digit in a line is
    not sure, `?` is in its place, and stderr shows the line with its most probable label in brackets. The exit
    status is 1 if a picture could not be read, 2 if there is no such picture; the others are still read.
    """
    try:
        from edge_mnist.demo.live import models
        from edge_mnist.demo.reading.reader import THRESHOLD, Reader
        from edge_mnist.demo.sources import images
    except ModuleNotFoundError as error:
        raise missing_for_pictures(error) from error
    for option, folder in (("--annotate", annotate), ("--save-digits", crops)):
        if folder is not None:
            check_folder(folder, option)
    classifier = models.load_tried(model, trust=trust).classifier if model else None
    reader = Reader(classifier, threshold=THRESHOLD if threshold is None else threshold, invert=invert)
    names: list[str] = []
    status = 0
    for source in sources:
        try:
            names += _names(source)
        except EdgeMnistError as error:
            click.echo(f"edge-mnist: {error}", err=True)
            status = max(status, error.exit_status)
    annotated: set[str] = set()
    for name in _shown(names):
        try:
            frame = images.load_from(sys.stdin.buffer, name) if name == "-" else images.load(Path(name))
            frame = images.rotate(frame, int(rotate))
            reading = reader.read(frame)
            _LOG.debug("%s: read in %.1f ms", name, reading.milliseconds["total"])
            if annotate:
                _write_picture(annotate / _own_name(_stem(name), annotated), _annotated(frame, reading))
            if crops:
                _save_digits(crops, name, reading)
        except EdgeMnistError as error:
            click.echo(f"edge-mnist: {error}", err=True)
            status = max(status, error.exit_status)
            continue
        if as_json:
            click.echo(json.dumps(_facts(name, reading)))
        elif not reading.lines:
            _LOG.warning("%s: no digits found", name)
        else:
            for line in reading.lines:
                click.echo(line if len(names) == 1 else f"{name}: {line}")
            for line in reading.doubtful().values():
                _LOG.warning("%s: not sure: %s", name, line)
    if status:
        sys.exit(status)


def _names(source: str) -> list[str]:
    """A file as it is, a folder's images by name."""
    from edge_mnist.demo.sources import images

    return (
        [str(path) for path in images.list_images(Path(source))]
        if source != "-" and Path(source).is_dir()
        else [source]
    )


def _shown(names: list[str]) -> Iterator[str]:
    """The names, each as a step; with a bar on stderr where many are read before a terminal.

    The bar has no thread of its own: the memory of decoding is limited only in a process without threads.
    """
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    bar = None
    with ExitStack() as stack:
        if len(names) >= 8 and is_live():
            columns = (TextColumn("reading"), BarColumn(), TimeRemainingColumn())
            bar = stack.enter_context(make_bar(*columns, auto_refresh=False))
            task = bar.add_task("", total=len(names))
        for number, name in enumerate(names, 1):
            _LOG.info("reading picture %s of %s: %s", number, len(names), name)
            yield name
            if bar is not None:
                bar.update(task, completed=number, refresh=True)


def _facts(name: str, reading: Reading) -> dict[str, Any]:
    """What --json prints of an image."""
    from edge_mnist.demo.reading.reader import is_complete

    return {
        "image": name,
        "lines": list(reading.lines),
        "complete": [is_complete(line) for line in reading.lines],
        "digits": _digits(reading.digits),
        "unsure": _digits(reading.unsure),
        "milliseconds": {stage: round(spent, 3) for stage, spent in reading.milliseconds.items()},
    }


def _digits(digits: Sequence[Digit]) -> list[dict[str, Any]]:
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


def _own_name(stem: str, taken: set[str]) -> str:
    """A name that no other picture of this run has: of two pictures of one name in two folders each is kept."""
    number = next(number for number in count(1) if (stem if number == 1 else f"{stem}-{number}") not in taken)
    name = stem if number == 1 else f"{stem}-{number}"
    taken.add(name)
    return f"{name}.png"


def _annotated(frame: Any, reading: Reading) -> Any:
    from edge_mnist.demo.views.drawing import draw_digits

    return draw_digits(frame, reading.digits, reading.unsure)


def _save_digits(folder: Path, name: str, reading: Reading) -> None:
    """Each digit's 28x28 image under its label; equal images have equal names."""
    for digit in reading.digits:
        digest = hashlib.sha256(digit.image.tobytes()).hexdigest()[:8]
        _write_picture(folder / str(digit.label) / f"{_stem(name)}-{digest}.png", digit.image)


def _stem(name: str) -> str:
    return "stdin" if name == "-" else Path(name).stem


def _write_picture(path: Path, picture: Any) -> None:
    """Write a picture as PNG, whole or not at all."""
    import cv2

    from edge_mnist.system.files import write_whole

    _, data = cv2.imencode(".png", picture)
    write_whole(path, data.tobytes())
