"""Runs the demo as a process, makes pictures and videos of numbers for it, and starts a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist.data import strokes
from edge_mnist.demo.views.recording import Recording

FPS = 30


def draw_number(text: str, seed: int = 3) -> NDArray[np.uint8]:
    """Draw a number on paper: uint8 (480, 640, 3), BGR."""
    drawn = strokes.draw(400, seed)
    paper = np.full((480, 640), 220, np.uint8)
    for place, label in enumerate(text):
        image = drawn.images[drawn.labels == int(label)][place]
        ink = cv2.resize(image, (84, 84), interpolation=cv2.INTER_CUBIC)
        part = paper[190:274, 60 + 76 * place :][:, :84]
        part[:] = np.minimum(part, 220 - (ink * 0.75).astype(np.uint8))
    return np.asarray(cv2.cvtColor(paper, cv2.COLOR_GRAY2BGR), np.uint8)


def draw_numbers(left: str, right: str) -> NDArray[np.uint8]:
    """Draw two numbers, of five digits together at most, side by side on one line: uint8 (480, 640, 3), BGR."""
    paper = draw_number(left)
    gap = 76 * (len(left) + 1)
    paper[:, gap:] = np.minimum(paper[:, gap:], draw_number(right)[:, : 640 - gap])
    return paper


def draw_doubtful_number() -> NDArray[np.uint8]:
    """Draw 7385 without the upper half of its 3, which is read as 7?85: uint8 (480, 640, 3), BGR."""
    paper = draw_number("7385")
    paper[190:230, 136:220] = 220
    return paper


def record_video(path: Path, *texts: str, seconds: float = 1.5) -> Path:
    """Record a video of numbers, each for some seconds, with the noise of a camera and the tremor of a hand."""
    random = np.random.Generator(np.random.PCG64(1))
    recording = Recording(path)
    for index, text in enumerate(texts):
        paper = draw_number(text)
        for frame in range(round(seconds * FPS)):
            shift = np.array([[1, 0, 4 * np.sin(frame / 9)], [0, 1, 3 * np.cos(frame / 7)]], np.float32)
            moved = cv2.warpAffine(paper, shift, (640, 480), borderValue=(220, 220, 220)).astype(np.float32)
            noisy = np.clip(moved + random.normal(0, 3, moved.shape), 0, 255).astype(np.uint8)
            recording.add(noisy, index * seconds + frame / FPS)
    recording.close()
    return path


def count_frames(path: Path) -> int:
    """Count the pictures of a video that can be read."""
    capture, count = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), 0
    while capture.read()[0]:
        count += 1
    capture.release()
    return count


def wait(what: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait for the first true value of a function, and return it."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


class Demo:
    """A running demo, and the lines that it has printed."""

    def __init__(self, *arguments: object, **environment: str) -> None:
        command = [sys.executable, "-m", "edge_mnist", "demo", *map(str, arguments)]
        pipe = subprocess.PIPE
        variables = {**os.environ, **environment}
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=variables)
        self.output: list[str] = []
        self.errors: list[str] = []
        self._threads = [
            threading.Thread(target=_collect, args=(self.process.stdout, self.output)),
            threading.Thread(target=_collect, args=(self.process.stderr, self.errors)),
        ]
        for thread in self._threads:
            thread.start()

    def wait_for_line(self, pattern: str, seconds: float = 30.0) -> re.Match[str]:
        """Wait until stderr matches a pattern, and return the match."""
        found: re.Match[str] = wait(
            lambda: re.search(pattern, "".join(self.errors)) or self.process.poll() is not None, seconds
        )
        assert isinstance(found, re.Match), "".join(self.errors)
        return found

    @property
    def url(self) -> str:
        """The address of the page."""
        return self.wait_for_line(r"the demo is at (\S+)")[1]

    def status(self) -> dict[str, Any]:
        """Get the present status from the page."""
        with urllib.request.urlopen(self.url + "events", timeout=20) as answer:
            found: dict[str, Any] = json.loads(answer.readline().removeprefix(b"data: "))
        return found

    def events(self) -> list[dict[str, Any]]:
        """Parse the events that --json has printed."""
        return [json.loads(line) for line in self.output]

    def memory(self) -> int:
        """Measure the private memory of the process in bytes."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return sum(int(kib) << 10 for kib in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE))

    def wait(self, seconds: float = 60.0) -> int:
        """Wait for the end of the process, and return its exit status."""
        status = self.process.wait(seconds)
        for thread in self._threads:
            thread.join()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return status

    @contextmanager
    def ended(self) -> Iterator[Demo]:
        """End the process at the end of the context."""
        try:
            yield self
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self.wait()


def _collect(stream: Any, lines: list[str]) -> None:
    for line in stream:
        lines.append(line)


@contextmanager
def demo(*arguments: object, **environment: str) -> Iterator[Demo]:
    """Run a demo in a context, at whose end it is ended."""
    with Demo(*arguments, **environment).ended() as running:
        yield running


def browser_missing() -> str:
    """Explain why there is no browser for tests; an empty string if there is one."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        return "chromium is not installed: apt install chromium chromium-driver"
    return ""


@contextmanager
def browser(folder: Path, width: int, height: int, *, phone: bool = False) -> Iterator[Any]:
    """Run Chromium without a display."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    for flag in (*flags.split(), "disable-component-update", "disable-sync", f"window-size={width},{height}"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={folder / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if phone:
        metrics = {"width": width, "height": height, "pixelRatio": 2, "touch": True}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()
