"""The options of the demo in a TOML file: every option, what beats what, and what is wrong in one line."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from edge_mnist.cli.config import list_options
from edge_mnist.cli.demo import STARTING, demo
from edge_mnist.demo import program
from edge_mnist.demo.reading.reader import THRESHOLD

Call = Callable[..., tuple[int, str, str]]
EXAMPLE = Path(__file__).parents[2] / "examples" / "raspberry-pi" / "edge-mnist.toml"

VALUES = {
    # an option: its value in the file, and the same and another one on the command line
    "camera": ("2", "--camera=2", "--camera=sample"),
    "view": ('"none"', "--view=none", "--view=web"),
    "model": ('"model.tflite"', "--model=model.tflite", "--model=other.tflite"),
    "trust": ("true", "--trust", "--no-trust"),
    "threshold": ("1", "--threshold=1", "--threshold=0.5"),
    "size": ('"320x240"', "--size=320x240", "--size=800x600"),
    "fps": ("7.5", "--fps=7.5", "--fps=5"),
    "mirror": ("true", "--mirror", "--no-mirror"),
    "json": ("true", "--json", "--no-json"),
    "duration": ("60", "--duration=60", "--duration=5"),
    "max-frames": ("9", "--max-frames=9", "--max-frames=8"),
    "record": ('"film.mp4"', "--record=film.mp4", "--record=other.mp4"),
    "record-plain": ("true", "--record-plain", "--no-record-plain"),
    "snapshot-dir": ('"pictures"', "--snapshot-dir=pictures", "--snapshot-dir=others"),
    "host": ('"0.0.0.0"', "--host=0.0.0.0", "--host=::1"),
    "port": ("0", "--port=0", "--port=80"),
    "corrections": ('"digits"', "--corrections=digits", "--corrections=others"),
    "mqtt": ('"mqtt://host/a"', "--mqtt=mqtt://host/a", "--mqtt=mqtt://host/b"),
    "mqtt-discovery": ("true", "--mqtt-discovery", "--mqtt-discovery=home"),
    "verbose": ("true", "--verbose", "--quiet"),
    "quiet": ("true", "--quiet", "--verbose"),
}


@pytest.fixture
def run(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs the command with a file and arguments: the options that the demo gets, and the log level."""
    monkeypatch.chdir(tmp_path)
    found: list[Any] = []
    logger = logging.getLogger("edge_mnist")
    monkeypatch.setattr(program, "run_demo", lambda options, stop: not found.append((options, logger.level)))

    def run(text: str | None, *arguments: str) -> tuple[Any, int]:
        if text is not None:
            Path("demo.toml").write_text(text, "utf-8")
            arguments = (*arguments, "--config", "demo.toml")
        found.clear()
        status, output, errors = call("demo", *arguments)
        assert (status, output, errors.removeprefix(f"{STARTING}\n")) == (0, "", "")
        return found[0]

    return run


def test_no_option_is_forgotten() -> None:
    assert list(VALUES) == list(list_options(demo))


@pytest.mark.parametrize("name", VALUES)
def test_an_option_in_the_file_is_that_of_the_command_line_which_beats_it(name: str, run: Callable[..., Any]) -> None:
    value, same, other = VALUES[name]
    default, in_file, named, beaten = run(None), run(f"{name} = {value}"), run(None, same), run(None, other)
    assert in_file == named != default and beaten != named
    assert run(f"{name} = {value}", other) == beaten


def test_all_options_can_be_in_one_file(run: Callable[..., Any]) -> None:
    chosen = {name: values for name, values in VALUES.items() if name != "quiet"}
    text = "\n".join(f"{name} = {value}" for name, (value, _, _) in chosen.items())
    assert run(text) == run(None, *(same for _, same, _ in chosen.values()))
    assert run("") == run(None)
    flags = "\n".join(f"{name} = false" for name, option in list_options(demo).items() if option.is_flag)
    assert run(f"{flags}\nmqtt-discovery = false") == run(None)


