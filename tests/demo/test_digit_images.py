"""Digits are cut out of a frame as MNIST's are cut, without the ink, rules and shadows around them."""

from __future__ import annotations

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
pytest.importorskip("ai_edge_litert")

from edge_mnist import runtime  # noqa: E402
from edge_mnist.data import mnist, strokes  # noqa: E402
from edge_mnist.demo.reading.digit_images import SIZE, cut_digits  # noqa: E402
from edge_mnist.demo.sources import scenes  # noqa: E402
from edge_mnist.pretrained import SHIPPED_INT8  # noqa: E402

DRAWN = strokes.draw(600, 11)
CLASSIFIER = runtime.load(SHIPPED_INT8)


def write(number: str, height: int, gap: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """A number on grey paper, uint8 (2 * height, W), and the box of each digit, float32 (N, 4)."""
    ink = np.zeros((2 * height, round((len(number) * 1.4 + 1) * height)), np.float32)
    x, y, boxes = height // 2, height // 2, []
    for place, digit in enumerate(number):
        image = DRAWN.images[np.flatnonzero(DRAWN.labels == int(digit))[place]]
        line = scenes._pen(image, height, 0.9)
        part = ink[y : y + line.shape[0], x : x + line.shape[1]]
        np.maximum(part, line, out=part)
        boxes.append((x, y, x + line.shape[1], y + line.shape[0]))
        x += line.shape[1] + round(gap * height)
    return np.rint(225 - 180 * ink).astype(np.uint8), np.array(boxes, np.float32)


def read(frame: np.ndarray, boxes: np.ndarray, light: bool | None = None) -> str:
    """What the shipped network reads in boxes."""
    images = np.stack([digit.image for digit in cut_digits(frame, boxes, light)])
    return "".join(map(str, CLASSIFIER.logits(images).argmax(1)))


def move(boxes: np.ndarray, seed: int) -> np.ndarray:
    """Boxes of which each side is moved by up to a tenth of the digit's size, as a finder's are."""
    size = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True)
    moved: np.ndarray = boxes + np.random.RandomState(seed).uniform(-0.1, 0.1, boxes.shape).astype(np.float32) * size
    return moved


@pytest.mark.parametrize("height", [16, 60, 500])
def test_digits_of_any_size_are_cut(height: int) -> None:
    frame, boxes = write("3141592", height)
    assert read(frame, move(boxes, height)) == "3141592"


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: 255 - frame,
        lambda frame: (225 - 0.2 * (225 - frame.astype(float))).astype(np.uint8),
        lambda frame: (frame * np.where(np.arange(frame.shape[1]) % 80 < 40, 0.4, 1.0)).astype(np.uint8),
        lambda frame: np.clip(frame + np.random.RandomState(0).normal(0, 12, frame.shape), 0, 255).astype(np.uint8),
        lambda frame: cv2.GaussianBlur(frame, (0, 0), 2.5),
    ],
    ids=["light on dark", "faint", "hard shadows", "grain", "blurred"],
)
def test_light_and_paper_change_little(change: object) -> None:
    frame, boxes = write("3141592", 60)
    text = read(change(frame), move(boxes, 1))  # type: ignore[operator]
    assert sum(one == other for one, other in zip(text, "3141592", strict=True)) >= 6  # an edge may cross a digit


@pytest.mark.parametrize("tilt", [-0.1, 0.0, 0.1])
def test_rules_and_edges_of_cells_are_left_out(tilt: float) -> None:
    frame, boxes = write("3845926", 60)
    clean = [digit.image.astype(int) for digit in cut_digits(frame, boxes)]
    height, width = frame.shape
    for y in range(10, height, 33):
        cv2.line(frame, (0, round(y - tilt * width / 2)), (width, round(y + tilt * width / 2)), 90, 2, cv2.LINE_AA)
    for box in boxes:
        x = round(float(box[2])) + 7
        cv2.line(frame, (round(x + tilt * 60), 0), (round(x - tilt * 60), height), 60, 2, cv2.LINE_AA)
    ruled = cut_digits(frame, move(boxes, 2))
    text = read(frame, move(boxes, 2))
    assert sum(one == other for one, other in zip(text, "3845926", strict=True)) >= 6  # a rule may cover a bar
    assert np.mean([np.abs(digit.image - image).mean() for digit, image in zip(ruled, clean, strict=True)]) < 20


def test_a_vertical_stroke_is_no_rule() -> None:
    frame = np.full((120, 120), 220, np.uint8)
    cv2.line(frame, (60, 20), (60, 100), 40, 6)
    for seed in range(5):
        (digit,) = cut_digits(frame, move(np.array([(57, 17, 64, 104)], np.float32), seed))
        assert CLASSIFIER.logits(digit.image[None]).argmax() == 1
        assert np.abs(digit.box - (57, 17, 64, 104)).max() <= 3


def test_ink_of_touching_neighbours_is_left_out_and_a_separate_bar_is_kept() -> None:
    frame, boxes = write("4805", 60, gap=-0.06)
    assert read(frame, boxes) == "4805"
    frame = np.full((120, 100), 220, np.uint8)
    cv2.line(frame, (42, 20), (68, 18), 40, 6)  # the bar of a 5
    cv2.ellipse(frame, (50, 75), (20, 22), 0, -100, 140, 40, 6)
    cv2.line(frame, (38, 34), (38, 56), 40, 6)
    bar = np.array([(30, 14, 74, 100)], np.float32)
    (digit,) = cut_digits(frame, bar)
    assert digit.box[1] < 18 and digit.box[3] > 96
    frame[:, 90:] = 40  # another thing beside it
    (other,) = cut_digits(frame, bar)
    assert np.abs(digit.image.astype(int) - other.image).max() < 40


def test_the_image_is_fitted_and_centred_as_mnists_are() -> None:
    frame, boxes = write("71", 60)
    for digit in cut_digits(frame, boxes):
        _, _, width, height = cv2.boundingRect(digit.image)
        moments = cv2.moments(digit.image)
        assert max(width, height) in (19, 20) and digit.image.max() == 255
        for axis in ("m10", "m01"):
            assert abs(moments[axis] / moments["m00"] - (SIZE - 1) / 2) <= 0.51


def test_a_digit_that_fills_the_frame_is_cut() -> None:
    digits = mnist.Digits(DRAWN.images[:100], DRAWN.labels[:100], "strokes", "")
    right = []
    for image, label in zip(digits.images, digits.labels, strict=True):
        x, y, width, height = cv2.boundingRect(image)
        box = np.array([(0, 0, width, height)], np.float32)
        right.append(read(image[y : y + height, x : x + width], box, light=True) == str(label))
        right.append(read(255 - image, box + np.array((x, y, x, y), np.float32)) == str(label))
    assert np.mean(right) > 0.97


@pytest.mark.parametrize("box", [(-20, -20, 4, 4), (90, 90, 140, 160), (30, 30, 30.2, 30.2), (0, 0, 100, 100)])
def test_a_box_without_ink_gives_an_empty_image(box: tuple[float, ...]) -> None:
    (digit,) = cut_digits(np.full((100, 100), 200, np.uint8), np.array([box], np.float32))
    assert digit.image.shape == (SIZE, SIZE) and not digit.image.any()
    assert cut_digits(np.zeros((9, 9), np.uint8), np.zeros((0, 4), np.float32)) == []
