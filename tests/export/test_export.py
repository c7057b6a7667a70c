"""The written artifacts: the same bytes everywhere, small, complete, and usable without this package."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from click.testing import CliRunner

from edge_mnist import runtime
from edge_mnist.bundle.reference import Reference
from edge_mnist.cli.commands import commands
from edge_mnist.data import strokes
from edge_mnist.formats.contract import Contract
from edge_mnist.graph.interpreter import run_float, run_quantized
from edge_mnist.pretrained import SHIPPED_INT8
from edge_mnist.runtime.torchscript import choose_quantized_engine
from edge_mnist.system.files import METADATA_KEY

ROOT = Path(__file__).parents[2]

SHA256 = {
    "model_float.onnx": "f25e48f5a7d2550f425b26ce87e6c1b3886cdfbd9a2a2bec0481a64bd9fcf590",
    "model_float.tflite": "306385af461b622af77b1e4e69adcab8be960a0b170166bc3f50f1566c71c3da",
    "model_int8.onnx": "6f7370e108e0db76d57f86115a46d02e89e645da8fb900d8e1974eb18d0c763f",
    "model_int8.tflite": "f4a481027f5677d2c52f5432cf68dc169a1b89a68e8c1d1e4c6e0b80163b6c00",
}
"""The hashes of the shipped checkpoint's artifacts, equal with Python 3.10 to 3.13, NumPy 1.26 to 2.5, and on an
emulated Haswell. They change only if a writer or the quantization is changed on purpose."""

PRECISIONS = pytest.mark.parametrize("precision", ["float", "int8"])


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """uint8 (7, 28, 28)."""
    return strokes.draw(7, seed=5).images


def expected(reference: Reference, precision: str, images: np.ndarray) -> np.ndarray:
    """The oracle's logits, float32 or int8 (N, 10)."""
    if precision == "float":
        return run_float(reference.float_graph, images[:, None])
    assert reference.quantized_graph is not None
    return run_quantized(reference.quantized_graph, images[:, None])


def assert_same(outputs: np.ndarray, logits: np.ndarray) -> None:
    """Integers are equal, and floats are within the tolerance of `verify`."""
    assert outputs.dtype == logits.dtype
    np.testing.assert_allclose(outputs, logits, rtol=0, atol=1e-4 if logits.dtype == np.float32 else 0)


@pytest.mark.parametrize("name", SHA256)
def test_the_bytes_are_the_same_on_every_machine(name: str, bundle_folder: Path) -> None:
    assert hashlib.sha256((bundle_folder / name).read_bytes()).hexdigest() == SHA256[name]


def test_export_needs_neither_torch_nor_any_runtime(tmp_path: Path) -> None:
    packages = ("torch", "onnx", "onnxruntime", "ai_edge_litert", "tflite_runtime", "flatbuffers", "cv2", "matplotlib")
    arguments = ["export", "--int8", "--no-verify", "--format", "onnx", "--format", "tflite", "--out", "written"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({packages})); sys.path.insert(0, {str(ROOT)!r})\n"
        f"sys.argv[1:] = {arguments}\n"
        "from edge_mnist.cli.commands import main; main()"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, check=True)
    written = {name: hashlib.sha256((tmp_path / "written" / name).read_bytes()).hexdigest() for name in SHA256}
    assert written == SHA256


def test_the_shipped_int8_model_is_an_export_of_the_shipped_checkpoint() -> None:
    shipped = ROOT / "edge_mnist" / "pretrained" / "digitnet_int8.tflite"
    assert hashlib.sha256(shipped.read_bytes()).hexdigest() == SHA256["model_int8.tflite"]


@pytest.mark.parametrize("name", ["model_int8.onnx", "model_int8.tflite"])
def test_int8_is_small(name: str, bundle_folder: Path) -> None:
    assert (bundle_folder / name).stat().st_size <= 25_000


