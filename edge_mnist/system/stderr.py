"""Hides what C libraries write to stderr. The user gets one line of this package instead."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LOCK = threading.RLock()
"""The lock that is held while stderr is redirected.

Without it, two threads that redirect stderr at the same time could leave it redirected, and a third would lose what it
writes meanwhile."""


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Discard what any part of this process writes to file descriptor 2 until the context ends."""
    with LOCK:
        try:
            original = os.dup(2)
        except OSError:  # stderr is closed, so nothing can be written to it
            yield
            return
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(original, 2)
            os.close(original)
