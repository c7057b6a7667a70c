"""Reports what other machines do on stderr, each kind once a minute at most, so that nobody can fill a disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_PERIOD = 60.0
"""Seconds in which a kind is reported once."""
_MAX_LENGTH = 200
"""Characters of a line; the rest is cut off, as another machine may have sent it."""


class Notices:
    """Reports a line unless one of the same kind was reported in the last minute. Any thread may use it."""

    def __init__(self, report: Callable[[str], None]) -> None:
        """Report with a function."""
        self._report = report
        self._reported: dict[str, tuple[float, int]] = {}  # by kind: the time, and how many were left out since then
        self._lock = threading.Lock()

    def add(self, kind: str, text: str) -> None:
        """Report a line, or only count it.

        Args:
            kind: what is counted together. There must be few kinds, as each of them is remembered for good.
            text: the line. Characters that cannot be printed become spaces, as they could control a terminal.
        """
        with self._lock:
            now = time.monotonic()
            last, omitted = self._reported.get(kind, (-_PERIOD, 0))
            if now - last < _PERIOD:
                self._reported[kind] = last, omitted + 1
                return
            self._reported[kind] = now, 0
        text = "".join(character if character.isprintable() else " " for character in text[:_MAX_LENGTH])
        self._report(f"{text} ({omitted} more like it since the last such line)" if omitted else text)
