"""What all runtimes have in common, and what is imported when."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from edge_mnist.pretrained import SHIPPED_INT8
from edge_mnist.runtime import softmax

PRINT_MODULES = "print(*sorted(name for name in sys.modules if name.startswith('edge_mnist.runtime.')))"
CODE = f"""
import sys
import edge_mnist.runtime
{PRINT_MODULES}
edge_mnist.runtime.load(sys.argv[1])
{PRINT_MODULES}
"""


def test_a_runtime_is_imported_only_when_an_artifact_of_its_format_is_opened() -> None:
    command = [sys.executable, "-c", CODE, str(SHIPPED_INT8)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines == ["edge_mnist.runtime.classifier", "edge_mnist.runtime.classifier edge_mnist.runtime.tflite"]


@pytest.mark.parametrize("shape", [(10,), (3, 10), (0, 10)])
def test_a_softmax_has_the_shape_of_the_logits_and_a_sum_of_one(shape: tuple[int, ...]) -> None:
    logits = np.random.RandomState(1).normal(0, 300, shape).astype(np.float32)  # exp(300) overflows in float32
    probabilities = softmax(logits)
    assert probabilities.shape == shape and probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(-1), np.ones(shape[:-1]), rtol=1e-12)


def test_a_softmax_of_known_logits() -> None:
    np.testing.assert_allclose(softmax(np.log(np.array([1.0, 2.0, 5.0]))), [0.125, 0.25, 0.625], rtol=1e-12)
