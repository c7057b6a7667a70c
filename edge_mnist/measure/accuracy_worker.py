"""Classifies inputs in a process of its own: `python -m edge_mnist.measure.accuracy_worker ARTIFACT INPUTS.npy`.

It prints a line of JSON when the artifact is open. Then it reads lines `START STOP` from stdin and answers each with
one line of JSON: the classes that the artifact finds for the inputs from START to STOP - 1.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

from edge_mnist import runtime
from edge_mnist.system.errors import EdgeMnistError


def main(artifact: str, inputs_file: str) -> None:
    """Serve an artifact. TorchScript and C are trusted here, because the caller has checked where they come from."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # so that what a runtime prints is not taken for an answer
    try:
        classifier = runtime.load_bytes(Path(artifact).read_bytes(), Path(artifact).name)
        inputs = np.load(inputs_file, mmap_mode="r")
        print(json.dumps({"runtime": classifier.runtime}), file=answers)
        for line in sys.stdin:
            start, stop = map(int, line.split())
            classes = classifier.predict(np.asarray(inputs[start:stop]))
            print(json.dumps({"classes": classes.tolist()}), file=answers)
    except EdgeMnistError as error:
        print(json.dumps({"error": str(error)}), file=answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
