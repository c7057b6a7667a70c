"""The command that reads pictures: `predict`."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any, Literal

import click

from edge_mnist.cli import options
from edge_mnist.system.errors import escape, explain_missing_packages

_LOG = logging.getLogger(__name__)


@click.command(short_help="Read the numbers in pictures.")
@click.argument("sources", nargs=-1, required=True, metavar="IMAGE|FOLDER|-...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each picture.")
@click.option(
    "--annotate", type=click.Path(path_type=Path), metavar="DIR", help="Save the pictures with boxes in this folder."
)
@click.option(
    "--save-digits",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Save the digits, 28x28, in folders 0 to 9 of this folder, for train --user-digits.",
)
@click.option(
    "--invert",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    show_default=True,
    help="Whether the ink is lighter than its ground; auto judges by the pixels.",
)
@click.option(
    "--rotate",
    type=click.Choice(["0", "90", "180", "270"]),
    default="0",
    show_default=True,
    help="Turn the pictures clockwise by this many degrees before they are read; boxes are of the turned picture.",
)
@options.threshold
@options.reading_model
@options.trust_model
def predict(sources: tuple[str, ...], as_json: bool, rotate: str, **others: Any) -> None:
    """Read the numbers in pictures: photographs of pages, strips, single digits; `-` is standard input.

    Each line is printed with a space between its numbers, and after the name of its picture if there are several
    pictures. `?` stands for a doubtful digit; stderr shows its line with the most probable label in brackets. The exit
    status is 1 if a picture could not be read, 2 if there is no such picture; the others are still read.
    """
    with explain_missing_packages():
        from edge_mnist.demo.pictures import read_pictures
        from edge_mnist.demo.reading.reader import THRESHOLD
    status = 0
    least = THRESHOLD if others["threshold"] is None else others["threshold"]
    degrees: Literal[0, 90, 180, 270] = int(rotate)  # type: ignore[assignment]  # one of the choices
    hint = "" if degrees else "; if the picture is turned, try --rotate 90, 180 or 270"
    for result in read_pictures(*sources, rotate=degrees, **others):
        name = escape(result.name)
        if result.error is not None:
            click.echo(f"edge-mnist: {escape(str(result.error))}", err=True)
            status = max(status, result.error.exit_status)
        elif result.reading is not None and as_json:
            click.echo(json.dumps(result.to_dict()))
        elif result.reading is not None and not result.reading.lines:
            _LOG.warning("%s: no digits found with a confidence of %g or more%s", name, least, hint)
        elif result.reading is not None:
            texts: dict[int, list[str]] = {}
            for number in result.reading.numbers:
                texts.setdefault(number.line, []).append(number.text)
            for numbers in texts.values():
                click.echo(("" if result.count == 1 else f"{result.name}: ") + " ".join(numbers))
            for line in result.reading.doubtful().values():
                _LOG.warning("%s: not sure: %s", name, line)
            if result.reading.may_be_turned and hint:
                sure, unsure = len(result.reading.digits), len(result.reading.unsure)
                _LOG.warning("%s: %s of %s digits are doubtful%s", name, unsure, sure + unsure, hint)
    if status:
        sys.exit(status)
