"""Other tools read the files correctly, on the 64 golden images; each older tool runs in its own environment."""

from __future__ import annotations

import glob
import shutil
import subprocess
import sysconfig
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from onnx.reference import ReferenceEvaluator

from edge_mnist.bundle.reference import Reference
from edge_mnist.graph.interpreter import run_float, run_quantized
from edge_mnist.runtime import load

UV = shutil.which("uv", path=sysconfig.get_path("scripts")) or shutil.which("uv")

PRECISIONS = pytest.mark.parametrize("precision", ["float", "int8"])


def expected(reference: Reference, precision: str) -> np.ndarray:
    """The oracle's logits of the golden images, float32 or int8 (64, 10)."""
    if precision == "float":
        return run_float(reference.float_graph, reference.images)
    assert reference.quantized_graph is not None
    return run_quantized(reference.quantized_graph, reference.images)


@PRECISIONS
def test_every_onnx_node_has_a_unique_name(precision: str, bundle_folder: Path) -> None:
    names = [node.name for node in onnx.load(bundle_folder / f"model_{precision}.onnx").graph.node]
    assert all(names) and len(set(names)) == len(names)


@PRECISIONS
def test_onnxs_reference_evaluator_gives_the_oracles_logits(
    precision: str, bundle_folder: Path, reference: Reference
) -> None:
    images = reference.images[:8] if precision == "int8" else reference.images[:8].astype(np.float32)
    (logits,) = ReferenceEvaluator(str(bundle_folder / f"model_{precision}.onnx")).run(None, {"pixels": images})
    if precision == "int8":
        np.testing.assert_array_equal(logits ^ 0x80, expected(reference, precision)[:8].view(np.uint8))
    else:
        np.testing.assert_allclose(logits, expected(reference, precision)[:8], rtol=0, atol=1e-4)


@PRECISIONS
def test_the_signature_of_tflite_names_input_and_output(
    precision: str, bundle_folder: Path, reference: Reference
) -> None:
    path = bundle_folder / f"model_{precision}.tflite"
    interpreter = Interpreter(model_path=str(path))
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["pixels"], "outputs": ["logits"]}}
    pixels = load(path).contract.convert_images(reference.images)
    logits = interpreter.get_signature_runner()(pixels=pixels)["logits"]
    atol = 0 if precision == "int8" else 1e-4
    np.testing.assert_allclose(logits, expected(reference, precision), rtol=0, atol=atol)


@pytest.mark.parametrize("level", ["DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL"])
def test_onnx_runtime_is_exact_from_extended_optimisations_on(
    level: str, bundle_folder: Path, reference: Reference
) -> None:
    path = bundle_folder / "model_int8.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"pixels": reference.images})
    step = np.abs(logits.astype(int) - 128 - expected(reference, "int8"))
    assert step.max() <= (0 if level in ("ENABLE_EXTENDED", "ENABLE_ALL") else 1) and (step > 0).mean() < 0.01
    assert load(path).runtime == f"ONNX Runtime {onnxruntime.__version__}, all optimisations"


def opencv_logits(path: Path, images: np.ndarray) -> np.ndarray:
    """Logits by OpenCV's dnn, one image at a time. The new engine of 5.0 crashes on .tflite."""
    if path.suffix == ".onnx":
        network = cv2.dnn.readNetFromONNX(str(path))
    else:
        older = {"engine": cv2.dnn.ENGINE_CLASSIC} if hasattr(cv2.dnn, "ENGINE_CLASSIC") else {}
        network = cv2.dnn.readNetFromTFLite(str(path), **older)
    logits = []
    for image in images:
        network.setInput(np.ascontiguousarray(image[None]))
        logits.append(network.forward().reshape(-1))
    return np.array(logits)


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_opencv_reads_the_float_files(suffix: str, bundle_folder: Path, reference: Reference) -> None:
    logits = opencv_logits(bundle_folder / f"model_float.{suffix}", reference.images.astype(np.float32))
    np.testing.assert_allclose(logits, expected(reference, "float"), rtol=0, atol=1e-4)


@pytest.mark.skipif(int(cv2.__version__.split(".")[0]) < 5, reason="OpenCV 4 has no integer input")
@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_opencv_5_reads_the_int8_files(suffix: str, bundle_folder: Path, reference: Reference) -> None:
    images = reference.images if suffix == "onnx" else (reference.images ^ 0x80).view(np.int8)
    logits = opencv_logits(bundle_folder / f"model_int8.{suffix}", images)
    differences = abs(logits.astype(int) - (128 if suffix == "onnx" else 0) - expected(reference, "int8"))
    # Its new engine, which reads ONNX, rounds some values otherwise: docs/bit-exactness.md says how many.
    most, share = (1, 0.01) if suffix == "onnx" else (0, 0)
    assert differences.max() <= most and (differences > 0).mean() <= share


OLD_TFLITE = """
import sys
import numpy as np
from tflite_runtime.interpreter import Interpreter
folder = sys.argv[1]
for precision in "int8", "float":
    model = Interpreter(f"{folder}/model_{precision}.tflite")
    pixels = np.load(f"{folder}/images.npy").transpose(0, 2, 3, 1)
    pixels = (pixels ^ 0x80).view(np.int8) if precision == "int8" else pixels.astype(np.float32)
    logits = model.get_signature_runner()(pixels=np.ascontiguousarray(pixels))["logits"]
    np.save(f"{folder}/{precision}.npy", logits)
"""

