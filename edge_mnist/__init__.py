"""edge-mnist: from PyTorch to a Raspberry Pi, with the same integers in every format."""

__version__ = "0.1.0"
