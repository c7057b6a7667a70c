"""Makes digits as the reader cuts them, to train on: `python -m benchmarks.hands FOLDER [--fonts FONTS]`.

Numbers are written of MNIST's digits and of digits drawn in styles that MNIST hardly knows (a one with a long flag, a
crossed seven, a five whose bar stands apart), slanted, joined, faint and uneven. The reader cuts them out by boxes that
are as inexact as those of a finder. They go into folders 0 to 9. What boxes beside the digits show, and what the finder
takes for a digit in frames without any, goes into `none`, for `edge-mnist train --user-digits FOLDER`.

With `--fonts`, pages are drawn as for the training of the finder, with handwritten and printed fonts, and what the
finder sees on them goes into the same folders.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks import negatives, run_command
from benchmarks.finding import intersection_over_union
from edge_mnist import runtime
from edge_mnist.data import mnist, strokes
from edge_mnist.demo.reading.digit_images import cut_digits
from edge_mnist.demo.reading.finder import Finder
from edge_mnist.demo.reading.reader import ReaderParameters
from edge_mnist.pretrained import SHIPPED_FINDER
from edge_mnist.training.finder import pages, sources

STYLES: dict[int, tuple[str, ...]] = {
    0: ("50,4 16,-6 -4,40 6,100 50,104 70,50 56,0 30,8 58,8 84,2", "36,0 4,-4 -10,52 8,104 60,104 78,48 60,-4 36,0"),
    1: (
        "10,30 44,0 44,0 44,50 42,98 | 8,100 44,98 82,98",
        "10,40 48,0 48,0 46,50 44,100",
        "-4,56 50,0 50,0 48,50 46,100",
        "-14,76 44,0 44,0 42,50 40,100",
    ),
    2: ("4,20 30,-10 70,10 50,50 10,92 -10,98 0,76 30,90 84,100", "0,26 16,-6 66,-4 66,36 4,100 4,100 40,96 80,98"),
    3: (
        "6,8 40,-10 70,14 50,42 20,48 20,48 72,52 70,100 20,108 -4,84",
        "4,4 60,0 60,0 30,40 30,40 72,60 60,100 20,108 -2,90",
    ),
    4: (
        "20,0 8,30 0,56 0,56 36,58 72,56 | 60,28 56,64 54,100",
        "12,0 6,30 -2,54 -2,54 30,56 66,50 | 58,8 50,60 44,108",
        "22,0 12,60 12,60 30,52 58,58 | 52,36 54,70 50,106",
    ),
    5: (
        "22,6 16,26 12,46 12,46 50,36 72,62 58,102 8,104 | 28,0 54,-2 90,-8",
        "72,0 40,0 12,8 26,44 64,60 50,104 -4,98",
    ),
    6: (
        "60,0 20,20 -2,70 18,108 58,98 54,62 20,58 2,80",
        "40,0 10,40 -4,90 30,110 60,90 40,64 4,84",
        "30,-4 20,30 14,90 14,90 40,106 62,80 44,58 18,70",
    ),
    7: (
        "0,6 34,2 68,0 68,0 50,42 30,100 | 8,52 42,50 76,46",
        "4,14 30,0 66,8 46,50 40,100 | 6,52 40,50 78,46",
        "0,16 6,2 6,2 40,4 72,0 72,0 48,46 36,100 | 12,50 40,50 72,44",
        "12,24 16,6 48,8 54,2 54,2 48,60 42,104 | -8,52 40,49 92,46",
    ),
    8: (
        "40,0 6,2 8,40 36,48 64,38 64,4 40,0 | 36,48 -4,60 0,106 38,108 76,100 72,56 36,48",
        "60,10 30,-10 2,14 30,48 70,80 40,108 4,92 20,60 66,20",
        "10,4 12,50 10,104 | 10,4 56,0 54,40 12,50 12,50 70,60 64,100 10,104",
    ),
    9: (
        "60,10 20,-8 -6,26 18,54 60,26 62,10 62,10 60,60 40,106 2,96",
        "62,6 24,-8 -4,30 26,56 60,20 62,6 62,6 60,60 58,108",
        "60,16 30,-6 2,24 24,56 60,22 62,8 62,8 62,80 40,112 8,94",
    ),
}
"""Styles of other hands, in the notation of `strokes.py`."""

DRAWN = 0.5
"""The part of the numbers that is drawn, not MNIST's."""
ROUND, MARKED = 0.3, 0.12
"""Numbers that end in zeros, and digits that a comma, a dot or a dash follows: parts of all."""
INEXACT = 0.04
"""The standard deviation of the sides of boxes, as a part of the digit: so inexact is the finder."""
NONE = 0.4
"""A box shows no digit if its intersection over union with every digit's box is below this."""
MISTAKEN = 24
"""The most images that are cut out of a frame without digits."""
FOUND_DIGIT, NO_DIGIT = 0.5, 0.2
"""A box of the finder shows a digit if its intersection over union with one is at least the first value, and none if it
is below the second; boxes in between are left out."""
NOTHING = -9
"""The provisional label of a box that shows no digit."""
MOST_BESIDE = 10
"""The most boxes without a digit that are cut out of a page."""
LEAST = 0.02
"""The least confidence, 0 to 1, of the finder's boxes that are cut out."""


