"""Students of teachers: which images they learn from, and that nothing is trained or asked twice."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import distillation, teachers  # noqa: E402
from edge_mnist.data import mnist, strokes  # noqa: E402
from edge_mnist.data.mnist import Digits  # noqa: E402
from edge_mnist.graph import checkpoint  # noqa: E402
from edge_mnist.graph.checkpoint import Checkpoint  # noqa: E402
from edge_mnist.graph.layers import weight_shapes  # noqa: E402
from edge_mnist.training import tracing  # noqa: E402
from edge_mnist.training.network import MEAN, STD, set_weights  # noqa: E402
from edge_mnist.training.runs import to_arrays  # noqa: E402


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 drawn digits instead of MNIST, and few cycles."""
    drawn = strokes.draw(300, seed=5)
    digits = Digits(drawn.images, drawn.labels, "strokes", "0" * 64)
    monkeypatch.setattr(mnist, "load", lambda *_: digits)
    monkeypatch.setattr(mnist, "split_for_validation", lambda labels: (np.arange(256), np.arange(256, 300)))
    for name, value in {"USUAL_CYCLES": 2, "COOLDOWN_CYCLES": 1, "COPIES": 2, "BATCH": 100}.items():
        monkeypatch.setattr(distillation, name, value)
    monkeypatch.setattr(distillation, "TEACHERS", {"labels alone": (), "both": ("residual", "plain")})


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder in which two networks with random weights are trained to their end."""
    for factory in ("residual", "plain"):
        torch.manual_seed(0)
        network = getattr(teachers, factory)().eval()
        traced = tracing.trace_network(network, (1, 28, 28))
        metadata = {"network": f"benchmarks.teachers:{factory}", "accuracies": {"test": 0.1}}
        (tmp_path / factory).mkdir()
        arrays = to_arrays(network.state_dict())
        weights = {name: arrays[name] for name in weight_shapes(traced.layers)}
        path = tmp_path / factory / "checkpoint.safetensors"
        checkpoint.save(path, Checkpoint(traced.layers, (1, 28, 28), MEAN, STD, weights, metadata=metadata))
    return tmp_path


def test_the_last_epochs_have_the_images_of_the_cooldown(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(distillation.RECIPE, epochs=8, cooldown_epochs=2)
    assert [distillation.choose_cycle(epoch, recipe) for epoch in range(8)] == [0, 1, 0, 1, 0, 1, 2, 2]


def test_images_are_drawn_once_and_each_cycle_draws_others(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = distillation.Images(runs, None).open()
    assert drawn.shape == (3, 256, 28, 28) and drawn.dtype == np.uint8
    originals = distillation.Images(runs, None).digits.images[:256].astype(float)
    changes = [np.abs(cycle - originals).mean() for cycle in drawn.astype(float)]
    assert changes[2] < min(changes[:2]), "the last cycle changes the images half as much"
    assert (drawn[0] != drawn[1]).any()
    monkeypatch.setattr(distillation, "augment", None)
    np.testing.assert_array_equal(distillation.Images(runs, None).open(), drawn)


def test_the_answers_of_a_network_are_those_of_its_checkpoint(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = distillation.ask_network(runs, None, "plain")
    images = torch.from_numpy(distillation.Images(runs, None).open()[1].copy()).unsqueeze(1).float()
    torch.manual_seed(0)
    with torch.no_grad():
        expected = teachers.plain().eval()(distillation.normalize(images))
    np.testing.assert_allclose(logits[1], expected, rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(distillation, "unpack_teacher", None)
    np.testing.assert_array_equal(distillation.ask_network(runs, None, "plain"), logits)


@pytest.mark.parametrize("name", [pytest.param("labels alone", marks=pytest.mark.slow), "both"])
def test_a_student_is_trained_once_and_learns(runs: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A teacher that knows the labels: the networks here have random weights.
    labels = distillation.Images(runs, None).digits.labels[:256]
    right = np.tile(10 * np.eye(10, dtype=np.float32)[labels], (3, 1, 1))
    monkeypatch.setattr(distillation, "ask_network", lambda *_: right)
    student = distillation.Student(name, 20)
    result = distillation.train_student(runs, None, student)
    assert result["test"] > 0.5 and set(result) == {"validation", "augmented", "test"}
    kept = checkpoint.load(runs / "students" / f"{student.name}.safetensors")
    assert kept.statistics and kept.metadata["accuracies"] == result
    network = distillation.DigitNet()
    set_weights(network, kept.weights, "")
    assert distillation.measure_network(network, distillation.Images(runs, None)) == result
    monkeypatch.setattr(distillation, "DigitNet", None)
    assert distillation.train_student(runs, None, student) == result


@pytest.mark.parametrize(("averaging", "end"), [(0.0, ""), (0.9, "-averaging=0.9")])
def test_a_student_that_was_stopped_goes_on_to_the_same_weights(
    averaging: float, end: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = distillation.Student("labels alone", 4, ("weight_decay=0.001",), seed=3, averaging=averaging)
    assert student.name == f"labels-alone-4-weight_decay=0.001-seed=3{end}" and student.recipe.weight_decay == 0.001
    expected = distillation._learn(runs, None, student).state_dict()

    class Stop(Exception):
        """Stops a training."""

    def stop(epoch: int, recipe: distillation.Recipe) -> int:
        if epoch == 2:
            raise Stop
        return choose(epoch, recipe)

    choose = distillation.choose_cycle
    monkeypatch.setattr(distillation, "choose_cycle", stop)
    with pytest.raises(Stop):
        distillation._learn(runs, None, student)
    epochs: list[int] = []
    monkeypatch.setattr(distillation, "choose_cycle", lambda *given: epochs.append(given[0]) or choose(*given))
    for name, array in distillation._learn(runs, None, student).state_dict().items():
        torch.testing.assert_close(array, expected[name], rtol=0, atol=0)
    assert epochs == [2, 3] and not list(runs.glob("*.state"))


def test_the_average_of_all_steps_is_behind_the_last_weights(runs: Path) -> None:
    starts, lasts = (
        distillation._learn(runs, None, distillation.Student("labels alone", 4, averaging=share)).state_dict()
        for share in (0.9999999, 1e-9)
    )
    torch.manual_seed(0)
    first = distillation.DigitNet().state_dict()
    for name in ("conv1.weight", "conv2.weight"):
        moved, walked = (float((state[name] - first[name]).abs().mean()) for state in (starts, lasts))
        assert moved < 0.5 * walked


def test_a_network_that_is_trained_is_not_trained_again(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []
    monkeypatch.setattr(distillation.subprocess, "run", lambda command, **_: commands.append(command))
    assert distillation.train_network(runs, None, "plain") == runs / "plain/checkpoint.safetensors"
    assert not commands
    (runs / "short").mkdir()
    (runs / "short/state.safetensors").touch()
    distillation.train_network(runs, Path("here"), "short")
    (command,) = commands
    assert command[-3:] == ["--data", "here", "--resume"] and "benchmarks.teachers:residual" in command


def test_the_table_has_each_student_beside_its_teacher(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Pool:
        """Does everything here, where what is replaced stays replaced."""

        map = staticmethod(map)

        def __init__(self, *_: object) -> None: ...

        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None: ...

    (runs / "students").mkdir()
    for name, epochs in ((name, epochs) for name in ("labels-alone", "both") for epochs in (8, 16, 32)):
        result = {"validation": 0.9, "augmented": 0.01 * len(name), "test": epochs / 100}
        (runs / "students" / f"{name}-{epochs}.json").write_text(json.dumps(result))
    monkeypatch.setattr(distillation, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(sys, "argv", ["distillation", str(runs)])
    distillation.main()
    lines = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in capsys.readouterr().out.splitlines()]
    rows = [cells for cells in lines if cells[0] in distillation.TEACHERS]
    assert [row[3:] for row in rows[:2]] == [
        ["8", "0", "90.00%", "12.00%", "8.00%"],
        ["16", "0", "90.00%", "12.00%", "16.00%"],
    ]
    assert [row[0] for row in rows] == ["labels alone"] * 3 + ["both"] * 3
    assert rows[0][1:3] == ["-", "-"] and all(cell.endswith("%") for cell in rows[3][1:3])

    for seed in ("", "-seed=1"):
        text = json.dumps({"validation": 0.5, "augmented": 0.25, "test": 0.75})
        (runs / "students" / f"both-9-lr=0.1{seed}.json").write_text(text)
    more = ["--student", "both", "--epochs", "9", "--set", "lr=0.1", "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", ["distillation", str(runs), *more])
    distillation.main()
    lines = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in capsys.readouterr().out.splitlines()]
    found = [row for row in lines if row[0] == "both"]
    assert [row[3:] for row in found] == [["9", seed, "50.00%", "25.00%", "75.00%"] for seed in "01"]
    assert found[0][:3] == rows[3][:3]