def test_the_manifest_lists_every_file_with_its_size_and_hash(bundle_folder: Path) -> None:
    files = _manifest(bundle_folder)["files"]
    assert {path.name for path in bundle_folder.iterdir()} == {*files, "manifest.json"}
    for name, entry in files.items():
        data = (bundle_folder / name).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


@PRECISIONS
def test_onnx_passes_the_checker_and_states_its_types_and_shapes(precision: str, bundle_folder: Path) -> None:
    model = onnx.load(bundle_folder / f"model_{precision}.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version >= 17) for entry in model.opset_import] == [("", True)]
    terms = {entry.key: entry.value for entry in model.metadata_props}
    assert Contract.from_json(terms[METADATA_KEY]).input_shape == (1, 28, 28)
    number = onnx.TensorProto.UINT8 if precision == "int8" else onnx.TensorProto.FLOAT
    (pixels,), (logits,) = model.graph.input, model.graph.output
    for end, shape in ((pixels, [1, 28, 28]), (logits, [10])):
        batch, *dimensions = end.type.tensor_type.shape.dim
        assert (batch.dim_param, [size.dim_value for size in dimensions]) == ("N", shape)
        assert end.type.tensor_type.elem_type == number


def test_onnx_runtime_computes_in_integers_only(bundle_folder: Path, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # ONNX Runtime warns that an optimised model is for this machine only
    onnxruntime.InferenceSession(bundle_folder / "model_int8.onnx", options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    operators = Counter(node.op_type for node in graph.node)
    assert operators["QLinearConv"] == 8
    # The other operators only move integers.
    assert operators.keys() <= {"QLinearConv", "Transpose", "MaxPool", "NhwcMaxPool", "Flatten"}


@PRECISIONS
def test_tflite_has_only_the_operators_of_the_network(precision: str, bundle_folder: Path) -> None:
    data = (bundle_folder / f"model_{precision}.tflite").read_bytes()
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    (graph,) = model.subgraphs
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    operators = [names[model.operatorCodes[operator.opcodeIndex].builtinCode] for operator in graph.operators]
    # No QUANTIZE, DEQUANTIZE or TRANSPOSE. No FULLY_CONNECTED either: before version 2.10 TensorFlow Lite computes it
    # wrongly with per-channel scales.
    network = ["CONV_2D"] * 3 + ["MAX_POOL_2D"] + ["CONV_2D"] * 2 + ["MAX_POOL_2D"] + ["CONV_2D"] * 3
    assert operators == [*network, "RESHAPE"]
    number = schema.TensorType.INT8 if precision == "int8" else schema.TensorType.FLOAT32
    ends = [graph.tensors[index] for index in (*graph.inputs, *graph.outputs)]
    assert [end.type for end in ends] == [number, number]
    assert [list(end.shapeSignature) for end in ends] == [[-1, 28, 28, 1], [-1, 10]]
    (entry,) = model.metadata
    assert entry.name.decode() == METADATA_KEY
    text = bytes(model.buffers[entry.buffer].data).decode()
    assert Contract.from_json(text).precision == precision


@PRECISIONS
def test_a_batch_of_tflite_can_be_resized_in_both_directions(
    precision: str, bundle_folder: Path, reference: Reference, images: np.ndarray
) -> None:
    path = bundle_folder / f"model_{precision}.tflite"
    terms = runtime.load(path).contract
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    found = []
    for batch in (images[:1], images, images[-1:]):
        inputs = terms.convert_images(batch)
        interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], inputs.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs)
        interpreter.invoke()
        found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    assert [len(outputs) for outputs in found] == [1, 7, 1]
    assert_same(found[1], expected(reference, precision, images))
    assert_same(np.concatenate([found[0], found[2]]), found[1][[0, -1]])


@PRECISIONS
def test_torchscript_contains_no_path_of_this_machine(precision: str, bundle_folder: Path) -> None:
    with zipfile.ZipFile(bundle_folder / f"model_{precision}.pt") as archive:
        assert not [name for name in archive.namelist() if name.endswith(".debug_pkl")]
        contents = b"".join(archive.read(name) for name in archive.namelist())
    import torch

    for place in (ROOT, Path(torch.__file__).parent, "site-packages"):
        assert str(place).encode() not in contents


@PRECISIONS
def test_torchscript_needs_only_torch(
    precision: str, bundle_folder: Path, reference: Reference, images: np.ndarray, tmp_path: Path
) -> None:
    terms = Contract.from_json(json.dumps(_manifest(bundle_folder)["files"][f"model_{precision}.pt"]["contract"]))
    np.save(tmp_path / "inputs.npy", terms.convert_images(images))
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"  # TorchScript is deprecated
        "import numpy, torch\n"
        "_, model, engine = sys.argv; torch.backends.quantized.engine = engine\n"
        "with torch.inference_mode():\n"
        "    outputs = torch.jit.load(model)(torch.from_numpy(numpy.load('inputs.npy')))\n"
        "numpy.save('outputs.npy', outputs.numpy())\n"
        "assert 'edge_mnist' not in sys.modules"
    )
    arguments = [str(bundle_folder / f"model_{precision}.pt"), choose_quantized_engine()]
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, check=True)
    assert_same(Contract.to_signed(np.load(tmp_path / "outputs.npy")), expected(reference, precision, images))


