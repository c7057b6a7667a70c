"""The networks of MLPerf Tiny, where their weights are, and the benchmark that exports them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edge_mnist
from benchmarks import mlperf_tiny

pytest.importorskip("torch")
import torch

ROOT = Path(__file__).parents[2]

needs_weights = pytest.mark.skipif(
    not mlperf_tiny.FOLDER.is_dir(), reason=f"the weights of MLPerf Tiny are not in {mlperf_tiny.FOLDER}"
)


def normalize(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32))


@needs_weights
def test_resnet8_is_as_accurate_as_the_published_network() -> None:
    _, images, labels = mlperf_tiny.load_images()
    network = mlperf_tiny.load(mlperf_tiny.ResNet8(), "resnet8.safetensors")
    with torch.inference_mode():
        found = network(normalize(images)).argmax(dim=1).numpy()
    assert (found == labels).sum() == 1528  # 76.40 % of 2,000, as of the published float model


@needs_weights
@pytest.mark.slow
def test_resnet8_is_the_same_integers_everywhere_and_loses_no_accuracy(tmp_path: Path) -> None:
    learned, images, labels = mlperf_tiny.load_images()
    np.savez(tmp_path / "data.npz", images=mlperf_tiny.resize(images, 32), labels=labels)
    result = edge_mnist.export_model(
        mlperf_tiny.load(mlperf_tiny.ResNet8(), "resnet8.safetensors"),
        tmp_path / "artifacts",
        input_shape=(3, 32, 32),
        scale=1.0,
        calibration=mlperf_tiny.resize(learned, 32),
        data=tmp_path / "data.npz",
        formats=["torchscript", "onnx", "tflite", "c"],
        images=len(images),
        max_drop=0.3,
    )
    assert result.parity is not None and result.parity.passed
    assert [variant.logits_differing for variant in result.parity.variants] == [0] * 7
    assert result.parity.float_accuracy == 0.764


@needs_weights
@pytest.mark.slow
def test_mobilenet_is_the_same_integers_everywhere(tmp_path: Path) -> None:
    learned, images, _ = mlperf_tiny.load_images()
    np.savez(tmp_path / "data.npz", images=mlperf_tiny.resize(images[:40], 96))
    result = edge_mnist.export_model(
        mlperf_tiny.load(mlperf_tiny.MobileNetV1(), "mobilenet_vww.safetensors"),
        tmp_path / "artifacts",
        input_shape=(3, 96, 96),
        calibration=mlperf_tiny.resize(learned[:100], 96),
        data=tmp_path / "data.npz",
        formats=["torchscript", "onnx", "tflite", "c"],
    )
    assert result.parity is not None and result.parity.passed
    assert [variant.logits_differing for variant in result.parity.variants] == [0] * 7


def test_the_benchmark_says_in_a_line_what_is_missing(tmp_path: Path) -> None:
    environment = {**os.environ, "EDGE_MNIST_NETWORKS": str(tmp_path / "nowhere")}
    command = [sys.executable, str(ROOT / "benchmarks" / "networks.py"), "--folder", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {tmp_path / 'nowhere'}: is not there") and result.stderr.count("\n") == 1
