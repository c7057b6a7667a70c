"""Opens a model file and runs it: `python -m edge_mnist.demo.live.trial_worker MODEL trust|distrust golden|open`.

It prints one JSON object with the SHA-256 of the content that it tried. What is wrong with the model is one line on
stderr.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from edge_mnist.demo.live import models
from edge_mnist.formats.table import FORMATS, detect_format
from edge_mnist.system.child_processes import end_with_parent, limit_memory
from edge_mnist.system.errors import EdgeMnistError

_MEMORY = 256 << 20
"""The bytes of memory that a runtime may take, beside `_MEMORY_PER_BYTE`. The shipped network takes 16 MB."""
_MEMORY_FOR_TORCH = 1 << 30
"""The same for PyTorch, which takes 150 MB for itself."""
_MEMORY_PER_BYTE = 8
"""The bytes of memory that a runtime may take for each byte of the file: runtimes keep weights in several forms."""


def main(path: str, trust: str, golden: str) -> None:
    """Open and run a model as the text of this module says."""
    end_with_parent()
    file = Path(path)
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            is_torch = detect_format(stream.read(4096)) is FORMATS["torchscript"]
        limit_memory((_MEMORY_FOR_TORCH if is_torch else _MEMORY) + _MEMORY_PER_BYTE * size)
        model = models.load(file, trust=trust == "trust")
        model.classifier.logits(np.zeros((3, 28, 28), np.uint8))  # `load` has run it on one image
        if golden == "golden":
            models.check_golden_images(model)
    except EdgeMnistError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        print(f"{path}: cannot be tried: {type(error).__name__}: {error}".splitlines()[0], file=sys.stderr)
        sys.exit(1)
    print(json.dumps({"sha256": model.sha256}))


if __name__ == "__main__":
    main(*sys.argv[1:])