def test_the_example_lists_every_option_and_its_defaults(run: Callable[..., Any]) -> None:
    text = EXAMPLE.read_text("utf-8")
    listed = re.findall(r"^(?:# )?([a-z-]+) = (\S+)", text, re.MULTILINE)
    assert {name for name, _ in listed} == list_options(demo).keys() and len(listed) == len(VALUES)
    run(text)
    usual = {"size", "trust", "port", "mirror", "json", "corrections", "record-plain", "verbose", "quiet"}
    assert run("\n".join(f"{name} = {value}" for name, value in listed if name in usual)) == run(None)
    assert float(dict(listed)["threshold"]) == THRESHOLD
    run(re.sub(r"^# (?=[a-z-]+ = )", "", text, flags=re.MULTILINE))  # each line that is commented out is right too


@pytest.mark.parametrize(
    ("text", "status", "line"),
    [
        ('size = "vga"', 2, "size: --size vga: expected WIDTHxHEIGHT, such as 640x480"),
        ('port = "8090"', 2, 'port: expected a whole number from 0 to 65535, found "8090"'),
        ("port = 80.0", 2, "port: expected a whole number from 0 to 65535, found 80.0"),
        ("port = true", 2, "port: expected a whole number from 0 to 65535, found true"),
        ("port = 65536", 2, "port: expected a whole number from 0 to 65535, found 65536"),
        ("duration = 0", 2, "duration: expected a number above 0, found 0"),
        (f"threshold = {10**350}", 2, f"threshold: expected a number from 0 to 1, found 1{'0' * 59}..."),
        ("threshold = nan", 2, "threshold: expected a number from 0 to 1, found NaN"),
        ("fps = -inf", 2, "fps: expected a number from 0, found -Infinity"),
        ('view = "tv"', 2, 'view: expected one of "auto", "window", "web", "none", found "tv"'),
        ("mirror = 1", 2, "mirror: expected true or false, found 1"),
        ("camera = true", 2, "camera: expected text in quotes, found true"),
        ("record = 2026-01-31", 2, "record: expected text in quotes, found 2026-01-31"),
        ("model = ['a', 1]", 2, 'model: expected text in quotes, found ["a", 1]'),
        ("mqtt-discovery = 1", 2, 'mqtt-discovery: expected text, or true for "homeassistant", found 1'),
        (f"host = [{'1,' * 99}]", 2, f"host: expected text in quotes, found [{'1, ' * 19}1,..."),
        ("record_plain = true", 2, "record_plain: is not an option: did you mean record-plain?"),
        ("Port = 1", 2, "Port: is not an option: did you mean port?"),
        ("[demo]\nport = 1", 2, "demo: is a table: expected options as lines such as port = 8090, without a heading"),
        ('config = "other.toml"', 2, f"config: is not an option: expected {', '.join(VALUES)}"),
        ("port =", 1, "is not a TOML file: Invalid value (at end of document): expected lines such as port = 8090"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_key_and_what_is_expected(
    text: str, status: int, line: str, call: Call, tmp_path: Path
) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(text)
    assert call("demo", "--config", path) == (status, "", f"edge-mnist: {path}: {line}\n")


def test_files_that_are_no_toml_are_one_line(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    for content in (b"\xff\xfe", b"a = " + b"[" * 100_000, b"a = " + b"9" * 10_000, b"a = 1\na = 2", b"\0"):
        path.write_bytes(content)
        status, output, errors = call("demo", "--config", path)
        assert (status, output, len(errors.splitlines())) == (1, "", 1), content[:20]
        assert errors.startswith(f"edge-mnist: {path}: is not a TOML file: ") and len(errors) < 400
    path.write_bytes(b"# " + b"x" * (1 << 20))
    assert call("demo", "--config", path)[2].endswith("is larger than 1,048,576 bytes, more than is read into memory\n")
    path.write_text("verbose = true\nquiet = true")
    status, _, errors = call("demo", "--config", path)
    assert status == 2 and "--verbose and --quiet exclude each other" in errors


def test_every_kind_of_option_is_described() -> None:
    for name, option in list_options(demo).items():
        assert (
            isinstance(option.type, click.Choice | click.IntRange | click.FloatRange)
            or option.is_flag
            or (option.type.name in ("text", "path"))
        ), f"{name}: describe its values in edge_mnist/cli/config.py"
