"""Makes the pictures of the demo in docs/: the page in a browser, and a moving picture of a few seconds.

    python benchmarks/demo_pictures.py docs

It needs chromium, chromedriver and selenium, and a machine without other work, because the page shows its speed.
"""

from __future__ import annotations

import io
import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service

from edge_mnist.demo.live import models
from edge_mnist.demo.live.tracking import HYSTERESIS, Tracker
from edge_mnist.demo.reading.reader import THRESHOLD, Reader
from edge_mnist.demo.sources import scenes
from edge_mnist.demo.views import drawing

SCENE, PHOTOGRAPH = 4, 11
WIDTH = 1240
THREE = (-55, -75), (28, -22), (34, 0), (26, 22), (4, 30), (-26, 26), (-20, 8), (24, 10), (20, 30), (-8, 34), (-30, 20)
SECONDS, EVERY, FPS = 10, 4, 30


def take_page_picture(folder: Path) -> None:
    """Take the picture of the page with a scene, a drawn digit and a photograph."""
    command = [
        sys.executable,
        "-m",
        "edge_mnist",
        "demo",
        "--camera",
        f"sample:{SCENE}",
        "--view",
        "web",
        "--port",
        "0",
    ]
    demo = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    with tempfile.TemporaryDirectory() as scratch:
        for flag in ("headless", "no-sandbox", "disable-gpu", "hide-scrollbars", f"window-size={WIDTH},900"):
            options.add_argument(f"--{flag}")
        options.add_argument(f"--user-data-dir={scratch}/profile")
        photograph = next(itertools.islice(scenes.sample_frames(PHOTOGRAPH), 20, None))[120:380]
        cv2.imwrite(f"{scratch}/photograph.png", photograph)
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            line = (demo.stderr or io.StringIO()).readline()
            driver.get(line.split()[-1])  # edge-mnist: the demo is at http://...
            _use(driver, f"{scratch}/photograph.png")
            size = {"width": WIDTH, "height": driver.execute_script("return document.documentElement.scrollHeight")}
            driver.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride", {**size, "deviceScaleFactor": 1, "mobile": False}
            )
            time.sleep(1)
            shot = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
            shot.quantize(200, dither=Image.Dither.NONE).save(folder / "demo.png", optimize=True)
        finally:
            driver.quit()
            demo.terminate()
            demo.communicate()


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


def make_moving_picture(folder: Path) -> None:
    """Make the moving picture of the reader at work."""
    reader = Reader(models.load().classifier, threshold=THRESHOLD - HYSTERESIS)
    tracker, pictures = Tracker(THRESHOLD), []
    for index, frame in enumerate(itertools.islice(scenes.sample_frames(SCENE), SECONDS * FPS)):
        reading = tracker.separate_doubtful(reader.read(frame))
        tracker.update(reading, index / FPS)
        if index % EVERY == 0:
            picture = drawing.draw_digits(frame, reading.digits, reading.unsure)
            picture[-44:] //= 4
            text = "   ".join(number.text for number in tracker.numbers)
            place, colour = (14, picture.shape[0] - 12), (150, 230, 110)
            cv2.putText(picture, text, place, cv2.FONT_HERSHEY_DUPLEX, 1.0, colour, 2, cv2.LINE_AA)
            small = cv2.resize(picture, (480, 360), interpolation=cv2.INTER_AREA)
            pictures.append(Image.fromarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB)))
    first, *others = pictures
    options = {"append_images": others, "duration": 1000 * EVERY // FPS, "loop": 0, "quality": 45, "method": 6}
    first.save(folder / "demo.webp", save_all=True, **options)


if __name__ == "__main__":
    take_page_picture(Path(sys.argv[1]))
    make_moving_picture(Path(sys.argv[1]))
