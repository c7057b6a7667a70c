"""The network that finds digits in a frame: the pictures that it learns from, its shape, its targets, its training."""
