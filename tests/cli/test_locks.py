"""Two processes that would write into one place: the second is refused, and nothing of a lock outlives its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_mnist import pipeline
from edge_mnist.cli import commands
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import lock
from tests.support.without_torch import skip_without_torch

HOLD = """
import sys; from pathlib import Path; from edge_mnist.system.files import lock
with lock(Path(sys.argv[1])): print("held", flush=True); sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "new" / "place"


@pytest.fixture
def holder(place: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes to the place."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, place], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize(
    "command",
    [
        ["export", "--format", "tflite", "--no-verify", "--out"],
        ["export", "--zip"],
        ["verify"],
        ["train", "--data", "digits", "--out"],
    ],
    ids=" ".join,
)
def test_the_second_of_two_is_refused_in_one_line(
    command: list[str], place: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.digits import put_digits

    skip_without_torch(" ".join(command))
    put_digits(place.parent.parent / "digits")
    monkeypatch.chdir(place.parent.parent)
    (place.parent.parent / "link").symlink_to(place.parent)
    for name in (place, place.parent.parent / "link" / "place"):
        found = CliRunner().invoke(commands.commands, [*command, str(name)])
        assert isinstance(found.exception, EdgeMnistError) and found.exception.exit_status == 1
        assert str(found.exception) == (
            f"{name}: another edge-mnist writes here at this moment: wait until it has ended, or name another place"
        )
    assert not place.exists()
    holder.communicate("", timeout=30)
    assert not place.parent.exists()  # neither the lock nor the folder that was made for it is left


def test_a_kill_leaves_no_lock(place: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(EdgeMnistError, match="another edge-mnist writes here"), lock(place):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=30)
    with lock(place):
        place.mkdir()
    assert os.listdir(place.parent) == ["place"]


def test_what_cannot_be_locked_is_used_without_a_lock(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with lock(tmp_path / "file" / "place"):
        pass
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs Linux's /proc")
@pytest.mark.parametrize("option", ["--out", "--zip"])
def test_a_place_where_no_file_can_be_made_is_not_taken_for_one_that_is_locked(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_prepare", lambda *_, **__: pytest.fail("this is said before anything is computed"))
    found = CliRunner().invoke(commands.commands, ["export", option, "/proc/place"])
    assert isinstance(found.exception, EdgeMnistError) and found.exception.exit_status == 2
    where = "/proc/place" if option == "--out" else "/proc"
    assert str(found.exception) == f"{option} {where}: cannot be written: No such file or directory"


def test_a_lock_excludes_however_often_it_is_released(tmp_path: Path) -> None:
    """Processes that take turns: each writes its number, and finds it unchanged a moment later."""
    code = (
        "import os, sys, time; from pathlib import Path; from edge_mnist.system.errors import EdgeMnistError\n"
        "from edge_mnist.system.files import lock\n"
        "place, turns, end = Path(sys.argv[1]), 0, time.monotonic() + 3\n"
        "while time.monotonic() < end:\n"
        "    try:\n"
        "        with lock(place):\n"
        "            place.write_text(str(os.getpid())); time.sleep(0.001); turns += 1\n"
        "            assert place.read_text() == str(os.getpid())\n"
        "    except EdgeMnistError: pass\n"
        "print(turns)\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "place"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    turns = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert all(process.returncode == 0 for process in processes) and min(turns) > 0
    assert os.listdir(tmp_path) == ["place"]
