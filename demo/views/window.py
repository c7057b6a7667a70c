"""The demo in a window of OpenCV, and its keys."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import cv2

from edge_mnist.demo.live.recognition import FrameResult
from edge_mnist.demo.sources.cameras import Image
from edge_mnist.demo.views.drawing import draw_result
from edge_mnist.system.errors import EdgeMnistError

TITLE = "edge-mnist"
NO_GUI = "this OpenCV has no windows"
BUILD_WITH_GUI = "pip uninstall opencv-python-headless, then pip install opencv-python"
KEYS = "q or Esc quits, s snapshot, r record, space pause, m mirror, h shows the keys"
_ESCAPE = 27
_PAUSED_MILLISECONDS, _LIVE_MILLISECONDS = 30, 1
"""Milliseconds that the window waits for a key, while it is paused and between two frames."""
_FONTS = Path("/usr/share/fonts/truetype/dejavu")
"""The fonts that Qt uses on Debian. OpenCV's build of Qt looks in a folder that it lacks, and prints a warning."""


def explain_unavailable() -> str:
    """Explain why no window can be opened here; an empty string if one can."""
    gui = re.search(r"^\s*GUI:\s*(\S+)", cv2.getBuildInformation(), re.MULTILINE)
    if gui is None or gui[1] == "NONE":
        return NO_GUI
    if sys.platform != "linux" or os.environ.get("WAYLAND_DISPLAY"):
        return ""
    display = os.environ.get("DISPLAY", "")
    if not display:
        return "there is no display (DISPLAY is not set)"
    # Qt ends the whole process if the display does not answer, so that it must be asked first.
    number = re.fullmatch(r"(?:unix)?:(\d+)(?:\.\d+)?", display)
    if number is None:
        return ""
    for address in (f"/tmp/.X11-unix/X{number[1]}", f"\0/tmp/.X11-unix/X{number[1]}"):
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(address) == 0:
                return ""
    return f"the display {display} does not answer"


class WindowView:
    """A window that shows results and takes keys."""

    def __init__(
        self, *, mirror: bool, snapshot: Callable[[Image, FrameResult], None], record: Callable[[], None]
    ) -> None:
        """Open the window.

        Args:
            mirror: begin with left and right exchanged.
            snapshot: is called with the picture and the result when a snapshot is asked for.
            record: is called when a recording is to begin or end.

        Raises:
            EdgeMnistError: no window can be opened here.
        """
        if reason := explain_unavailable():
            remedy = f": {BUILD_WITH_GUI}" if reason == NO_GUI else ""
            raise EdgeMnistError(f"--view window: {reason}{remedy}; --view web shows the demo in a browser")
        self._mirror, self._snapshot, self._record = mirror, snapshot, record
        self._has_size = self._shows_keys = False
        if _FONTS.is_dir():
            os.environ["QT_QPA_FONTDIR"] = str(_FONTS)
        try:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        except cv2.error as error:
            raise EdgeMnistError(f"--view window: OpenCV cannot open one: {error}".replace("\n", " ")) from error

    def show(self, result: FrameResult) -> bool:
        """Show a result and act on the keys that were pressed; return False if the user wants to quit."""
        picture = draw_result(result, mirror=self._mirror)
        if not self._has_size:
            cv2.resizeWindow(TITLE, picture.shape[1], picture.shape[0])
            self._has_size = True
        self._display(picture)
        is_paused = False
        while True:
            key = cv2.waitKey(_PAUSED_MILLISECONDS if is_paused else _LIVE_MILLISECONDS) & 0xFF
            if key in (ord("q"), _ESCAPE) or _is_closed():
                return False
            if key == ord("s"):
                self._snapshot(picture, result)
            elif key == ord("r"):
                self._record()
            elif key == ord("m"):
                self._mirror = not self._mirror
                picture = draw_result(result, mirror=self._mirror)
                self._display(picture)
            elif key == ord("h"):
                self._shows_keys = not self._shows_keys
                self._display(picture)
            elif key == ord(" "):
                is_paused = not is_paused
            if not is_paused:
                return True

    def close(self) -> None:
        """Close the window."""
        with contextlib.suppress(cv2.error):
            cv2.destroyAllWindows()

    def _display(self, picture: Image) -> None:
        """Put a picture into the window, with the keys over it if they were asked for."""
        cv2.imshow(TITLE, _draw_keys(picture) if self._shows_keys else picture)


def _draw_keys(picture: Image) -> Image:
    """Copy a picture, uint8 (H, W, 3) BGR, and write the keys on it, one per line."""
    result, unit = picture.copy(), max(picture.shape[:2]) / 640  # sizes are meant for a picture of 640 pixels
    texts = KEYS.split(", ")
    height, width = round((26 * len(texts) + 18) * unit), round(230 * unit)
    result[:height, :width] //= 4
    for line, text in enumerate(texts, 1):
        place, thickness = (round(14 * unit), round(26 * line * unit)), max(1, round(unit))
        cv2.putText(result, text, place, cv2.FONT_HERSHEY_DUPLEX, 0.55 * unit, (255, 255, 255), thickness, cv2.LINE_AA)
    return result


def _is_closed() -> bool:
    """Check whether the user has closed the window."""
    try:
        return cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1
    except cv2.error:  # Qt removes everything together with the last window
        return True
