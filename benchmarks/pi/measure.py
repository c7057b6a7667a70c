"""Measures executed instructions and memory in an emulated Pi, in which time has no meaning."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.pi.emulator import Pi
from edge_mnist.data import strokes
from edge_mnist.demo.sources import scenes
from edge_mnist.demo.sources.scenes import STYLES, Style

GUEST = Path(__file__).with_name("guest.py")

FRAMES: dict[str, tuple[Style, int]] = {
    "webcam": (replace(STYLES["webcam"], height=(50, 70), lines=(1, 3)), 21),
    "sheet": (replace(STYLES["plain"], size=(640, 480), height=(50, 70)), 21),
    "desk": (replace(STYLES["desk"], size=(436, 308)), 126),
}
"""Style and seed of frames with ten digits: of a webcam, with grain and shadows; of a sheet that fills the frame; and
of a sheet on a desk."""
SIZE = 640, 480
"""Width and height of a frame in pixels."""

_MARK = re.compile(r"^instructions: (?:mark|exit) (\d+) total", re.MULTILINE)


def make_frame(name: str) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Make a frame, uint8 (480, 640, 3) BGR, and the ten digits in it, one string for each line."""
    style, seed = FRAMES[name]
    scene = scenes.render(np.random.RandomState(seed), strokes.draw(400, 3), style)
    image = scene.frame
    if image.shape[1::-1] != SIZE:
        image = np.asarray(cv2.resize(image, SIZE, interpolation=cv2.INTER_AREA), np.uint8)
    return image, scene.lines


def measure_inference(pi: Pi, model: Path, cpu: str, scratch: Path) -> dict[str, float]:
    """Count the instructions of an inference on one thread: alone, with Python's copies, and in a batch of 10."""
    shutil.copy(model, scratch / "model.tflite")
    names, counts = _count(pi, "inference", "model.tflite", cpu, scratch)
    return {name: count / runs for (name, runs), count in zip(names, counts, strict=False) if runs}


def measure_reading(
    pi: Pi, image: NDArray[np.uint8], cpu: str, scratch: Path
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Read a frame: the lines that are read, and the instructions by stage, with their sum as "total"."""
    np.save(scratch / "frame.npy", image)
    answer, counts = _count(pi, "reading", "frame.npy", cpu, scratch)
    stages = dict(zip(answer["stages"], counts, strict=False))
    del stages["start"]
    return tuple(answer["lines"]), {**stages, "total": sum(stages.values())}


def measure_calls(pi: Pi, image: NDArray[np.uint8], cpu: str, scratch: Path) -> Counter[str]:
    """Count the instructions by place in the reader and call of OpenCV."""
    np.save(scratch / "frame.npy", image)
    names, counts = _count(pi, "calls", "frame.npy", cpu, scratch)
    result: Counter[str] = Counter()
    for name, count in zip(names[1:], counts[1:], strict=False):
        result[name] += count
    return result


def measure_memory(pi: Pi, model: Path, scratch: Path) -> dict[str, int]:
    """Measure the KiB of a process with Python, NumPy, LiteRT and a model, and of a demo that reads one frame."""
    shutil.copy(model, scratch / "model.tflite")
    shutil.copy(GUEST, scratch)
    np.save(scratch / "frame.npy", make_frame("webcam")[0])
    memory = json.loads(pi.check("python3", GUEST.name, "memory-of-model", "model.tflite", cwd=scratch))
    for view in ("none", "web"):
        options = f"--camera sample --view {view} --port 0"
        lines = pi.check("python3", GUEST.name, "memory-of-demo", options, cwd=scratch).splitlines()
        memory[f"demo, view {view}"] = json.loads(lines[-1])["demo"]
    return dict(memory)


def _count(pi: Pi, task: str, file: str, cpu: str, scratch: Path) -> tuple[Any, list[int]]:
    """Run a task of guest.py, and return what it prints and the counts at its marks."""
    shutil.copy(GUEST, scratch)
    result = pi.run("python3", GUEST.name, task, file, cwd=scratch, cpu=cpu, count=True)
    if result.returncode:
        raise RuntimeError(f"{task}: exit status {result.returncode}\n{result.stdout}{result.stderr}")
    return json.loads(result.stdout), [int(count) for count in _MARK.findall(result.stderr)]
