"""Runs and checkpoints that earlier versions wrote are still read: their fields had other names then."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from edge_mnist.cli.commands import commands, main
from edge_mnist.data import strokes
from edge_mnist.graph import checkpoint
from edge_mnist.graph.tensor_file import encode_tensors, read_tensors
from edge_mnist.pretrained import SHIPPED
from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.system.files import write_whole
from edge_mnist.training import distillation, runs
from edge_mnist.training.network import DIGITNET
from edge_mnist.training.recipes import RECIPES
from tests.support.digits import idx

RECORDED: dict[str, Any] = {
    "bfloat16": False, "device": "cpu", "everything": False, "init": "", "network": "edge_mnist.network:DigitNet",
    "recipe": {
        "augmentation": {
            "elastic": 1.0, "rotation": 14.0, "scale": 0.15, "shear": 0.15, "shift": 2.0, "stroke": 0.3, "wear": 0.3,
        },
        "batch_size": 128, "calm": 1, "distillation": 0.9, "epochs": 2, "ghost_batch": 64, "label_smoothing": 0.05,
        "lr": 0.01, "momentum": 0.9, "name": "best", "optimizer": "adam", "outliers": 0.125, "schedule": "onecycle",
        "temperature": 3.0, "weight_decay": 0.0001,
    },
    "seed": 5, "teachers": "", "watch_test": False,
}  # fmt: skip
"""The settings in the header of a state.safetensors that version 0.1 wrote."""


def test_recorded_settings_of_former_names_are_read() -> None:
    settings = runs.parse_settings(RECORDED)
    assert settings.recipe.cooldown_epochs == 1 and settings.recipe.augmentation is not None
    assert settings.recipe.augmentation.degradation == 0.3 and settings.network == DIGITNET
    assert runs.parse_settings(dataclasses.asdict(settings)) == settings
    with pytest.raises(TypeError):
        runs.parse_settings({**RECORDED, "recipe": {**RECORDED["recipe"], "unknown": 1}})


def test_a_checkpoint_says_how_it_was_trained_under_former_names_too() -> None:
    shipped = checkpoint.load(SHIPPED)
    fields = {field.name for field in dataclasses.fields(runs.TrainingSettings)}
    metadata = {name: value for name, value in shipped.metadata.items() if name in fields}
    settings = runs.parse_settings(metadata)
    assert settings.recipe.augmentation is not None and settings.recipe.augmentation.degradation == 0.05
    recipe = dict(metadata["recipe"])
    recipe["augmentation"] = dict(recipe["augmentation"])
    recipe["augmentation"]["wear"] = recipe["augmentation"].pop("degradation")
    recipe["calm"] = recipe.pop("cooldown_epochs")
    former = {"network": "edge_mnist.network:DigitNet", "recipe": recipe}
    assert runs.parse_settings({**metadata, **former}) == settings
    old = dataclasses.replace(shipped, metadata={**shipped.metadata, **former})
    assert distillation.unpack_teacher(*distillation.pack_teachers([old]), "cpu") is not None


def test_the_recipe_of_a_run_may_be_named_again() -> None:
    recorded = runs.TrainingSettings(dataclasses.replace(RECIPES["quick"], epochs=1), device="cpu")
    assert runs.choose_settings(recorded=recorded, recipe=RECIPES["quick"], changes={}) == recorded
    for other in ({"recipe": RECIPES["best"], "changes": {}}, {"recipe": RECIPES["quick"], "changes": {"epochs": 4}}):
        with pytest.raises(UsageError, match="the run was started with .*epochs 1"):
            runs.choose_settings(recorded=recorded, **other)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("network",), 5),
        (("seed",), "abc"),
        (("recipe",), None),
        (("recipe",), [1]),
        (("recipe", "augmentation"), 3),
        (("recipe", "lr"), "x"),
    ],
)
def test_settings_of_other_types_are_damage(place: tuple[str, ...], value: object, tmp_path: Path) -> None:
    settings = dataclasses.asdict(runs.TrainingSettings(RECIPES["best"]))
    part: Any = settings
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    write_whole(tmp_path / runs.STATE, encode_tensors({}, {"settings": settings}))
    with pytest.raises(EdgeMnistError, match="is damaged or of another version"):
        runs.recorded_settings(tmp_path)


def test_a_file_does_not_choose_which_code_is_run() -> None:
    recorded = runs.TrainingSettings(RECIPES["quick"], network="os:abort", device="cpu")
    with pytest.raises(UsageError, match="trains a network of yours: name it again with --network os:abort"):
        runs.choose_settings(recorded=recorded, recipe=None, changes={})
    assert runs.choose_settings(recorded=recorded, recipe=None, changes={}, network="os:abort") == recorded


def test_a_run_of_an_earlier_version_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, digits in (("train", strokes.draw(300, 1)), ("t10k", strokes.draw(50, 2))):
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(idx(digits.images))
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(idx(digits.labels.astype(np.uint8)))
    out = tmp_path / "run"
    base = ["train", "--data", str(tmp_path), "--out", str(out), "--workers", "1"]
    options = "--recipe best --epochs 2 --seed 5 --device cpu --precision float32 --set elastic=1".split()
    changes = ["--set", "wear=0.3", "--set", "calm=1"]
    assert CliRunner().invoke(commands, [*base, *options, *changes], catch_exceptions=False).exit_code == 0
    state = out / runs.STATE
    arrays, header = read_tensors(state)
    assert header["settings"] != RECORDED and runs.parse_settings(header["settings"]) == runs.parse_settings(RECORDED)
    state.write_bytes(encode_tensors(arrays, {**header, "settings": RECORDED}))
    weights = checkpoint.load(out / "checkpoint.safetensors").weights
    # an option that contradicts the recorded one is found under either name
    for change in ("calm=2", "cooldown_epochs=2"):
        monkeypatch.setattr(sys, "argv", ["edge-mnist", *base, "--resume", "--set", change])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
    resumed = CliRunner().invoke(commands, [*base, "--resume", *changes], catch_exceptions=False)
    assert resumed.exit_code == 0
    for name, array in checkpoint.load(out / "checkpoint.safetensors").weights.items():
        assert array.tobytes() == weights[name].tobytes()
