"""The window on a virtual display (Xvfb), with real keys."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from tests.support.demos import Demo, count_frames, demo, wait

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gui(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the build of OpenCV that has windows into a folder; the one for the other tests has none."""
    for program in ("Xvfb", "xdotool"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt install xvfb xdotool")
    folder = tmp_path_factory.mktemp("opencv")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), "opencv-python"]
    if subprocess.run(pip, capture_output=True, check=False).returncode != 0:
        pytest.skip("opencv-python cannot be installed")
    return folder


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """Start a virtual display."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1024x768x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as pipe:
        number = pipe.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait()


@pytest.fixture
def running(gui: Path, display: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Demo]:
    """Start a demo, which chooses the window by itself."""
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    paths = ("--record", tmp_path / "film.mp4", "--snapshot-dir", tmp_path / "snapshots")
    with demo("--camera", "sample", *paths, PYTHONPATH=str(gui)) as running:
        yield running


def window() -> str:
    """Find the number of the window of the demo."""
    search = ["xdotool", "search", "--name", "edge-mnist"]
    return str(wait(lambda: subprocess.run(search, capture_output=True, text=True, check=False).stdout).split()[-1])


def press(key: str) -> None:
    subprocess.run(["xdotool", "key", "--window", window(), key], check=True)


def test_the_keys_of_the_window(running: Demo, tmp_path: Path) -> None:
    wait(lambda: running.output)
    press("s")
    (snapshot,) = wait(lambda: list((tmp_path / "snapshots").glob("*.png")))
    running.wait_for_line(r"snapshot .*png")
    boxed = cv2.imread(str(snapshot.parent / "read" / snapshot.name))
    assert boxed.shape == cv2.imread(str(snapshot)).shape and (boxed != cv2.imread(str(snapshot))).any()
    running.wait_for_line("keys in the window: q or Esc quits, .*, h shows the keys")
    press("h")
    press("r")  # this ends the recording of --record
    running.wait_for_line(r"recorded .*film.mp4")
    assert count_frames(tmp_path / "film.mp4") > 5
    press("r")
    running.wait_for_line(r"recording .*film-2.mp4")
    press("m")
    press("space")
    press("space")
    press("q")
    assert running.wait(20) == 0
    assert count_frames(tmp_path / "film-2.mp4") > 0
    assert all(line.startswith("edge-mnist: ") for line in running.errors), running.errors


def test_closing_the_window_ends_the_demo(running: Demo) -> None:
    wait(lambda: running.output)
    _close(int(window()))
    assert running.wait(20) == 0
    running.wait_for_line(r"frames in")


def test_without_a_display_the_page_is_shown(gui: Path) -> None:
    arguments = ("--camera", "sample", "--port", 0, "--duration", 2)
    with demo(*arguments, PYTHONPATH=str(gui), DISPLAY=":99999", WAYLAND_DISPLAY="") as running:
        assert re.match("http://127.0.0.1", running.url)
        assert running.wait(30) == 0


class _ClientMessage(ctypes.Structure):
    """XClientMessageEvent of Xlib."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("serial", ctypes.c_ulong),
        ("send_event", ctypes.c_int),
        ("display", ctypes.c_void_p),
        ("window", ctypes.c_ulong),
        ("message_type", ctypes.c_ulong),
        ("format", ctypes.c_int),
        ("data", ctypes.c_long * 5),
        ("rest", ctypes.c_long * 24),
    ]


def _close(number: int) -> None:
    """Ask a window to close, as a window manager does when its close button is clicked."""
    xlib = ctypes.CDLL(ctypes.util.find_library("X11"))
    xlib.XOpenDisplay.restype = ctypes.c_void_p
    xlib.XInternAtom.restype = ctypes.c_ulong
    display = ctypes.c_void_p(xlib.XOpenDisplay(None))
    protocols, delete = (xlib.XInternAtom(display, name, 0) for name in (b"WM_PROTOCOLS", b"WM_DELETE_WINDOW"))
    data = (ctypes.c_long * 5)(delete, 0, 0, 0, 0)
    message = _ClientMessage(33, 0, 1, display.value, number, protocols, 32, data)
    xlib.XSendEvent(display, ctypes.c_ulong(number), 0, ctypes.c_long(0), ctypes.byref(message))
    xlib.XSync(display, 0)
    xlib.XCloseDisplay(display)
