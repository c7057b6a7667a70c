"""A thread that takes frames from a source, so that reading never waits for a camera nor a camera for reading.

Of a live source only the newest frame is kept. A source that is lost is opened again, after pauses that grow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edge_mnist.demo.sources.cameras import Image, SourceLost, VideoIncomplete, none_found
from edge_mnist.demo.sources.source import Source
from edge_mnist.system.errors import EdgeMnistError

FREEZE = 2.0
"""Seconds after which a live source that shows the same picture, or none, counts as lost."""
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between attempts to open a lost source again; the last is repeated."""
_OPENING = 15.0
"""Seconds that a camera may take to give its first frame."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame.

    Attributes:
        number: from 1.
        image: uint8 (H, W, 3) BGR, or (H, W).
        time: seconds; of a live source by the monotonic clock, else in its own time, whose second has `rate` frames.
        source: the image file that it shows; empty if it is of no image file.
    """

    number: int
    image: Image
    time: float
    source: str = ""


@dataclass(frozen=True)
class State:
    """How a source is doing.

    Attributes:
        kind: "opening", "live", "lost", "ended".
        text: what is wrong, for people; empty if nothing is.
    """

    kind: Literal["opening", "live", "lost", "ended"]
    text: str = ""


class Capture:
    """The frames of a source, taken by a thread of its own."""

    def __init__(
        self,
        source: Source,
        *,
        paced: bool = True,
        repeat: bool = False,
        freeze: float = FREEZE,
        pauses: Sequence[float] = PAUSES,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """Start to take frames.

        Args:
            source: where they come from.
            paced: give those of a file in the time that they take, dropping what comes too fast; else each of them.
            repeat: begin again at a file's end.
            freeze: see FREEZE.
            pauses: see PAUSES.
            tell: takes a line about each image of a folder that cannot be read, while the others are shown all the
                same, and about a film that ends too early.
        """
        self._source, self._paced, self._repeat = source, paced, repeat
        self._freeze, self._pauses, self._tell = freeze, pauses, tell
        self.skipped: set[str] = set()
        """The images of a folder that could not be read, and the film whose end could not be."""
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._taken = 0  # number of the last frame that was asked for
        self._state = State("opening")
        self._error: EdgeMnistError | None = None
        self._heard = time.monotonic()
        self._stopping = threading.Event()
        self._previous: Image | None = None
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    @property
    def state(self) -> State:
        """How the source is doing; a read that hangs shows too."""
        state, silence = self._state, time.monotonic() - self._heard
        if self._source.is_live and state.kind == "live" and silence > self._freeze:
            return State("lost", f"{self._source.name}: no picture for {silence:.0f} s")
        if self._source.is_live and state.kind == "opening" and silence > _OPENING:
            return State("lost", f"{self._source.name}: opened, but no picture yet")
        return state

    def newest(self, timeout: float) -> Frame | None:
        """The newest frame that was not given yet; None if none comes within `timeout` seconds, or none ever will.

        Raises:
            EdgeMnistError: the source cannot be used.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._fresh() or self._state.kind == "ended", timeout)
            if self._fresh() and self._frame is not None:
                self._taken = self._frame.number
                self._changed.notify_all()
                return self._frame
            if self._error is not None:
                raise self._error
            return None

    def close(self) -> None:
        """Stop; a read that hangs is left behind."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(2.0)

    def _fresh(self) -> bool:
        return self._frame is not None and self._frame.number > self._taken

    def _run(self) -> None:
        attempt = 0
        try:
            while not self._stopping.is_set():
                before = self._frame
                try:
                    self._take()
                    if not self._repeat or self._frame is before:
                        break
                except SourceLost as error:
                    if self._frame is None:  # it never worked: a mistake rather than a mishap
                        raise none_found(self._source.name) if self._source.kind == "v4l2" else error from error
                    attempt = 0 if self._frame is not before else attempt + 1
                    pause = self._pauses[min(attempt, len(self._pauses) - 1)]
                    self._state = State("lost", str(error))
                    self._stopping.wait(pause)
        except EdgeMnistError as error:
            self._error = error
        except Exception as error:  # OpenCV's own, of a damaged file
            self._error = EdgeMnistError(f"{self._source.name}: {error}".replace("\n", " "))
        finally:
            with self._changed:
                self._state = State("ended", str(self._error or ""))
                self._changed.notify_all()

    def _take(self) -> None:
        """Open the source and give its frames to the end.

        Raises:
            SourceLost: it is live and froze or failed.
            EdgeMnistError: nothing of it can be read.
        """
        parts = self._source.parts()
        bad = 0
        for part in parts:
            try:
                self._play(part)
            except SourceLost:
                raise
            except EdgeMnistError as error:
                if not isinstance(error, VideoIncomplete):
                    if len(parts) == 1:
                        raise
                    bad += 1
                if part.name not in self.skipped and self._tell is not None:
                    self._tell(str(error))
                self.skipped.add(part.name)
        if bad == len(parts):
            raise EdgeMnistError(f"{self._source.name}: none of its {bad} images can be read")

    def _play(self, part: Source) -> None:
        """Give the frames of a part of the source to its end."""
        period = 0.0 if part.is_live else 1 / part.rate()
        source = part.name if part.kind == "image" else ""
        start = time.monotonic()
        changed = start
        with closing(part.frames()) as frames:
            for count, image in enumerate(frames):
                if self._stopping.is_set():
                    return
                now = self._heard = time.monotonic()
                if part.is_live:
                    if self._moved(image):
                        changed = now
                        self._give(image, now, source)
                    elif now - changed > self._freeze:
                        raise SourceLost(f"{self._source.name}: the same picture for {self._freeze:g} s: frozen?")
                    continue
                number = self._frame.number if self._frame else 0
                self._give(image, number * period, source)
                if self._paced:
                    self._stopping.wait(max(0.0, start + (count + 1) * period - time.monotonic()))

    def _moved(self, image: Image) -> bool:
        """Whether a picture differs from the one before: of a real camera each does, by its noise."""
        sample = image[::4, ::4].copy()
        same = self._previous is not None and np.array_equal(sample, self._previous)
        self._previous = sample
        return not same

    def _give(self, image: Image, moment: float, source: str) -> None:
        with self._changed:
            if not (self._source.is_live or self._paced):  # every frame is wanted: wait until the last was taken
                self._changed.wait_for(lambda: not self._fresh() or self._stopping.is_set())
            self._frame = Frame((self._frame.number if self._frame else 0) + 1, image, moment, source)
            self._state = State("live")
            self._changed.notify_all()
