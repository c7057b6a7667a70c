"""The loop: the newest frame is read, the numbers in it are followed, and each moment is handed to the views."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from edge_mnist.demo.live.models import Model, Watch
from edge_mnist.demo.live.tracking import HYSTERESIS, Event, Number, Tracker
from edge_mnist.demo.reading.reader import THRESHOLD, Reader, Reading
from edge_mnist.demo.sources.capture import Capture, Frame, State

_PATIENCE = 0.25
"""Seconds without a frame after which the views are told how the source is doing."""
_RATE_FRAMES = 60
"""Frames that the rate is measured over."""


@dataclass(frozen=True)
class Limits:
    """When the loop ends, and how fast it may run.

    Attributes:
        seconds: of the wall clock; None is no limit.
        frames: that are read; None is no limit.
        fps: frames a second that are read at most; None is no limit.
    """

    seconds: float | None = None
    frames: int | None = None
    fps: float | None = None


@dataclass(frozen=True, eq=False)
class FrameResult:
    """A frame and what is known about it.

    Attributes:
        frame: the frame; the last one while the source is lost.
        reading: what it says, as far as it is believed.
        numbers: that stand, also those with a doubtful digit.
        events: what happened to numbers in this frame.
        state: of the source.
        rate: frames read a second.
        milliseconds: per stage, the mean of the last frames.
        model: that read.
        refused: why the model file's present content was not taken up; empty if it was.
        is_new: whether the frame is another than the moment's before.
    """

    frame: Frame
    reading: Reading
    numbers: tuple[Number, ...]
    events: tuple[Event, ...]
    state: State
    rate: float
    milliseconds: dict[str, float]
    model: Model
    is_new: bool
    refused: str = ""


@dataclass(eq=False)
class Rates:
    """How fast frames are read, over the last ones."""

    times: deque[float] = field(default_factory=lambda: deque(maxlen=_RATE_FRAMES))
    milliseconds: dict[str, float] = field(default_factory=dict)

    def add(self, reading: Reading, now: float) -> None:
        """A frame was read."""
        self.times.append(now)
        for stage, value in reading.milliseconds.items():
            self.milliseconds[stage] = self.milliseconds.get(stage, value) * 0.95 + value * 0.05

    def rate(self) -> float:
        """Frames a second; 0 until there are two."""
        span = self.times[-1] - self.times[0] if len(self.times) > 1 else 0.0
        return (len(self.times) - 1) / span if span > 0 else 0.0


def read_live(
    capture: Capture,
    model: Model,
    *,
    threshold: float | None,
    limits: Limits,
    watch: Watch | None = None,
    stop: Sequence[int] = (),
    tell: Callable[[str], None],
) -> Iterator[FrameResult]:
    """Read frames until the source ends, a limit is reached, or `stop` holds something.

    Args:
        capture: gives the frames.
        model: reads them.
        threshold: confidence that a digit needs to be believed; None is the reader's own.
        limits: see there.
        watch: gives another model when there is one.
        stop: signals that came.
        tell: takes a line about the source or the model, for stderr.

    Raises:
        EdgeMnistError: the source cannot be used.
    """
    needed = THRESHOLD if threshold is None else threshold
    reader = _reader(model, needed)
    tracker, rates = Tracker(needed), Rates()
    start, count, trouble = time.monotonic(), 0, ""
    last: FrameResult | None = None
    while not stop:
        if limits.seconds is not None and time.monotonic() - start >= limits.seconds:
            return
        if limits.frames is not None and count >= limits.frames:
            return
        if watch is not None and (fresh := watch.fresh()) is not None:
            model, reader = fresh, _reader(fresh, needed)
            tell(f"the new model is taken up: {model.path}, SHA-256 {model.sha256[:16]}")
        refused = watch.refused if watch is not None else ""
        frame = capture.newest(_PATIENCE)
        if frame is None:
            state = capture.state
            if state.kind == "ended":
                if last is not None and last.numbers:
                    gone = _at(tracker.clear(last.frame.time), last.frame.source)
                    yield replace(last, numbers=(), events=gone, state=state, is_new=False)
                return
            if state.kind == "lost" and not trouble:
                trouble = state.text
                tell(f"{trouble}; trying again")
            if state.kind == "lost" and last is not None:
                gone = tuple(tracker.clear(time.monotonic()))
                last = replace(last, numbers=(), events=gone, state=state, rate=0.0, is_new=False, refused=refused)
                yield last
            continue
        if trouble:
            trouble = ""
            tell("the picture is back")
        begun = time.monotonic()
        ended: tuple[Event, ...] = ()
        if last is not None and frame.source != last.frame.source:  # another picture is nothing that moved
            ended = _at(tracker.clear(frame.time), last.frame.source)
        reading = tracker.separate_doubtful(reader.read(frame.image))
        count += 1
        now = time.monotonic()
        rates.add(reading, now)
        events = ended + _at(tracker.update(reading, frame.time), frame.source)
        last = FrameResult(
            frame,
            reading,
            tracker.numbers,
            events,
            State("live"),
            rates.rate(),
            dict(rates.milliseconds),
            model,
            True,
            refused,
        )
        yield last
        while limits.fps and not stop and (left := begun + 1 / limits.fps - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))


def _at(events: Sequence[Event], source: str) -> tuple[Event, ...]:
    """Events of an image file."""
    return tuple(replace(event, source=source) for event in events)


def _reader(model: Model, threshold: float) -> Reader:
    """A reader that gives faded digits as well: the tracker knows which of them stood."""
    return Reader(model.classifier, threshold=threshold - HYSTERESIS)
