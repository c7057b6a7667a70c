"""Damaged image files, made with a fixed seed: each is read or refused, nothing else happens."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_mnist.demo.reading import reader
from edge_mnist.demo.sources import images
from edge_mnist.system.errors import EdgeMnistError
from tests.demo.test_images import SAME, Image, encode

_SMALL = Image.fromarray(np.random.RandomState(1).randint(0, 256, (12, 16, 4)).astype(np.uint8))
_OPAQUE = _SMALL.convert("RGB")
FILES = [
    *SAME.values(),
    encode(_SMALL, "PNG"),
    encode(_SMALL, "WEBP"),
    encode(_SMALL, "TIFF", compression="tiff_lzw"),
    encode(_OPAQUE, "TIFF", compression="jpeg"),
    encode(_OPAQUE, "TIFF", big_tiff=True),
    encode(_OPAQUE.convert("1"), "TIFF", compression="group4"),
    encode(_OPAQUE, "GIF", save_all=True, append_images=[_OPAQUE.rotate(180)]),
    encode(_OPAQUE.convert("1"), "PPM"),
    cv2.imencode(".png", np.arange(16 * 12 * 3, dtype=np.uint16).reshape(12, 16, 3) * 99)[1].tobytes(),
    cv2.imencode(".tiff", np.arange(16 * 12 * 3, dtype=np.uint16).reshape(12, 16, 3) * 99)[1].tobytes(),
]
"""Small ones of every format that is opened, and of every way to store it for which decoders have other code."""


def mutate(random: np.random.RandomState, data: bytes) -> bytes:
    """A file with some bytes changed, most of them near the beginning, where sizes are; some are cut."""
    changed = np.frombuffer(data, np.uint8).copy()
    for _ in range(random.randint(1, 12)):
        end = len(changed) if random.random_sample() < 0.5 else min(64, len(changed))
        changed[random.randint(end)] = random.choice([0, 127, 128, 255, random.randint(256)])
    if random.random_sample() < 0.2:
        changed = changed[: random.randint(1, len(changed))]
    return changed.tobytes()


def read_mutants(count: int, seed: int) -> tuple[int, float]:
    """Decode and read so many damaged files.

    Returns:
        How many could be read, and the seconds that the slowest one took.
    """
    random = np.random.RandomState(seed)
    machine = reader.Reader()
    could, slowest = 0, 0.0
    for number in range(count):
        start = time.perf_counter()
        try:
            machine.read(images.decode(mutate(random, FILES[number % len(FILES)]), "mutant"))
            could += 1
        except EdgeMnistError as error:
            assert str(error).startswith("mutant: ") and "\n" not in str(error)
        slowest = max(slowest, time.perf_counter() - start)
    return could, slowest


def test_damaged_files_are_read_or_refused(capfd: pytest.CaptureFixture[str]) -> None:
    could, slowest = read_mutants(300, 7)
    assert 30 < could < 270  # else they are damaged too little, or too much
    assert slowest < 5
    assert capfd.readouterr() == ("", "")


def resident() -> int:
    """The process's memory, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory is read in /proc")
def test_many_damaged_files_leave_no_memory_behind() -> None:
    read_mutants(300, 8)
    before = resident()
    _, slowest = read_mutants(1_500, 9)
    assert slowest < 5
    assert resident() - before < 40e6
