"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from edge_mnist.errors import EdgeMnistError


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


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        EdgeMnistError: there is no such file, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise EdgeMnistError(f"{path}: cannot be read: {error.strerror or error}") from error


def umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