def _read_examples() -> list[str]:
    """The Python blocks of the page on using the files without this package."""
    text = (ROOT / "docs" / "artifacts.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("code", _read_examples())
def test_the_code_for_using_a_file_without_this_package_works(
    code: str, bundle_folder: Path, reference: Reference, images: np.ndarray, tmp_path: Path
) -> None:
    if "import torch" in code:
        pytest.importorskip("torch")
    engine = re.search(r'engine = "(\w+)"', code)
    if engine and engine[1] != choose_quantized_engine():
        pytest.skip(f"written for {engine[1]}")
    np.save(tmp_path / "image.npy", images[3])
    code = f"import numpy; image = numpy.load('image.npy')\n{code}\nprint(int(digit))".replace(
        '"artifacts/', f'"{bundle_folder.as_posix()}/'
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert int(result.stdout) == expected(reference, "int8", images)[3].argmax()


def test_there_is_code_for_using_each_format() -> None:
    assert [re.findall(r"artifacts/model_int8(\.\w+)", code) for code in _read_examples()] == [
        [".tflite"],
        [".onnx"],
        [".pt"],
    ]


def _manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def test_the_standalone_zip_checks_itself_without_edge_mnist(tmp_path: Path) -> None:
    for name in ("one.zip", "two.zip"):
        result = CliRunner().invoke(commands, ["export", "--zip", str(tmp_path / name)], standalone_mode=False)
        assert result.exception is None
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    folder = tmp_path / "zip"
    shutil.unpack_archive(tmp_path / "one.zip", folder)
    script = (folder / "classify.py").read_text()
    assert "edge_mnist" not in script and len(script.splitlines()) <= 50
    assert (folder / "model_int8.tflite").read_bytes() == SHIPPED_INT8.read_bytes()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "classify.py", *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    checked = run()
    assert (checked.returncode, checked.stdout) == (0, "0 of 640 golden logits differ, by at most 0\n")
    drawn = strokes.draw(30, 4)
    np.save(folder / "images.npy", drawn.images)
    found = [int(label) for label in run("images.npy").stdout.split()]
    assert found == runtime.load(SHIPPED_INT8).predict(drawn.images).tolist()
    logits = np.load(folder / "golden_logits.npy")
    logits[0, 0] += 1
    np.save(folder / "golden_logits.npy", logits)
    changed = run()
    assert (changed.returncode, changed.stdout) == (1, "1 of 640 golden logits differ, by at most 1\n")
