"""Builds model.c into a program of its own, for any machine, and runs it: what a user of the C does."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from edge_mnist.export.c.writer import write_c, write_header
from edge_mnist.graph.operations import QuantizedGraph

COMPILERS = {"c": ("cc",), "wasm": ("clang", "wasm-ld")}
"""The programs that it takes to write and run an artifact of a format that is compiled."""

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror")

MAIN = """
#include <stdio.h>
#include "model.h"

/* Working memory that begins at an odd address, as a user's may. */
static uint8_t arena[EDGE_MNIST_ARENA_SIZE + 1];

int main(void) {
    static uint8_t pixels[EDGE_MNIST_HEIGHT * EDGE_MNIST_WIDTH * EDGE_MNIST_CHANNELS];
    static int8_t logits[EDGE_MNIST_CLASSES];
    while (fread(pixels, sizeof pixels, 1, stdin) == 1) {
        int found = edge_mnist_run(pixels, logits, arena + 1, EDGE_MNIST_ARENA_SIZE), i;
        if (found < 0) return 1 - found;
        for (i = 0; i < EDGE_MNIST_CLASSES; ++i) {
            if (logits[i] > logits[found] || (logits[i] == logits[found] && i < found)) return 1;
        }
        if (fwrite(logits, sizeof logits, 1, stdout) != 1) return 1;
    }
    return 0;
}
"""


def require_compiler(*kinds: str) -> None:
    """Skip the test if what compiles one of these formats is missing."""
    for program in (program for kind in kinds for program in COMPILERS.get(kind, ())):
        if not shutil.which(program):
            pytest.skip(f"needs {program}")
    if "wasm" in kinds:
        pytest.importorskip("wasmtime")


def run_program(
    graph: QuantizedGraph,
    images: np.ndarray,
    folder: Path,
    compiler: Sequence[str],
    emulator: Sequence[str] = (),
    language: str = "c",
) -> np.ndarray:
    """Logits, int8 (N, classes), of uint8 images (N, channels, height, width), from a program compiled for them."""
    folder.mkdir(exist_ok=True)
    (folder / "model.c").write_bytes(write_c(graph))
    (folder / "model.h").write_bytes(write_header(graph))
    (folder / "main.c").write_text(MAIN)
    sources = [str(folder / "model.c"), str(folder / "main.c")]
    build([*compiler, "-x", language, *sources, "-x", "none", "-o", str(folder / "program")])
    pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).tobytes()
    command = [*emulator, str(folder / "program")]
    result = subprocess.run(command, input=pixels, capture_output=True)
    # An emulator may warn of features that it lacks.
    assert result.returncode == 0 and (emulator or not result.stderr), (
        compiler,
        result.returncode,
        result.stderr.decode(),
    )
    return np.frombuffer(result.stdout, np.int8).reshape(len(images), -1)


def build(command: Sequence[str]) -> None:
    """Run a compiler, which may say nothing."""
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    assert (result.returncode, result.stderr) == (0, ""), f"{' '.join(command)}\n{result.stderr[:2000]}"


@cache
def has_sanitizers(compiler: str) -> bool:
    """Whether a compiler links programs that check addresses, for which Debian's clang needs a package of its own."""
    command = [compiler, "-fsanitize=address,undefined", "-x", "c", "-o", os.devnull, "-"]
    return subprocess.run(command, input=b"int main(void) { return 0; }", capture_output=True).returncode == 0
