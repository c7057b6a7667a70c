"""Writes a folder of artifacts with its manifest: whole, or not at all."""

from __future__ import annotations

import contextlib
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
from edge_mnist.bundle.manifest import FILE_NAMES, HEADER, MANIFEST, MANIFEST_FORMAT, PARITY, REFERENCE, REPORT, sha256
from edge_mnist.bundle.reference import Reference, serialize
from edge_mnist.export import WRITERS
from edge_mnist.export.c.writer import write_header
from edge_mnist.formats.table import FORMATS, Format
from edge_mnist.system.errors import UsageError
from edge_mnist.system.files import path_error, write_whole

_LOG = logging.getLogger(__name__)


def make_bundle(reference: Reference, kinds: Sequence[Format], details: Mapping[str, Any]) -> dict[str, bytes]:
    """Write the graphs of a reference in formats.

    Args:
        reference: the graphs and golden images.
        kinds: the formats to write.
        details: what else the manifest says, such as the checkpoint's hash and how it was calibrated.

    Returns:
        The content of each file by its name, the manifest's included.
    """
    files: dict[str, bytes] = {}
    entries: dict[str, Any] = {}
    for kind in kinds:
        for precision, graph in (("float", reference.float_graph), ("int8", reference.quantized_graph)):
            if graph is None or precision not in kind.precisions:
                continue
            name = kind.artifact_name(precision)
            _LOG.info("writing %s", name)
            files[name] = WRITERS[kind.name](graph)
            entries[name] = {"format": kind.name, "precision": precision, **_measures(files[name])}
            entries[name]["contract"] = json.loads(kind.make_contract(graph).to_json())
    if FORMATS["c"] in kinds and reference.quantized_graph is not None:
        files[HEADER] = write_header(reference.quantized_graph)
        entries[HEADER] = _measures(files[HEADER])
    files[REFERENCE] = serialize(reference)
    entries[REFERENCE] = _measures(files[REFERENCE])
    golden: dict[str, Any] = {"images": len(reference.images), "images_sha256": sha256(reference.images.tobytes())}
    if reference.int8_logits is not None:
        golden["int8_logits_sha256"] = sha256(reference.int8_logits.tobytes())
    manifest = {
        "tool": "edge-mnist",
        "format": MANIFEST_FORMAT,
        "versions": {"edge_mnist": __version__, "python": platform.python_version(), **_versions()},
        **details,
        "quantization": [asdict(layer) for layer in reference.layers],
        "golden": golden,
        "files": entries,
    }
    files[MANIFEST] = (json.dumps(manifest, indent=1) + "\n").encode()
    return files


def check_bundle_folder(folder: Path, force: bool) -> None:
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
        if in_the_way := [name for name in others if name in FILE_NAMES]:
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
    gone = [name for name in FILE_NAMES if name.startswith("model_") and (place / name).exists() and name not in files]
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
    stale = [name for name in FILE_NAMES if (place / MANIFEST).is_file() and not (fresh / name).exists()]
    for name in sorted(os.listdir(fresh), key=MANIFEST.__eq__):
        os.replace(fresh / name, place / name)
    for name in stale:
        (place / name).unlink(missing_ok=True)


def write_report(folder: Path, page: str, parity: str) -> None:
    """Keep the report of a verification in the bundle: report.html and parity.json.

    Raises:
        EdgeMnistError: the folder is read-only, the disk is full.
    """
    write_whole(folder / REPORT, page.encode())
    write_whole(folder / PARITY, parity.encode() + b"\n")


def _others(folder: Path) -> list[str]:
    """Names in a folder that are not of a bundle, nor what a killed process left of one."""
    ours = FILE_NAMES if (folder / MANIFEST).is_file() else ()
    left = tuple(f".{name}." for name in FILE_NAMES)
    return [name for name in os.listdir(folder) if name not in ours and not name.startswith(left)]


def _versions() -> dict[str, str]:
    """Versions of the packages that take part in writing, of those that are installed."""
    found = {}
    for package in ("numpy", "torch", "onnx", "onnxruntime", "ai-edge-litert"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _measures(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": sha256(data)}
