"""Lines for stderr about what other machines do: of each kind at most one a minute, so that nobody can fill a disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_PERIOD = 60.0
"""Seconds in which a kind is reported once."""
_LONGEST = 200
"""Characters of a line; the rest may be what a stranger sent."""


class Notices:
    """Writes a line unless one of the same kind was written in the last minute. Any thread may call it."""

    def __init__(self, tell: Callable[[str], None], period: float = _PERIOD) -> None:
        """Write with `tell`, once per kind in `period` seconds."""
        self._tell, self._period = tell, period
        self._written: dict[str, tuple[float, int]] = {}  # of each kind: when, and how many were left out since
        self._lock = threading.Lock()

    def __call__(self, kind: str, text: str) -> None:
        """Write a line.

        Args:
            kind: what is counted together. There must be few kinds: each is remembered for good.
            text: the line. Characters that cannot be printed become spaces, as they could steer a terminal.
        """
        with self._lock:
            now = time.monotonic()
            when, omitted = self._written.get(kind, (-self._period, 0))
            if now - when < self._period:
                self._written[kind] = when, omitted + 1
                return
            self._written[kind] = now, 0
        text = "".join(character if character.isprintable() else " " for character in text[:_LONGEST])
        self._tell(f"{text} ({omitted} more like it since the last such line)" if omitted else text)
