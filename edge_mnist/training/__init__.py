"""Trains networks with PyTorch, and describes a PyTorch module as a graph of layers."""
