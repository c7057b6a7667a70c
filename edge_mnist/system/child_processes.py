"""Processes of this package's own modules: how they find it, and one that answers a line of JSON to each line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import edge_mnist
from edge_mnist.system.errors import EdgeMnistError


def environment() -> dict[str, str]:
    """Environment variables with which a process finds this package as this process did."""
    package = Path(edge_mnist.__file__).parent.parent
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def limit_memory(size: int) -> None:
    """Let this process, and those that it starts, take no more than `size` bytes of memory besides what it has.

    Linux holds the limit; macOS and Windows do not. Where the machine's memory runs out all the same, Linux ends this
    process first, not the one that waits for it. A crash leaves no core dump.
    """
    if sys.platform != "linux":
        return
    import resource

    # Of what is allocated, not of what is mapped: PyTorch maps hundreds of megabytes of libraries.
    with open("/proc/self/statm") as file:
        allocated = int(file.read().split()[5]) * resource.getpagesize()
    for kind, wanted in ((resource.RLIMIT_DATA, allocated + size), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (limit, hard))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def describe_end(status: int) -> str:
    """How a process ended, by its exit status."""
    if status == -signal.SIGKILL:
        return "its process was killed: too little memory?"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"its process crashed ({signal.Signals(-status).name})"
    return f"its process ended with status {status}"


class Answering:
    """A process that answers each line with a JSON object on a line; it ends when the context that it is does."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        """Start `command`; `name` is what errors call it."""
        self._name = name
        self._errors = tempfile.TemporaryFile()
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=self._errors, env=environment(), text=True
            )
        except OSError as error:
            self._errors.close()
            raise EdgeMnistError(f"{name}: {command[0]} cannot be started: {error.strerror}") from error

    def __enter__(self) -> Answering:
        """The process itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process: by the end of its input, or at once if something went wrong."""
        if error is not None:
            self._process.kill()
        self._process.communicate()
        self._errors.close()

    def answer(self, line: str | None = None) -> dict[str, Any]:
        """Its answer to a line; without one, the next that it gives by itself.

        Raises:
            EdgeMnistError: it ended.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process was started without pipes")
        try:
            if line is not None:
                self._process.stdin.write(line + "\n")
                self._process.stdin.flush()
            told = self._process.stdout.readline()
            while told and not told.startswith("{"):  # what a library printed
                told = self._process.stdout.readline()
        except BrokenPipeError:
            told = ""
        if not told:
            raise EdgeMnistError(f"{self._name}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(told)
        return answer

    def _last_words(self) -> str:
        """Why it ended, on one line."""
        status = self._process.wait()
        if status == -signal.SIGKILL:
            return describe_end(status)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"{describe_end(status)}: {(lines or ['no message'])[-1]}"
