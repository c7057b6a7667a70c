"""Writes a graph as a TensorFlow Lite model."""
