"""Processes that this package starts to run its own modules, and what such a process does to itself."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import edge_mnist
from edge_mnist.system.errors import EdgeMnistError

_POLL_SECONDS = 0.1
"""The seconds between two checks whether a process shall be stopped."""


def module_command(module: str, *arguments: object) -> list[str]:
    """Make the command that runs a module of this package in the Python that runs this process."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def make_environment() -> dict[str, str]:
    """Make the environment variables with which a process finds this package where this process found it."""
    package = Path(edge_mnist.__file__).parent.parent
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


class ChildProcess(subprocess.Popen[bytes]):
    """A process that finds this package where this process found it.

    Leaving it as a context waits for its end; if an exception leaves the context, the process is killed. Its stdin is a
    pipe from this process, which ends when this process does, see `end_with_parent`.
    """

    def __init__(self, name: str, command: Sequence[str], **options: Any) -> None:
        """Start a process.

        Args:
            name: the name that errors use for it.
            command: the program and its arguments.
            options: further options of `subprocess.Popen`, such as `stdout`. With `start_new_session`, what the process
                starts is killed with it.

        Raises:
            EdgeMnistError: the command cannot be started.
        """
        self.name = name
        self._leads_session = bool(options.get("start_new_session")) and hasattr(os, "killpg")
        try:
            super().__init__(command, stdin=subprocess.PIPE, env=make_environment(), **options)
        except OSError as error:
            raise EdgeMnistError(f"{name}: {command[0]} cannot be started: {error.strerror}") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Kill the process if there is an exception; wait for its end, and close the pipes."""
        if error is not None:
            self.kill()
        super().__exit__(kind, error, traceback)

    def kill(self) -> None:
        """Kill the process, and with it those that it started if it leads a session."""
        if self._leads_session and self.poll() is None:
            with contextlib.suppress(OSError):  # it has ended meanwhile
                os.killpg(self.pid, signal.SIGKILL)
        super().kill()

    def finish(self, stop: threading.Event | None = None, seconds: float = math.inf) -> tuple[bytes, bytes]:
        """Wait for the end of a process that takes no input.

        Args:
            stop: an event; when it is set, the process is not waited for any longer.
            seconds: the time that the process may take.

        Returns:
            What it wrote to its stdout and to its stderr, as far as these are pipes.

        Raises:
            TimeoutError: it takes longer.
            EdgeMnistError: `stop` was set.
        """
        end = time.monotonic() + seconds
        stdin, self.stdin = self.stdin, None  # which `communicate` would close, and the process would end with it
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return self.communicate(timeout=_POLL_SECONDS)
                if stop is not None and stop.is_set():
                    raise EdgeMnistError(f"{self.name}: its process was stopped")
                if time.monotonic() > end:
                    raise TimeoutError
        finally:
            self.stdin = stdin

    def end(self) -> None:
        """Kill the process, wait for its end, and close the pipes."""
        self.kill()
        self.wait()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):  # closing stdin writes what is left in its buffer
                    stream.close()


class JsonLinesProcess(ChildProcess):
    """A process that answers each line on its stdin with a JSON object on a line of its stdout.

    Leaving it as a context ends its stdin, and with that the process.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        """Start a process, see `ChildProcess`."""
        self._errors = tempfile.TemporaryFile()  # not a pipe, which would block a process that writes much
        try:
            super().__init__(name, command, stdout=subprocess.PIPE, stderr=self._errors)
        except BaseException:
            self._errors.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process: by the end of its stdin, or at once if there is an exception."""
        if error is not None:
            self.kill()
        self.communicate()
        self._errors.close()

    def request(self, line: str | None = None) -> dict[str, Any]:
        """Send a line and return the answer; without a line, return the next object that the process writes by itself.

        Raises:
            EdgeMnistError: the process has ended. The text says why.
        """
        if self.stdin is None or self.stdout is None:
            raise RuntimeError("the process was started without pipes")
        try:
            if line is not None:
                self.stdin.write(line.encode() + b"\n")
                self.stdin.flush()
            answer = self.stdout.readline()
            while answer and not answer.startswith(b"{"):  # a library printed it
                answer = self.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            raise EdgeMnistError(f"{self.name}: {self._explain_end()}")
        parsed: dict[str, Any] = json.loads(answer)
        return parsed

    def _explain_end(self) -> str:
        """Say on one line why the process ended."""
        status = self.wait()
        if status == -signal.SIGKILL:
            return describe_end(status)
        self._errors.seek(0)
        return f"{describe_end(status)}: {last_line(self._errors.read())}"


def describe_end(status: int) -> str:
    """Say how a process ended, by its exit status."""
    if status == -signal.SIGKILL:
        return "its process was killed: too little memory?"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"its process crashed ({signal.Signals(-status).name})"
    return f"its process ended with status {status}"


def last_line(output: bytes, default: str = "no message") -> str:
    """Return the last line that a process wrote, or `default` if it wrote nothing but white space."""
    return (output.decode(errors="replace").strip().splitlines() or [default])[-1]


def end_with_parent() -> None:
    """Let this process, a `ChildProcess`, end when its parent has ended, even if the parent was killed."""

    def wait_for_end() -> None:
        os.read(sys.stdin.fileno(), 1)  # not through a buffer, whose lock would be missing when Python shuts down
        os._exit(1)

    threading.Thread(target=wait_for_end, daemon=True).start()


def limit_memory(size: int) -> None:
    """Let this process, and those that it starts, take no more than `size` bytes of memory beyond what it has now.

    Linux enforces the limit; macOS and Windows do not. A crash leaves no core dump.
    """
    if sys.platform != "linux":
        return
    import resource

    # The limit counts what is allocated, not what is mapped: PyTorch maps hundreds of megabytes of libraries.
    with open("/proc/self/statm") as file:
        allocated = int(file.read().split()[5]) * resource.getpagesize()
    for kind, wanted in ((resource.RLIMIT_DATA, allocated + size), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (limit, hard))
    prefer_for_oom_kill()


def prefer_for_oom_kill() -> None:
    """Where the machine's memory runs out, let Linux kill this process rather than the one that waits for it."""
    with contextlib.suppress(OSError):  # there is no such file on other systems
        Path("/proc/self/oom_score_adj").write_text("1000")
