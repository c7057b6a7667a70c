"""Opens a model file and runs it: `python -m edge_mnist.demo.live.trial_worker MODEL trust|distrust golden|open`.

It prints one JSON object, the SHA-256 of what it tried; what is wrong with the model is one line on stderr.
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

_MEMORY, _MEMORY_FOR_TORCH = 256 << 20, 1 << 30
"""Bytes of memory that opening and running a model may take, besides"""
_TIMES_ITS_SIZE = 8
"""so many times the file's size; runtimes keep weights in several forms. The shipped network takes 16 MB in any but
PyTorch, which takes 150 MB for itself."""


def main(path: str, trust: str, golden: str) -> None:
    """Run as the module's text says."""
    end_with_parent()
    file = Path(path)
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            is_torch = detect_format(opened.read(4096)) is FORMATS["torchscript"]
        limit_memory((_MEMORY_FOR_TORCH if is_torch else _MEMORY) + _TIMES_ITS_SIZE * size)
        model = models.load(file, trust=trust == "trust")
        model.classifier.logits(np.zeros((3, 28, 28), np.uint8))  # another number of images than `load` runs it on
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
