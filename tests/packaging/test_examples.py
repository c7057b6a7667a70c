"""The examples run as they are in the repository, and the model cards name the files that are shipped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edge_mnist.bundle.reference import Reference
from edge_mnist.export.tflite.writer import write_tflite
from edge_mnist.pretrained import SHIPPED
from tests.support.digits import put_digits

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "classroom" / "from_float_to_int8.ipynb"


def find_litert() -> Path | None:
    """The library that LiteRT's package holds beside its modules for Python."""
    package = find_spec("ai_edge_litert")
    found = Path(package.submodule_search_locations[0], "libLiteRt.so") if package else None
    return found if found and found.is_file() else None


def test_the_model_cards_name_every_shipped_file() -> None:
    cards = (ROOT / "docs" / "model-cards.md").read_text()
    for path in sorted(SHIPPED.parent.glob("*.*")):
        if path.suffix in (".safetensors", ".tflite"):
            assert path.name in cards and hashlib.sha256(path.read_bytes()).hexdigest() in cards, path.name


def test_every_example_is_listed() -> None:
    table = (EXAMPLES / "README.md").read_text()
    folders = [path for path in EXAMPLES.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))]
    for folder in folders:
        assert f"[{folder.name}]({folder.name})" in table and (folder / "README.md").is_file(), folder.name


def test_the_notebook_holds_no_outputs() -> None:
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    for package in ("ipykernel", "matplotlib", "onnxruntime", "torch"):
        pytest.importorskip(package)
    monkeypatch.setenv("EDGE_MNIST_DATA", str(put_digits(tmp_path / "mnist")))
    monkeypatch.setenv("EPOCHS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(tmp_path))
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    texts = ["".join(output.get("text", "") for output in cell.outputs) for cell in cells]
    whole = "".join(texts)
    assert "differ in 0 of 2000 outputs" in whole and "0 of 640 golden logits differ" in whole, whole
    assert whole.count("0 of 2,640 outputs differ  passed") == 4 and "8 bits: " in whole
    pictures = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not all(map(shutil.which, ("g++", "make"))) or find_litert() is None,
    reason="needs g++, make and the libLiteRt.so of ai-edge-litert",
)
def test_the_program_in_cpp_gives_the_oracles_logits(reference: Reference, tmp_path: Path) -> None:
    assert reference.quantized_graph is not None and reference.int8_logits is not None
    model = tmp_path / "model_int8.tflite"
    model.write_bytes(write_tflite(reference.quantized_graph))
    make = ["make", "-C", str(EXAMPLES / "cpp"), f"PYTHON={sys.executable}", f"BUILD={tmp_path}"]
    built = subprocess.run(make, capture_output=True, text=True, check=False, env={**os.environ, "MAKEFLAGS": ""})
    assert built.returncode == 0, built.stdout + built.stderr
    for image, logits in list(zip(reference.images, reference.int8_logits, strict=True))[:5]:
        run = subprocess.run([tmp_path / "classify", model], input=image.tobytes(), capture_output=True, check=False)
        expected = f"digit {np.argmax(logits)}\nlogits {' '.join(map(str, logits))}\n"
        assert (run.returncode, run.stdout.decode()) == (0, expected), run.stderr.decode()
    short = subprocess.run([tmp_path / "classify", model], input=b"", capture_output=True, check=False)
    assert short.returncode == 1 and b"expected 784 bytes" in short.stderr
    damaged = subprocess.run([tmp_path / "classify", __file__], input=bytes(784), capture_output=True, check=False)
    assert damaged.returncode == 1 and b"classify: " in damaged.stderr
