"""What commands say on stderr while they work.

The package logs to the logger "edge_mnist": a note for the user as a warning, the step that begins as INFO, and what is
done in detail as DEBUG. `report` writes that to stderr while a command runs. On a terminal the present step is shown
and replaced by the next one; elsewhere it is a plain line every ten seconds, so that short commands stay silent and
long ones do not.
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
"""Seconds between two lines of a long step where stderr is no terminal."""

_LEVELS: dict[Verbosity, int] = {"quiet": logging.ERROR, "normal": logging.INFO, "verbose": logging.DEBUG}
_LOG = logging.getLogger("edge_mnist")


def choose_verbosity(verbosity: Verbosity) -> None:
    """Choose how much is said: nothing, notes and progress, or what is done in detail too."""
    _LOG.setLevel(_LEVELS[verbosity])


def is_quiet() -> bool:
    """Whether neither notes nor progress are wanted."""
    return not _LOG.isEnabledFor(logging.WARNING)


@contextmanager
def report() -> Iterator[None]:
    """A context in which notes, progress and details go to stderr."""
    reporter, level = _Reporter(), _LOG.level
    choose_verbosity("normal")
    _LOG.addHandler(reporter)
    try:
        yield
    finally:
        _LOG.removeHandler(reporter)
        _LOG.setLevel(level)


class _Reporter(logging.Handler):
    """Writes notes and details as they come, and the present step every ten seconds.

    Attributes:
        show: shows a step on the terminal; None where there is no terminal, or nothing is shown on it now.
    """

    def __init__(self) -> None:
        super().__init__()
        self.show: Callable[[str], None] | None = None
        self._start = self._since = self._written = time.monotonic()
        self._step = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or keep it as the present step; an empty step ends the one before."""
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
        """A context in which a step is written every ten seconds however long it takes, by a thread."""
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
        """Write the present step if nothing was written for ten seconds and no terminal shows it."""
        with stderr.LOCK:
            now = time.monotonic()
            due = self._step and now - self._written >= INTERVAL
            if due and _LOG.isEnabledFor(logging.INFO) and not _is_terminal():
                passed = now - self._since
                self._write(f"{self._step}: {passed:.0f} s" if passed >= 1 else self._step)

    def createLock(self) -> None:  # noqa: N802  # logging's name
        """Share the lock of stderr, so that no two threads ever wait for each other."""
        self.lock = stderr.LOCK

    def _write(self, text: str) -> None:
        self._written = time.monotonic()
        with suppress(OSError):  # a full disk under stderr must not end the work
            click.echo(text, err=True)


@contextmanager
def status(step: str) -> Iterator[None]:
    """A context of a long step: a terminal shows it beside a spinner, elsewhere it is a line every ten seconds.

    Steps that are logged meanwhile take its place.
    """
    reporter = _reporter()
    _LOG.info(step)
    try:
        if reporter is None or not is_live():
            with repeated():
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
def repeated() -> Iterator[None]:
    """A context in which each step, however long it takes, is a line every ten seconds where there is no terminal."""
    reporter = _reporter()
    with nullcontext() if reporter is None or is_quiet() or _is_terminal() else reporter.repeating():
        yield


def _reporter() -> _Reporter | None:
    """What writes to stderr; None outside a command."""
    return next((found for found in _LOG.handlers if isinstance(found, _Reporter)), None)


def make_bar(*columns: ProgressColumn, **options: Any) -> Progress:
    """A bar on stderr that is gone once it has ended; it shows nothing in quiet mode or without a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True, highlight=False)
    # Results that go to a file must not be taken for lines above the bar, which is on stderr.
    to_terminal = sys.stdout is not None and sys.stdout.isatty()
    return Progress(
        *columns, console=console, transient=True, redirect_stdout=to_terminal, disable=not is_live(), **options
    )


@contextmanager
def show_fraction() -> Iterator[Callable[[str, float], None]]:
    """A context whose value takes what is under way and the fraction of the work, 0 to 1, that is done.

    A command shows a bar on a terminal; everywhere what is under way is logged as a step.
    """
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    with make_bar(BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False)) as bar:
        task = bar.add_task("", total=1.0)
        begun: set[str] = set()
        logged = 0.0

        def show(step: str, done: float) -> None:
            nonlocal logged
            bar.update(task, description=step, completed=done)
            if step not in begun or time.monotonic() - logged >= INTERVAL:  # it is called many times a second
                begun.add(step)
                logged = time.monotonic()
                _LOG.info("%s, %s of the time", step, f"{done:.0%}")

        yield show
        _LOG.info("")


def is_live() -> bool:
    """Whether a command is running on a terminal, and progress is wanted. Called from Python, nothing is shown."""
    return _reporter() is not None and _is_terminal() and not is_quiet()


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
