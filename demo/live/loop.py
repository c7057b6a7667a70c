"""The live loop: waits for frames, has them read, and follows a source that is lost, comes back or ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edge_mnist.demo.live.models import ModelWatcher, OpenedModel
from edge_mnist.demo.live.recognition import FrameResult, Recognizer
from edge_mnist.demo.sources.capture import Capture

_FRAME_TIMEOUT = 0.25
"""Seconds without a frame after which the state of the source is looked at: often enough for a display of it."""
_SLEEP = 0.1
"""The longest sleep, in seconds, between two looks at `stop` while the loop waits for the time of the next frame."""


@dataclass(frozen=True)
class Limits:
    """When the loop ends, and how fast it may run; None sets no limit.

    Attributes:
        seconds: the longest time that the loop runs.
        frames: the number of frames after which it ends.
        fps: the most frames that are read per second.
    """

    seconds: float | None = None
    frames: int | None = None
    fps: float | None = None


def read_live(
    capture: Capture,
    model: OpenedModel,
    *,
    threshold: float | None,
    limits: Limits,
    watch: ModelWatcher | None = None,
    stop: Sequence[int] = (),
    report: Callable[[str], None],
) -> Iterator[FrameResult]:
    """Read frames until the source ends, a limit is reached, or `stop` is not empty.

    While the source is lost, a result comes about four times a second, with the last frame and the state of the source.

    Args:
        capture: gives the frames.
        model: the network that reads them.
        threshold: the confidence, 0 to 1, that a digit needs; None takes the default of the reader.
        limits: when to end.
        watch: gives another network when the model file was replaced.
        stop: the signals that have been received.
        report: is called with a line about the source or the model, for stderr.

    Raises:
        EdgeMnistError: the source cannot be used.
    """
    recognizer = Recognizer(model, threshold)
    start, count, is_lost = time.monotonic(), 0, False
    while not stop and not _is_reached(limits, time.monotonic() - start, count):
        if watch is not None and (fresh := watch.take_new_model()) is not None:
            recognizer.use(fresh)
            report(f"the new model is in use: {fresh.path}, SHA-256 {fresh.sha256[:16]}")
        refused = watch.refused if watch is not None else ""
        frame = capture.take_newest(_FRAME_TIMEOUT)
        if frame is not None:
            if is_lost:
                is_lost = False
                report("the picture is back")
            begin = time.monotonic()
            yield recognizer.read(frame, refused)
            count += 1
            while limits.fps and not stop and (rest := begin + 1 / limits.fps - time.monotonic()) > 0:
                time.sleep(min(rest, _SLEEP))
            continue
        state = capture.state
        if state.kind == "ended":
            if (result := recognizer.end(state)) is not None:
                yield result
            return
        if state.kind == "lost":
            if not is_lost:
                is_lost = True
                report(f"{state.text}; trying again")
            if (result := recognizer.lose_source(state, refused)) is not None:
                yield result


def _is_reached(limits: Limits, seconds: float, frames: int) -> bool:
    """Check whether the loop has run long enough."""
    return (limits.seconds is not None and seconds >= limits.seconds) or (
        limits.frames is not None and frames >= limits.frames
    )
