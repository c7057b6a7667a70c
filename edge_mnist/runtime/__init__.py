"""Runs an artifact of any format: uint8 images in, logits out."""

from edge_mnist.runtime.classifiers import Classifier, load, load_bytes

__all__ = ["Classifier", "load", "load_bytes"]
