"""Training through the real command: its files, its reproducible bits, and how it resumes after a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from edge_mnist.cli.commands import main
from edge_mnist.data import strokes
from edge_mnist.data.mnist import Digits
from edge_mnist.graph import checkpoint, folding, interpreter
from edge_mnist.graph.tensor_file import read_tensors
from edge_mnist.training import curves, steps
from edge_mnist.training.runs import TrainingSettings, recorded_settings

EPOCHS, BATCH = 4, 24
OPTIONS = [
    "--recipe",
    "adam-onecycle",
    "--epochs",
    str(EPOCHS),
    "--batch-size",
    str(BATCH),
    "--seed",
    "7",
    "--device",
    "cpu",
]


def _write_idx(folder: Path, name: str, digits: Digits) -> None:
    folder.mkdir(exist_ok=True)
    sizes = b"".join(size.to_bytes(4, "big") for size in digits.images.shape)
    (folder / f"{name}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + digits.images.tobytes())
    labels = digits.labels.astype(np.uint8).tobytes()
    (folder / f"{name}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + len(labels).to_bytes(4, "big") + labels)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn digits as a set in MNIST's format: 1,200 to learn from and validate on, 300 to test on."""
    folder = tmp_path_factory.mktemp("digits")
    _write_idx(folder, "train", strokes.draw(1200, 1))
    _write_idx(folder, "t10k", strokes.draw(300, 2))
    return folder


