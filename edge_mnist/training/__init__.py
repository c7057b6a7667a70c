"""Trains networks with PyTorch, and describes a PyTorch module as a chain of layers."""
