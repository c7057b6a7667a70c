"""The digits that the shipped network learns to read: cut by the reader, with the labels of what they show."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("ai_edge_litert")

from benchmarks import hands
from edge_mnist import runtime
from edge_mnist.data import mnist, strokes
from edge_mnist.demo.reading.finder import Finder
from edge_mnist.pretrained import SHIPPED_FINDER, SHIPPED_INT8


def test_digits_have_their_labels_and_what_lies_beside_them_has_none() -> None:
    drawn = strokes.draw(300, 5)
    random, classifier = np.random.RandomState(1), runtime.load(SHIPPED_INT8)
    images, labels = [], []
    for _ in range(30):
        ink, owner, numbers = hands.write_number(random, mnist.Digits(drawn.images, drawn.labels, "strokes", ""))
        for digit, image in hands.cut(ink, owner, random):
            images.append(image)
            labels.append(numbers[digit] if digit >= 0 else -1)
    logits, expected = classifier.logits(np.stack(images)), np.array(labels)
    surest = np.exp(logits - logits.max(1, keepdims=True)).sum(1) ** -1
    assert (expected >= 0).sum() > 60 and (expected < 0).sum() > 20
    assert (logits.argmax(1) == expected)[expected >= 0].mean() > 0.7
    assert np.median(surest[expected >= 0]) > 2 * np.median(surest[expected < 0])


def test_a_page_gives_its_digits_also_the_missed_ones_and_what_the_finder_sees_beside_them() -> None:
    pages, glyphs = (pytest.importorskip(f"edge_mnist.training.finder.{name}") for name in ("pages", "glyphs"))
    drawn = strokes.draw(200, 6)
    writer = glyphs.from_images("strokes", drawn.images, drawn.labels)
    letter = glyphs.Hand("o", {"o": writer.characters["0"]}, printed=False)
    random = np.random.RandomState(0)
    page = pages.Page(np.zeros((480, 640), np.float32), pages.Sources([writer], [letter], [letter], []))
    by = pages.Writer(writer, glyphs.Pen(0, 0.0, 1.0, 0.0), 1.0, 0.5)
    pages.put(random, page, "3172", 40, 200, 60, by)
    pages.put(random, page, "4", 440, 200, 60, by)
    boxes = np.array([(*outline.min(0), *outline.max(0)) for outline in page.outlines], np.float32)
    frame = np.rint(255 - 200 * page.ink).astype(np.uint8)
    # The truth leaves the 4 out, so that it must be cut as no digit, and says that the 2 need not be found.
    labels = np.array([*page.labels[:3], pages.MAY_BE_FOUND])
    picture = pages.Picture("lines", frame, labels, boxes[:4], np.zeros(4, np.int64))
    for finder in (_finder(0.15), _finder(0.99999)):
        cut = hands.cut_page(picture, finder, random)
        assert sorted(label for label, _ in cut) == [*[-1] * (finder.least < 0.5), 1, 3, 7]
        images = np.stack([image for label, image in cut if label >= 0])
        read = runtime.load(SHIPPED_INT8).logits(images).argmax(1)
        assert read.tolist() == [label for label, _ in cut if label >= 0]


def _finder(least: float) -> Finder:
    return Finder(runtime.load(SHIPPED_FINDER), least=least, finest=1408, looks=40, step=0.5)