def _command(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edge_mnist", "train", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def _fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[int, str]:
    """Run a command that must fail in this process, and return its exit status and the last line of stderr."""
    monkeypatch.setattr(sys, "argv", ["edge-mnist", "train", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(str(caught.value.code)), capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def whole_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Train a run that nothing interrupts."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    process = _command(*OPTIONS, "--data", data, "--out", out)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert stdout == f"{out / 'checkpoint.safetensors'}\n"
    assert f"epoch {EPOCHS}/{EPOCHS}  loss " in stderr and "test " in stderr
    return out


def test_a_run_writes_its_files(whole_run: Path, data: Path) -> None:
    assert sorted(path.name for path in whole_run.iterdir()) == [
        "checkpoint.safetensors", "curves.png", "metrics.jsonl", "state.safetensors"
    ]  # fmt: skip
    assert (whole_run / "curves.png").read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in (whole_run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["loss"] > rows[1]["loss"] > rows[-1]["loss"]
    trained = checkpoint.load(whole_run / "checkpoint.safetensors")
    accuracies = trained.metadata["accuracies"]
    assert accuracies["train"] == rows[-1]["train_accuracy"]
    assert accuracies["validation"] == rows[-1]["validation_accuracy"]
    assert trained.metadata["recipe"]["name"] == "adam-onecycle"
    assert trained.metadata["learned_from"] == 1100
    assert trained.metadata["data"]["source"] == "unknown" and len(trained.metadata["data"]["sha256"]) == 64
    # the network in the file, folded, has the accuracy that the training measured on the module
    test_part = strokes.draw(300, 2)
    classes = interpreter.run_float(folding.fold(trained), test_part.images).argmax(1)
    assert abs((classes == test_part.labels).mean() - accuracies["test"]) <= 1 / 300
    assert accuracies["test"] > 0.8
    assert trained.statistics["pixels.histogram"].sum() == 1100 * 28 * 28


def _stop(process: subprocess.Popen[str], out: Path, number: signal.Signals) -> int:
    """Send a signal to a run that has just written to its folder, and return the step after which it stopped."""
    before = (out / "state.safetensors").stat().st_mtime_ns if out.exists() else 0
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
        metrics = out / "metrics.jsonl"
        if metrics.exists() and metrics.stat().st_size and (out / "state.safetensors").stat().st_mtime_ns > before:
            break
    time.sleep(0.1)  # some steps into an epoch
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr
    line = stderr.splitlines()[-1]
    assert line.startswith(f"edge-mnist: stopped by {number.name} after step ") and "--resume" in line
    # the checkpoint of the last whole epoch, which has no accuracy on the test images
    assert checkpoint.load(out / "checkpoint.safetensors").metadata["accuracies"]["test"] is None
    return int(line.split("step ")[1].split()[0])


@pytest.mark.slow
def test_a_run_that_is_stopped_twice_ends_with_the_same_weights(whole_run: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    first = _stop(_command(*OPTIONS, "--data", data, "--out", out), out, signal.SIGINT)
    second = _stop(_command("--resume", "--data", data, "--out", out), out, signal.SIGTERM)
    assert 1100 // BATCH < first < second < EPOCHS * (1100 // BATCH)
    process = _command("--resume", "--data", data, "--out", out)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    ended, expected = (read_tensors(folder / "state.safetensors")[0] for folder in (out, whole_run))
    assert ended.keys() == expected.keys()
    for name, array in expected.items():
        assert array.tobytes() == ended[name].tobytes(), name
    one, other = (
        [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (out, whole_run)
    )
    for row, same in zip(one, other, strict=True):
        assert {**row, "seconds": 0, "images_per_second": 0} == {**same, "seconds": 0, "images_per_second": 0}


def test_refuses_what_would_lose_or_mix_runs(
    whole_run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> tuple[int, str]:
        return _fails(capsys, monkeypatch, *arguments)

    before = {path: path.read_bytes() for path in whole_run.iterdir()}
    assert recorded_settings(whole_run).seed == 7
    status, line = fails(*OPTIONS, "--data", data, "--out", whole_run)
    assert status == 2 and "holds other files, perhaps another run" in line
    status, line = fails("--resume", "--lr", "0.5", "--seed", "8", "--data", data, "--out", whole_run)
    assert status == 2 and "the run was started with seed 7 (now 8), lr 0.01 (now 0.5)" in line
    other = tmp_path / "other"
    _write_idx(other, "train", strokes.draw(100, 3))
    _write_idx(other, "t10k", strokes.draw(10, 4))
    status, line = fails("--resume", "--data", other, "--out", whole_run)
    assert status == 2 and "was started with other images" in line
    status, line = fails("--resume", "--data", data, "--out", tmp_path / "nothing")
    assert status == 2 and "no run to resume here: state.safetensors is missing" in line
    assert before == {path: path.read_bytes() for path in whole_run.iterdir()}

    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "state.safetensors").write_bytes(before[whole_run / "state.safetensors"][:5000])
    status, line = fails("--resume", "--data", data, "--out", damaged)
    assert status == 1 and "is not a safetensors file, or cut short" in line
    (damaged / "state.safetensors").write_bytes(before[whole_run / "checkpoint.safetensors"])
    status, line = fails("--resume", "--data", data, "--out", damaged)
    assert status == 1 and "is damaged or of another version" in line
    status, line = fails("--recipe", "fast", "--data", data)
    assert status == 2 and "unknown, expected one of" in line
    (tmp_path / "file").write_text("")
    status, line = fails("--data", data, "--out", tmp_path / "file")
    assert status == 2 and "holds other files" in line


@pytest.mark.parametrize("accuracies", [(0.9, 1.0), (1.0, 1.0), (0.5, None)])
def test_any_accuracy_can_be_drawn(accuracies: tuple[float, float | None]) -> None:
    train, validation = accuracies
    row = {"loss": 0.5, "train_accuracy": train, "validation_accuracy": validation}
    assert curves.draw_run("quick", [{"epoch": epoch, **row} for epoch in (1, 2)]).startswith(b"\x89PNG")


NETWORKS = """
from torch import nn
def three(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 3))
def flipped():
    class Flipped(nn.Module):
        def forward(self, x): return x + x.flip(3)
    return Flipped()
def dropping(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10))
"""


def test_another_network_is_checked_before_it_is_trained(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trial_networks.py").write_text(NETWORKS)

    def fails(*arguments: object) -> tuple[int, str]:
        return _fails(capsys, monkeypatch, "--data", data, "--out", tmp_path / "run", *arguments)

    status, line = fails("--network", "trial_networks:three")
    assert status == 1 and "1: the network gives (3,), expected 10 logits" in line
    status, line = fails("--network", "trial_networks:flipped")
    assert status == 1 and "flip: flip is not supported: only convolutions" in line
    assert not (tmp_path / "run").exists()
    status, line = fails("--network", "trial_networks:dropping", "--recipe", "sgd-fixed", "--lr", "1e30")
    assert status == 1 and "the loss is nan: try a lower --lr" in line and "epoch 1, step " in line


def test_two_equal_runs_with_dropout_end_with_equal_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dropping_networks.py").write_text(NETWORKS)
    results = []
    for name in ("one", "two"):
        options = ["--all", "--network", "dropping_networks:dropping", "--recipe", "adamw-onecycle", "--epochs", "1"]
        monkeypatch.setattr(sys, "argv", ["edge-mnist", "train", *options, "--data", str(data), "--out", name])
        main()
        results.append(checkpoint.load(tmp_path / name / "checkpoint.safetensors"))
    one, two = results
    for key, array in one.weights.items():
        assert array.tobytes() == two.weights[key].tobytes()
    assert one.metadata["learned_from"] == 1200 and one.metadata["accuracies"]["validation"] is None
    assert recorded_settings(tmp_path / "one") == TrainingSettings(**{
        **vars(recorded_settings(tmp_path / "two")), "everything": True
    })  # fmt: skip


def test_training_computes_with_no_denormal_number(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def double_the_smallest() -> float:
        return float(torch.full((8,), 1e-40).mul(2)[0])

    seen = []
    take_step = steps.Stepper.step

    def observe(self: steps.Stepper, *arguments: Any) -> int:
        seen.append(double_the_smallest())
        return take_step(self, *arguments)

    monkeypatch.setattr(steps.Stepper, "step", observe)
    options = [
        "--recipe",
        "quick",
        "--epochs",
        "1",
        "--workers",
        "1",
        "--data",
        str(data),
        "--out",
        str(tmp_path / "run"),
    ]
    monkeypatch.setattr(sys, "argv", ["edge-mnist", "train", *options])
    main()
    # Hundreds of weights of a network that had learned for long were such numbers: a step took seven times as long.
    assert seen and set(seen) == {0.0}
    assert double_the_smallest() > 0


def test_a_class_without_images_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = strokes.draw(600, 1)
    some = digits.labels != 7
    folder = tmp_path / "digits"
    _write_idx(folder, "train", Digits(digits.images[some], digits.labels[some], "", ""))
    _write_idx(folder, "t10k", strokes.draw(50, 2))
    options = ("--recipe", "quick", "--epochs", "1", "--workers", "1", "--data", folder, "--out", tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["edge-mnist", "train", *map(str, options)])
    main()
    assert "note: no image of 7 among those to learn from\n" in capsys.readouterr().err
    assert checkpoint.load(tmp_path / "run" / "checkpoint.safetensors").metadata["epochs"] == 1


def test_a_loss_that_is_not_finite_keeps_the_last_good_epoch(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bursting_networks.py").write_text(NETWORKS)
    out = tmp_path / "run"
    # weight decay at this rate multiplies the weights by -2 in each step, until float32 ends
    options = ("--network", "bursting_networks:dropping", "--recipe", "adamw-onecycle", "--lr", "3e4", "--epochs", "20")
    status, line = _fails(capsys, monkeypatch, *options, "--data", data, "--out", out)
    assert status == 1 and "try a lower --lr" in line
    epoch = int(line.split("epoch ")[1].split(",")[0])
    step = int(line.split("step ")[1].split(":")[0])
    assert epoch > 1 and (1100 // 128) * (epoch - 1) < step <= (1100 // 128) * epoch
    kept = checkpoint.load(out / "checkpoint.safetensors")
    assert kept.metadata["epochs"] == epoch - 1
    assert read_tensors(out / "state.safetensors")[1]["step"] == (1100 // 128) * (epoch - 1)


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_epoch(whole_run: Path, data: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=440k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        out = disk / "run"
        process = _command(*OPTIONS, "--data", data, "--out", out)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 1
        assert stderr.splitlines()[-1].endswith("safetensors: cannot be written: No space left on device")
        assert not [path for path in out.iterdir() if path.name.startswith(".")]
        assert len(read_tensors(out / "state.safetensors")[1]["history"]) == 1
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        process = _command("--resume", "--data", data, "--out", out)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        ended, expected = (read_tensors(folder / "state.safetensors")[0] for folder in (out, whole_run))
        assert {name: array.tobytes() for name, array in ended.items()} == {
            name: array.tobytes() for name, array in expected.items()
        }
    finally:
        subprocess.run(["umount", disk], check=True)