OPENCV = """
import sys
import cv2
import numpy as np
folder = sys.argv[1]
for suffix in "onnx", "tflite":
    network = cv2.dnn.readNet(f"{folder}/model_float.{suffix}")
    logits = []
    for image in np.load(f"{folder}/images.npy").astype(np.float32):
        network.setInput(image[None])
        logits.append(network.forward()[0])
    np.save(f"{folder}/{suffix}.npy", np.array(logits))
"""

TRACT = """
import sys
import numpy as np
import tract
folder = sys.argv[1]
for precision, fact in ("float", "1,1,28,28,f32"), ("int8", "1,1,28,28,u8"):
    model = tract.onnx().load(f"{folder}/model_{precision}.onnx")
    model.set_input_fact(0, fact)
    model = model.into_model().into_runnable()
    images = np.load(f"{folder}/images.npy").astype(np.uint8 if precision == "int8" else np.float32)
    np.save(f"{folder}/{precision}.npy", np.concatenate([model.run([image[None]])[0].to_numpy() for image in images]))
"""

ONNX_RUNTIME = """
import sys
import numpy as np
import onnxruntime
folder = sys.argv[1]
for precision, dtype in ("float", np.float32), ("int8", np.uint8):
    model = onnxruntime.InferenceSession(f"{folder}/model_{precision}.onnx", providers=["CPUExecutionProvider"])
    np.save(f"{folder}/{precision}.npy", model.run(None, {"pixels": np.load(f"{folder}/images.npy").astype(dtype)})[0])
"""

OPENVINO = """
import sys
import numpy as np
import openvino
folder = sys.argv[1]
for precision, dtype in ("float", np.float32), ("int8", np.uint8):
    options = {"INFERENCE_PRECISION_HINT": "f32"} if precision == "float" else {}
    model = openvino.compile_model(f"{folder}/model_{precision}.onnx", "CPU", options)
    np.save(f"{folder}/{precision}.npy", model(np.load(f"{folder}/images.npy").astype(dtype))[0])
"""


def run_elsewhere(
    script: str, python: str, packages: tuple[str, ...], work: Path, bundle: Path, images: np.ndarray
) -> None:
    """Run a script on the golden images in an environment that uv makes; skip the test where that is impossible."""
    if UV is None:
        pytest.skip("needs uv: pip install uv")
    environment = work / "environment"
    # uv finds pyenv's Pythons only where a shell has chosen them.
    found = sorted(glob.glob(str(Path.home() / f".pyenv/versions/{python}.*/bin/python"))) or [python]
    for command in (
        ["venv", "--no-python-downloads", "--python", found[-1], str(environment)],
        ["pip", "install", "--only-binary", ":all:", "--python", str(environment / "bin" / "python"), *packages],
    ):
        made = subprocess.run([UV, *command], capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(
                f"no Python {python} with {' and '.join(packages)} can be had here: {made.stderr.strip()[-200:]}"
            )
    for path in bundle.glob("model_*"):
        shutil.copy(path, work)
    np.save(work / "images.npy", images)
    result = subprocess.run(
        [environment / "bin" / "python", "-c", script, work], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("version", ["2.7.0", "2.8.0", "2.9.1"])
def test_old_tflite_runtimes_differ_by_one_step_at_most(
    version: str, tmp_path: Path, bundle_folder: Path, reference: Reference
) -> None:
    packages = (f"tflite-runtime=={version}", "numpy<2")
    run_elsewhere(OLD_TFLITE, "3.9", packages, tmp_path, bundle_folder, reference.images)
    step = np.abs(np.load(tmp_path / "int8.npy").astype(int) - expected(reference, "int8"))
    # Their XNNPACK rounds a few values in a thousand differently, also inside the network.
    assert step.max() <= 1 and (step > 0).mean() < 0.01
    np.testing.assert_allclose(np.load(tmp_path / "float.npy"), expected(reference, "float"), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["4.10.0.84", "4.13.0.*"])
def test_opencv_4_reads_the_float_files(
    version: str, tmp_path: Path, bundle_folder: Path, reference: Reference
) -> None:
    packages = (f"opencv-python-headless=={version}",)
    run_elsewhere(OPENCV, "3.11", packages, tmp_path, bundle_folder, reference.images)
    for suffix in ("onnx", "tflite"):
        logits = np.load(tmp_path / f"{suffix}.npy")
        np.testing.assert_allclose(logits, expected(reference, "float"), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "packages"),
    [
        (TRACT, ("tract", "numpy")),
        (OPENVINO, ("openvino",)),
        (ONNX_RUNTIME, ("onnxruntime==1.16.3", "numpy<2")),
        (ONNX_RUNTIME, ("onnxruntime==1.20.0",)),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_other_onnx_runtimes_give_the_oracles_logits(
    script: str, packages: tuple[str, ...], tmp_path: Path, bundle_folder: Path, reference: Reference
) -> None:
    run_elsewhere(script, "3.11", packages, tmp_path, bundle_folder, reference.images)
    int8 = (np.load(tmp_path / "int8.npy") ^ 0x80).view(np.int8)
    np.testing.assert_array_equal(int8, expected(reference, "int8"))
    np.testing.assert_allclose(np.load(tmp_path / "float.npy"), expected(reference, "float"), rtol=0, atol=1e-4)
