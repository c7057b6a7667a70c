"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_mnist.system.errors import EdgeMnistError, UsageError

_LOG = logging.getLogger(__name__)

_WRONG_PATHS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
"""Errors of a path that is wrong in itself, rather than of the disk or of permissions."""


def path_error(what: object, trouble: str, error: OSError) -> EdgeMnistError:
    """The error of a path that the user named.

    Args:
        what: the path, perhaps with the option that named it.
        trouble: what cannot be done, such as "cannot be read".
        error: the system's.

    Returns:
        A UsageError if nothing is there, or a folder instead of a file, or a file instead of a folder.
    """
    kind = UsageError if error.errno in _WRONG_PATHS else EdgeMnistError
    return kind(f"{what}: {trouble}: {error.strerror or error}")


METADATA_KEY = "edge_mnist"
"""The name of the metadata entry in which a file of edge-mnist describes itself, as one JSON text."""

LARGEST = 1 << 29
"""Bytes of the largest file that is read into memory."""
_CHUNK = 1 << 20
"""Bytes that are read at a time."""


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part.

    Written beside, flushed to the disk, then renamed: a full disk or a power cut leaves the old file.

    Raises:
        UsageError: it is a folder, or a file is where its folder should be.
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
        raise path_error(path, "cannot be written", error) from error
    _LOG.debug("wrote %s, %s bytes", path, f"{len(data):,}")


def check_folder(path: Path, option: str) -> None:
    """Try whether files can be written into a folder, which need not be there yet; nothing of the trial stays.

    Args:
        path: the folder.
        option: that named it, for the error.

    Raises:
        UsageError: it is a file, or inside one.
        EdgeMnistError: they cannot.
    """
    try:
        with _made(path):
            tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise path_error(f"{option} {path}", "cannot be written", error) from error


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder; what was made for it and is empty at the end of the context is removed."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for place in missing:
            with contextlib.suppress(OSError):
                place.rmdir()


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """A context in which no other process of edge-mnist writes to a folder, or to a file.

    The system holds the lock, on a hidden file beside the path, and releases it however this process ends. Where no
    file can be made beside it, as on a read-only disk, there is no lock.

    Raises:
        EdgeMnistError: another process holds the lock.
    """
    from filelock import FileLock, Timeout

    place = Path(os.path.realpath(path))
    file = place.with_name(f".{place.name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_made(place.parent))
            stack.enter_context(FileLock(file, timeout=0, fallback_to_soft=False))
        except Timeout as error:
            raise EdgeMnistError(
                f"{path}: another edge-mnist writes here at this moment: wait until it has ended, or name another place"
            ) from error
        except OSError as error:
            _LOG.debug("%s is not locked: %s", path, error.strerror or error)
        else:
            stack.callback(file.unlink, missing_ok=True)  # while the lock is held: who waits for it looks again
        yield


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """The content of a file, or of a pipe.

    Args:
        path: the file.
        largest: the bytes that it may have; of a larger one, or of a device that never ends, no more are read.

    Raises:
        UsageError: there is no such file, or it is a folder.
        EdgeMnistError: it cannot be read, or it is larger.
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
        raise path_error(path, "cannot be read", error) from error
    _LOG.debug("read %s, %s bytes", path, f"{size:,}")
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
