"""Ctrl-C and SIGTERM as a list that a long task checks between two of its steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from edge_mnist.system.errors import EdgeMnistError


class Stopped(EdgeMnistError):
    """The user or the system stopped the work. Exit status 128 + the signal: 130 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, number: int, where: str) -> None:
        """Make the error for the signal `number`; `where` says how far the work has come."""
        super().__init__(f"stopped by {signal.Signals(number).name} {where}")
        self.exit_status = 128 + number


@contextmanager
def collect() -> Iterator[list[int]]:
    """Append the numbers of SIGINT and SIGTERM to the list that is the context's value, instead of ending the process.

    Only the first signal is collected; a second one has its usual effect. Outside the main thread, where Python handles
    no signals, the list stays empty.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def collect_first(number: int, frame: FrameType | None) -> None:
        received.append(number)
        restore()

    for number in numbers:
        signal.signal(number, collect_first)
    try:
        yield received
    finally:
        restore()
