"""Reads frames with a network and follows the numbers in them; gives what the views show of each frame."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge_mnist.demo.live.events import Event, Number
from edge_mnist.demo.live.models import OpenedModel
from edge_mnist.demo.live.tracking import HYSTERESIS, Tracker
from edge_mnist.demo.reading.reader import THRESHOLD, Reader, ReaderParameters, Reading
from edge_mnist.demo.sources.capture import Frame, SourceState

PARAMETERS = ReaderParameters(looks=1, step=1.0, film=True)
"""The finder's network runs once for each frame: in turn on the coarse scales and on the tile where small digits are
most likely. A frame whose lines slant is also read turned, both ways up, with up to four more runs. So the time of a
frame is bounded."""
_RATE_FRAMES = 60
"""How many of the last frames the rate is measured over: two seconds of a usual camera."""
_NEWEST_WEIGHT = 0.05
"""The weight of the newest frame in the moving averages of the milliseconds: they follow a change within a second."""


@dataclass(frozen=True, eq=False)
class FrameResult:
    """A frame, what was read in it, and the state of the source.

    Attributes:
        frame: the newest frame; while the source is lost, the last one that came.
        reading: what was read in the frame.
        numbers: the numbers that are steady and still there, also those with a doubtful digit, from top to bottom.
        events: what happened to numbers since the result before.
        state: the state of the source.
        rate: frames that are read per second.
        milliseconds: the time that a frame takes, by stage and in "total", as moving averages.
        model: the network that reads.
        is_new: whether the frame is another one than that of the result before.
        refused: why the present content of the model file was refused; empty if it is in use.
    """

    frame: Frame
    reading: Reading
    numbers: tuple[Number, ...]
    events: tuple[Event, ...]
    state: SourceState
    rate: float
    milliseconds: dict[str, float]
    model: OpenedModel
    is_new: bool
    refused: str = ""


class Recognizer:
    """Reads one frame after the other, and follows the numbers from frame to frame."""

    def __init__(self, model: OpenedModel, threshold: float | None) -> None:
        """Begin without a frame.

        Args:
            model: the network that reads.
            threshold: the confidence, 0 to 1, that a digit needs; None takes the default of the reader.
        """
        self._threshold = THRESHOLD if threshold is None else threshold
        self._tracker, self._speed = Tracker(self._threshold), _Speed()
        self._last: FrameResult | None = None
        self.use(model)

    def use(self, model: OpenedModel) -> None:
        """Read with another network from the next frame on."""
        self._model = model
        # The reader also gives digits a little below the threshold; the tracker decides which of them are kept.
        threshold = self._threshold - HYSTERESIS
        self._reader = Reader(model.classifier, threshold=threshold, parameters=PARAMETERS)

    def read(self, frame: Frame, refused: str = "") -> FrameResult:
        """Read a frame; `refused` is passed on in the result."""
        gone: list[Event] = []
        if self._last is not None and frame.source != self._last.frame.source:
            # Numbers do not move from one image file to the next.
            self._reader.finder.forget()
            gone = _add_source(self._tracker.clear(frame.time), self._last.frame.source)
        reading = self._tracker.separate_doubtful(self._reader.read(frame.image))
        self._speed.add(reading, time.monotonic())
        events = _add_source(self._tracker.update(reading, frame.time), frame.source)
        self._last = FrameResult(
            frame=frame,
            reading=reading,
            numbers=self._tracker.numbers,
            events=(*gone, *events),
            state=SourceState("live"),
            rate=self._speed.measure_rate(),
            milliseconds=dict(self._speed.milliseconds),
            model=self._model,
            is_new=True,
            refused=refused,
        )
        return self._last

    def lose_source(self, state: SourceState, refused: str = "") -> FrameResult | None:
        """Forget all numbers as the source is lost; None if there never was a frame."""
        if self._last is None:
            return None
        events = tuple(self._tracker.clear(time.monotonic()))
        self._last = replace(
            self._last, numbers=(), events=events, state=state, rate=0.0, is_new=False, refused=refused
        )
        return self._last

    def end(self, state: SourceState) -> FrameResult | None:
        """Forget all numbers because the source has ended; return None if no number was followed."""
        last = self._last
        if last is None or not last.numbers:
            return None
        events = tuple(_add_source(self._tracker.clear(last.frame.time), last.frame.source))
        return replace(last, numbers=(), events=events, state=state, is_new=False)


class _Speed:
    """Measures how fast frames are read."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=_RATE_FRAMES)
        self.milliseconds: dict[str, float] = {}

    def add(self, reading: Reading, now: float) -> None:
        """Take in a frame that was read at a time in seconds."""
        self._times.append(now)
        for stage, value in reading.milliseconds.items():
            average = self.milliseconds.get(stage, value)
            self.milliseconds[stage] = average * (1 - _NEWEST_WEIGHT) + value * _NEWEST_WEIGHT

    def measure_rate(self) -> float:
        """Compute the frames per second over the last frames; 0 until there are two."""
        span = self._times[-1] - self._times[0] if len(self._times) > 1 else 0.0
        return (len(self._times) - 1) / span if span > 0 else 0.0


def _add_source(events: Sequence[Event], source: str) -> list[Event]:
    """Name the image file that events belong to."""
    return [replace(event, source=source) for event in events]
