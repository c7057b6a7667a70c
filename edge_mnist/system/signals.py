"""Ctrl-C and SIGTERM as a note that the work looks at between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from edge_mnist.system.errors import EdgeMnistError


class Stopped(EdgeMnistError):
    """The user, or the system, stopped the work. Exit status 128 + the signal: 130 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, number: int, where: str) -> None:
        """Keep the status of the signal `number`; `where` says how far the work came."""
        super().__init__(f"stopped by {signal.Signals(number).name} {where}")
        self.exit_status = 128 + number


@contextmanager
def collect() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM into the list that is given, rather than dying of them.

    A second signal has its usual effect. Outside the main thread Python takes no signals, and the list stays empty.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    usual = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        restore()

    for number in numbers:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        restore()
