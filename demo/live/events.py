"""Events as text for people and as JSON for programs."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

from edge_mnist.demo.live.tracking import Event
from edge_mnist.demo.reading.reader import is_complete


def facts(event: Event) -> dict[str, Any]:
    """An event as JSON takes it; `time` is the wall clock's, in UTC, `source` the image file, where there is one."""
    number = event.number
    return {
        **({"source": event.source} if event.source else {}),
        "event": event.kind,
        "number": number.text,
        "complete": is_complete(number.text),
        "was": event.was,
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


def line(event: Event, as_json: bool) -> str:
    """An event as a line."""
    if as_json:
        return json.dumps(facts(event))
    number = event.number
    where = f"  {event.source}" if event.source else ""
    if event.kind == "gone":
        return f"gone     {number.text}{where}"
    what = number.text if event.was is None else f"{event.was} to {number.text}"
    return f"{event.kind:<8} {what}  ({number.confidence:.0%}){where}"
