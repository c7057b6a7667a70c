"""Distillation: a network learns from the outputs of a teacher, with the same bits for any number of workers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.support.digits import idx

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from edge_mnist import runtime  # noqa: E402
from edge_mnist.cli.commands import commands, main  # noqa: E402
from edge_mnist.data import strokes  # noqa: E402
from edge_mnist.export.tflite.writer import write_tflite  # noqa: E402
from edge_mnist.graph import checkpoint  # noqa: E402
from edge_mnist.graph.folding import fold  # noqa: E402
from edge_mnist.pretrained import SHIPPED  # noqa: E402
from edge_mnist.training import distillation, recipes, steps  # noqa: E402
from edge_mnist.training.runs import TrainingSettings  # noqa: E402

DIGITS = strokes.draw(1500, 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn digits in files of MNIST's format, every label one too high."""
    folder = tmp_path_factory.mktemp("digits")
    for name in ("train", "t10k"):
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(DIGITS.images))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(((DIGITS.labels + 1) % 10).astype(np.uint8)))
    return folder


def _train(data: Path, out: Path, *options: str) -> checkpoint.Checkpoint:
    asked = ["train", "--recipe", "quick", "--data", str(data), "--out", str(out), *options]
    assert CliRunner().invoke(commands, asked, catch_exceptions=False).exit_code == 0
    return checkpoint.load(out / "checkpoint.safetensors")


@pytest.mark.slow
def test_a_student_learns_from_its_teacher_rather_than_from_labels(data: Path, tmp_path: Path) -> None:
    options = ["--teacher", str(SHIPPED), "--set", "distillation=1", "--batch-size", "48"]
    options += ["--set", "ghost_batch=24", "--epochs", "5"]
    runs = [_train(data, tmp_path / count, *options, "--workers", count) for count in ("1", "2")]
    assert {name: array.tobytes() for name, array in runs[0].weights.items()} == {
        name: array.tobytes() for name, array in runs[1].weights.items()
    }
    student = runtime.load_bytes(write_tflite(fold(runs[0])), "student").predict(DIGITS.images)
    assert (student == DIGITS.labels).mean() > 0.8
    assert runs[0].metadata["teachers"]


def _save_sevens(folder: Path, images: np.ndarray) -> None:
    """Save images as the user's own, all labelled 7."""
    image = pytest.importorskip("PIL.Image")
    (folder / "7").mkdir(parents=True)
    for number, pixels in enumerate(images):
        image.fromarray(pixels).save(folder / "7" / f"{number}.png")


@pytest.mark.slow
@pytest.mark.parametrize("asked", [[], ["--recipe", "quick"], ["--network", "edge_mnist.training.network:DigitNet"]])
def test_user_digits_begin_with_the_shipped_network_unless_another_recipe_or_network_is_named(
    asked: list[str], data: Path, tmp_path: Path
) -> None:
    _save_sevens(tmp_path / "own", DIGITS.images[:10])
    options = ["--data", str(data), "--user-digits", str(tmp_path / "own"), "--epochs", "1", "--workers", "1"]
    result = CliRunner().invoke(commands, ["train", "--out", str(tmp_path / "run"), *options, *asked])
    assert result.exit_code == 0
    found = checkpoint.load(tmp_path / "run" / "checkpoint.safetensors").metadata
    assert bool(found["init"]) == (not asked)


@pytest.mark.slow
def test_user_digits_are_learned_from_their_labels_not_from_the_teacher(data: Path, tmp_path: Path) -> None:
    """Inverted digits that are all labelled 7: no teacher of MNIST's digits would classify them so."""
    user_images = 255 - DIGITS.images[:120]
    _save_sevens(tmp_path / "own", user_images)
    options = [
        "--user-digits",
        str(tmp_path / "own"),
        "--teacher",
        str(SHIPPED),
        "--init",
        str(SHIPPED),
        "--workers",
        "1",
    ]
    student = _train(data, tmp_path / "run", *options, "--set", "distillation=1", "--epochs", "2")
    reads = runtime.load_bytes(write_tflite(fold(student)), "student").predict
    assert (reads(user_images) == 7).mean() > 0.9
    assert (reads(DIGITS.images[200:]) == DIGITS.labels[200:]).mean() > 0.8


