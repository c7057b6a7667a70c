"""The firmware of examples/microcontroller in qemu-system-arm gives the oracle's logits and fits into little memory."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edge_mnist.bundle.reference import Reference
from edge_mnist.export.c.writer import write_c, write_header
from edge_mnist.graph.interpreter import Rounding, run_quantized

EXAMPLE = Path(__file__).parents[2] / "examples" / "microcontroller"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, ("arm-none-eabi-gcc", "qemu-system-arm", "make"))),
        reason="needs gcc-arm-none-eabi, libnewlib-arm-none-eabi, qemu-system-arm and make",
    ),
]


def digit() -> np.ndarray:
    """The compiled-in digit, uint8 (1, 28, 28)."""
    numbers = re.search(r"\{(.*)\}", (EXAMPLE / "digit.h").read_text(), re.DOTALL)
    assert numbers is not None
    return np.array([int(n) for n in re.findall(r"\d+", numbers[1])], np.uint8).reshape(1, 28, 28)


@pytest.mark.parametrize(("core", "rounding"), [("m0plus", "fixed-point"), ("m4f", "float"), ("m33", "float")])
@pytest.mark.parametrize("optimize", ["-Os", "-O2"])
def test_the_firmware_gives_the_oracles_logits(
    core: str, rounding: Rounding, optimize: str, reference: Reference, tmp_path: Path
) -> None:
    graph = reference.quantized_graph
    assert graph is not None
    (tmp_path / "model_int8.c").write_bytes(write_c(graph))
    (tmp_path / "model_int8.h").write_bytes(write_header(graph))
    command = ["make", "-s", f"run-{core}", f"MODEL={tmp_path}/model_int8", f"BUILD={tmp_path}", f"OPTIMIZE={optimize}"]
    result = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    sizes, printed = result.stdout.splitlines()[1], result.stderr.splitlines()  # what semihosting writes goes to stderr
    expected = run_quantized(graph, digit(), rounding)[0]
    assert printed == [f"digit {expected.argmax()}", f"logits {' '.join(map(str, expected))}"]
    flash, data, bss = map(int, sizes.split()[:3])
    print(f"\n{core} {optimize}: flash {flash + data:,} bytes, RAM {data + bss:,} bytes")
    assert flash + data <= 28 * 1024
    assert data + bss <= 12 * 1024


def test_the_logits_of_the_digit_depend_on_the_rounding(reference: Reference) -> None:
    assert reference.quantized_graph is not None
    roundings: tuple[Rounding, Rounding] = ("float", "fixed-point")
    one, other = (run_quantized(reference.quantized_graph, digit(), rounding) for rounding in roundings)
    assert (one != other).any()
    assert f"logits {' '.join(map(str, one[0]))}\n" in (EXAMPLE / "README.md").read_text("utf-8")
