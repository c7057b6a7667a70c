"""Runs an artifact of any format: uint8 images in, logits out."""

from edge_mnist.runtime.classifier import (
    MICRO,
    OTHER_RUNTIMES,
    RUNTIMES,
    SCALAR,
    Classifier,
    check_origin,
    check_runtime,
    load,
    load_bytes,
    softmax,
)

__all__ = [
    "MICRO",
    "OTHER_RUNTIMES",
    "RUNTIMES",
    "SCALAR",
    "Classifier",
    "check_origin",
    "check_runtime",
    "load",
    "load_bytes",
    "softmax",
]
