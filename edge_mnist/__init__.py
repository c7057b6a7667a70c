"""edge-mnist: from PyTorch to a Raspberry Pi, with the same integers in every format.

Everything that a command can do is a function here. The names are imported when they are first used, so that
`import edge_mnist` needs neither NumPy nor PyTorch:

    import edge_mnist

    result = edge_mnist.export_model()                  # or a checkpoint's path, or a torch.nn.Module
    assert result.parity.passed
    classifier = edge_mnist.load("artifacts/model_int8.tflite")
    classifier.predict(images)                          # uint8 (N, 28, 28) -> int64 (N,)

Mistakes and failures are raised as `EdgeMnistError`. Progress is logged to the logger "edge_mnist", which is silent
unless the caller configures logging: `logging.basicConfig(level=logging.INFO)` shows it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_mnist.demo.options import DemoOptions
    from edge_mnist.demo.pictures import PictureResult, read_pictures
    from edge_mnist.demo.program import run_demo
    from edge_mnist.demo.reading.reader import Reader, Reading
    from edge_mnist.doctor import Finding, examine
    from edge_mnist.export.proof.parity import ParityReport
    from edge_mnist.inspect.summary import describe
    from edge_mnist.pipeline import (
        Artifact,
        EvaluationResult,
        ExportResult,
        benchmark,
        evaluate,
        export_model,
        export_zip,
        run_experiments,
        train,
        verify,
    )
    from edge_mnist.runtime import Classifier, load
    from edge_mnist.system.errors import EdgeMnistError, NotInstalledError, UsageError

__version__ = "0.2.0"

__all__ = [
    "Artifact",
    "Classifier",
    "DemoOptions",
    "EdgeMnistError",
    "EvaluationResult",
    "ExportResult",
    "Finding",
    "NotInstalledError",
    "ParityReport",
    "PictureResult",
    "Reader",
    "Reading",
    "UsageError",
    "benchmark",
    "describe",
    "evaluate",
    "examine",
    "export_model",
    "export_zip",
    "load",
    "read_pictures",
    "run_demo",
    "run_experiments",
    "train",
    "verify",
]

_SOURCES = {
    "demo.options": ("DemoOptions",),
    "demo.pictures": ("PictureResult", "read_pictures"),
    "demo.program": ("run_demo",),
    "demo.reading.reader": ("Reader", "Reading"),
    "doctor": ("Finding", "examine"),
    "export.proof.parity": ("ParityReport",),
    "inspect.summary": ("describe",),
    "pipeline": (
        "Artifact",
        "EvaluationResult",
        "ExportResult",
        "benchmark",
        "evaluate",
        "export_model",
        "export_zip",
        "run_experiments",
        "train",
        "verify",
    ),
    "runtime": ("Classifier", "load"),
    "system.errors": ("EdgeMnistError", "NotInstalledError", "UsageError"),
}
"""The public names by the module that defines them."""

# A library is silent unless its user configures logging: without a handler, Python would print warnings to stderr.
logging.getLogger(__name__).addHandler(logging.NullHandler())


if not TYPE_CHECKING:  # a type checker would take any name for one that is found here

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used (PEP 562)."""
        from importlib import import_module

        source = next((source for source, names in _SOURCES.items() if name in names), None)
        if source is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from edge_mnist.system.errors import explain_missing_packages

        with explain_missing_packages():
            module = import_module(f"{__name__}.{source}")
        value = globals()[name] = getattr(module, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
