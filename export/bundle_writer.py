"""Writes a folder of artifacts with its manifest: whole, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edge_mnist import __version__
from edge_mnist.bundle.reference import Reference, deserialize, serialize
from edge_mnist.export import ON_REQUEST, SUFFIXES, WRITERS, writer
from edge_mnist.export.c.writer import c_contract, write_header
from edge_mnist.formats.contract import Contract, contract
from edge_mnist.graph.operations import FloatGraph, QuantizedGraph
from edge_mnist.runtime.classifiers import MANIFEST
from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.system.files import parse_json, path_error, read_bytes, write_whole

_LOG = logging.getLogger(__name__)

REFERENCE = "reference.safetensors"
REPORT, PARITY = "report.html", "parity.json"
HEADER = "model_int8.h"
"""Declares what model_int8.c defines."""

FORMAT = 1
"""Version of the manifest's layout."""


def artifact_name(kind: str, precision: str) -> str:
    """Name of an artifact's file, such as model_int8.tflite."""
    return f"model_{precision}{SUFFIXES[kind]}"


_NAMES = (
    *(artifact_name(kind, precision) for kind in WRITERS for precision in ("float", "int8")),
    *(artifact_name(kind, "int8") for kind in ON_REQUEST),
    *(HEADER, REFERENCE, REPORT, PARITY, MANIFEST),
)
"""Of every file that a bundle may hold."""


def make_bundle(reference: Reference, formats: Sequence[str], details: Mapping[str, Any]) -> dict[str, bytes]:
    """Write the graphs of a reference in formats.

    Args:
        reference: the graphs and golden images.
        formats: of `WRITERS` and `ON_REQUEST`.
        details: what else the manifest says, such as the checkpoint's hash and how it was calibrated.

    Returns:
        The content of each file by its name, the manifest's included.
    """
    files: dict[str, bytes] = {}
    entries: dict[str, Any] = {}
    for kind in formats:
        for precision, graph in (("float", reference.float_graph), ("int8", reference.quantized_graph)):
            if graph is None or (kind in ON_REQUEST and precision == "float"):
                continue
            name = artifact_name(kind, precision)
            _LOG.info("writing %s", name)
            files[name] = writer(kind)(graph)
            terms = _terms(kind, graph)
            entries[name] = {"format": kind, "precision": precision, **_measures(files[name])}
            entries[name]["contract"] = json.loads(terms.to_json())
    if "c" in formats and reference.quantized_graph is not None:
        files[HEADER] = write_header(reference.quantized_graph)
        entries[HEADER] = _measures(files[HEADER])
    files[REFERENCE] = serialize(reference)
    entries[REFERENCE] = _measures(files[REFERENCE])
    golden: dict[str, Any] = {"images": len(reference.images), "images_sha256": _sha256(reference.images.tobytes())}
    if reference.int8_logits is not None:
        golden["int8_logits_sha256"] = _sha256(reference.int8_logits.tobytes())
    manifest = {
        "tool": "edge-mnist",
        "format": FORMAT,
        "versions": {"edge_mnist": __version__, "python": platform.python_version(), **_versions()},
        **details,
        "quantization": [asdict(layer) for layer in reference.layers],
        "golden": golden,
        "files": entries,
    }
    files[MANIFEST] = (json.dumps(manifest, indent=1) + "\n").encode()
    return files


def check_folder(folder: Path, force: bool) -> None:
    """Refuse a folder that holds something other than a bundle, unless forced; never write over it.

    Raises:
        UsageError: it does, or it is a file, or a loop of links.
    """
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # a loop of links, a name that is too long
        raise UsageError(f"{folder}: {error.strerror}: choose another --out") from error
    if folder.is_dir():
        others = sorted(_others(folder))
        if others and not force:
            raise UsageError(
                f"{folder}: holds {', '.join(others[:3])}{' ...' if len(others) > 3 else ''}, which no export wrote: "
                "choose another --out, or --force to leave them there and write beside them"
            )
        if in_the_way := [name for name in others if name in _NAMES]:
            raise UsageError(
                f"{folder}: holds {in_the_way[0]}, which no export wrote and this one would replace: "
                "choose another --out"
            )
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise UsageError(f"{place}: is a file, expected a folder: choose another --out")


