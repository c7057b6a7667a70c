"""Machines and files that do not suit: too little memory, a runtime without a kernel, artifacts of a newer version."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema

from edge_mnist import __version__, runtime
from edge_mnist.bundle.reference import read_bundle
from edge_mnist.cli import commands
from edge_mnist.pretrained import SHIPPED_INT8
from edge_mnist.system.errors import EdgeMnistError, explain_missing_packages

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("threads", ["1", "2"])  # with one thread, other libraries are the first that do not fit
@pytest.mark.parametrize("megabytes", [150, 300])
def test_too_little_memory_is_one_line(megabytes: int, threads: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "edge_mnist", "predict", "docs/reading.jpg"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20)),
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith("edge-mnist: there is too little memory: end other programs")
    assert "Traceback" not in result.stderr


def test_memory_that_runs_out_in_opencv_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    def exhausted(**_: object) -> None:
        raise cv2.error("alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 1191936 bytes")

    monkeypatch.setattr(commands.commands, "main", exhausted)
    monkeypatch.setattr(commands.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        commands.main()
    assert end.value.code == 1 and "too little memory" in capsys.readouterr().err


def test_a_runtime_without_a_kernel_is_named_with_the_remedy() -> None:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(SHIPPED_INT8.read_bytes(), 0))
    model.operatorCodes[0].version = 99
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    with pytest.raises(EdgeMnistError, match="lacks a kernel .*: pip install --upgrade ai-edge-litert: .*version '99'"):
        runtime.load_bytes(bytes(builder.Output()), "model.tflite")


def test_a_runtime_that_cannot_be_loaded_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", ModuleType("ai_edge_litert.interpreter"))
    monkeypatch.setitem(sys.modules, "tflite_runtime", None)
    with pytest.raises(EdgeMnistError, match="its runtime is installed and cannot be loaded: cannot import name"):
        runtime.load(SHIPPED_INT8)


def test_a_package_that_cannot_be_loaded_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_loader(**options: object) -> None:
        with explain_missing_packages():
            raise ImportError("libGL.so.1: cannot open shared object file", name="cv2")

    monkeypatch.setattr(commands.commands, "main", break_loader)
    monkeypatch.setattr(commands.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        commands.main()
    expected = "edge-mnist: cv2: is installed, but cannot be loaded: libGL.so.1: cannot open shared object file: see "
    assert end.value.code == 1 and capsys.readouterr().err.startswith(expected)


def test_what_a_package_lacks_is_not_called_that_package() -> None:
    with pytest.raises(ModuleNotFoundError, match="flatbuffers"), explain_missing_packages():  # of onnxruntime
        raise ModuleNotFoundError("No module named 'flatbuffers'", name="flatbuffers")


def test_a_newer_bundle_says_which_version_is_needed(bundle_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle_folder, tmp_path / "newer"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["format"] += 1
    manifest["versions"]["edge_mnist"] = "7.1.0"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EdgeMnistError, match=f"edge-mnist 7.1.0, which is needed to read it; this is {__version__}"):
        read_bundle(folder)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_holds_no_mistake(tmp_path: Path) -> None:
    unit = Path(
        shutil.copy(ROOT / "examples" / "raspberry-pi" / "edge-mnist@.service", tmp_path / "edge-mnist@pi.service")
    )
    result = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    told = [line for line in result.stderr.splitlines() if "edge-mnist" in line]
    # all that is wrong with it here is that nobody called pi has installed the package
    assert all("/home/pi/edge-mnist-env/bin/edge-mnist is not executable" in line for line in told), result.stderr
    broken = unit.read_text().replace("Restart=always", "Restart=perhaps")
    unit.write_text(broken)
    result = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "perhaps" in result.stderr
