"""Writes a folder of artifacts with its manifest, either completely or not at all."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edge_mnist import __version__
from edge_mnist.bundle.manifest import FILE_NAMES, MANIFEST, MANIFEST_FORMAT, PARITY, REFERENCE, REPORT
from edge_mnist.bundle.reference import Reference, describe_golden_inputs, serialize
from edge_mnist.export import COMPANION_WRITERS, WRITERS
from edge_mnist.formats.table import Format
from edge_mnist.system.errors import UsageError
from edge_mnist.system.files import exchange_folders, path_error, write_whole
from edge_mnist.system.hashes import sha256

_LOG = logging.getLogger(__name__)


def make_bundle(reference: Reference, formats: Sequence[Format], details: Mapping[str, Any]) -> dict[str, bytes]:
    """Write the graphs of a reference in the given formats, with the reference and the manifest.

    Args:
        reference: the graphs and the golden images.
        formats: the formats to write.
        details: other entries of the manifest, such as the checkpoint's hash and the calibration method.

    Returns:
        The content of each file by its name.
    """
    files: dict[str, bytes] = {}
    entries: dict[str, Any] = {}
    for record in formats:
        for precision, graph in (("float", reference.float_graph), ("int8", reference.quantized_graph)):
            if graph is None or precision not in record.precisions:
                continue
            name = record.artifact_name(precision)
            _LOG.info("writing %s", name)
            files[name] = WRITERS[record.name](graph)
            entries[name] = {"format": record.name, "precision": precision, **_describe_content(files[name])}
            entries[name]["contract"] = json.loads(record.make_contract(graph).to_json())
        if record.companion_name and reference.quantized_graph is not None:
            companion = COMPANION_WRITERS[record.name](reference, files[record.artifact_name("int8")])
            files[record.companion_name] = companion
            entries[record.companion_name] = _describe_content(companion)
    files[REFERENCE] = serialize(reference)
    entries[REFERENCE] = _describe_content(files[REFERENCE])
    manifest = {
        "tool": "edge-mnist",
        "format": MANIFEST_FORMAT,
        "versions": {"edge_mnist": __version__, "python": platform.python_version(), **_list_versions()},
        **details,
        "quantization": [asdict(layer) for layer in reference.layers],
        "golden": describe_golden_inputs(reference),
        "files": entries,
    }
    files[MANIFEST] = (json.dumps(manifest, indent=1) + "\n").encode()
    return files


def check_bundle_folder(folder: Path, force: bool) -> None:
    """Check that a bundle can be written into a folder without replacing files that no export wrote.

    Args:
        folder: the folder, which need not exist.
        force: accept other files in the folder, as long as none has the name of a bundle's file.

    Raises:
        UsageError: the folder holds other files, or it is a file, a loop of links, or inside a file.
    """
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # a loop of links, a name that is too long
        raise UsageError(f"{folder}: {error.strerror}: choose another --out") from error
    if folder.is_dir():
        foreign = sorted(_list_foreign_files(folder))
        if foreign and not force:
            raise UsageError(
                f"{folder}: holds {', '.join(foreign[:3])}{' ...' if len(foreign) > 3 else ''}, which no export wrote: "
                "choose another --out, or --force to leave them there and write beside them"
            )
        if conflicts := [name for name in foreign if name in FILE_NAMES]:
            raise UsageError(
                f"{folder}: holds {conflicts[0]}, which no export wrote and this one would replace: "
                "choose another --out"
            )
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise UsageError(f"{place}: is a file, expected a folder: choose another --out")


def write_bundle(folder: Path, files: Mapping[str, bytes]) -> list[str]:
    """Write a bundle into a folder, where it replaces the bundle that the folder holds; other files stay.

    The files are written into a new folder, which then takes the place of the old one: an interruption leaves either
    the old bundle or the new one. That is impossible if other files stay in the folder, if it is a mount point, or if
    it is the working folder, which a shell would then not find any more. The files are then moved into it one by one,
    the manifest last: an interruption between two moves leaves a bundle that does not verify.

    Args:
        folder: the folder, which need not exist.
        files: the content of each file by its name.

    Returns:
        The names of the artifacts of the old bundle that the new one does not have.

    Raises:
        EdgeMnistError: the disk is full, or a folder is read-only.
    """
    place = folder.resolve()  # a link stays, and the folder that it points to is written
    removed = [
        name for name in FILE_NAMES if name.startswith("model_") and (place / name).exists() and name not in files
    ]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        in_place = place.is_dir() and (
            bool(_list_foreign_files(place)) or place.is_mount() or Path.cwd().is_relative_to(place)
        )
        prefix, parent = (f".{MANIFEST}.", place) if in_place else (f".{place.name}.", place.parent)
        # After an error, unfinished files are removed with the scratch folder.
        with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as scratch:
            fresh, old = Path(scratch, "new"), Path(scratch, "old")
            for name, data in files.items():
                write_whole(fresh / name, data)
            if in_place:
                _move_files(fresh, place)
            else:
                _replace_folder(fresh, place, old)
    except OSError as error:
        raise path_error(folder, "cannot be written", error) from error
    _LOG.debug("wrote %s", folder)
    return removed


def _replace_folder(fresh: Path, place: Path, old: Path) -> None:
    """Move the folder `fresh` to `place`, and what is there to `old`, or in one step to `fresh`."""
    if place.is_dir():
        shutil.copymode(place, fresh)
    if exchange_folders(fresh, place):
        return
    try:
        if place.exists():
            os.replace(place, old)
        os.replace(fresh, place)
    except BaseException:  # KeyboardInterrupt included
        if old.exists() and not place.exists():
            os.replace(old, place)
        raise


def _move_files(fresh: Path, place: Path) -> None:
    """Move the files of a bundle into a folder, and remove the files that only the old bundle in it has."""
    stale = [name for name in FILE_NAMES if (place / MANIFEST).is_file() and not (fresh / name).exists()]
    for name in sorted(os.listdir(fresh), key=MANIFEST.__eq__):  # the manifest last
        os.replace(fresh / name, place / name)
    for name in stale:
        (place / name).unlink(missing_ok=True)


def write_report(folder: Path, page: str, parity: str) -> None:
    """Write the report of a verification into a bundle, as report.html and parity.json.

    Args:
        folder: the bundle.
        page: the content of report.html.
        parity: the content of parity.json.

    Raises:
        EdgeMnistError: the folder is read-only, or the disk is full.
    """
    write_whole(folder / REPORT, page.encode())
    write_whole(folder / PARITY, parity.encode() + b"\n")


def _list_foreign_files(folder: Path) -> list[str]:
    """List the files in a folder that neither a bundle in it nor a process that was killed while writing one wrote."""
    written = FILE_NAMES if (folder / MANIFEST).is_file() else ()
    temporary = tuple(f".{name}." for name in FILE_NAMES)
    return [name for name in os.listdir(folder) if name not in written and not name.startswith(temporary)]


def _list_versions() -> dict[str, str]:
    """List the versions of the packages that may take part in an export, as far as they are installed."""
    versions = {}
    for package in ("numpy", "torch", "onnx", "onnxruntime", "ai-edge-litert"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _describe_content(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": sha256(data)}
