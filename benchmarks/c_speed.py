"""Times model_int8.c against LiteRT, an image at a time, alternating, in one process: python benchmarks/c_speed.py DIR.

DIR is a folder with both: `edge-mnist export --int8 --format c --format tflite`. Further arguments are flags for the
compiler instead of those that the runtime chooses, such as -O2 (x86 without AVX2) or -DEDGE_MNIST_PORTABLE.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from edge_mnist import strokes
from edge_mnist.c_library import open_library

ROUNDS, REPETITIONS = 60, 200


def seconds(run: Callable[[], object]) -> float:
    """Seconds that `run` took."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(folder: str, *flags: str) -> None:
    """Print medians in microseconds, and their ratio."""
    image = strokes.draw(1, seed=1).images[0]
    interpreter = Interpreter(f"{folder}/model_int8.tflite", num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], (image ^ 0x80).view(np.int8)[None, :, :, None])
    path = Path(folder, "model_int8.c")
    library = open_library(path.read_bytes(), str(path), flags)
    images = np.repeat(image[None, :, :, None], REPETITIONS, axis=0)

    def litert() -> None:
        for _ in range(REPETITIONS):
            interpreter.invoke()

    litert()
    library.run(images)
    times = np.array([(seconds(litert), seconds(lambda: library.run(images))) for _ in range(ROUNDS)])
    ours, theirs = np.median(times, axis=0)[::-1] / REPETITIONS * 1e6
    print(f"LiteRT {theirs:.1f} us, C ({library.built}) {ours:.1f} us, ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
