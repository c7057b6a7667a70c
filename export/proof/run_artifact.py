"""Runs one artifact in a process of its own, which knows nothing of it but its bytes.

`python -m edge_mnist.export.proof.run_artifact ARTIFACT IMAGES.npy OUTPUTS.npy [RUNTIME]`, where RUNTIME is that of
`runtime.load_bytes`. It writes the outputs and prints one JSON object: the runtime, its rounding, and whether the
outputs for single inputs equal those for batches.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.runtime import load_bytes
from edge_mnist.system.child_processes import limit_memory
from edge_mnist.system.errors import EdgeMnistError, NotInstalledError
from edge_mnist.system.files import read_bytes

BATCH = 200
"""The largest number of inputs in a batch: enough to be fast, few enough to need little memory."""

BATCH_VALUES = 1 << 20
"""The largest number of input values in a batch; of large images it makes batches smaller than `BATCH`."""

SINGLE = 16
"""The number of inputs that are also run one at a time, because runtimes may use other kernels for a single input."""
_OTHER_SINGLES = ("fixed-point, single rounding", "fixed-point, ties away")
"""The modes of LiteRT and tflite-runtime on ARM, whose kernels for a single input may give logits that differ by 1."""

MEMORY = 4 << 30
"""The bytes of memory that an artifact's process may allocate, so that a damaged file cannot exhaust the machine."""

FLOAT_TOLERANCE = 1e-4
"""How far a float logit may be from the oracle's, because runtimes add float products in different orders; see
`compute_tolerance`."""

NOT_INSTALLED = 3
"""The exit status if the artifact's runtime is not installed on this machine."""


def compute_tolerance(expected: NDArray[Any]) -> NDArray[np.float64]:
    """How far the outputs for each input may be from the expected ones: 0 for integers.

    For floats it is `FLOAT_TOLERANCE`, times the largest magnitude that is expected for the input, or for the median
    input, where that exceeds 1: the rounding errors of sums grow with the terms. One input with large outputs allows
    the others no larger errors.

    Args:
        expected: int8 or float32 (N, outputs).

    Returns:
        float64 (N, 1).
    """
    if expected.dtype == np.int8:
        return np.zeros((len(expected), 1))
    largest = np.abs(expected.astype(np.float64)).max(axis=1, keepdims=True, initial=1.0)
    return np.asarray(FLOAT_TOLERANCE * np.maximum(largest, np.median(largest)), np.float64)


def main(artifact: str, images_file: str, outputs_file: str, runtime: str = "") -> None:
    """Run an artifact as the text of this module says; report an error as one line on stderr and an exit status.

    Args:
        artifact: the path of the artifact.
        images_file: the path of the inputs, uint8 pixels or float32 features (N, *input_shape), N at least `SINGLE`.
        outputs_file: the path to write the outputs to, int8 or float32 (N, outputs).
        runtime: the runtime, as in `runtime.load_bytes`.
    """
    limit_memory(MEMORY)
    images = np.load(images_file)
    try:
        classifier = load_bytes(read_bytes(Path(artifact)), Path(artifact).name, runtime=runtime)
        batch = min(BATCH, max(BATCH_VALUES // images[0].size, 1))
        batches = [classifier.outputs(images[start : start + batch]) for start in range(0, len(images), batch)]
        single = np.concatenate([classifier.outputs(images[index : index + 1]) for index in range(SINGLE)])
    except EdgeMnistError as error:
        print(error, file=sys.stderr)
        sys.exit(NOT_INSTALLED if isinstance(error, NotInstalledError) else 1)
    outputs = np.concatenate(batches)  # (N, outputs)
    np.save(outputs_file, outputs)
    limit = compute_tolerance(outputs)[:SINGLE]
    if outputs.dtype == np.int8 and classifier.rounding in _OTHER_SINGLES:
        limit += 1  # for a single column, ruy's kernels on ARM round once less often
    same = (np.abs(single.astype(np.float64) - outputs[:SINGLE]) <= limit).all()
    print(
        json.dumps({"runtime": classifier.runtime, "rounding": classifier.rounding, "single_equals_batch": bool(same)})
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
