"""Reads and writes files: a file appears whole or not at all, and errors say what to do about the path."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import logging
import os
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from edge_mnist.system.errors import EdgeMnistError, UsageError

_LOG = logging.getLogger(__name__)

_WRONG_PATHS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
"""The error numbers of a path that is wrong in itself. The others are those of a disk or of permissions."""


def path_error(what: object, trouble: str, error: OSError) -> EdgeMnistError:
    """Make the error about a path that the user named.

    Args:
        what: the path, perhaps after the option that named it.
        trouble: what cannot be done with it, such as "cannot be read".
        error: the error of the operating system.

    Returns:
        A UsageError if there is no such file, or a folder instead of a file, or a file instead of a folder; otherwise
        an EdgeMnistError.
    """
    kind = UsageError if error.errno in _WRONG_PATHS else EdgeMnistError
    return kind(f"{what}: {trouble}: {error.strerror or error}")


METADATA_KEY = "edge_mnist"
"""The name of the metadata entry in which a file of edge-mnist describes itself, as one JSON text."""

MAX_BYTES = 1 << 29
"""The size in bytes of the largest file that is read into memory: 512 MiB. MNIST's largest file has 47 MB."""
_MOST_LEVELS = 64
"""How deeply JSON may be nested. A checkpoint has 5 levels."""
_CHUNK = 1 << 20
"""The number of bytes that are read at a time."""


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part of it.

    The data is written to a file beside it and flushed to the disk; then that file is renamed. After a full disk or a
    power cut, the old file is still there.

    A symbolic link is replaced, and what it points to is left alone.

    Raises:
        UsageError: the path is a folder, a device or a pipe, or there is a file where its folder should be.
        EdgeMnistError: the folder is read-only, or the disk is full.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir() or path.is_symlink()):
            raise UsageError(f"{path}: is a device, a pipe or a socket, which is not replaced: name a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_read_umask())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):  # Ctrl-C may come after the renaming
                os.unlink(name)
            raise
    except OSError as error:
        raise path_error(path, "cannot be written", error) from error
    _LOG.debug("wrote %s, %s bytes", path, f"{len(data):,}")


def exchange_folders(first: Path, second: Path) -> bool:
    """Let two folders take each other's place in one step.

    Returns:
        Whether that was done. It is not if one of them does not exist, and where the operating system or the file
        system has no such step: only Linux has it, by renameat2(2).
    """
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    working_folder, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE
    status: int = rename(working_folder, os.fsencode(first), working_folder, os.fsencode(second), exchange)
    return status == 0


def check_folder(path: Path, option: str) -> None:
    """Check that files can be written into a folder. It need not exist, and nothing that the check creates remains.

    Args:
        path: the folder.
        option: the option that named the folder, for the error.

    Raises:
        UsageError: the path is a file, or inside a file.
        EdgeMnistError: no files can be written there.
    """
    try:
        with _make_folder(path):
            tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise path_error(f"{option} {path}", "cannot be written", error) from error


@contextlib.contextmanager
def _make_folder(folder: Path) -> Iterator[None]:
    """Make a folder and its parents. Those that are new, and empty when the context ends, are removed again."""
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
    """Keep other processes of edge-mnist from writing to a folder, or to a file, until the context ends.

    The operating system holds the lock, on a hidden file beside the path, and releases it however this process ends.
    Where no file can be made beside the path, as on a read-only disk, nothing is locked.

    Raises:
        EdgeMnistError: another process holds the lock.
    """
    from filelock import FileLock, Timeout

    place = Path(os.path.realpath(path))
    file = place.with_name(f".{place.name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_make_folder(place.parent))
            try:
                stack.enter_context(FileLock(file, timeout=0, fallback_to_soft=False))
            except Timeout as error:
                # Some file systems, such as /proc, answer every attempt to create a file with "no such file". FileLock
                # then tries until its time is up, as if another process held the lock. Creating any other file there
                # raises the OSError that says what is really wrong.
                tempfile.TemporaryFile(dir=place.parent).close()
                raise EdgeMnistError(
                    f"{path}: another edge-mnist writes here at this moment: wait until it has ended, or name another "
                    "place"
                ) from error
        except OSError as error:
            _LOG.debug("%s is not locked: %s", path, error.strerror or error)
        else:
            # Remove the file while the lock is held: a process that waits for the lock then makes a new one.
            stack.callback(file.unlink, missing_ok=True)
        yield


def read_bytes(path: Path, largest: int = MAX_BYTES) -> bytes:
    """Read a whole file, or all that comes from a pipe.

    Args:
        path: the file.
        largest: the number of bytes that it may have. No more are read of a larger file or of an endless device.

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
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such file") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path}: is a folder, expected a file") from error
    except OSError as error:
        raise path_error(path, "cannot be read", error) from error
    except ValueError as error:  # the path holds a zero byte, or a part of a surrogate pair
        raise UsageError(f"{str(path)!a}: cannot be the name of a file: {error}") from error
    _LOG.debug("read %s, %s bytes", path, f"{size:,}")
    return b"".join(chunks)


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: the text is not JSON, or it is nested too deeply for functions that call themselves.
    """
    try:
        parsed = json.loads(text)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
    level = [parsed]
    for _ in range(_MOST_LEVELS):
        level = [item for value in level if isinstance(value, dict | list) for item in _list_items(value)]
        if not level:
            return parsed
    raise ValueError("its JSON is nested too deeply")


def _list_items(value: dict[str, Any] | list[Any]) -> Collection[Any]:
    """The values in a JSON object or an array."""
    return value.values() if isinstance(value, dict) else value


def _read_umask() -> int:
    """Read the file mode mask of this process, which is only possible by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
