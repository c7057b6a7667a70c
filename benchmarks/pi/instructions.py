"""Counts the instructions of an inference in an emulated Pi, in TFLite and in C."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.pi.emulator import Pi

GUEST = Path(__file__).with_name("guest.py")

CROSS_COMPILER = "aarch64-linux-gnu-gcc"
"""The compiler of C for a Pi; Debian's package is gcc-aarch64-linux-gnu."""

_RUNS = 10
"""The number of inferences in C that are counted together."""

_MARK = re.compile(r"^instructions: (?:mark|exit) (\d+) total", re.MULTILINE)

_MAIN = f"""
#include <stdlib.h>
#include <unistd.h>
#include "model.h"

static uint8_t arena[EDGE_MNIST_ARENA_SIZE];

int main(void) {{
    static uint8_t pixels[EDGE_MNIST_HEIGHT * EDGE_MNIST_WIDTH * EDGE_MNIST_CHANNELS];
    static int8_t logits[EDGE_MNIST_CLASSES];
    size_t i;
    for (i = 0; i < sizeof pixels; ++i) pixels[i] = (uint8_t)rand();
    if (edge_mnist_run(pixels, logits, arena, sizeof arena) < 0) return 1;
    getppid();
    for (i = 0; i < {_RUNS}; ++i) edge_mnist_run(pixels, logits, arena, sizeof arena);
    getppid();
    return 0;
}}
"""


def measure_inference(pi: Pi, model: Path, cpu: str, scratch: Path) -> dict[str, float]:
    """Count the instructions of an inference on one thread: alone, with Python's copies, and in a batch of 10.

    Args:
        pi: the emulated Pi, in which LiteRT and NumPy are installed.
        model: an int8 .tflite file.
        cpu: one of `emulator.CPUS`.
        scratch: a folder for files.
    """
    shutil.copy(model, scratch / "model.tflite")
    names, counts = count_task(pi, "inference", "model.tflite", cpu, scratch)
    return {name: count / runs for (name, runs), count in zip(names, counts, strict=False) if runs}


def measure_c_inference(pi: Pi, model: Path, cpu: str, scratch: Path) -> float:
    """Count the instructions of an inference in C, compiled with -O3 for the processor.

    Args:
        pi: the emulated Pi.
        model: a model_int8.c, with its header beside it.
        cpu: one of `emulator.CPUS`.
        scratch: a folder for files.

    Raises:
        FileNotFoundError: `CROSS_COMPILER` is not installed.
    """
    shutil.copy(model, scratch / "model.c")
    shutil.copy(model.with_suffix(".h"), scratch / "model.h")
    (scratch / "main.c").write_text(_MAIN)
    command = [CROSS_COMPILER, "-O3", f"-mcpu={cpu}", "-static", "-o", "program", "model.c", "main.c"]
    subprocess.run(command, cwd=scratch, check=True)
    result = pi.run("/mnt/program", cwd=scratch, cpu=cpu, count=True)
    if result.returncode:
        raise RuntimeError(f"{model}: exit status {result.returncode}\n{result.stdout}{result.stderr}")
    return int(_MARK.findall(result.stderr)[1]) / _RUNS


def count_task(pi: Pi, task: str, file: str, cpu: str, scratch: Path) -> tuple[Any, list[int]]:
    """Run a task of guest.py, and return what it prints and the counts at its marks."""
    shutil.copy(GUEST, scratch)
    result = pi.run("python3", GUEST.name, task, file, cwd=scratch, cpu=cpu, count=True)
    if result.returncode:
        raise RuntimeError(f"{task}: exit status {result.returncode}\n{result.stdout}{result.stderr}")
    return json.loads(result.stdout), [int(count) for count in _MARK.findall(result.stderr)]
