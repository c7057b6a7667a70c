"""What commands say on stderr, and how much of it, on a terminal and elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from edge_mnist.bundle.reference import read_bundle
from edge_mnist.cli import commands
from edge_mnist.data.images import Images
from edge_mnist.export.proof import verification
from edge_mnist.system import progress
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.training.progress import TrainingProgress

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(commands.commands.commands)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_both_options_in_the_same_words(name: str) -> None:
    shown = " ".join(CliRunner().invoke(commands.commands, [name, "--help"]).output.split())
    assert "-v, --verbose Print details too: steps with their times, files read and written" in shown
    assert "-q, --quiet Print results and errors only, neither progress nor notes." in shown
    with progress.report_to_stderr():  # which leaves the level of the log as it was
        both = CliRunner().invoke(commands.commands, [name, "-v", "-q"])
    assert both.exit_code == 2 and "--verbose and --quiet exclude each other" in both.output


def edge_mnist(*arguments: object) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "edge_mnist", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_verbose_names_files_runtimes_and_times_and_quiet_leaves_results(bundle_folder: Path, tmp_path: Path) -> None:
    export = ("export", "--format", "tflite", "--no-verify", "--out", tmp_path / "out")
    _, output, errors = edge_mnist(*export, "--int8", "-v")
    lines = errors.splitlines()
    assert output == "" and all(line.split()[1] == "s" and float(line.split()[0]) >= 0 for line in lines)
    for part in ("digitnet.safetensors, ", "writing model_int8.tflite", f"wrote {tmp_path / 'out'}", " bytes"):
        assert part in errors

    # An export that drops artifacts says so, but for --quiet.
    assert "a bundle is one export" in edge_mnist(*export)[2]
    edge_mnist(*export, "--int8")
    assert edge_mnist(*export, "--quiet") == (0, "", "")
    status, output, errors = edge_mnist("predict", "docs/misread.jpg", "no-such.jpg", "--quiet")
    assert (status, len(errors.splitlines())) == (2, 1) and "no-such.jpg: there is no such file" in errors
    assert output and edge_mnist("predict", "docs/misread.jpg")[1] == output.replace("docs/misread.jpg: ", "")


def slow() -> click.Command:
    """A command with two steps of half a second each, and a note."""

    @click.command()
    def command() -> None:
        with progress.show_step("counting"):
            time.sleep(0.5)
            progress._LOG.info("counting backwards")
            time.sleep(0.5)
            progress._LOG.warning("note: it is zero")
        time.sleep(0.3)  # nothing is under way: nothing is said
        click.echo("0")

    return command


def test_pictures_are_read_without_a_thread(
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The memory that decoding takes is limited only where the process has a single thread."""
    images = pytest.importorskip("edge_mnist.demo.sources.images")
    before, during = threading.active_count(), []

    def load(path: Path) -> None:
        during.append(threading.active_count())
        raise EdgeMnistError("not today")

    monkeypatch.setattr(images, "load", load)
    for terminal in (False, True):
        monkeypatch.setattr(progress, "_is_terminal", lambda terminal=terminal: terminal)
        assert call("predict", *(f"{number}.jpg" for number in range(9)))[0] == 1
    assert during == [before] * 18


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.2)


@pytest.mark.usefixtures("report")
def test_a_long_step_is_a_plain_line_now_and_then(capfd: pytest.CaptureFixture[str]) -> None:
    with progress.report_to_stderr():
        slow().main([], standalone_mode=False)
    output, errors = capfd.readouterr()
    lines = errors.splitlines()
    assert output == "0\n" and lines.pop() == "note: it is zero"
    assert 2 <= len(lines) <= 5 and lines == sorted(lines) and set(lines) == {"counting", "counting backwards"}


def test_the_oracle_says_how_many_images_are_done(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "edge_mnist")
    reference = read_bundle(bundle_folder)[1]
    images = Images("black", np.zeros((300, 28, 28), np.uint8), None)
    names = ["running the oracle in float", "running the oracle in int8"]
    verification._Oracle(reference, images)
    assert caplog.messages == [f"{name} on 364 images" for name in names]  # it takes less than five seconds
    caplog.clear()
    monkeypatch.setattr(progress, "INTERVAL", 0)
    verification._Oracle(reference, images)
    parts = " on 364 images", ": 128 of 364 images are done", ": 256 of 364 images are done"
    assert caplog.messages == [f"{name}{part}" for name in names for part in parts]


@pytest.mark.usefixtures("report")
def test_a_quiet_command_says_nothing_and_a_short_one_nothing_either(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress.report_to_stderr():
        progress.choose_verbosity("quiet")
        slow().main([], standalone_mode=False)
    assert capfd.readouterr() == ("0\n", "")
    monkeypatch.setattr(progress, "INTERVAL", 10.0)
    with progress.report_to_stderr():
        slow().main([], standalone_mode=False)
    assert capfd.readouterr() == ("0\n", "note: it is zero\n")


def test_a_long_epoch_is_a_plain_line_now_and_then(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from edge_mnist.training import runs

    monkeypatch.setattr(progress, "INTERVAL", 0.1)
    run = runs.TrainingState(None, None)  # type: ignore[arg-type]
    run.loss, run.correct, run.images, run.seconds = 12.0, 90, 100, 0.5
    with progress.report_to_stderr(), TrainingProgress(4) as shown:
        for step in range(20):
            time.sleep(0.02)
            shown.step(1 + step / 20, run)
    lines = capfd.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 5
    assert all(
        line.startswith("epoch 2/4, ") and line.endswith("loss 0.1200  accuracy 90.00%  200 images/s") for line in lines
    )


def on_terminal(*arguments: str, columns: int = 80) -> str:
    """What a terminal of so many columns gets from a command."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "edge_mnist", *arguments]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=inner, stdout=inner, stderr=inner) as process:
        os.close(inner)
        said = b""
        while True:
            try:
                said += os.read(outer, 1 << 16)
            except OSError:  # Linux' way to say that the other side is closed
                break
    os.close(outer)
    assert process.returncode == 0
    return said.decode()


def test_a_terminal_shows_the_present_step(tmp_path: Path) -> None:
    arguments = ["export", "--format", "tflite", "--no-verify", "--out", str(tmp_path / "out")]
    assert "writing model_float.tflite" in on_terminal(*arguments)
    assert on_terminal(*arguments, "--quiet") == ""


@pytest.mark.parametrize("columns", [30, 50, 80])
def test_a_narrow_terminal_gets_whole_values(columns: int) -> None:
    shown = on_terminal("info", columns=columns)
    for value in ("1,016,064", "2,485,912", "18,662", "conv6"):
        assert value in shown
