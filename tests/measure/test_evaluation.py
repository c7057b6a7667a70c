"""The figures of an evaluation, against their definitions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edge_mnist.cli.commands import commands
from edge_mnist.data import outliers, strokes
from edge_mnist.measure import evaluation
from edge_mnist.pretrained import SHIPPED
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


def test_a_checkpoint_reads_as_its_int8_model_does(data: Path) -> None:
    asked = ["evaluate", "--data", str(data), "--json"]
    float_facts, int8_facts = (
        json.loads(CliRunner().invoke(commands, arguments, catch_exceptions=False).stdout)
        for arguments in ([*asked, str(SHIPPED)], asked)
    )
    assert float_facts["hash"] != int8_facts["hash"]
    assert abs(float_facts["accuracy"] - int8_facts["accuracy"]) <= 0.02
    assert float_facts["nll"] == pytest.approx(int8_facts["nll"], abs=0.02)
