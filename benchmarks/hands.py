"""Makes digits as the reader cuts them, to train on: `python -m benchmarks.hands FOLDER [--strings N] [--seed S]`.

Numbers are written of MNIST's digits and of digits drawn in styles that MNIST hardly knows (a one with a long flag, a
crossed seven, a five whose bar stands apart), slanted, joined, faint and uneven; the reader divides them in all ways
that it considers. What covers one digit goes into a folder 0 to 9, what covers part of one, or several, into `none`,
for `edge-mnist train --user-digits FOLDER`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks import negatives
from edge_mnist.data import mnist, strokes
from edge_mnist.demo.reading import crops, lines, pieces, segmentation
from edge_mnist.demo.reading import ink as ink_on
from edge_mnist.demo.reading.pieces import Piece

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
ONE = 0.75
"""What shares so much of its ink with a digit shows it; what shares less than"""
NONE = 0.5
"""with each shows none."""


MISTAKEN = 24
"""So many images are taken of a frame without digits."""


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
    return np.rint(np.clip(sharp * uneven + grain, 0, 1) * random.uniform(90, 255)).astype(np.uint8)


def cut(
    ink: NDArray[np.uint8], owner: NDArray[np.int8], random: np.random.RandomState
) -> list[tuple[int, NDArray[np.uint8]]]:
    """All that the reader considers in a number: the index of the digit that it shows, or -1, and its image."""
    mask = cv2.compare(ink, float(random.uniform(0.3, 0.5) * np.quantile(ink[owner >= 0], 0.9)), cv2.CMP_GT)
    totals = np.bincount(owner[(owner >= 0) & (mask > 0)], minlength=8)
    found = []
    for line in lines.group(pieces.components(mask, 8, 200), 12):
        parts = segmentation.parts(line)
        for candidate in segmentation.candidates(parts, line.height):
            share = _share(candidate.piece, owner, totals)
            best = int(share.argmax())
            if share[best] >= ONE:
                found.append((best, crops.normalize(ink, candidate.piece)))
            elif share[best] < NONE:
                found.append((-1, crops.normalize(ink, candidate.piece)))
    return found


def _mistaken(frame: NDArray[np.uint8], random: np.random.RandomState) -> list[NDArray[np.uint8]]:
    """Some of what the reader considers in a frame without digits."""
    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    found = ink_on.find(grey)
    pieces_found = pieces.components(found.mask, 8, 200)
    considered = [
        candidate.piece
        for line in lines.group(pieces_found, 12)
        for candidate in segmentation.candidates(segmentation.parts(line), line.height)
    ]
    chosen = random.permutation(len(considered))[:MISTAKEN]
    return [crops.normalize(found.strength, considered[index]) for index in chosen]


def _share(piece: Piece, owner: NDArray[np.int8], totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of a piece with each digit."""
    own = owner[piece.y : piece.bottom, piece.x : piece.right][piece.mask > 0]
    common = np.bincount(own[own >= 0], minlength=len(totals))
    result: NDArray[np.float64] = common / np.maximum(totals + piece.area - common, 1)
    return result


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--strings", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    random = np.random.RandomState(options.seed)
    part = mnist.load("train", options.data)
    learn, _ = mnist.split_for_validation(part.labels)
    digits = mnist.Digits(part.images[learn], part.labels[learn], part.source, part.sha256)
    counts = np.zeros(11, int)
    for label in (*map(str, range(10)), "none"):
        (options.folder / label).mkdir(parents=True)
    for number in range(options.strings):
        ink, owner, labels = write_number(random, digits)
        for index, (digit, image) in enumerate(cut(ink, owner, random)):
            label = labels[digit] if digit >= 0 else 10
            if label == 10 and random.random_sample() < 0.4:
                continue
            counts[label] += 1
            cv2.imwrite(str(options.folder / ("none" if label == 10 else str(label)) / f"{number}-{index}.png"), image)
    for number, (_, frame) in enumerate(negatives.make_frames("train")):
        for index, image in enumerate(_mistaken(frame, random)):
            counts[10] += 1
            cv2.imwrite(str(options.folder / "none" / f"frame-{number}-{index}.png"), image)
    print("digits", *counts[:10], "none", counts[10])


if __name__ == "__main__":
    main()
