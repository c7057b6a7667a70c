"""Processes that this package starts: what they answer, how they end, and that they end with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from edge_mnist.system.child_processes import (
    ChildProcess,
    JsonLinesProcess,
    describe_end,
    last_line,
    make_environment,
    module_command,
)
from edge_mnist.system.errors import EdgeMnistError

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
ECHO = """
import json, sys
print("a library prints this")
for line in sys.stdin:
    print(json.dumps({"line": line.strip()}), flush=True)
"""


def test_a_line_is_answered_with_an_object() -> None:
    with JsonLinesProcess("it", [sys.executable, "-c", ECHO]) as process:
        assert process.request("one") == {"line": "one"}
        assert process.request("zwölf") == {"line": "zwölf"}
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit('no memory left')", "it: its process ended with status 1: no memory left"),
        (f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})", "it: its process was killed: too little memory?"),
    ],
)
def test_the_error_of_a_process_that_ended_holds_its_last_line(code: str, message: str) -> None:
    with pytest.raises(EdgeMnistError) as caught, JsonLinesProcess("it", [sys.executable, "-c", code]) as process:
        process.request("a question")
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", [ChildProcess, JsonLinesProcess])
def test_an_exception_ends_the_process(kind: type[ChildProcess]) -> None:
    process = kind("it", SLEEP)
    with pytest.raises(KeyError), process:
        raise KeyError
    assert process.wait(5) == -signal.SIGKILL


@pytest.mark.parametrize("kind", [ChildProcess, JsonLinesProcess])
def test_a_command_that_cannot_be_started_is_named(kind: type[ChildProcess]) -> None:
    with pytest.raises(EdgeMnistError, match="it: /no/such/program cannot be started: No such file or directory"):
        kind("it", ["/no/such/program"])


def test_the_end_is_waited_for_until_it_takes_too_long_or_is_stopped() -> None:
    with ChildProcess("it", [sys.executable, "-c", "print(1)"], stdout=subprocess.PIPE) as process:
        assert process.finish() == (b"1\n", None)
    with pytest.raises(TimeoutError), ChildProcess("it", SLEEP) as process:
        process.finish(seconds=0.2)
    stop = threading.Event()
    stop.set()
    with pytest.raises(EdgeMnistError, match="it: its process was stopped"), ChildProcess("it", SLEEP) as process:
        process.finish(stop)
    assert process.wait(5) == -signal.SIGKILL


def test_a_process_can_be_ended_at_any_time() -> None:
    process = ChildProcess("it", SLEEP, stdout=subprocess.PIPE)
    process.stdin.write(b"never read")  # type: ignore[union-attr]
    process.end()
    assert process.returncode == -signal.SIGKILL
    assert process.stdin.closed and process.stdout.closed  # type: ignore[union-attr]


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the process in /proc")
def test_a_process_ends_when_its_parent_is_killed() -> None:
    child = (
        "import time; from edge_mnist.system.child_processes import end_with_parent; end_with_parent(); time.sleep(60)"
    )
    parent = (
        "import sys; from edge_mnist.system.child_processes import ChildProcess\n"
        f"process = ChildProcess('it', [sys.executable, '-c', {child!r}], start_new_session=True)\n"
        "print(process.pid, flush=True); process.finish()"
    )
    command = [sys.executable, "-c", parent]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=make_environment()) as process:
        number = int(process.stdout.readline())  # type: ignore[union-attr]
        assert os.path.exists(f"/proc/{number}")
        process.kill()
    end = time.monotonic() + 20
    while is_running(number):
        assert time.monotonic() < end, "the child lives on"
        time.sleep(0.02)


def is_running(number: int) -> bool:
    """Check whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_command_and_the_ends_of_a_process_in_words() -> None:
    assert module_command("edge_mnist", "verify", 3) == [sys.executable, "-m", "edge_mnist", "verify", "3"]
    assert last_line(b" one\ntw\xffo\n\n") == "tw�o" and last_line(b" \n", "nothing") == "nothing"
    assert describe_end(3) == "its process ended with status 3"
    assert describe_end(-signal.SIGSEGV) == "its process crashed (SIGSEGV)"
