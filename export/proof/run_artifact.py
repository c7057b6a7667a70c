"""Runs one artifact in a process of its own.

`python -m edge_mnist.export.proof.run_artifact ARTIFACT IMAGES.npy OUTPUTS.npy [RUNTIME]`, where RUNTIME is as in
`runtime.load_bytes`. It knows the artifact's bytes and nothing else, and prints one JSON object: the runtime, how it
rounds, whether its outputs for one image at a time are those for many.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from edge_mnist.runtime import load_bytes
from edge_mnist.system.child_processes import limit_memory
from edge_mnist.system.errors import EdgeMnistError, NotInstalledError
from edge_mnist.system.files import read_bytes

BATCH = 200
"""Images at a time."""

SINGLE = 16
"""Images that are run one at a time, too."""

MEMORY = 4 << 30
"""Bytes of memory that an artifact's process may take."""

FLOAT_TOLERANCE = 1e-4
"""How far a float logit may be from the oracle's."""


NOT_INSTALLED = 3
"""Exit status if the artifact's runtime is not on this machine."""


def main(artifact: str, images_file: str, outputs_file: str, runtime: str = "") -> None:
    """Run as the module's text says; what a user can mend is one line on stderr and an exit status."""
    limit_memory(MEMORY)
    images = np.load(images_file)
    try:
        classifier = load_bytes(read_bytes(Path(artifact)), Path(artifact).name, runtime=runtime)
        batches = [classifier.outputs(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
        alone = np.concatenate([classifier.outputs(images[index : index + 1]) for index in range(SINGLE)])
    except EdgeMnistError as error:
        print(error, file=sys.stderr)
        sys.exit(NOT_INSTALLED if isinstance(error, NotInstalledError) else 1)
    outputs = np.concatenate(batches)
    np.save(outputs_file, outputs)
    if outputs.dtype == np.int8:  # ruy's own kernels on ARM take another way for a single column, and round once less
        limit: float = 0 if classifier.rounding != "fixed-point, single rounding" else 1
    else:
        limit = FLOAT_TOLERANCE
    same = np.abs(alone.astype(np.float64) - outputs[:SINGLE]).max() <= limit
    print(json.dumps({"runtime": classifier.runtime, "rounding": classifier.rounding, "same_alone": bool(same)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
