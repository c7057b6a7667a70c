from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pytest

from edge_mnist.data import mnist, strokes
from edge_mnist.data.mnist import Digits
from edge_mnist.system.errors import EdgeMnistError


@pytest.fixture(scope="module")
def drawn() -> Digits:
    return strokes.draw(2000, seed=1)


def nearest(known: Digits, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """The label of the known image that has the largest cosine with each image."""
    flat = known.images.reshape(len(known), -1).astype(np.float32)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    labels: npt.NDArray[np.int64] = known.labels[(images.reshape(len(images), -1) @ flat.T).argmax(axis=1)]
    return labels


def test_the_seed_decides_everything(drawn: Digits) -> None:
    again, other = strokes.draw(2000, seed=1), strokes.draw(2000, seed=2)
    assert np.array_equal(again.images, drawn.images)
    assert np.array_equal(again.labels, drawn.labels)
    assert again.sha256 == drawn.sha256 == hashlib.sha256(drawn.images.tobytes()).hexdigest()
    assert other.sha256 != drawn.sha256
    assert not np.array_equal(other.labels, drawn.labels)


def test_the_stream_is_the_same_with_every_numpy() -> None:
    digits = strokes.draw(20, seed=7)
    assert digits.labels.tolist() == [9, 3, 7, 0, 6, 8, 4, 2, 2, 7, 9, 6, 5, 0, 3, 1, 1, 5, 8, 4]
    # Sums, because elsewhere a grey level may differ by one.
    assert digits.images[:5].sum(axis=(1, 2)).tolist() == pytest.approx([32217, 29528, 15762, 30940, 25190], abs=10)


@pytest.mark.parametrize("count", [1, 7, 10, 25, 2000])
def test_classes_are_in_equal_parts_and_shuffled(count: int) -> None:
    digits = strokes.draw(count, seed=3)
    assert (len(digits), digits.source) == (count, "strokes")
    assert digits.images.dtype == np.uint8 and digits.labels.dtype == np.int64
    assert np.array_equal(np.sort(digits.labels), np.sort(np.arange(count) % 10))
    assert count < 25 or not np.array_equal(digits.labels, np.arange(count) % 10)


def test_images_are_normalized_as_those_of_mnist(drawn: Digits) -> None:
    ink = drawn.images.astype(np.float64)
    total, places = ink.sum(axis=(1, 2)), np.arange(28)
    for other in (2, 1):
        middle = ink.sum(axis=other) @ places / total
        off = np.abs(middle - 14)
        # Moved by whole pixels: at most half a pixel off, and rounding; more only at the border of the image.
        assert np.mean(off < 0.51) > 0.998 and off.max() < 2
    high, wide = (np.any(drawn.images > 127, axis=axis) for axis in (2, 1))
    longer = np.maximum(high.sum(axis=1), wide.sum(axis=1))
    assert longer.max() <= 20 and longer.min() >= 18
    assert np.all(drawn.images.max(axis=(1, 2)) == 255)
    assert np.all(drawn.images.min(axis=(1, 2)) == 0)
    assert ink.mean() == pytest.approx(33.3, abs=2)  # 0.1307 of 255, the mean of MNIST


def test_no_two_writers_are_alike_and_yet_each_is_read(drawn: Digits) -> None:
    assert len(np.unique(drawn.images.reshape(len(drawn), -1), axis=0)) == len(drawn)
    others = strokes.draw(1000, seed=2)
    assert np.mean(nearest(drawn, others.images) == others.labels) > 0.95


def test_they_stand_for_handwriting(drawn: Digits) -> None:
    if not mnist.is_available():
        pytest.skip("needs MNIST: set EDGE_MNIST_DATA")
    written = mnist.load("test")
    assert np.mean(nearest(written, drawn.images) == drawn.labels) > 0.9
    assert np.mean(nearest(drawn, written.images) == written.labels) > 0.83


@pytest.mark.parametrize(("count", "seed"), [(0, 1), (-3, 1), (10, -1), (10, 2**32)])
def test_what_cannot_be_drawn_is_refused(count: int, seed: int) -> None:
    with pytest.raises(EdgeMnistError, match=r"strokes: .*expected"):
        strokes.draw(count, seed)
