"""How the error rate changes when a constant of the reader is moved: `python -m benchmarks.reading --sensitivity`.

It moves every field of `ReaderParameters`, `CropParameters` and `LayoutParameters`, and every number that has a name in
one of `MODULES`. The answers of both networks are kept, so that a constant of a later stage costs no run of the finder.

The error rate of drawn pages compares digits by their places, so it does not see in which order they are read: `python
-m benchmarks.layout --sensitivity` does. The number of pages that are read otherwise counts any change of a number.
"""

from __future__ import annotations

import ast
import inspect
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from types import ModuleType
from typing import Any, cast
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.finding import compare
from edge_mnist import runtime
from edge_mnist.demo.reading import confidence, finder, layout, reader
from edge_mnist.demo.reading.reader import Reader, ReaderParameters
from edge_mnist.pretrained import SHIPPED_FINDER, SHIPPED_INT8
from edge_mnist.runtime import Classifier
from edge_mnist.system.tables import make_console
from edge_mnist.training.finder.pages import Picture

FACTORS = (0.8, 1.2)
"""Each constant is multiplied by one of these."""
MODULES = (reader, finder, layout, confidence)
"""The modules whose constants are moved, besides the fields of the parameters."""


class KnownAnswers:
    """A network whose answers of the first pass over all pages are kept.

    Only those are kept, so that memory stays within a few megabytes for a page.
    """

    def __init__(self, network: Classifier) -> None:
        """With an opened artifact."""
        self.keeps = True
        self.runs = 0
        self._network = network
        self._answers: dict[bytes, NDArray[Any]] = {}

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The logits of images, uint8 (N, ...): float32 (N, classes)."""
        return self.dequantize(self.outputs(images))

    def dequantize(self, outputs: NDArray[Any]) -> NDArray[np.float32]:
        """Some of the outputs as logits, float32."""
        return self._network.dequantize(outputs)

    def outputs(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """The outputs of images, uint8 (N, ...): int8 or float32 (N, classes)."""
        keys = [blake2b(image.tobytes(), digest_size=16).digest() for image in images]
        answers = [self._answers.get(key) for key in keys]
        unknown = [index for index, answer in enumerate(answers) if answer is None]
        if unknown:
            self.runs += len(unknown)
            for index, answer in zip(unknown, self._network.outputs(images[unknown]), strict=True):
                answers[index] = answer
                if self.keeps:
                    self._answers[keys[index]] = answer
        return np.stack([answer for answer in answers if answer is not None])


@dataclass(frozen=True)
class Constant:
    """A constant of the reader.

    Attributes:
        name: what contains it, and its name there.
        value: its usual value.
        holder: the module that has it; None for a field of `ReaderParameters`, or of a part of these.
    """

    name: str
    value: float
    holder: ModuleType | None = None

    def moved(self, factor: float) -> float:
        """The value by a factor; a whole number stays one, and changes by at least 1."""
        if not isinstance(self.value, int):
            return self.value * factor
        way = math.floor if factor < 1 else math.ceil
        return way(self.value * factor)


def list_constants() -> list[Constant]:
    """All constants that are moved."""
    usual = ReaderParameters()
    found = []
    for field in fields(usual):
        value = getattr(usual, field.name)
        if isinstance(value, bool):
            continue
        if isinstance(value, (int, float)):
            found.append(Constant(field.name, value))
        else:
            found += [Constant(f"{field.name}.{part.name}", getattr(value, part.name)) for part in fields(value)]
    for module in MODULES:
        place = module.__name__.rpartition(".")[2]
        found += [Constant(f"{place}.{name}", getattr(module, name), module) for name in list_numbers(module)]
    return found


def list_numbers(module: ModuleType) -> list[str]:
    """The names of the constants of a module to which its source assigns a number; not those that it computes."""
    return [
        line.targets[0].id
        for line in ast.parse(inspect.getsource(module)).body
        if isinstance(line, ast.Assign)
        and isinstance(line.targets[0], ast.Name)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, (int, float))
    ]


def change(constant: Constant, value: float) -> ReaderParameters:
    """The parameters of a reader with another value of a constant that is one of them."""
    usual = ReaderParameters()
    part, _, name = constant.name.rpartition(".")
    changed: dict[str, Any] = {name: value}
    return replace(usual, **({part: replace(getattr(usual, part), **changed)} if part else changed))


@contextmanager
def moved_reader(
    constant: Constant | None, factor: float, digitnet: Classifier, finding: Classifier
) -> Iterator[Reader]:
    """A reader with a constant that is moved, or with the usual ones."""
    if constant is None:
        yield Reader(digitnet, threshold=reader.THRESHOLD, finder=finding)
    elif constant.holder is None:
        parameters = change(constant, constant.moved(factor))
        yield Reader(digitnet, threshold=reader.THRESHOLD, finder=finding, parameters=parameters)
    else:
        with mock.patch.object(constant.holder, constant.name.rpartition(".")[2], constant.moved(factor)):
            yield Reader(digitnet, threshold=reader.THRESHOLD, finder=finding)


def read_all(pictures: list[Picture], own: Reader) -> tuple[Counter[str], list[tuple[str, ...]]]:
    """What is read on all pages, see `finding.compare`, and the numbers of each page with their lines."""
    counts: Counter[str] = Counter()
    texts = []
    for picture in pictures:
        reading = own.read(picture.frame)
        counts += compare(picture, reading.digits, reading.unsure)
        texts.append(tuple(f"{number.line} {number.text}" for number in reading.numbers))
    return counts, texts


def measure(
    pictures: list[Picture], digitnet: Classifier | None = None, finding: Classifier | None = None
) -> tuple[float, list[tuple[Constant, list[tuple[float, int]]]]]:
    """Move each constant.

    Args:
        pictures: the pages, at least one of them with a digit.
        digitnet: the network that reads digits; None for the shipped one.
        finding: the network that finds digits; None for the shipped one.

    Returns:
        The usual error rate. Then, for each constant and each of `FACTORS`, the error rate, and the number of pages on
        which something else is read than usually; those constants first with which the error rate changes most.
    """
    networks = [
        KnownAnswers(digitnet or runtime.load(SHIPPED_INT8)),
        KnownAnswers(finding or runtime.load(SHIPPED_FINDER)),
    ]
    opened = [cast(Classifier, network) for network in networks]

    def read(constant: Constant | None, factor: float) -> tuple[float, list[tuple[str, ...]]]:
        with moved_reader(constant, factor, *opened) as own:
            counts, texts = read_all(pictures, own)
        return (counts["wrong"] + counts["missed"] + counts["invented"]) / counts["digits"], texts

    usual, usual_texts = read(None, 1.0)
    for network in networks:
        network.keeps = False
    rows = []
    for constant in list_constants():
        row = []
        for factor in FACTORS:
            rate, texts = read(constant, factor)
            row.append((rate, sum(one != other for one, other in zip(texts, usual_texts, strict=True))))
        rows.append((constant, row))
    rows.sort(key=lambda row: (-max(abs(rate - usual) for rate, _ in row[1]), -max(pages for _, pages in row[1])))
    return usual, rows


def print_table(pictures: list[Picture], digitnet: Classifier | None = None, finding: Classifier | None = None) -> None:
    """Print how the error rate changes with each constant."""
    usual, rows = measure(pictures, digitnet, finding)
    digits = sum(compare(picture, (), ())["digits"] for picture in pictures)
    title = f"{len(pictures)} pages, {digits} digits, error rate {usual:.2%}; if a constant is moved by 20 %:"
    table = Table("constant", "value", "20 % less", "20 % more", "pages read otherwise", title=title)
    for constant, row in rows:
        changes = (f"{100 * (rate - usual):+.2f}" for rate, _ in row)
        table.add_row(constant.name, f"{constant.value:g}", *changes, " / ".join(str(pages) for _, pages in row))
    make_console().print(table)
    print("Changes of the error rate are in percentage points.")
