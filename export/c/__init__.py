"""Writes a quantized graph as C99 without dependencies."""
