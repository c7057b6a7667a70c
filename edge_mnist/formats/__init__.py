"""What an artifact's format is, and how the contract inside a file is read without running it."""

from edge_mnist.formats.contract import Contract
from edge_mnist.formats.table import FORMATS, Format, detect_format, read_contract, require_format

__all__ = ["FORMATS", "Contract", "Format", "detect_format", "require_format", "read_contract"]
