"""Runs an artifact of any format: uint8 images in, logits out."""

from edge_mnist.runtime.classifiers import RUNTIMES, Classifier, load, load_bytes

__all__ = ["RUNTIMES", "Classifier", "load", "load_bytes"]
