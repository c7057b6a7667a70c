"""The demo in a window, by OpenCV's own GUI, and its keys."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import cv2

from edge_mnist.demo.live.loop import FrameResult
from edge_mnist.demo.sources.cameras import Image
from edge_mnist.demo.views.drawing import draw_result
from edge_mnist.system.errors import EdgeMnistError

TITLE = "edge-mnist"
NO_GUI = "this OpenCV has no windows"
BUILD_WITH_GUI = "pip uninstall opencv-python-headless, then pip install opencv-python"
_FONTS = Path("/usr/share/fonts/truetype/dejavu")
KEYS = "q or Esc quits, s snapshot, r record, space pause, m mirror, h shows the keys"


def explain_unavailable() -> str:
    """Why no window can be shown here; empty if one can."""
    gui = re.search(r"^\s*GUI:\s*(\S+)", cv2.getBuildInformation(), re.MULTILINE)
    if gui is None or gui[1] == "NONE":
        return NO_GUI
    if sys.platform != "linux" or os.environ.get("WAYLAND_DISPLAY"):
        return ""
    display = os.environ.get("DISPLAY", "")
    if not display:
        return "there is no display (DISPLAY is not set)"
    # Qt ends the process where the display does not answer, so that is looked at first.
    number = re.fullmatch(r"(?:unix)?:(\d+)(?:\.\d+)?", display)
    if number is None:
        return ""
    for address in (f"/tmp/.X11-unix/X{number[1]}", f"\0/tmp/.X11-unix/X{number[1]}"):
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(address) == 0:
                return ""
    return f"the display {display} does not answer"


class Window:
    """A window that shows moments and takes keys."""

    def __init__(
        self, *, mirror: bool, snapshot: Callable[[Image, FrameResult], None], record: Callable[[], None]
    ) -> None:
        """Open it.

        Args:
            mirror: begin mirrored.
            snapshot: called with the picture and the moment when a snapshot is asked for.
            record: called when recording is to begin or end.

        Raises:
            EdgeMnistError: no window can be shown here.
        """
        if reason := explain_unavailable():
            remedy = f": {BUILD_WITH_GUI}" if reason == NO_GUI else ""
            raise EdgeMnistError(f"--view window: {reason}{remedy}; --view web shows the demo in a browser")
        self._mirror, self._snapshot, self._record = mirror, snapshot, record
        if _FONTS.is_dir():
            os.environ["QT_QPA_FONTDIR"] = str(_FONTS)  # OpenCV names a folder that it does not bring, and Qt complains
        try:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        except cv2.error as error:
            raise EdgeMnistError(f"--view window: OpenCV cannot open one: {error}".replace("\n", " ")) from error
        self._sized = self._helps = False

    def show(self, moment: FrameResult) -> bool:
        """Show a moment and take the keys that were pressed; False if the window is to end."""
        picture = draw_result(moment, mirror=self._mirror)
        if not self._sized:
            cv2.resizeWindow(TITLE, picture.shape[1], picture.shape[0])
            self._sized = True
        self._put(picture)
        paused = False
        while True:
            key = cv2.waitKey(30 if paused else 1) & 0xFF
            if key in (ord("q"), 27) or _is_closed():
                return False
            if key == ord("s"):
                self._snapshot(picture, moment)
            elif key == ord("r"):
                self._record()
            elif key == ord("m"):
                self._mirror = not self._mirror
                picture = draw_result(moment, mirror=self._mirror)
                self._put(picture)
            elif key == ord("h"):
                self._helps = not self._helps
                self._put(picture)
            elif key == ord(" "):
                paused = not paused
            if not paused:
                return True

    def _put(self, picture: Image) -> None:
        """Into the window, with the keys over it if they were asked for."""
        cv2.imshow(TITLE, with_keys(picture) if self._helps else picture)

    def close(self) -> None:
        """Close it."""
        with contextlib.suppress(cv2.error):
            cv2.destroyAllWindows()


def with_keys(picture: Image) -> Image:
    """A copy of a picture, uint8 (H, W, 3) BGR, that names the keys, one a line."""
    shown, unit = picture.copy(), max(picture.shape[:2]) / 640
    texts = KEYS.split(", ")
    height, width = round((26 * len(texts) + 18) * unit), round(230 * unit)
    shown[:height, :width] //= 4
    for line, text in enumerate(texts, 1):
        place, thick = (round(14 * unit), round(26 * line * unit)), max(1, round(unit))
        cv2.putText(shown, text, place, cv2.FONT_HERSHEY_DUPLEX, 0.55 * unit, (255, 255, 255), thick, cv2.LINE_AA)
    return shown


def _is_closed() -> bool:
    """Whether the user closed the window."""
    try:
        return cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1
    except cv2.error:  # with the last window Qt takes everything down
        return True
