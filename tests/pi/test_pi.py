"""On an emulated 64-bit Raspberry Pi, installed from the package index: the commands as a user runs them there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks.pi.emulator import CPUS, ROOT, Pi
from benchmarks.pi.instructions import GUEST
from edge_mnist import runtime
from edge_mnist.data import strokes
from edge_mnist.demo.sources import scenes
from edge_mnist.export.tflite.writer import write_tflite
from edge_mnist.formats.table import read_contract
from edge_mnist.graph import calibration
from edge_mnist.graph.folding import fold
from edge_mnist.graph.interpreter import Rounding, run_quantized
from edge_mnist.graph.quantization import quantize_graph
from edge_mnist.pretrained import SHIPPED_INT8
from edge_mnist.system.errors import EdgeMnistError
from tests.support.networks import random_checkpoint, random_features, random_graph, random_images

pytestmark = pytest.mark.pi

IMAGES = 500
"""That artifacts are verified on, beside the golden ones."""
NETWORKS = 40
FORMATS = ("--format", "tflite", "--format", "onnx")

PLAIN = """
import functools, importlib.abc, importlib.util, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "ai_edge_litert.interpreter":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def patched(module):
            execute(module)
            plain = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            module.Interpreter = functools.partial(module.Interpreter, experimental_op_resolver_type=plain)
        spec.loader.exec_module = patched
        return spec

sys.meta_path.insert(0, Finder())
"""
"""A sitecustomize.py that takes XNNPACK from LiteRT, in every process."""


@pytest.fixture(scope="module")
def tflite_runtime(pi: Pi, wheel: Path) -> Path:
    """The Python of an environment that has tflite-runtime in place of LiteRT, which reaches Python 3.11."""
    if pi.suite != "bookworm":
        pytest.skip("tflite-runtime has no wheels after Python 3.11")
    python = Path("/opt/tflite-runtime/bin/python")
    shutil.rmtree(pi.root / "opt/tflite-runtime", ignore_errors=True)
    pi.check("python3", "-m", "venv", "--without-pip", python.parent.parent, cwd=wheel.parent)
    install = ("python3", "-m", "pip", "--python", python, "install", "--quiet")
    pi.check(*install, "--no-deps", f"/mnt/{wheel.name}", cwd=wheel.parent)
    needs = ("tflite-runtime", "numpy<2", "click", "rich", "safetensors", "platformdirs", "filelock")
    pi.check(*install, *needs, cwd=wheel.parent)
    return python


@pytest.fixture(scope="module")
def exported(pi: Pi, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the Pi has exported artifacts/, not yet verified, with MNIST's test files in data/."""
    folder = tmp_path_factory.mktemp(pi.suite)
    pi.check("edge-mnist", "export", "--int8", *FORMATS, "--no-verify", cwd=folder)
    (folder / "data").mkdir()
    for path in Path(os.environ.get("EDGE_MNIST_DATA") or folder).glob("**/t10k-*"):
        shutil.copy(path, folder / "data")
    return folder


def verified(pi: Pi, folder: Path, *program: object, **options: Any) -> dict[str, Any]:
    """The parity report of `verify artifacts`, which must pass; on drawn digits where MNIST is not to be had."""
    places = ("--data", "data") if list((folder / "data").iterdir()) else ()
    command = (*(program or ("edge-mnist",)), "verify", "artifacts", "--images", IMAGES, *places, "--json")
    result = pi.run(*command, cwd=folder, **options)
    found: dict[str, Any] = json.loads(result.stdout or "{}")
    failed = [(one["name"], one["reason"]) for one in found.get("variants", ()) if one["status"] == "failed"]
    assert result.returncode == 0, failed or result.stderr
    return found


def here(*arguments: object, cwd: Path) -> str:
    """What edge-mnist prints on this machine."""
    command = [sys.executable, "-m", "edge_mnist", *map(str, arguments)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=True).stdout


def test_the_commands_say_what_is_there(pi: Pi, tmp_path: Path) -> None:
    assert "Usage: edge-mnist" in pi.check("edge-mnist", "--help", cwd=tmp_path)
    told = pi.check("edge-mnist", "doctor", cwd=tmp_path)
    states = {line[4:].split("  ")[0]: line[:2] for line in told.splitlines()}
    wanted = ("Python", "NumPy", "OpenCV", "TFLite", "aiohttp", "ONNX Runtime", "Processor", "Memory", "Disk")
    assert [states[name] for name in wanted] == ["ok"] * len(wanted), told
    assert states["PyTorch"] == "--" and "XNNPACK" in told and "aarch64" in told and "NEON" in told
    assert "without dot products" in told and "dot product" in pi.check(
        "edge-mnist", "doctor", cwd=tmp_path, cpu="cortex-a76"
    )
    assert "18,662" in pi.check("edge-mnist", "info", cwd=tmp_path)


