"""The figures of an evaluation, against their definitions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import edge_mnist
from edge_mnist.cli.commands import commands
from edge_mnist.data import outliers, strokes
from edge_mnist.graph import checkpoint
from edge_mnist.graph.folding import fold
from edge_mnist.measure import evaluation
from edge_mnist.pretrained import SHIPPED
from edge_mnist.system.errors import EdgeMnistError
from tests.support.digits import idx

SCORES = st.lists(st.integers(0, 8), min_size=1, max_size=30)


@given(SCORES, SCORES)
def test_auroc_counts_pairs(higher: list[int], lower: list[int]) -> None:
    pairs = [(a > b) + (a == b) / 2 for a in higher for b in lower]
    found = evaluation.auroc(np.array(higher, float), np.array(lower, float))
    assert found == pytest.approx(np.mean(pairs))


def test_calibration_error_is_the_gap_of_each_bin() -> None:
    # two bins: 0.9 sure and right in 3 of 4, 0.5 sure and right in 1 of 2
    confidences, right = np.array([0.9] * 4 + [0.5] * 2), np.array([1, 1, 1, 0, 1, 0], bool)
    assert evaluation.expected_calibration_error(confidences, right) == pytest.approx((4 * 0.15 + 2 * 0.0) / 6)
    assert evaluation.expected_calibration_error(np.ones(5), np.ones(5, bool)) == 0


def test_an_evaluation_counts_what_a_model_says() -> None:
    labels = np.array([0, 0, 1, 1, 2])
    logits = np.zeros((5, 10), np.float32)
    logits[[0, 1, 2, 3, 4], [0, 1, 1, 1, 1]] = [5, 1, 2, 3, 4]
    found = evaluation.evaluate(lambda images: logits, np.zeros((5, 28, 28), np.uint8), labels)
    assert found.accuracy == 0.6
    assert found.confusion.sum() == 5 and found.confusion[0, :2].tolist() == [1, 1] and found.confusion[2, 1] == 1
    assert found.mistakes.tolist() == [4, 1]  # the more confident first
    shares = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(1, keepdims=True)
    assert found.nll == pytest.approx(-np.log(shares[np.arange(5), labels]).mean())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    digits = strokes.draw(200, 9)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(digits.images))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(digits.labels.astype(np.uint8)))
    return tmp_path


@pytest.mark.slow
def test_the_command_tells_all_of_it(data: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = data / "confusion.png"
    asked = ["evaluate", "--data", str(data), "--corruptions", "--outliers", "--confusion", str(picture)]
    result = CliRunner().invoke(commands, [*asked, "--json"], catch_exceptions=False)
    facts = json.loads(result.stdout)
    assert facts["images"] == 200 and 0.9 < facts["accuracy"] <= 1
    assert len(facts["corruptions"]["errors"]) == 13
    assert facts["corruptions"]["mean"] > 1 - facts["accuracy"]
    assert facts["outliers"]["unseen"].keys() == outliers.UNSEEN.keys()
    assert min(facts["outliers"]["unseen"].values()) > 0.6
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = CliRunner().invoke(commands, asked, catch_exceptions=False).stdout
    for word in ("calibration error", "uneven light", "scribbles", "confusion.png"):
        assert word in shown


def test_an_artifact_that_carries_code_is_evaluated_if_it_is_trusted(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from edge_mnist.export import WRITERS

    (tmp_path / "model.pt").write_bytes(WRITERS["torchscript"](fold(checkpoint.load(SHIPPED))))
    with pytest.raises(EdgeMnistError, match="TorchScript carries code"):
        edge_mnist.evaluate(tmp_path / "model.pt", data=data)
    trusted = edge_mnist.evaluate(tmp_path / "model.pt", data=data, trust=True)
    renamed = shutil.copy(SHIPPED, tmp_path / "network.bin")  # a checkpoint is known by its content
    assert trusted.evaluation.accuracy == edge_mnist.evaluate(renamed, data=data).evaluation.accuracy


def test_a_checkpoint_reads_as_its_int8_model_does(data: Path) -> None:
    asked = ["evaluate", "--data", str(data), "--json"]
    float_facts, int8_facts = (
        json.loads(CliRunner().invoke(commands, arguments, catch_exceptions=False).stdout)
        for arguments in ([*asked, str(SHIPPED)], asked)
    )
    assert float_facts["hash"] != int8_facts["hash"]
    assert abs(float_facts["accuracy"] - int8_facts["accuracy"]) <= 0.02
    assert float_facts["nll"] == pytest.approx(int8_facts["nll"], abs=0.02)


def test_a_model_of_a_users_is_evaluated_on_labelled_images(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 6 * 5, 30)).eval()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 6, 5, 3), np.uint8)
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32)) / 255).argmax(1).numpy()
    labels = np.where(np.arange(60) % 4 == 0, (expected + 1) % 30, expected)
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    chosen: dict[str, Any] = {"formats": ["onnx"], "int8": False, "verify": False, "input_shape": (3, 6, 5)}
    edge_mnist.export_model(network, tmp_path / "out", **chosen)
    model = tmp_path / "out" / "model_float.onnx"
    result = edge_mnist.evaluate(model, data=tmp_path / "a.npz", confusion=tmp_path / "confusion.png")
    assert result.accuracy == 0.75 and result.data == "a.npz" and result.evaluation.confusion.shape == (30, 30)
    assert (tmp_path / "confusion.png").stat().st_size > 1000
    status, output, _ = call("evaluate", model, "--data", tmp_path / "a.npz")
    assert status == 0 and "75.00%" in output

    np.savez(tmp_path / "b.npz", images=images, labels=labels + 1)
    np.savez(tmp_path / "c.npz", images=images)
    for arguments, message in (
        ({"data": tmp_path / "b.npz"}, "labels from .* to 30, but the model has 30 outputs"),
        ({"data": tmp_path / "c.npz"}, "c.npz: has no labels"),
        ({}, r"takes inputs of \(3, 6, 5\), MNIST's are \(1, 28, 28\): name labelled ones with --data"),
        ({"data": tmp_path / "a.npz", "part": "validation"}, "a.npz is read as a whole"),
        ({"data": tmp_path / "a.npz", "outliers": True}, "are measured on images of 28x28 pixels in grey only"),
    ):
        with pytest.raises(edge_mnist.UsageError, match=message):
            edge_mnist.evaluate(model, **arguments)
