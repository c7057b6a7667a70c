"""What commands write to stderr while they work.

The package logs to the logger "edge_mnist": a note for the user as WARNING, the step that begins as INFO, details as
DEBUG. Called from Python, that is all, and nothing is printed. A command wraps its work in `report_to_stderr`, which
writes the log to stderr. A terminal shows the current step until the next one replaces it. Elsewhere the step is a line
every ten seconds, so that short commands write nothing and long ones show that they are alive.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Literal

import click

from edge_mnist.system import stderr

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

Verbosity = Literal["quiet", "normal", "verbose"]

INTERVAL = 10.0
"""The seconds between two lines of a long step where stderr is not a terminal."""

_LEVELS: dict[Verbosity, int] = {"quiet": logging.ERROR, "normal": logging.INFO, "verbose": logging.DEBUG}
"""The least level that is written to stderr, for each verbosity."""
_LOG = logging.getLogger("edge_mnist")


def choose_verbosity(verbosity: Verbosity) -> None:
    """Choose what is written: nothing, notes and steps, or details too."""
    _LOG.setLevel(_LEVELS[verbosity])


def is_quiet() -> bool:
    """Check whether neither notes nor steps shall be written."""
    return not _LOG.isEnabledFor(logging.WARNING)


@contextmanager
def report_to_stderr() -> Iterator[None]:
    """Write the log of the package to stderr until the context ends."""
    reporter, level = _Reporter(), _LOG.level
    choose_verbosity("normal")
    _LOG.addHandler(reporter)
    try:
        yield
    finally:
        _LOG.removeHandler(reporter)
        _LOG.setLevel(level)


class _Reporter(logging.Handler):
    """Writes notes and details at once, and the current step every ten seconds.

    Attributes:
        show: shows a step on the terminal; None without a terminal, or while nothing is shown on it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.show: Callable[[str], None] | None = None
        self._start = self._since = self._written = time.monotonic()
        self._step = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or make it the current step. A step with an empty text ends the one before."""
        text, now = record.getMessage(), time.monotonic()
        if record.levelno >= logging.WARNING:
            self._write(text)
        elif _LOG.isEnabledFor(logging.DEBUG) and text:
            self._write(f"{now - self._start:6.1f} s  {text}")
        elif self.show is not None:
            self.show(text)
        if record.levelno == logging.INFO:
            self._step, self._since = text, now
            self._repeat_step()

    @contextmanager
    def repeating(self) -> Iterator[None]:
        """Write the current step every ten seconds until the context ends, from a thread."""
        ended = threading.Event()

        def repeat() -> None:
            while not ended.wait(INTERVAL / 20):
                self._repeat_step()

        thread = threading.Thread(target=repeat, daemon=True)
        try:
            thread.start()
            yield
        finally:
            ended.set()
            if thread.is_alive():
                thread.join()

    def _repeat_step(self) -> None:
        """Write the current step if nothing was written for ten seconds and no terminal shows it."""
        with stderr.LOCK:
            now = time.monotonic()
            due = self._step and now - self._written >= INTERVAL
            if due and _LOG.isEnabledFor(logging.INFO) and not _is_terminal():
                passed = now - self._since
                self._write(f"{self._step}: {passed:.0f} s" if passed >= 1 else self._step)

    def createLock(self) -> None:  # logging's name
        """Use the lock of stderr. With a lock of its own, two threads could each hold one and wait for the other."""
        self.lock = stderr.LOCK

    def _write(self, text: str) -> None:
        self._written = time.monotonic()
        with suppress(OSError):  # a full disk under stderr must not end the work
            click.echo(text, err=True)


@contextmanager
def show_step(step: str) -> Iterator[None]:
    """Show a long step until the context ends: on a terminal beside a spinner, elsewhere every ten seconds.

    Steps that are logged in the context replace it.
    """
    reporter = _find_reporter()
    _LOG.info(step)
    try:
        if reporter is None or not is_live():
            with repeat_steps():
                yield
            return
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        with make_bar(SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()) as bar:
            task = bar.add_task(step, total=None)
            reporter.show = lambda text: bar.update(task, description=text)
            try:
                yield
            finally:
                reporter.show = None
    finally:
        _LOG.info("")


@contextmanager
def repeat_steps() -> Iterator[None]:
    """Write the current step every ten seconds until the context ends, where stderr is not a terminal."""
    reporter = _find_reporter()
    with nullcontext() if reporter is None or is_quiet() or _is_terminal() else reporter.repeating():
        yield


def _find_reporter() -> _Reporter | None:
    """Find the handler that writes to stderr; None outside a command."""
    return next((found for found in _LOG.handlers if isinstance(found, _Reporter)), None)


def make_bar(*columns: ProgressColumn, **options: Any) -> Progress:
    """Make a progress bar on stderr that disappears when it ends. It is shown only if `is_live`.

    Args:
        columns: the parts of the bar.
        options: further options of `rich.progress.Progress`.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True, highlight=False)
    # Results on stdout that go to a file must not be redirected to stderr, where the bar is.
    to_terminal = sys.stdout is not None and sys.stdout.isatty()
    return Progress(
        *columns, console=console, transient=True, redirect_stdout=to_terminal, disable=not is_live(), **options
    )


@contextmanager
def show_fraction() -> Iterator[Callable[[str, float], None]]:
    """Show how much of the work is done until the context ends: as a bar if `is_live`, and in the log.

    The value of the context is a function to call often, with the current step and the fraction that is done, 0 to 1.
    """
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    with make_bar(BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False)) as bar:
        task = bar.add_task("", total=1.0)
        begun: set[str] = set()
        logged = 0.0

        def show(step: str, done: float) -> None:
            nonlocal logged
            bar.update(task, description=step, completed=done)
            if step not in begun or time.monotonic() - logged >= INTERVAL:  # not each of many calls a second
                begun.add(step)
                logged = time.monotonic()
                _LOG.info("%s, %s of the time", step, f"{done:.0%}")

        yield show
        _LOG.info("")


def count_images(step: str, total: int) -> Callable[[int], None]:
    """Begin a step on many images.

    Returns:
        A function to call often, with the number of images that are done. It logs the number twice as often as a step
        is written, so that what is written is recent.
    """
    logged = time.monotonic()
    _LOG.info("%s on %s images", step, f"{total:,}")

    def report(done: int) -> None:
        nonlocal logged
        if done < total and time.monotonic() - logged >= INTERVAL / 2:
            logged = time.monotonic()
            _LOG.info("%s: %s of %s images are done", step, f"{done:,}", f"{total:,}")

    return report


def is_live() -> bool:
    """Check whether progress is drawn: a command runs on a terminal and is not quiet."""
    return _find_reporter() is not None and _is_terminal() and not is_quiet()


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