def test_the_pi_exports_the_bytes_that_x86_exports(pi: Pi, exported: Path, bundle_folder: Path) -> None:
    assert pi.run("python3", "-c", "import torch", cwd=exported).returncode == 1
    names = [f"model_{precision}.{suffix}" for precision in ("float", "int8") for suffix in ("tflite", "onnx")]
    for name in names:
        assert (exported / "artifacts" / name).read_bytes() == (bundle_folder / name).read_bytes(), name
    # the float golden logits are sums of NumPy's, the int8 ones are integers
    golden = [
        json.loads((folder / "manifest.json").read_text())["golden"]
        for folder in (exported / "artifacts", bundle_folder)
    ]
    assert golden[0] == golden[1]


@pytest.mark.parametrize("cpu", CPUS)
def test_no_logit_differs(cpu: str, pi: Pi, exported: Path) -> None:
    report = verified(pi, exported, cpu=cpu)
    assert report["passed"] and report["images"] == IMAGES
    assert [variant["name"] for variant in report["variants"]] == [
        "onnx float",
        "onnx int8",
        "tflite float",
        "tflite int8",
    ]
    for variant in report["variants"]:
        assert (variant["status"], variant["reason"], variant["logits_differing"]) == ("passed", "", 0)
        assert variant["logits_compared"] == 10 * (IMAGES + 64)
    assert report["variants"][-1]["runtime"].endswith("XNNPACK")
    print(f"\n{pi.suite}, {cpu}: 0 of {2 * variant['logits_compared']:,} int8 logits differ ({report['dataset']})")


def test_tflite_runtime_equals_its_own_mode(pi: Pi, exported: Path, tflite_runtime: Path) -> None:
    report = verified(pi, exported, tflite_runtime.with_name("edge-mnist"))
    int8 = report["variants"][-1]
    assert report["passed"] and int8["runtime"].startswith("tflite-runtime") and int8["logits_differing"] == 0
    assert re.search(r"requantizes in fixed point.* [1-9][\d,]* differ, by at most [1-9]$", int8["reason"])
    assert [variant["status"] for variant in report["variants"]] == ["not run", "not run", "passed", "passed"]


def test_without_xnnpack_it_works_and_says_so(pi: Pi, exported: Path) -> None:
    if pi.suite != "bookworm":
        pytest.skip("tried on bookworm")
    (exported / "sitecustomize.py").write_text(PLAIN)
    variables = {"PYTHONPATH": "/mnt"}
    report = verified(pi, exported, variables=variables)
    int8 = report["variants"][-1]
    assert report["passed"] and int8["runtime"].endswith("without XNNPACK") and int8["logits_differing"] == 0
    assert "requantizes in fixed point" in int8["reason"]
    told = pi.check("edge-mnist", "doctor", cwd=exported, variables=variables)
    assert re.search(r"^-- +TFLite .*without XNNPACK.*slower without XNNPACK: pip install", told, re.MULTILINE)


def test_random_networks_give_the_oracles_logits(pi: Pi, tflite_runtime: Path, tmp_path: Path) -> None:
    modes: dict[str, tuple[object, Rounding]] = {
        "litert": ("python3", "float"),
        "plain": ("python3", "fixed-point, single rounding"),
        "tflite-runtime": (tflite_runtime, "fixed-point, ties away"),
    }
    networks = {}
    for seed in range(1000, 1000 + NETWORKS):
        for kind, checkpoint in (("chain", random_checkpoint(seed)), ("graph", random_graph(seed))):
            graph = fold(checkpoint)
            inputs = (random_images if graph.is_pixels else random_features)(checkpoint, 40, seed)
            try:
                network, _ = quantize_graph(graph, calibration.collect(graph, inputs))
            except EdgeMnistError:  # every output is dead
                continue
            name, data = f"{kind}{seed}", write_tflite(network)
            (tmp_path / f"{name}.tflite").write_bytes(data)
            contract = read_contract(data, name)
            np.save(tmp_path / f"{name}.npy", contract.convert_images(inputs))
            networks[name] = network, inputs, contract
    assert len(networks) > 1.6 * NETWORKS
    shutil.copy(GUEST, tmp_path)
    for kind, (python, rounding) in modes.items():
        assert int(pi.check(python, GUEST.name, "outputs", kind, cwd=tmp_path)) == len(networks)
        for name, (network, inputs, contract) in networks.items():
            found = contract.flatten_outputs(np.load(tmp_path / f"{name}.{kind}.npy"), len(inputs))
            np.testing.assert_array_equal(found, run_quantized(network, inputs, rounding), f"{kind}, {name}")


