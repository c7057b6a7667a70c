"""Makes the pictures of the demo in docs/: the page in a browser, and a moving picture of a few seconds.

    python benchmarks/demo_pictures.py docs

It needs chromium, chromedriver and selenium, MNIST, and a machine without other work, because the page shows its speed.
"""

from __future__ import annotations

import io
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import run_command
from benchmarks.evidence import ROOT, save_picture
from edge_mnist.data import mnist
from edge_mnist.data.mnist import Digits
from edge_mnist.demo.sources import scenes, surroundings

SCENE, PHOTOGRAPH = 4, 11
WIDTH = 1240
THREE = (-55, -75), (28, -22), (34, 0), (26, 22), (4, 30), (-26, 26), (-20, 8), (24, 10), (20, 30), (-8, 34), (-30, 20)
FPS, A_SECOND = 30, 10
"""Frames a second of the film that is read, and of the moving picture."""
SEEDS = (1, 3)
"""The pages of the moving picture."""
A_DIGIT, HELD = 0.45, 1.6
"""Seconds that writing a digit takes, and for which a number stays when it is written."""
SHOWN = 640
"""The height of the part of the page that the moving picture shows, in pixels."""
WRITING = scenes.Style(
    height=(80, 105),
    lines=(1, 1),
    gap=(0.2, 0.4),
    pen=(0.8, 1.1),
    ground=surroundings.ruled,
    size=(640, 430),
    seen=(surroundings.on_desk, surroundings.light, surroundings.shadow),
)


@contextmanager
def open_page(camera: str, folder: str) -> Iterator[Any]:
    """Start the demo in a folder with a camera, and open its page in a browser, which is given."""
    command = [sys.executable, "-m", "edge_mnist", "demo", "--camera", camera, "--view", "web", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    demo = subprocess.Popen(command, cwd=folder, env=environment, **pipes)
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    with tempfile.TemporaryDirectory() as scratch:
        for flag in ("headless", "no-sandbox", "disable-gpu", "hide-scrollbars", f"window-size={WIDTH},900"):
            options.add_argument(f"--{flag}")
        options.add_argument(f"--user-data-dir={scratch}/profile")
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            line = next(
                line for line in demo.stderr or () if "http://" in line
            )  # edge-mnist: the demo is at http://...
            driver.get(line.split()[-1])
            yield driver
        finally:
            driver.quit()
            demo.terminate()
            demo.communicate()


def take_page_picture(folder: Path) -> None:
    """Take the picture of the page with a scene, a drawn digit and a photograph."""
    with tempfile.TemporaryDirectory() as scratch, open_page(f"sample:{SCENE}", scratch) as driver:
        photograph = next(itertools.islice(scenes.sample_frames(PHOTOGRAPH), 20, None))[120:380]
        cv2.imwrite(f"{scratch}/photograph.png", photograph)
        _use(driver, f"{scratch}/photograph.png")
        size = {"width": WIDTH, "height": driver.execute_script("return document.documentElement.scrollHeight")}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**size, "deviceScaleFactor": 1, "mobile": False})
        time.sleep(1)
        shot = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    save_picture(shot.quantize(200, dither=Image.Dither.NONE), folder / "demo.png", optimize=True)


def _use(driver: Any, photograph: str) -> None:
    """Draw a digit, upload a photograph, and wait until a number is shown."""
    time.sleep(2)
    pad = driver.find_element("id", "pad")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", pad)
    actions = ActionChains(driver, duration=20).move_to_element_with_offset(pad, *THREE[0]).click_and_hold()
    for step in (*THREE[1:], (-36, 2), (-26, -18)):
        actions = actions.move_by_offset(*step)
    actions.release().perform()
    driver.find_element("id", "file").send_keys(photograph)
    time.sleep(6)
    driver.execute_script("scrollTo(0, 0)")
    for is_shown in (True, False):  # so that the picture shows a number that was read just now
        while bool(driver.find_element("id", "number").text) == is_shown:
            time.sleep(0.1)