def write_number(
    random: np.random.RandomState, digits: mnist.Digits
) -> tuple[NDArray[np.uint8], NDArray[np.int8], list[int]]:
    """A number's ink, uint8 (H, W), which of its digits each pixel is of, int8 (H, W), -1 for none, and its labels."""
    count = random.randint(2, 7)
    drawn = random.random_sample() < DRAWN
    shear, height, width = random.normal(0.1, 0.25), random.randint(22, 60), random.uniform(0.7, 1.35)
    gap = random.choice([-0.22, -0.16, -0.12, -0.06, 0.0, 0.1, 0.25])
    zeros = count - random.randint(1, 4) if random.random_sample() < ROUND else count  # from where there are but zeros
    images, labels = [], []
    for place in range(count):
        if drawn or place >= zeros:
            label = int(random.randint(10)) if place < zeros else 0
            images.append(strokes.draw_style(STYLES[label][random.randint(len(STYLES[label]))], 1, random)[0])
        else:
            index = random.randint(len(digits.labels))
            label = int(digits.labels[index])
            images.append(digits.images[index])
        labels.append(label)
    canvas = np.zeros((2 * height + 20, round(count * height * 1.9) + 80), np.uint8)
    owner = np.full(canvas.shape, -1, np.int8)
    right = 30.0
    for number, image in enumerate(images):
        x, y, w, h = cv2.boundingRect(image)
        size = height * random.uniform(0.8, 1.1) * (0.75 if labels[number] == 0 and random.random_sample() < 0.2 else 1)
        scale = size / max(h, 12)
        wide = scale * width
        matrix = np.array([[wide, -shear * scale, 0], [0, scale, 0]])
        corners = matrix[:, :2] @ np.array([[x, x + w, x, x + w], [y, y, y + h, y + h]], float)
        matrix[:, 2] = (
            right - corners[0].min(),
            height / 2 + 10 + height / 2 - size / 2 - corners[1].min() + random.normal(0, 0.05) * height,
        )
        placed = cv2.warpAffine(image, matrix, canvas.shape[::-1], flags=cv2.INTER_CUBIC)
        owner[placed > np.maximum(canvas, 90)] = number
        canvas = np.maximum(canvas, placed)
        columns = np.flatnonzero((placed > 90).any(0))
        if random.random_sample() < MARKED:
            canvas = np.maximum(
                canvas, _mark(random, canvas.shape, float(columns[-1]) if len(columns) else right, height)
            )
        right = (columns[-1] if len(columns) else right) + gap * height + max(0, random.normal(0.05, 0.05)) * height
    return _worn(random, canvas, height), owner, labels


def _mark(random: np.random.RandomState, shape: tuple[int, ...], right: float, height: int) -> NDArray[np.uint8]:
    """A comma, a dot or a dash behind what ends at `right`, as ink of its own, uint8 (H, W)."""
    ink = np.zeros(shape, np.uint8)
    x, base = right + random.uniform(-0.05, 0.15) * height, 10 + height * random.uniform(0.85, 1.05)
    thick = max(1, round(height * random.uniform(0.05, 0.12)))
    kind = random.randint(3)
    if kind == 2:
        base -= height * random.uniform(0.2, 0.6)
        end = x + height * random.uniform(0.3, 0.8), base + random.normal(0, 0.05) * height
    else:
        end = x - height * random.uniform(0, 0.15) * kind, base + height * random.uniform(0.1, 0.4) * kind
    cv2.line(ink, (round(x), round(base)), (round(end[0]), round(end[1])), 255, thick, cv2.LINE_AA)
    return ink


