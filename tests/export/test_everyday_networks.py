"""Networks as people write them, from the module to the proof: in every format the same integers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_mnist import pipeline
from edge_mnist.formats.table import FORMATS
from edge_mnist.graph.layers import Shape

pytest.importorskip("torch")

from tests.support.c_programs import require_compiler
from tests.support.everyday_networks import EVERYDAY

if TYPE_CHECKING:
    from torch import nn

EMULATED = ("mobile-relu6", "gate", "sensor")
"""Networks that are run on an emulated processor too: with clamps, products, tables, and an input of numbers."""


def draw_inputs(shape: Shape, count: int) -> NDArray[np.generic]:
    """Pixels for images, else numbers."""
    rng = np.random.default_rng(5)
    if len(shape) == 3:
        return rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return rng.standard_normal((count, *shape)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "make", "shape"), EVERYDAY, ids=[name for name, *_ in EVERYDAY])
def test_every_format_of_a_network_gives_the_same_integers(
    name: str, make: Callable[[], nn.Module], shape: Shape, tmp_path: Path
) -> None:
    require_compiler(*FORMATS)
    result = pipeline.export_model(
        make(), tmp_path / name, formats=list(FORMATS), input_shape=shape, calibration=draw_inputs(shape, 64), images=30
    )
    assert result.parity is not None
    variants = result.parity.variants
    assert [variant.status for variant in variants] == ["passed"] * 9, [variant.reason for variant in variants]
    assert all(variant.logits_differing == 0 and variant.logits_compared > 0 for variant in variants)
    if name in EMULATED and shutil.which("qemu-x86_64"):
        # C is compiled for this machine's processor, and would not run on the emulated one.
        emulated = pipeline.verify(tmp_path / name, run_with="qemu-x86_64 -cpu Haswell", images=16)
        assert all(variant.status == "passed" for variant in emulated.variants)