def draw_writing(seed: int, digits: Digits) -> Iterator[NDArray[np.uint8]]:
    """Draw the frames, uint8 (480, 640, 3), of a hand-held camera above a page on which a number is being written.

    The scene is rendered twice, with ink and without; digit after digit appears from the left to the right.
    """
    bare = replace(WRITING, ink=(0.0, 0.0))  # as many random numbers are drawn, so that all else is the same
    scene = scenes.render(np.random.RandomState(seed), digits, WRITING)
    paper = scenes.render(np.random.RandomState(seed), digits, bare).frame.astype(np.float32)
    ink = scene.frame.astype(np.float32)
    height, width = paper.shape[:2]
    columns = np.arange(width, dtype=np.float32)
    random, written = np.random.RandomState(seed), np.zeros((height, width), np.float32)
    for moment in range(round((1 + len(scene.digits) * A_DIGIT + HELD) * FPS)):
        index = int(moment / FPS / A_DIGIT - 1)
        for number, (_, corners) in enumerate(scene.digits):
            left, top = corners.min(axis=0) - 6
            right, bottom = corners.max(axis=0) + 6
            part = 1.5 * (moment / FPS - 1 - number * A_DIGIT) / A_DIGIT  # a third of the time the pen moves on
            edge = left + min(max(part, 0.0), 1.0) * (right - left)
            if number <= index + 1:
                rows = slice(max(int(top), 0), int(bottom))
                reached = (columns >= left) & (columns < edge)
                written[rows][:, reached] = 1.0
        frame = paper + (ink - paper) * written[..., None]
        sway = np.array([np.sin(moment / 19), np.sin(moment / 13 + 1)])
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), 0.6 * sway[0], max(640 / width, 480 / height) * 1.06)
        turn[:, 2] += (320 - width / 2, 240 - height / 2) + 3 * sway
        seen = cv2.warpAffine(frame, turn, (640, 480), flags=cv2.INTER_AREA)
        yield np.clip(seen + random.randint(-4, 5, seen.shape), 0, 255).astype(np.uint8)


def make_moving_picture(folder: Path) -> None:
    """Make the moving picture: the page of the demo, while numbers are written before its camera."""
    digits = mnist.load("test", None)
    with tempfile.TemporaryDirectory() as scratch:
        film = cv2.VideoWriter(f"{scratch}/desk.mp4", cv2.VideoWriter.fourcc(*"mp4v"), FPS, (640, 480))
        frames = 0
        for seed in SEEDS:
            for frame in draw_writing(seed, digits):
                film.write(frame)
                frames += 1
        film.release()
        with open_page("desk.mp4", scratch) as driver:
            driver.execute_script("document.querySelector('header').style.display = 'none'")
            time.sleep(1)
            shots, times, start = [], [], time.monotonic()
            while time.monotonic() - start < frames / FPS:
                times.append(time.monotonic())
                shots.append(driver.get_screenshot_as_png())
                time.sleep(max(0.0, times[-1] + 1 / A_SECOND - time.monotonic()))
        times.append(time.monotonic())
    pictures = [Image.open(io.BytesIO(shot)).convert("RGB").crop((0, 0, WIDTH, SHOWN)) for shot in shots]
    small = [picture.resize((WIDTH * 2 // 3, SHOWN * 2 // 3), Image.Resampling.LANCZOS) for picture in pictures]
    lasts = [round(1000 * (after - before)) for before, after in itertools.pairwise(times)]
    options = {"append_images": small[1:], "duration": lasts, "loop": 0, "quality": 45, "method": 6}
    save_picture(small[0], folder / "demo.webp", save_all=True, **options)


def main(folder: str) -> None:
    """Make both pictures."""
    take_page_picture(Path(folder))
    make_moving_picture(Path(folder))


if __name__ == "__main__":
    run_command(lambda: main(*sys.argv[1:]))
