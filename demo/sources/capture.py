"""A thread that takes frames from a source, so that the reader never waits for a camera, nor a camera for the reader.

Of a live source only the newest frame is kept. A source that is lost is opened again after pauses that grow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edge_mnist.demo.sources.cameras import Image, SourceLost, VideoIncomplete, no_camera_error
from edge_mnist.demo.sources.source import Source
from edge_mnist.system.errors import EdgeMnistError

FREEZE_SECONDS = 2.0
"""Seconds without a picture, or with the same picture, after which a live source counts as lost."""
RETRY_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between the attempts to open a lost source again; the last one is repeated."""
_OPENING_SECONDS = 15.0
"""Seconds that a camera may take to give its first frame."""
_CLOSING_SECONDS = 2.0
"""Seconds that `close` waits for the thread, which may hang in a camera's driver."""
_SAMPLED = 4
"""To find out whether a picture has changed, each fourth pixel of each fourth row is compared."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of a source.

    Attributes:
        number: counts from 1.
        image: uint8 (H, W, 3) BGR, or (H, W) grey.
        time: seconds; of a live source on the monotonic clock, otherwise on the clock of the source, by its frame rate.
        source: the image file that the frame shows; empty if it does not come from an image file.
    """

    number: int
    image: Image
    time: float
    source: str = ""


@dataclass(frozen=True)
class SourceState:
    """The state of a source.

    Attributes:
        kind: "opening", "live", "lost" or "ended".
        text: what is wrong, for people; empty if nothing is.
    """

    kind: Literal["opening", "live", "lost", "ended"]
    text: str = ""


class Capture:
    """The frames of a source, taken by a thread.

    Attributes:
        skipped: the image files of a folder that could not be read, and a video that could not be read to its end.
    """

    def __init__(
        self,
        source: Source,
        *,
        paced: bool = True,
        repeat: bool = False,
        freeze: float = FREEZE_SECONDS,
        pauses: Sequence[float] = RETRY_PAUSES,
        report: Callable[[str], None] | None = None,
    ) -> None:
        """Start to take frames.

        Args:
            source: gives the frames.
            paced: play a file at its frame rate and drop the frames for which the reader is too slow; otherwise wait
                until each frame is taken.
            repeat: start again at the end of a file.
            freeze: see `FREEZE_SECONDS`.
            pauses: see `RETRY_PAUSES`.
            report: is called with a line about each image of a folder that cannot be read, and about a video that ends
                too early; the others are shown all the same.
        """
        self._source, self._paced, self._repeat = source, paced, repeat
        self._freeze, self._pauses, self._report = freeze, pauses, report
        self.skipped: set[str] = set()
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._taken = 0  # the number of the last frame that was taken
        self._state = SourceState("opening")
        self._error: EdgeMnistError | None = None
        self._last_arrival = time.monotonic()
        self._stopping = threading.Event()
        self._previous_pixels: Image | None = None
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    @property
    def state(self) -> SourceState:
        """The state of the source, which is lost as well while reading from it hangs."""
        state, silence = self._state, time.monotonic() - self._last_arrival
        if self._source.is_live and state.kind == "live" and silence > self._freeze:
            return SourceState("lost", f"{self._source.name}: no picture for {silence:.0f} s")
        if self._source.is_live and state.kind == "opening" and silence > _OPENING_SECONDS:
            return SourceState("lost", f"{self._source.name}: opened, but no picture yet")
        return state

    def take_newest(self, timeout: float) -> Frame | None:
        """Take the newest frame, each one only once.

        Args:
            timeout: seconds to wait for it.

        Returns:
            The frame; None if none came in time, or the source has ended.

        Raises:
            EdgeMnistError: the source cannot be used.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._has_new_frame() or self._state.kind == "ended", timeout)
            if self._has_new_frame() and self._frame is not None:
                self._taken = self._frame.number
                self._changed.notify_all()
                return self._frame
            if self._error is not None:
                raise self._error
            return None

    def close(self) -> None:
        """Stop the thread; one that hangs in a driver is left behind."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(_CLOSING_SECONDS)

    def _has_new_frame(self) -> bool:
        return self._frame is not None and self._frame.number > self._taken

    def _run(self) -> None:
        """Open the source again and again until it ends for good."""
        attempt = 0
        try:
            while not self._stopping.is_set():
                before = self._frame
                try:
                    self._play_source()
                    if not self._repeat or self._frame is before:
                        break
                except SourceLost as error:
                    if self._frame is None:  # no frame has come: its name is probably wrong
                        raise no_camera_error(self._source.name) if self._source.kind == "v4l2" else error from error
                    attempt = 0 if self._frame is not before else attempt + 1
                    self._state = SourceState("lost", str(error))
                    self._stopping.wait(self._pauses[min(attempt, len(self._pauses) - 1)])
        except EdgeMnistError as error:
            self._error = error
        except Exception as error:  # OpenCV raises errors of its own for damaged files
            self._error = EdgeMnistError(f"{self._source.name}: {error}".replace("\n", " "))
        finally:
            with self._changed:
                self._state = SourceState("ended", str(self._error or ""))
                self._changed.notify_all()

    def _play_source(self) -> None:
        """Open the source and give its frames until it ends.

        Raises:
            SourceLost: a live source froze or failed.
            EdgeMnistError: nothing of the source can be read.
        """
        parts = self._source.list_parts()
        unreadable = 0
        for part in parts:
            try:
                self._play(part)
            except SourceLost:
                raise
            except EdgeMnistError as error:
                if not isinstance(error, VideoIncomplete):
                    if len(parts) == 1:
                        raise
                    unreadable += 1
                if part.name not in self.skipped and self._report is not None:
                    self._report(str(error))
                self.skipped.add(part.name)
        if unreadable == len(parts):
            raise EdgeMnistError(f"{self._source.name}: none of its {unreadable} images can be read")

    def _play(self, part: Source) -> None:
        """Give the frames of a part of the source until it ends."""
        period = 0.0 if part.is_live else 1 / part.find_rate()
        image_file = part.name if part.kind == "image" else ""
        start = last_change = time.monotonic()
        with closing(part.open_frames()) as frames:
            for count, image in enumerate(frames, 1):
                if self._stopping.is_set():
                    return
                now = self._last_arrival = time.monotonic()
                if not part.is_live:
                    number = self._frame.number if self._frame else 0
                    self._give(image, number * period, image_file)
                    if self._paced:
                        self._stopping.wait(max(0.0, start + count * period - time.monotonic()))
                elif self._has_changed(image):
                    last_change = now
                    self._give(image, now, image_file)
                elif now - last_change > self._freeze:
                    raise SourceLost(f"{self._source.name}: the same picture for {self._freeze:g} s: frozen?")

    def _has_changed(self, image: Image) -> bool:
        """Check whether a picture differs from the one before, as any two of a real camera do by their noise."""
        pixels = image[::_SAMPLED, ::_SAMPLED].copy()
        is_same = self._previous_pixels is not None and np.array_equal(pixels, self._previous_pixels)
        self._previous_pixels = pixels
        return not is_same

    def _give(self, image: Image, seconds: float, image_file: str) -> None:
        """Make an image the newest frame; where each frame is wanted, wait first until the last one was taken."""
        with self._changed:
            if not (self._source.is_live or self._paced):
                self._changed.wait_for(lambda: not self._has_new_frame() or self._stopping.is_set())
            self._frame = Frame((self._frame.number if self._frame else 0) + 1, image, seconds, image_file)
            self._state = SourceState("live")
            self._changed.notify_all()
