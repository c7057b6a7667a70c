"""Reads a bundle, a folder of artifacts: its manifest, and the reference with which its artifacts are compared."""
