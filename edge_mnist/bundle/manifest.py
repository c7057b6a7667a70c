"""Reads the manifest of a folder of artifacts, and says which files such a folder may hold."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_mnist import __version__
from edge_mnist.formats.table import FORMATS, artifact_name
from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.system.files import parse_json, read_bytes

if TYPE_CHECKING:  # opening an artifact reads a manifest, and needs neither graphs nor safetensors
    from edge_mnist.bundle.reference import Reference

MANIFEST = "manifest.json"
"""The file that lists a bundle's artifacts with their hashes."""
REFERENCE = "reference.safetensors"
"""The graphs and golden images that the artifacts are compared with."""
REPORT, PARITY = "report.html", "parity.json"
"""What the last verification found, for people and for programs."""
HEADER = "model_int8.h"
"""Declares what model_int8.c defines."""

MANIFEST_FORMAT = 1
"""Version of the manifest's layout. A manifest of a higher version is refused."""

FILE_NAMES = (
    *(artifact_name(kind, precision) for kind in FORMATS.values() for precision in kind.precisions),
    *(HEADER, REFERENCE, REPORT, PARITY, MANIFEST),
)
"""The name of every file that a bundle may hold."""


def read_bundle(folder: Path) -> tuple[dict[str, Any], Reference]:
    """The manifest and the reference of a bundle.

    Raises:
        UsageError: there is no such folder, or it is a file.
        EdgeMnistError: the folder is not a bundle, is of a newer version, or its reference was changed.
    """
    from edge_mnist.bundle.reference import deserialize

    path = folder / MANIFEST
    if not folder.exists():
        raise UsageError(f"{folder}: there is no such folder: expected one that `edge-mnist export` wrote")
    if folder.is_file():
        raise UsageError(f"{folder}: is a file, expected a folder that `edge-mnist export` wrote")
    if not path.is_file():
        raise EdgeMnistError(f"{folder}: there is no {MANIFEST}: expected a folder that `edge-mnist export` wrote")
    try:
        manifest = parse_json(read_bytes(path))
        if manifest["format"] > MANIFEST_FORMAT:
            made_by = manifest.get("versions", {}).get("edge_mnist", "a newer version")
            raise EdgeMnistError(
                f"{folder}: written by edge-mnist {made_by}, which is needed to read it; this is {__version__}: "
                "upgrade it, or export again with this one"
            )
        hashes = {name: entry["sha256"] for name, entry in manifest["files"].items()}
        for name in hashes.keys() - {REFERENCE, HEADER}:
            entry = manifest["files"][name]
            # A name that export does not give may lead out of the folder.
            if name not in FILE_NAMES or name != artifact_name(FORMATS[entry["format"]], entry["precision"]):
                raise ValueError(f"{name} is no artifact's name")
        expected = hashes[REFERENCE]
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise EdgeMnistError(f"{path}: not a manifest of edge-mnist, or damaged: export again") from error
    if not (folder / REFERENCE).is_file():
        raise EdgeMnistError(f"{folder / REFERENCE}: is missing, though {MANIFEST} names it: export again")
    data = read_bytes(folder / REFERENCE)
    if sha256(data) != expected:
        raise EdgeMnistError(
            f"{folder / REFERENCE}: changed since the export: its SHA-256 is not the manifest's; export again"
        )
    return manifest, deserialize(data, str(folder / REFERENCE))


def is_listed(path: Path, data: bytes) -> bool:
    """Whether the manifest beside an artifact holds the hash of its content."""
    try:
        manifest = parse_json(read_bytes(path.parent / MANIFEST))
        return bool(manifest["files"][path.name]["sha256"] == sha256(data))
    except (EdgeMnistError, ValueError, LookupError, TypeError):
        return False


def sha256(data: bytes) -> str:
    """The SHA-256 of some bytes, as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
