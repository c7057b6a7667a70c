"""A model that is replaced while it reads: a good one is used, anything else is refused."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_mnist.demo.live import models, trial
from edge_mnist.demo.live.models import ModelWatcher
from edge_mnist.pretrained import SHIPPED, SHIPPED_INT8
from edge_mnist.system.errors import EdgeMnistError


def wait(what: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def folder(bundle_folder: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of a bundle."""
    return Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))


def test_a_good_model_is_used_and_any_other_is_refused_once(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    shutil.copy(SHIPPED_INT8, path)
    model = models.load(path)
    lines: list[str] = []
    watch = ModelWatcher(model, lines.append, period=0.03)
    try:
        path.write_bytes(SHIPPED_INT8.read_bytes()[:5000])  # a copy that was cut off
        wait(lambda: len(lines) == 1)
        assert watch.refused and watch.refused in lines[0]
        zeroed = bytearray(SHIPPED_INT8.read_bytes())
        zeroed[9000:14000] = bytes(5000)  # LiteRT opens it, and raises RuntimeError when it runs
        path.write_bytes(zeroed)
        wait(lambda: len(lines) == 2)
        path.write_bytes(SHIPPED.read_bytes())
        wait(lambda: len(lines) == 3)
        path.unlink()
        time.sleep(0.2)
        assert watch.take_new_model() is None and len(lines) == 3
        shutil.copy(folder / "model_float.tflite", path)
        found: list[models.OpenedModel] = []
        wait(lambda: found or [found.append(new) for new in [watch.take_new_model()] if new])
        assert found[0].classifier.contract.precision == "float" and watch.take_new_model() is None
        time.sleep(0.2)
        assert watch.take_new_model() is None and len(lines) == 3 and watch.refused == ""
        assert all("the old one stays in use" in line for line in lines)
    finally:
        watch.close()


def test_the_watcher_survives_whatever_a_model_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.tflite"
    shutil.copy(SHIPPED_INT8, path)
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        raise BrokenPipeError

    def fail(*_: object, **__: object) -> str:
        raise MemoryError

    model = models.load(path)
    monkeypatch.setattr(trial, "try_model", fail)
    watch = ModelWatcher(model, report, period=0.03)
    try:
        for count in (1, 2):
            path.write_bytes(bytes(count))
            wait(lambda count=count: len(lines) == count)
        assert watch.refused == f"{path}: MemoryError()"
        monkeypatch.setattr(trial, "try_model", lambda *_, **__: "another content")
        shutil.copy(SHIPPED_INT8, path)
        wait(lambda: len(lines) == 3)
        assert "changed while it was tried" in lines[2]
    finally:
        watch.close()


def test_golden_images_reveal_a_changed_model(folder: Path, tmp_path: Path) -> None:
    for name in ("model_int8.tflite", "model_int8.onnx", "model_float.onnx"):
        models.check_golden_images(models.load(folder / name))
    changed = bytearray((folder / "model_int8.tflite").read_bytes())
    for place in range(len(changed) // 2, len(changed), 997):
        changed[place] ^= 0x10
    (folder / "model_int8.tflite").write_bytes(changed)
    with pytest.raises(EdgeMnistError):
        models.check_golden_images(models.load(folder / "model_int8.tflite"))
    (tmp_path / "alone.tflite").write_bytes(SHIPPED_INT8.read_bytes())
    models.check_golden_images(models.load(tmp_path / "alone.tflite"))
