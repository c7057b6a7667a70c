"""The precision of a run for which the user names none: it is measured once, remembered, and recorded."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

import torch
from rich.console import Console

from benchmarks import training as benchmark
from edge_mnist import pipeline
from edge_mnist.system.errors import UsageError
from edge_mnist.training import experiments, loop, precision, precision_worker, runs, steps
from edge_mnist.training.network import DIGITNET, build_network
from edge_mnist.training.recipes import RECIPES
from edge_mnist.training.runs import TrainingSettings
from tests.support.digits import put_digits

SETTINGS = TrainingSettings(RECIPES["quick"])
FASTER = {"bfloat16": 1.0, "float32": 2.0}
SLOWER = {"bfloat16": 2.0, "float32": 1.0}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the times in an empty cache, on a device that has bfloat16."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache" / "edge-mnist" / "precision"


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[..., tuple[bool, str]]:
    """Returns the choice and the note. The times replace a measurement; if they are None, measuring fails the test."""

    def run(milliseconds: dict[str, float] | None, settings: TrainingSettings = SETTINGS) -> tuple[bool, str]:
        caplog.clear()
        monkeypatch.setattr(precision, "_measure_times", milliseconds and (lambda *_: milliseconds))
        with caplog.at_level(logging.WARNING, "edge_mnist"):
            chosen = precision.choose_bfloat16(settings)
        assert len(caplog.messages) <= 1
        return chosen, "".join(caplog.messages)

    return run


@pytest.mark.parametrize(("bfloat16", "chosen"), [(10, True), (10.8, True), (11, False), (20, False)])
def test_bfloat16_is_chosen_where_it_is_clearly_faster(choose: Any, bfloat16: float, chosen: bool) -> None:
    found, note = choose({"bfloat16": bfloat16, "float32": 12.0})
    assert found is chosen
    name = "bfloat16" if chosen else "float32"
    times = f"a step of 64 images takes 12 ms in float32 and {bfloat16} ms in bfloat16"
    assert note == f"note: training in {name}: {times} (measured now)"


def test_nothing_is_measured_where_the_hardware_has_no_bfloat16(
    choose: Any, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    assert choose(None) == (False, "") and not cache.exists()


def test_times_are_remembered_for_each_processor_version_network_and_size(
    choose: Any, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    assert choose(FASTER)[0] is True
    (path,) = cache.iterdir()
    chosen, note = choose(None)
    assert chosen is True and note.endswith(f" (remembered in {path})")
    # another seed, rate or batch of as large ghost batches takes as long
    recipe = dataclasses.replace(SETTINGS.recipe, batch_size=128, lr=0.1)
    assert choose(None, dataclasses.replace(SETTINGS, recipe=recipe, seed=3))[0] is True
    others = [
        dataclasses.replace(SETTINGS, network="edge_mnist.training.network:wide"),
        dataclasses.replace(SETTINGS, recipe=dataclasses.replace(recipe, batch_size=32)),
    ]
    for count, other in enumerate(others, 2):
        assert choose(SLOWER, other)[0] is False and len(list(cache.iterdir())) == count
    monkeypatch.setattr(torch, "__version__", "2.99")
    assert choose(SLOWER)[0] is False and len(list(cache.iterdir())) == 4
    monkeypatch.setattr(precision, "_identify_processor", lambda device: "another")
    assert choose(FASTER)[0] is True and choose(None)[0] is True


def test_the_times_of_another_run_that_measured_meanwhile_come_first(
    choose: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: object) -> dict[str, float]:
        choose(FASTER)
        return SLOWER

    monkeypatch.setattr(precision, "_measure_times", measure)
    assert precision.choose_bfloat16(SETTINGS) is True and choose(None)[0] is True


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: text[: len(text) // 2],
        lambda text: b"[" * 100_000,
        lambda text: b"\xff" + text,
        lambda text: b"[1, 2]",
        lambda text: text.replace(b"2.0", b"NaN"),
        lambda text: text.replace(b"2.0", b"-1"),
        lambda text: text.replace(b"2.0", b"1" + b"0" * 400),
        lambda text: text.replace(b'"images": 64', b'"images": 65'),
        lambda text: text + b" " * 100_000,
    ],
)
def test_a_damaged_file_is_ignored_and_written_anew(choose: Any, cache: Path, damage: Callable[[bytes], bytes]) -> None:
    choose(FASTER)
    (path,) = cache.iterdir()
    text = path.read_bytes()
    path.write_bytes(damage(text))
    assert path.read_bytes() != text
    assert choose(FASTER)[1].endswith(" (measured now)")
    assert list(cache.iterdir()) == [path] and path.read_bytes() == text


def test_a_cache_that_cannot_be_written_changes_nothing_but_the_note(choose: Any, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    for _ in range(2):
        chosen, note = choose(FASTER)
        assert chosen is True and "(measured now and not remembered, because " in note and "cannot be written" in note


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit('no memory left')", "its process ended with status 1: no memory left"),
        ("import os; os.kill(os.getpid(), 9)", "its process was killed: too little memory?"),
        ("print('ready')", "its process printed ready"),
        ("print('{\"bfloat16\": 1.0}')", 'its process printed {"bfloat16": 1.0}'),
        ('print(\'{"bfloat16": 1.0, "float32": NaN}\')', "its process printed {"),
        ("import time; time.sleep(60)", "timing steps takes more than 0.5 s"),
    ],
)
def test_a_process_that_fails_or_hangs_means_float32_and_is_not_remembered(
    code: str, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cache: Path
) -> None:
    monkeypatch.setattr(precision, "module_command", lambda *_: [sys.executable, "-c", code])
    monkeypatch.setattr(precision, "_MOST_SECONDS", 0.5 if "sleep" in code else 60)
    assert precision.choose_bfloat16(SETTINGS) is False
    start = f"note: training in float32, because the speed of bfloat16 could not be measured: {reason}"
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith(start) and not cache.exists()


def test_both_precisions_are_timed() -> None:
    milliseconds = precision_worker.time_steps(DIGITNET, "cpu", 2)
    assert milliseconds.keys() == FASTER.keys() and min(milliseconds.values()) > 0


@pytest.mark.slow
def test_the_process_that_times_steps_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, cache: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loud.py").write_text("from edge_mnist.training.network import DigitNet\nprint('{}')\nmake = DigitNet\n")
    precision.choose_bfloat16(dataclasses.replace(SETTINGS, network="loud:make"))
    (path,) = cache.iterdir()
    record = json.loads(path.read_text())
    assert record["network"] == "loud:make" and record["milliseconds"].keys() == FASTER.keys()
    assert precision.choose_bfloat16(dataclasses.replace(SETTINGS, network="loud:nothing")) is False
    assert caplog.messages[-1].endswith("status 1: --network loud:nothing: loud has no factory named nothing")


class Ended(Exception):
    """Ends a run that has written its first state."""


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[bool, int]]:
    """Starts a run in this process: whether it is recorded as in bfloat16, and how often that was chosen."""
    data, out = put_digits(tmp_path / "data"), tmp_path / "run"
    chosen: list[TrainingSettings] = []

    def choose(settings: TrainingSettings) -> bool:
        chosen.append(settings)
        return True

    def end(epochs: int) -> None:
        raise Ended

    def run(**options: Any) -> tuple[bool, int]:
        chosen.clear()
        with pytest.raises(Ended):
            pipeline.train(out=out, data=data, workers=1, device="cpu", **options)
        return runs.recorded_settings(out).bfloat16, len(chosen)

    monkeypatch.setattr(loop, "_check_exportable", lambda network: None)  # it takes most of the time
    monkeypatch.setattr(loop, "TrainingProgress", end)
    monkeypatch.setattr(loop, "choose_bfloat16", choose)
    return run


@pytest.mark.parametrize(
    ("options", "bfloat16", "times"),
    [
        ({}, True, 1),
        ({"precision": "auto"}, True, 1),
        ({"precision": "float32"}, False, 0),
        ({"precision": "bfloat16"}, True, 0),
    ],
)
def test_only_auto_chooses_and_a_resumed_run_keeps_its_precision(
    train: Any, options: dict[str, Any], bfloat16: bool, times: int
) -> None:
    assert train(recipe="quick", **options) == (bfloat16, times)
    for resumed in ({}, {"precision": "auto"}):
        assert train(resume=True, **resumed) == (bfloat16, 0)


def test_a_mistake_is_found_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_check_exportable", lambda network: None)
    monkeypatch.setattr(loop, "choose_bfloat16", None)
    data = put_digits(tmp_path / "data")
    with pytest.raises(UsageError, match="holds other files"):
        pipeline.train("quick", data, data=data, device="cpu")
    with pytest.raises(UsageError, match="3 workers cannot share"):
        pipeline.train("quick", tmp_path / "run", data=data, device="cpu", workers=3)


def test_experiments_choose_once_and_keep_what_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(plan: list[experiments.PlannedRun], *_: object, **__: object) -> None:
        assert {planned.settings.bfloat16 for planned in plan} == {True}
        raise Ended

    data = put_digits(tmp_path / "data")
    monkeypatch.setattr(experiments, "run_experiments", run)
    monkeypatch.setattr(precision, "_measure_times", lambda *_: FASTER)
    with pytest.raises(Ended):
        pipeline.run_experiments(runs=tmp_path, data=data, device="cpu")
    network = build_network(DIGITNET)
    state = runs.TrainingState(network, steps.make_optimizer(SETTINGS.recipe, network))
    folder = tmp_path / experiments.EXPERIMENTS[0].folder_name(0)
    runs.save_state(state, folder, dataclasses.replace(SETTINGS, bfloat16=True), "")
    monkeypatch.setattr(precision, "choose_bfloat16", None)
    with pytest.raises(Ended):
        pipeline.run_experiments(runs=tmp_path, data=data, device="cpu", resume=True)


@pytest.mark.parametrize(
    ("milliseconds", "name", "other"), [(FASTER, "bfloat16", "float32"), (SLOWER, "float32", "bfloat16")]
)
def test_the_benchmark_says_which_precision_it_took(
    milliseconds: dict[str, float], name: str, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = {}

    def time_side(label: str, arguments: list[str]) -> float:
        sides[label] = arguments
        return 100.0

    monkeypatch.setenv("EDGE_MNIST_DATA", str(put_digits(tmp_path / "data")))
    monkeypatch.setattr(benchmark, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(benchmark, "time_side", time_side)
    monkeypatch.setattr(precision, "_measure_times", lambda *_: milliseconds)
    facts = benchmark.measure(0, 1)
    assert facts["precision"] == name == sides["round 1/1: edge-mnist"][-1]
    assert sides[f"round 1/1: edge-mnist, {other}"][-1] == other
    text = StringIO()
    benchmark.show(facts, Console(file=text, width=200))
    assert f"edge-mnist chose to train in {name}\n" in text.getvalue()