def _worn(random: np.random.RandomState, ink: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    """Ink of some pen, blurred, uneven, on some ground."""
    sharp = ink.astype(np.float32) / 255
    sharp = np.clip((sharp - 0.5) * random.uniform(1.5, 4) + 0.5, 0, 1)
    if random.random_sample() < 0.5:
        sharp = cv2.GaussianBlur(sharp, (0, 0), random.uniform(0.01, 0.045) * height + 0.3)
    uneven = cv2.resize(
        random.uniform(0.6, 1, (3, 12)).astype(np.float32), ink.shape[::-1], interpolation=cv2.INTER_CUBIC
    )
    grain = random.normal(0, random.uniform(0, 0.09), ink.shape).astype(np.float32)
    worn: NDArray[np.uint8] = np.rint(np.clip(sharp * uneven + grain, 0, 1) * random.uniform(90, 255)).astype(np.uint8)
    return worn


def cut(
    ink: NDArray[np.uint8], owner: NDArray[np.int8], random: np.random.RandomState
) -> list[tuple[int, NDArray[np.uint8]]]:
    """What the reader cuts out of a number: the index of the digit that it shows, or -1, and its image."""
    indices = [int(index) for index in np.unique(owner[owner >= 0])]
    rectangles = np.array([cv2.boundingRect((owner == index).astype(np.uint8)) for index in indices], np.float32)
    boxes = np.hstack([rectangles[:, :2], rectangles[:, :2] + rectangles[:, 2:]])
    sides = np.tile(rectangles[:, 2:], 2)
    beside = boxes + np.tile(random.uniform(-1, 1, (len(boxes), 2)), 2) * sides
    # A box may show parts of two digits, but not most of one.
    beside = beside[(intersection_over_union(beside.astype(np.float32), boxes) < NONE).all(1)]
    inexact = boxes + random.normal(0, INEXACT, boxes.shape) * sides
    labels = [*indices, *[-1] * len(beside)]
    images = cut_digits(cv2.bitwise_not(ink), np.concatenate([inexact, beside]).astype(np.float32), light=False)
    return [(label, one.image) for label, one in zip(labels, images, strict=True) if one.image.any()]


def cut_page(
    picture: pages.Picture, finder: Finder, random: np.random.RandomState
) -> list[tuple[int, NDArray[np.uint8]]]:
    """What the reader cuts out of a drawn page: the label, or -1 where no digit is, and the image.

    Digits that the finder misses are cut by inexact boxes. What is nearly a digit is left out, and so is what cannot be
    read.
    """
    seen = finder.find(picture.frame).boxes
    overlaps = intersection_over_union(seen, picture.boxes)
    best = overlaps.max(1, initial=0)
    digits = best >= FOUND_DIGIT
    owners = overlaps[digits].argmax(1) if digits.any() else np.zeros(0, np.intp)
    nothing = np.flatnonzero(best < NO_DIGIT)[:MOST_BESIDE]
    missed = np.setdiff1d(np.arange(len(picture.boxes)), owners)
    sides = np.tile(picture.boxes[missed, 2:] - picture.boxes[missed, :2], 2)
    inexact = picture.boxes[missed] + random.normal(0, INEXACT, sides.shape) * sides
    boxes = np.concatenate([seen[digits], inexact, seen[nothing]]).astype(np.float32)
    labels = [*picture.labels[owners].tolist(), *picture.labels[missed].tolist(), *[NOTHING] * len(nothing)]
    images = cut_digits(picture.frame, boxes)
    return [
        (-1 if label == NOTHING else label, one.image)
        for label, one in zip(labels, images, strict=True)
        if one.image.any() and (label >= 0 or label == NOTHING)
    ]


def _mistaken(frame: NDArray[np.uint8], finder: Finder, random: np.random.RandomState) -> list[NDArray[np.uint8]]:
    """Some of what the finder takes for a digit in a frame without digits."""
    grey = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8)
    images = [one.image for one in cut_digits(grey, finder.find(grey).boxes) if one.image.any()]
    return [images[index] for index in random.permutation(len(images))[:MISTAKEN]]


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--strings", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fonts", type=Path, help="a folder with fonts in its folders hand and print")
    parser.add_argument("--pages", type=int, default=3000, help="pages that are drawn with the fonts")
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    random = np.random.RandomState(options.seed)
    part = mnist.load("train", options.data)
    learn, _ = mnist.split_for_validation(part.labels)
    digits = mnist.Digits(part.images[learn], part.labels[learn], part.source, part.sha256)
    counts = np.zeros(11, int)
    folders = [options.folder / name for name in (*map(str, range(10)), "none")]
    for folder in folders:
        folder.mkdir(parents=True)
    for number in range(options.strings):
        ink, owner, labels = write_number(random, digits)
        for index, (digit, image) in enumerate(cut(ink, owner, random)):
            label = labels[digit] if digit >= 0 else 10
            counts[label] += 1
            cv2.imwrite(str(folders[label] / f"{number}-{index}.png"), image)
    usual = ReaderParameters()
    finder = Finder(runtime.load(SHIPPED_FINDER), least=LEAST, finest=usual.finest, looks=usual.looks, step=usual.step)
    for number, (_, frame) in enumerate(negatives.make_frames("train")):
        for index, image in enumerate(_mistaken(frame, finder, random)):
            counts[10] += 1
            cv2.imwrite(str(folders[10] / f"frame-{number}-{index}.png"), image)
    if options.fonts:
        cv2.setNumThreads(1)
        made_from = sources.load("train", options.fonts, options.data)
        for number in range(options.pages):
            page_random = np.random.RandomState([options.seed, 3, number])
            picture = pages.draw(page_random, made_from)
            for index, (label, image) in enumerate(cut_page(picture, finder, page_random)):
                counts[label] += 1
                cv2.imwrite(str(folders[label] / f"page-{number}-{index}.png"), image)
    print("digits", *counts[:10], "none", counts[10])


if __name__ == "__main__":
    run_command(main)
