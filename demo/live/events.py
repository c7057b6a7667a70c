"""Numbers in front of the camera, the events that happen to them, and events as lines of text and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from edge_mnist.demo.reading.reader import Digit, is_complete

Box = tuple[int, int, int, int]
"""x and y of the left upper corner, width and height, in pixels of the frame."""


@dataclass(frozen=True, eq=False)
class Number:
    """A number that is followed from frame to frame.

    Attributes:
        id: counts from 1; a number keeps it while it is followed.
        text: its digits from left to right, with `?` in the place of each doubtful digit.
        confidence: the mean confidence, 0 to 1, of the digits that are not doubtful.
        box: the box around all its digits.
        digits: the digits that are not doubtful, from the last frame that showed this text.
        unsure: the doubtful digits of the same frame; `place` is the index in the text.
        since: when the number was first seen, in seconds of the frames' clock.
    """

    id: int
    text: str
    confidence: float
    box: Box
    digits: tuple[Digit, ...]
    unsure: tuple[Digit, ...]
    since: float


@dataclass(frozen=True, eq=False)
class Event:
    """Something that happened to a number.

    Attributes:
        kind: "read": there is a new number, without a doubtful digit. "changed": a number has another text than the one
            reported last, without a doubtful digit. "unsure": it has a doubtful digit. "gone": it is no longer there.
        number: the number after the event, or before it if it is gone.
        previous_text: the text of the number before it changed or became unsure; None otherwise.
        time: when it happened, in seconds of the frames' clock.
        source: the image file that shows the number; empty for a camera, a stream, a video or the sample.
    """

    kind: Literal["read", "changed", "unsure", "gone"]
    number: Number
    previous_text: str | None
    time: float
    source: str = ""


def describe_event(event: Event) -> dict[str, Any]:
    """Describe an event as an object for JSON.

    `time` is the present time of day in UTC, `seconds` how long the number has been seen, and `source` the image file,
    which is left out where there is none.
    """
    number = event.number
    return {
        **({"source": event.source} if event.source else {}),
        "event": event.kind,
        "number": number.text,
        "complete": is_complete(number.text),
        "was": event.previous_text,
        "id": number.id,
        "confidence": round(number.confidence, 4),
        "box": list(number.box),
        "unsure": [
            {
                "place": digit.place,
                "label": digit.label,
                "confidence": round(digit.confidence, 4),
                "box": list(digit.box),
            }
            for digit in number.unsure
        ],
        "seconds": round(event.time - number.since, 3),
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


def format_event(event: Event, as_json: bool) -> str:
    """Format an event as one line, of text or of JSON."""
    if as_json:
        return json.dumps(describe_event(event))
    number, suffix = event.number, f"  {event.source}" if event.source else ""
    if event.kind == "gone":
        return f"gone     {number.text}{suffix}"
    text = number.text if event.previous_text is None else f"{event.previous_text} to {number.text}"
    return f"{event.kind:<8} {text}  ({number.confidence:.0%}){suffix}"
