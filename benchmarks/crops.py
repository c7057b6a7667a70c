"""How well networks read what the reader cuts: `python -m benchmarks.crops CHECKPOINT... --fonts FONTS [--part judge]`.

The reader cuts pages whose fonts, photographs and seeds no network has learned from. Prints, for each network in float,
how many of MNIST's images for validation it reads rightly, how many of the images that show a digit, and how well its
confidence separates these from those that show none (AUROC).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks import run_command
from benchmarks.finding import draw_pages
from benchmarks.hands import cut_page
from edge_mnist import runtime
from edge_mnist.data import mnist
from edge_mnist.demo.reading.finder import Finder
from edge_mnist.demo.reading.reader import ReaderParameters
from edge_mnist.export.tflite.writer import write_tflite
from edge_mnist.graph import checkpoint, folding
from edge_mnist.measure.evaluation import auroc
from edge_mnist.pretrained import SHIPPED, SHIPPED_FINDER
from edge_mnist.runtime import softmax
from edge_mnist.system.tables import make_console


def cut_pages(
    part: str, fonts: Path, data: Path | None, count: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], int]:
    """Cut pages.

    Returns:
        What the reader sees, uint8 (N, 28, 28), the label of each, int64 (N,), -1 where it shows no digit, and the
        number of pages.
    """
    usual = ReaderParameters()
    options = {"finest": usual.finest, "looks": usual.looks, "step": usual.step}
    finder = Finder(runtime.load(SHIPPED_FINDER), least=usual.least, **options)  # type: ignore[arg-type]
    pictures = list(draw_pages(part, fonts, data, count))
    cuts = [
        one for index, picture in enumerate(pictures) for one in cut_page(picture, finder, np.random.RandomState(index))
    ]
    return np.stack([image for _, image in cuts]), np.array([label for label, _ in cuts]), len(pictures)


def main() -> None:
    """Cut, classify and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="*", default=[SHIPPED], metavar="CHECKPOINT")
    parser.add_argument("--fonts", type=Path, required=True, help="a folder with fonts in its folders hand and print")
    parser.add_argument("--data", type=Path, help="the folder with MNIST's files")
    parser.add_argument("--part", choices=["choose", "judge"], default="choose", help="of the sources of pages")
    parser.add_argument("--count", type=int, default=40, help="pages of each kind")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    digits = mnist.load("train", options.data)
    _, held_out = mnist.split_for_validation(digits.labels)
    images, labels, pages = cut_pages(options.part, options.fonts, options.data, options.count)
    is_digit = labels >= 0
    title = f"{is_digit.sum():,} digits and {(~is_digit).sum():,} other images, cut of {pages} pages"
    table = Table("network", "validation", "digits read rightly", "AUROC", title=title)
    for path in options.checkpoints:
        network = runtime.load_bytes(write_tflite(folding.fold(checkpoint.load(path))), str(path))
        validation = (network.predict(digits.images[held_out]) == digits.labels[held_out]).mean()
        chances = softmax(network.logits(images))
        right = (chances.argmax(1) == labels)[is_digit].mean()
        area = auroc(chances.max(1)[is_digit], chances.max(1)[~is_digit])
        table.add_row(path.name, f"{validation:.2%}", f"{right:.2%}", f"{area:.4f}")
    make_console().print(table)


if __name__ == "__main__":
    run_command(main)
