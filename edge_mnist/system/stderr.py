"""Keeps what libraries in C write to stderr from the user, who gets one line of ours instead."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LOCK = threading.RLock()
"""Held while stderr is quiet: two threads that redirect it at once would leave it so, a third would lose its line."""


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """A context in which what any part of the process writes to file descriptor 2 is lost."""
    with LOCK:
        try:
            kept = os.dup(2)
        except OSError:  # it is closed: nothing is written there
            yield
            return
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