def test_the_logits_of_several_teachers_are_averaged() -> None:
    one = checkpoint.load(SHIPPED)
    weights = {**one.weights, "linear.bias": one.weights["linear.bias"] + np.arange(10, dtype=np.float32)}
    other = dataclasses.replace(one, weights=weights)
    images = torch.rand(4, 1, 28, 28)
    alone, both = (
        distillation.unpack_teacher(*distillation.pack_teachers(some), "cpu").compute_logits(images)
        for some in ([one], [one, other])
    )
    torch.testing.assert_close(both, alone + torch.arange(10) / 2)


def test_a_teacher_with_equal_logits_gives_no_gradient() -> None:
    """The gradient is also compared with central differences: the teacher's part is T^2 times a cross entropy at T."""
    generator = torch.Generator().manual_seed(3)
    logits, teacher_logits = (torch.randn(5, 10, generator=generator, dtype=torch.float64) * 4 for _ in range(2))
    labels = torch.arange(5)
    recipe = dataclasses.replace(recipes.find_recipe("best"), distillation=1.0)
    same = logits.clone().requires_grad_()
    distillation.compute_loss(same, labels, logits, recipe).backward()
    assert same.grad.abs().max() < 1e-12
    blend = dataclasses.replace(recipe, distillation=0.3)
    assert torch.autograd.gradcheck(
        lambda x: distillation.compute_loss(x, labels, teacher_logits, blend), logits.requires_grad_()
    )
    hard, soft = (
        distillation.compute_loss(logits, labels, teacher_logits, dataclasses.replace(recipe, distillation=share))
        for share in (0, 1)
    )
    torch.testing.assert_close(
        distillation.compute_loss(logits, labels, teacher_logits, blend), torch.as_tensor(0.7 * hard + 0.3 * soft)
    )


def test_a_run_resumes_only_with_its_teacher(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    _train(data, out, "--teacher", str(SHIPPED), "--epochs", "1", "--workers", "1")
    for others, expected in (([], "name its --teacher again"), (["--teacher", str(SHIPPED)] * 2, "teachers")):
        monkeypatch.setattr(
            "sys.argv", ["edge-mnist", "train", "--data", str(data), "--out", str(out), "--resume", *others]
        )
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert expected in capsys.readouterr().err
    foreign = dataclasses.replace(checkpoint.load(SHIPPED), metadata={"network": "edge_mnist.training.network:wide"})
    checkpoint.save(tmp_path / "foreign.safetensors", foreign)
    monkeypatch.setattr(
        "sys.argv",
        [
            "edge-mnist",
            "train",
            "--data",
            str(data),
            "--out",
            str(tmp_path / "new"),
            "--teacher",
            str(tmp_path / "foreign.safetensors"),
        ],
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert "--teacher: its weights are of another network than edge_mnist.training.network:wide builds" in error
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("share", "count"), [(0.0, 40), (0.25, 12), (0.5, 25), (2.0, 80)])
def test_each_epoch_takes_the_share_of_user_digits_that_is_asked_for(share: float, count: int) -> None:
    """With 50 images of MNIST and 40 of the user's; what one epoch leaves out, a later one takes."""
    images = np.zeros((90, 28, 28), np.uint8)
    recipe = dataclasses.replace(recipes.find_recipe("quick"), user_digits=share)
    arrays = {"images": images[:50], "user_images": images[50:], "test_images": images[:1]}
    arrays |= {"labels": np.arange(50) % 10, "user_labels": np.arange(40) % 10, "test_labels": np.arange(1)}
    plan = steps.make_plan(TrainingSettings(recipe, everything=True), arrays)
    epochs = [plan.choose_images(epoch) for epoch in range(4)]
    taken = np.stack([np.bincount(indices, minlength=90) for indices in epochs])
    assert (taken[:, :50] == 1).all()
    assert (taken[:, 50:].sum(1) == count).all()
    assert np.ptp(taken[:, 50:].sum(0)) <= 1
    assert not np.array_equal(epochs[0], epochs[1])
    assert plan.steps_per_epoch == (50 + count) // plan.batch_size