def write_bundle(folder: Path, files: Mapping[str, bytes]) -> list[str]:
    """Put a bundle in place of what `folder` held; what is not of a bundle stays there.

    Written into a folder beside it, which then takes its name: an interruption leaves the old bundle or the new one.
    Where that cannot be, as other files stay or the folder is a mount point, the files are written inside and moved
    one by one, the manifest last: an interruption between two moves leaves a bundle that does not verify.

    Returns:
        The artifacts of the bundle before that this one does not have.

    Raises:
        EdgeMnistError: the disk is full, or a folder is read-only.
    """
    place = folder.resolve()  # the folder that a link points to is written, the link stays
    gone = [name for name in _NAMES if name.startswith("model_") and (place / name).exists() and name not in files]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        moved = place.is_dir() and (bool(_others(place)) or place.is_mount())
        prefix, parent = (f".{MANIFEST}.", place) if moved else (f".{place.name}.", place.parent)
        # On an error, what is half done goes with the scratch folder.
        with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as scratch:
            fresh, old = Path(scratch, "new"), Path(scratch, "old")
            for name, data in files.items():
                write_whole(fresh / name, data)
            if moved:
                _move_files(fresh, place)
            else:
                _exchange(fresh, place, old)
    except OSError as error:
        raise path_error(folder, "cannot be written", error) from error
    _LOG.debug("wrote %s", folder)
    return gone


def _exchange(fresh: Path, place: Path, old: Path) -> None:
    """Give a folder the name of another, which becomes `old`."""
    try:
        if place.exists():
            os.replace(place, old)
        os.replace(fresh, place)
    except BaseException:  # Ctrl-C included
        if old.exists() and not place.exists():
            os.replace(old, place)
        raise


def _move_files(fresh: Path, place: Path) -> None:
    """Move the files of a bundle into a folder; those of a bundle that was there before go."""
    stale = [name for name in _NAMES if (place / MANIFEST).is_file() and not (fresh / name).exists()]
    for name in sorted(os.listdir(fresh), key=MANIFEST.__eq__):
        os.replace(fresh / name, place / name)
    for name in stale:
        (place / name).unlink(missing_ok=True)


def read_bundle(folder: Path) -> tuple[dict[str, Any], Reference]:
    """The manifest and the reference of a bundle.

    Raises:
        UsageError: there is no such folder, or it is a file.
        EdgeMnistError: the folder is not a bundle, is of a newer version, or its reference was changed.
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
        if manifest["format"] > FORMAT:
            made_by = manifest.get("versions", {}).get("edge_mnist", "a newer version")
            raise EdgeMnistError(
                f"{folder}: written by edge-mnist {made_by}, which is needed to read it; this is {__version__}: "
                "upgrade it, or export again with this one"
            )
        hashes = {name: entry["sha256"] for name, entry in manifest["files"].items()}
        for name in hashes.keys() - {REFERENCE, HEADER}:
            entry = manifest["files"][name]
            # A name that export does not give may lead out of the folder.
            if name not in _NAMES or name != artifact_name(entry["format"], entry["precision"]):
                raise ValueError(f"{name} is no artifact's name")
        expected = hashes[REFERENCE]
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise EdgeMnistError(f"{path}: not a manifest of edge-mnist, or damaged: export again") from error
    if not (folder / REFERENCE).is_file():
        raise EdgeMnistError(f"{folder / REFERENCE}: is missing, though {MANIFEST} names it: export again")
    data = read_bytes(folder / REFERENCE)
    if _sha256(data) != expected:
        raise EdgeMnistError(
            f"{folder / REFERENCE}: changed since the export: its SHA-256 is not the manifest's; export again"
        )
    return manifest, deserialize(data, str(folder / REFERENCE))


def write_report(folder: Path, page: str, parity: str) -> None:
    """Keep the report of a verification in the bundle: report.html and parity.json.

    Raises:
        EdgeMnistError: the folder is read-only, the disk is full.
    """
    write_whole(folder / REPORT, page.encode())
    write_whole(folder / PARITY, parity.encode() + b"\n")


def _terms(kind: str, graph: FloatGraph | QuantizedGraph) -> Contract:
    """The contract of an artifact."""
    if kind == "c" and isinstance(graph, QuantizedGraph):
        return c_contract(graph)
    return contract(graph, "int8", "NHWC") if kind == "tflite" else contract(graph, "uint8", "NCHW")


def _others(folder: Path) -> list[str]:
    """Names in a folder that are not of a bundle, nor what a killed process left of one."""
    ours = _NAMES if (folder / MANIFEST).is_file() else ()
    left = tuple(f".{name}." for name in _NAMES)
    return [name for name in os.listdir(folder) if name not in ours and not name.startswith(left)]


def _versions() -> dict[str, str]:
    """Versions of the packages that take part in writing, of those that are installed."""
    found = {}
    for package in ("numpy", "torch", "onnx", "onnxruntime", "ai-edge-litert"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _measures(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": _sha256(data)}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
