"""1,500 damaged files of each kind: one line of error or none, no traceback, no growth, no hang, no crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_mnist.bundle.reference import Reference
from edge_mnist.demo.live import trial
from edge_mnist.export.bundle_writer import make_bundle, write_bundle
from edge_mnist.formats.table import FORMATS
from edge_mnist.pretrained import SHIPPED
from edge_mnist.system.errors import EdgeMnistError
from tests.support import fuzz_artifacts
from tests.support.c_programs import require_compiler

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COUNT = 1500
MOST_GROWTH = 64 << 10
"""KiB that a process may have more after all its files than after the first fifty."""
CASES = {
    "model_int8.tflite": "artifact",
    "model_float.tflite": "artifact",
    "model_int8.onnx": "artifact",
    "model_float.onnx": "artifact",
    "model_int8.pt": "artifact",
    "model_float.pt": "artifact",
    "model_int8.c": "source",
    "model_int8.wasm": "artifact",
    "digitnet.safetensors": "checkpoint",
    "reference.safetensors": "reference",
    "manifest.json": "bundle",
}


@pytest.fixture(scope="module")
def bundle_with_c(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in every format."""
    require_compiler("wasm")
    folder = tmp_path_factory.mktemp("bundle") / "artifacts"
    write_bundle(folder, make_bundle(reference, list(FORMATS.values()), {}))
    return folder


@pytest.mark.parametrize("name", CASES)
def test_damaged_files_are_one_line_each(name: str, bundle_with_c: Path, tmp_path: Path) -> None:
    kind = CASES[name]
    file = SHIPPED if name == SHIPPED.name else bundle_with_c / name
    start, crashed = 0, []
    while start < COUNT:
        folder = tmp_path / str(start)
        folder.mkdir()
        command = [sys.executable, "-m", fuzz_artifacts.__name__, kind, str(file), str(folder), str(start), str(COUNT)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=ROOT)
        lines = done.stdout.splitlines()
        numbers = [int(line) for line in lines if line.isdigit()]
        assert numbers, f"{name}: {done.stderr}"
        said = [line for line in lines if not line.isdigit() and not line.startswith("growth ")]
        assert not said, f"{name}, near {numbers[-1]}: " + said[0].replace("\\n", "\n")
        assert done.returncode <= 0, f"{name}: number {numbers[-1]} takes too long: {done.stderr}"
        if done.returncode == 0:
            assert int(lines[-1].removeprefix("growth ")) < MOST_GROWTH
            break
        # A runtime crashed: what opens a model for the demo and `predict` must not.
        crashed.append(numbers[-1])
        assert kind == "artifact", f"{name}: number {numbers[-1]} ends the process: {done.returncode}"
        path = tmp_path / name
        path.write_bytes(fuzz_artifacts.damaged(kind, file.read_bytes(), numbers[-1]))
        try:
            trial.try_model(path, trust=True, golden=True)
        except EdgeMnistError as error:
            assert len(str(error).splitlines()) == 1
        start = numbers[-1] + 1
    print(f"{name}: its runtime crashed at {crashed}" if crashed else f"{name}: no crash")
