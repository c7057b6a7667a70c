"""The formats of artifacts, and readers of their metadata and constants that run nothing of an artifact."""

from edge_mnist.formats.contract import Contract
from edge_mnist.formats.table import FORMATS, Format, detect_format, read_contract, require_format

__all__ = ["FORMATS", "Contract", "Format", "detect_format", "read_contract", "require_format"]
