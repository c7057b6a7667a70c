"""Rendered clips of sheets with several numbers, some of which move: the whole of them comes to be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

cv2 = pytest.importorskip("cv2")
pytest.importorskip("ai_edge_litert")

from edge_mnist.data import strokes  # noqa: E402
from edge_mnist.demo.live import models  # noqa: E402
from edge_mnist.demo.live.events import Event  # noqa: E402
from edge_mnist.demo.live.recognition import Recognizer  # noqa: E402
from edge_mnist.demo.sources import scenes  # noqa: E402
from edge_mnist.demo.sources.capture import Frame  # noqa: E402

FPS, SEED = 12, 35
DRAWN = strokes.draw(600, 11)
SPEED = 420.0
"""Pixels a second of a strip that is laid down: 8 heights of its digits."""


@dataclass(frozen=True)
class Strip:
    """A strip of paper with a number.

    Attributes:
        text: what is written on it.
        place: left and top of it, in pixels, when it lies.
        lies: since when it lies there, in seconds; until then it comes from the right.
        leaves: when it is taken away.
    """

    text: str
    place: tuple[int, int]
    lies: float = 0.0
    leaves: float = 99.0


def write(text: str, height: int = 48) -> NDArray[np.uint8]:
    """A strip with a number that was written with one pen, uint8 (H, W)."""
    random = np.random.RandomState([SEED, int(text)])
    ink = np.zeros((2 * height, round((0.95 * len(text) + 1) * height)), np.float32)
    x = height // 2
    for digit in text:
        images = DRAWN.images[int(digit) == DRAWN.labels]
        amounts = images.mean((1, 2))
        usual = images[np.abs(amounts - np.median(amounts)).argsort()[:6]]
        line = scenes._pen(usual[random.randint(len(usual))], height, 0.9)
        y = height // 2 + random.randint(-3, 4)
        part = ink[y : y + line.shape[0], x : x + line.shape[1]]
        np.maximum(part, line[: part.shape[0], : part.shape[1]], out=part)
        x += line.shape[1] + round(0.3 * height)
    return np.rint(225 - 180 * ink[:, : x + height // 4]).astype(np.uint8)


def film(strips: list[Strip], seconds: float, sway: float = 0.0) -> Iterator[Frame]:
    """Films the strips with noise; the picture moves by up to `sway` pixels, as if a hand held the camera."""
    random = np.random.RandomState(0)
    papers = [write(strip.text) for strip in strips]
    for number in range(round(seconds * FPS)):
        now = number / FPS
        frame = np.full((480, 640), 205, np.uint8)
        for strip, paper in zip(strips, papers, strict=True):
            left = strip.place[0] + round(SPEED * max(strip.lies - now, 0.0))
            part = frame[strip.place[1] :, left:][: paper.shape[0], : paper.shape[1]]
            if now < strip.leaves:
                part[:] = paper[: part.shape[0], : part.shape[1]]
        shift = np.array([[1, 0, sway * np.sin(3 * now)], [0, 1, sway * np.cos(4 * now)]], np.float32)
        seen = cv2.warpAffine(frame, shift, (640, 480), borderMode=cv2.BORDER_REPLICATE)
        noisy = seen + random.normal(0, 4, seen.shape)
        yield Frame(number + 1, np.clip(noisy, 0, 255).astype(np.uint8), now)


def watch(frames: Iterator[Frame]) -> tuple[list[Event], list[str]]:
    """What happens to numbers, and those that are there at the end."""
    recognizer, events, numbers = Recognizer(models.load(), None), list[Event](), list[str]()
    for frame in frames:
        result = recognizer.read(frame)
        events += result.events
        numbers = [number.text for number in result.numbers]
    return events, numbers


SHEET = [Strip("3140", (30, 20)), Strip("592", (30, 130)), Strip("65358", (30, 240))]
MOVING = {
    "beside a number": [Strip("27", (380, 130), lies=1.2)],
    "below, while another is taken away": [Strip("27", (30, 350), lies=1.2), Strip("46", (380, 20), leaves=1.0)],
    "two at once": [Strip("803", (380, 240), lies=0.9), Strip("27", (30, 350), lies=1.4)],
}


@pytest.mark.parametrize("sway", [0.0, 6.0], ids=["still", "held by hand"])
@pytest.mark.parametrize("name", MOVING)
def test_each_number_of_a_sheet_is_read_within_a_second_of_lying_still(name: str, sway: float) -> None:
    strips = [*SHEET, *MOVING[name]]
    events, numbers = watch(film(strips, 2.6, sway))
    read = {event.number.text: event.time for event in events if event.kind == "read"}
    assert sorted(read) == sorted(strip.text for strip in strips)
    # One that slows down may already count as still, since no hand is.
    assert all(0.2 < read[strip.text] - strip.lies <= 1.0 for strip in strips)
    assert sorted(numbers) == sorted(strip.text for strip in strips if strip.leaves > 9)
    others = [(event.kind, event.number.text) for event in events if event.kind != "read"]
    assert others == [("gone", strip.text) for strip in strips if strip.leaves < 9]
