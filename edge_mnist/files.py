"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from edge_mnist.errors import EdgeMnistError

LARGEST = 1 << 29
"""Bytes of the largest file that is read into memory."""
_CHUNK = 1 << 20
"""Bytes that are read at a time."""


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part.

    Written beside, flushed to the disk, then renamed: a full disk or a power cut leaves the old file.

    Raises:
        EdgeMnistError: the folder is read-only, the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~umask())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise EdgeMnistError(f"{path}: cannot be written: {error.strerror or error}") from error


def check_folder(path: Path, option: str) -> None:
    """Try whether files can be written into a folder, which need not be there yet; nothing of the trial stays.

    Args:
        path: the folder.
        option: that named it, for the error.

    Raises:
        EdgeMnistError: they cannot.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise EdgeMnistError(f"{option} {path}: cannot be written: {error.strerror or error}") from error
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """The content of a file, or of a pipe.

    Args:
        path: the file.
        largest: the bytes that it may have; of a larger one, or of a device that never ends, no more are read.

    Raises:
        EdgeMnistError: there is no such file, it cannot be read, or it is larger.
    """
    chunks, size = [], 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                size += len(chunk)
                if size > largest:
                    raise EdgeMnistError(f"{path}: is larger than {largest:,} bytes, more than is read into memory")
                chunks.append(chunk)
    except OSError as error:
        raise EdgeMnistError(f"{path}: cannot be read: {error.strerror or error}") from error
    return b"".join(chunks)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, or nested too deeply for Python's parser.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error


def umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
