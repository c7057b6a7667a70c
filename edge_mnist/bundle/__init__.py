"""Reads a folder of artifacts: its manifest, and the reference that its artifacts are compared with."""
