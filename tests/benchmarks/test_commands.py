"""What becomes of a mistake in the commands of `benchmarks`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("cv2")

import benchmarks

MISTAKES = {
    "reading --scenes held-out": (1, "no train-images-idx3-ubyte"),
    "outliers": (1, "no t10k-images-idx3-ubyte"),
    "hands made": (1, "no train-images-idx3-ubyte"),
    "crops --fonts .": (1, "no train-images-idx3-ubyte"),
    "confidence --fonts .": (2, "handwritten and 0 printed fonts"),
    "finding --fonts .": (2, "handwritten and 0 printed fonts"),
    "layout --fonts .": (2, "handwritten and 0 printed fonts"),
    "leave_one_out runs --fonts .": (2, "handwritten and 0 printed fonts"),
}
"""The command, its exit status, and a part of what it says where MNIST and fonts are missing."""


@pytest.mark.parametrize("command", MISTAKES)
def test_missing_data_is_reported_in_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGE_MNIST_DATA", str(tmp_path))
    monkeypatch.setattr("sys.path", [*sys.path])  # some commands add the checkout
    name, *arguments = command.split()
    monkeypatch.setattr("sys.argv", [name, *arguments])
    status, part = MISTAKES[command]
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(Path(benchmarks.__file__).with_name(f"{name}.py")), run_name="__main__")
    errors = capsys.readouterr().err
    assert end.value.code == status and errors.startswith("Error: ") and part in errors
    assert len(errors.splitlines()) == 1 and list(tmp_path.iterdir()) == []
