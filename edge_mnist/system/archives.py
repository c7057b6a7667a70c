"""Opens the ZIP archives that PyTorch writes, within limits, and recognises the files that torch.save writes."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

_LARGEST_RATIO = 10
"""The largest ratio of the unpacked size of an archive to its size. Archives that PyTorch writes are below 1."""
_MAX_FILES = 10_000
"""The largest number of files in an archive. The archive of the shipped network has 53."""
_DIRECTORY_ENTRY = b"PK\x01\x02"
"""The signature of each file's entry in the directory of a ZIP archive (APPNOTE.TXT, section 4.3.12)."""

_OLD_TORCH_SAVE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""The first bytes of a file of torch.save before 2020: a pickle of MAGIC_NUMBER in torch/serialization.py."""

NETWORK_HINT = "name the factory of its network, edge-mnist export FILE --network package.module:factory"
"""What errors say about a file that may hold the weights of a user's network."""

TORCH_SAVE_HINT = f"is a file of torch.save, which holds weights without a network: {NETWORK_HINT}"
"""What errors say about a file of torch.save where a file of another kind was expected."""


def check_archive(data: bytes) -> None:
    """Compare each file of an archive with its checksum. PyTorch does not: it would run what damage made of the code.

    Raises:
        ValueError: the archive is cut short or damaged.
    """
    with open_archive(data) as archive:
        for entry in archive.infolist():
            if zlib.crc32(read_entry(data, archive, entry)) != entry.CRC:
                raise ValueError(f"its part {entry.filename} does not have the checksum that it was written with")


def is_torch_save_file(data: bytes) -> bool:
    """Check whether torch.save wrote a file, in its format of today or of before 2020: tensors without code."""
    if data.startswith(_OLD_TORCH_SAVE):
        return True
    try:
        with open_archive(data) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except ValueError:
        return False
    return "data.pkl" in names and "constants.pkl" not in names


@contextmanager
def open_archive(data: bytes) -> Iterator[zipfile.ZipFile]:
    """Open an archive until the context ends. It may not unpack to much more than its size.

    Raises:
        ValueError: the archive, or a file that is read from it in the context, is cut short or damaged.
    """
    try:
        if data.count(_DIRECTORY_ENTRY) > _MAX_FILES:
            raise ValueError(f"it holds more than {_MAX_FILES:,} files")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > _LARGEST_RATIO * len(data):
                raise ValueError(
                    f"it would unpack to {unpacked:,} bytes, more than {_LARGEST_RATIO} times its {len(data):,}"
                )
            yield archive
    except (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError) as error:
        # zipfile raises RuntimeError for encrypted files
        raise ValueError(f"it is no whole ZIP archive: {error}") from error


def read_entry(data: bytes, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Read a file of an archive, at most as many bytes as the archive states.

    An uncompressed file is read even if its checksum is wrong, so that a caller can find the byte that was changed.

    Raises:
        ValueError: the file is compressed in a way that PyTorch does not use.
    """
    if entry.compress_type == zipfile.ZIP_STORED:
        # The content follows the file's local header (APPNOTE.TXT, section 4.3.7).
        name, extra = struct.unpack_from("<HH", data, entry.header_offset + 26)
        start = entry.header_offset + 30 + name + extra
        return data[start : start + entry.file_size]
    if entry.compress_type != zipfile.ZIP_DEFLATED:  # PyTorch uses no other, and Python does not limit others
        raise ValueError(f"its part {entry.filename} is compressed in a way that PyTorch does not know")
    with archive.open(entry) as file:
        return file.read(entry.file_size)
