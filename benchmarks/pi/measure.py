"""Measures the demo in an emulated Pi, in which time has no meaning: the instructions of a frame, and memory."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.pi.emulator import Pi
from benchmarks.pi.instructions import GUEST, count_task
from edge_mnist.data import strokes
from edge_mnist.demo.sources import scenes
from edge_mnist.demo.sources.scenes import STYLES, Style

FRAMES: dict[str, tuple[Style, int]] = {
    "webcam": (replace(STYLES["webcam"], height=(50, 70), lines=(1, 3)), 21),
    "sheet": (replace(STYLES["plain"], size=(640, 480), height=(50, 70)), 21),
    "desk": (replace(STYLES["desk"], size=(436, 308)), 126),
}
"""Style and seed of frames with ten digits: of a webcam, with grain and shadows; of a sheet that fills the frame; and
of a sheet on a desk."""
SIZE = 640, 480
"""Width and height of a frame in pixels."""


def make_frame(name: str) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Make a frame, uint8 (480, 640, 3) BGR, and the ten digits in it, one string for each line."""
    style, seed = FRAMES[name]
    scene = scenes.render(np.random.RandomState(seed), strokes.draw(400, 3), style)
    image = scene.frame
    if image.shape[1::-1] != SIZE:
        image = np.asarray(cv2.resize(image, SIZE, interpolation=cv2.INTER_AREA), np.uint8)
    return image, scene.lines


def measure_reading(
    pi: Pi, image: NDArray[np.uint8], cpu: str, scratch: Path
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Read a frame: the lines that are read, and the instructions by stage, with their sum as "total".

    Of two readings, one of which looks at the whole frame and the other one closely at a part, that with more counts.
    """
    np.save(scratch / "frame.npy", image)
    answer, counts = count_task(pi, "reading", "frame.npy", cpu, scratch)
    readings: list[dict[str, int]] = []
    for stage, count in zip(answer["stages"], counts, strict=False):
        if stage == "between":
            readings.append({})
        else:
            readings[-1][stage] = readings[-1].get(stage, 0) + count
    stages = max(readings, key=lambda stages: sum(stages.values()))
    return tuple(answer["lines"]), {**stages, "total": sum(stages.values())}


def measure_calls(pi: Pi, image: NDArray[np.uint8], cpu: str, scratch: Path) -> Counter[str]:
    """Count the instructions by place in the reader and call of OpenCV."""
    np.save(scratch / "frame.npy", image)
    names, counts = count_task(pi, "calls", "frame.npy", cpu, scratch)
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