def test_pictures_are_read_as_on_x86(pi: Pi, tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / "reading.jpg", tmp_path)
    drawn = strokes.draw(400, 3)
    for seed, (name, style) in enumerate(scenes.STYLES.items()):
        cv2.imwrite(str(tmp_path / f"{name}.png"), scenes.render(np.random.RandomState(seed), drawn, style).frame)
    photos = Path(os.environ.get("EDGE_MNIST_PHOTOS") or ROOT.parent / "shared" / "photos")
    every = 4 if pi.suite == "bookworm" else 16
    found = sorted(path for path in photos.glob("**/*") if path.suffix in (".png", ".jpg"))[::every]
    for path in found:
        shutil.copy(path, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    there = [
        json.loads(line) for line in pi.check("edge-mnist", "predict", *names, "--json", cwd=tmp_path).splitlines()
    ]
    own = [json.loads(line) for line in here("predict", *names, "--json", cwd=tmp_path).splitlines()]
    assert [facts["image"] for facts in there] == names
    digits = otherwise = 0
    read_otherwise = []
    for one, other in zip(there, own, strict=True):
        digits += len(other["digits"])
        if one["lines"] != other["lines"]:
            read_otherwise.append(one["image"])
            continue
        for digit, wanted in zip(one["digits"], other["digits"], strict=True):
            assert digit["label"] == wanted["label"], one["image"]
            is_same = digit["box"] == pytest.approx(wanted["box"], abs=1)
            otherwise += not (is_same and digit["confidence"] == pytest.approx(wanted["confidence"], abs=1e-3))
    # The last bits of exponentials differ: of two boxes that are equally likely, either may be given.
    assert otherwise <= 0.01 * digits and not read_otherwise, (otherwise, read_otherwise)
    print(
        f"\n{pi.suite}: {digits} digits in {len(names)} pictures, {len(found)} of them photographs, as on x86 but for"
    )
    print(f"{otherwise} digits with another box or confidence and {len(read_otherwise)} pictures with another text")
    assert digits > 30


def test_the_demo_reads_without_a_view(pi: Pi, tmp_path: Path) -> None:
    options = ("--camera", "sample", "--view", "none", "--json", "--max-frames", 40)
    events = [json.loads(line) for line in pi.check("edge-mnist", "demo", *options, cwd=tmp_path).splitlines()]
    assert events[0]["event"] == "read" and re.fullmatch(r"\d+", events[0]["number"])


def test_the_demos_page_is_served(pi: Pi, tmp_path: Path) -> None:
    process = pi.start("edge-mnist", "demo", "--camera", "sample", "--view", "web", "--port", 0, cwd=tmp_path)
    try:
        told = ""
        while not (found := re.search(r"the demo is at (\S+)", told)):
            line = process.stderr.readline()  # type: ignore[union-attr]
            assert line, told
            told += line
        with urllib.request.urlopen(found[1], timeout=60) as answer:
            assert b"<title>" in answer.read()
        with urllib.request.urlopen(found[1] + "events", timeout=60) as answer:
            status = json.loads(answer.readline().removeprefix(b"data: "))
        assert status["numbers"] is not None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_the_zip_runs_without_this_package(pi: Pi, tmp_path: Path) -> None:
    pi.check("edge-mnist", "export", "--bundle", "pi.zip", cwd=tmp_path)
    here("export", "--bundle", "x86.zip", cwd=tmp_path)
    assert (tmp_path / "pi.zip").read_bytes() == (tmp_path / "x86.zip").read_bytes()
    python = Path("/opt/bare/bin/python")
    shutil.rmtree(pi.root / "opt/bare", ignore_errors=True)
    pi.check("python3", "-m", "venv", "--without-pip", python.parent.parent, cwd=tmp_path)
    pi.check("python3", "-m", "pip", "--python", python, "install", "--quiet", "ai-edge-litert", cwd=tmp_path)
    shutil.unpack_archive(tmp_path / "pi.zip", tmp_path / "zip")
    assert pi.run(python, "-c", "import edge_mnist", cwd=tmp_path).returncode == 1
    assert pi.check(python, "classify.py", cwd=tmp_path / "zip").startswith("0 of 640 golden logits differ")
    drawn = strokes.draw(20, 3)
    np.save(tmp_path / "zip" / "images.npy", drawn.images)
    found = pi.check(python, "classify.py", "images.npy", cwd=tmp_path / "zip").split()
    assert [int(label) for label in found] == runtime.load(SHIPPED_INT8).predict(drawn.images).tolist()
