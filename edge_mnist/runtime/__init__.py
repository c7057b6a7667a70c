"""Runs an artifact of any format: uint8 images in, logits out."""

from edge_mnist.runtime.classifier import (
    MICRO,
    OTHER_RUNTIMES,
    RUNTIMES,
    SCALAR,
    Classifier,
    check_origin,
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
    "load",
    "load_bytes",
    "softmax",
]
