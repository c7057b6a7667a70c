"""Reads the manifest of a bundle, a folder of artifacts, and names the files that such a folder may hold.

Opening an artifact reads the manifest beside it. So this module imports no graphs and no safetensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_mnist import __version__
from edge_mnist.formats.table import FORMATS
from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.system.files import parse_json, read_bytes
from edge_mnist.system.hashes import sha256

MANIFEST = "manifest.json"
"""The name of the file that lists the other files of a bundle with their hashes."""
REFERENCE = "reference.safetensors"
"""The name of the file with the graphs and golden images with which the artifacts are compared."""
REPORT = "report.html"
"""The name of the file with the report of the last verification."""
PARITY = "parity.json"
"""The name of the file with the results of the last verification in JSON."""
COMPANIONS = tuple(filter(None, (kind.companion_name for kind in FORMATS.values())))
"""The names of the files that an export writes beside artifacts, such as model_int8.h for model_int8.c."""

MANIFEST_FORMAT = 1
"""The version of the manifest's layout. A manifest of a higher version is refused."""

FILE_NAMES = (
    *(kind.artifact_name(precision) for kind in FORMATS.values() for precision in kind.precisions),
    *(*COMPANIONS, REFERENCE, REPORT, PARITY, MANIFEST),
)
"""The name of every file that a bundle may hold."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle, its entries checked.

    Args:
        folder: the bundle.

    Returns:
        The JSON object that `export` wrote. "files" maps the name of each file to its "bytes" and "sha256", and for an
        artifact also its "format", "precision" and "contract". "pictures" holds the "resize" of the export, if one was
        named.

    Raises:
        UsageError: there is no such folder, or it is a file.
        EdgeMnistError: the folder holds no manifest, or one that is damaged or of a newer version.
    """
    path = folder / MANIFEST
    if not folder.exists():
        raise UsageError(f"{folder}: there is no such folder: expected one that `edge-mnist export` wrote")
    if folder.is_file():
        raise UsageError(f"{folder}: is a file, expected a folder that `edge-mnist export` wrote")
    if not path.is_file():
        raise EdgeMnistError(f"{folder}: there is no {MANIFEST}: expected a folder that `edge-mnist export` wrote")
    try:
        manifest = parse_json(read_bytes(path))
        if type(manifest["format"]) is not int or manifest["format"] < 1:
            raise ValueError("the layout has no number")
        if manifest["format"] > MANIFEST_FORMAT:
            made_by = str(manifest.get("versions", {}).get("edge_mnist", "a newer version"))[:40]
            raise EdgeMnistError(
                f"{folder}: written by edge-mnist {made_by}, which is needed to read it; this is {__version__}: "
                "upgrade it, or export again with this one"
            )
        if not _is_complete(manifest):
            raise ValueError("an entry is missing or of another type")
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise EdgeMnistError(f"{path}: not a manifest of edge-mnist, or damaged: export again") from error
    return dict(manifest)


def is_listed(path: Path, data: bytes) -> bool:
    """Whether the manifest beside an artifact holds the hash of the artifact's content."""
    try:
        files = read_manifest(path.parent)["files"]
    except EdgeMnistError:
        return False
    return path.name in files and files[path.name]["sha256"] == sha256(data)


def _is_complete(manifest: dict[str, Any]) -> bool:
    """Whether a manifest has the entries that readers rely on.

    The names are checked too, because a name that export does not give may lead out of the folder.
    """
    artifacts = {
        kind.artifact_name(precision): (kind.name, precision)
        for kind in FORMATS.values()
        for precision in kind.precisions
    }
    files = manifest["files"]
    return (
        REFERENCE in files
        and files.keys() <= {*artifacts, *COMPANIONS, REFERENCE}
        and all(type(entry["bytes"]) is int and isinstance(entry["sha256"], str) for entry in files.values())
        and all(
            (files[name]["format"], files[name]["precision"]) == expected
            for name, expected in artifacts.items()
            if name in files
        )
        and type(manifest["golden"]["images"]) is int
        and isinstance(manifest["quantization"], list)
        and _is_size(manifest.get("pictures", {}).get("resize"))
    )


def _is_size(resize: Any) -> bool:
    """Whether an entry states how pictures were resized: one size, or height and width. It may be missing."""
    sides = resize if isinstance(resize, list) and len(resize) == 2 else [resize]
    return resize is None or all(type(side) is int for side in sides)
