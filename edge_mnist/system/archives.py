"""Opens the ZIP archives that PyTorch writes within limits, and recognises the files of torch.save."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

_LARGEST_RATIO = 10
"""How many times its own size an archive may unpack to; those that PyTorch writes unpack to less than their size."""
_MOST_FILES = 10_000
"""In an archive: the network that is shipped has 53."""
_DIRECTORY_ENTRY = b"PK\x01\x02"
"""Begins the description of each file in a ZIP archive (APPNOTE.TXT, section 4.3.12)."""

_OLD_TORCH_SAVE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""A pickle that begins with MAGIC_NUMBER of torch/serialization.py."""

TORCH_SAVE_HINT = (
    "is a file of torch.save, which holds weights without a network: name the factory of its network, "
    "edge-mnist export FILE --network package.module:factory"
)
"""What an error says of such a file where something else was expected."""


def check_archive(data: bytes) -> None:
    """Hold each file of an archive against its checksum, which PyTorch does not do: it runs what damage made of it.

    Raises:
        ValueError: the archive is cut short or damaged.
    """
    with open_archive(data) as archive:
        for entry in archive.infolist():
            if zlib.crc32(read_entry(data, archive, entry)) != entry.CRC:
                raise ValueError(f"its part {entry.filename} does not have the checksum that it was written with")


def is_torch_save_file(data: bytes) -> bool:
    """Whether torch.save wrote a file, in its format of today or of before 2020: tensors without a network's code."""
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
    """A context that holds the archive, of which no more is unpacked than its size allows.

    Raises:
        ValueError: the archive, or what is read of it in the context, is cut short or damaged.
    """
    try:
        if data.count(_DIRECTORY_ENTRY) > _MOST_FILES:
            raise ValueError(f"it holds more than {_MOST_FILES:,} files")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > _LARGEST_RATIO * len(data):
                raise ValueError(
                    f"it would unpack to {unpacked:,} bytes, more than {_LARGEST_RATIO} times its {len(data):,}"
                )
            yield archive
    except (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError) as error:
        # RuntimeError: it is encrypted
        raise ValueError(f"it is no whole ZIP archive: {error}") from error


def read_entry(data: bytes, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The content of a file of an archive, never more than the size that the archive states.

    What is stored uncompressed is read whatever its checksum says: one changed byte shall be found where it is.
    """
    if entry.compress_type == zipfile.ZIP_STORED:
        # It follows its local header (APPNOTE.TXT, section 4.3.7).
        name, extra = struct.unpack_from("<HH", data, entry.header_offset + 26)
        start = entry.header_offset + 30 + name + extra
        return data[start : start + entry.file_size]
    if entry.compress_type != zipfile.ZIP_DEFLATED:  # PyTorch knows no other, and Python unpacks others without a limit
        raise ValueError(f"its part {entry.filename} is compressed in a way that PyTorch does not know")
    with archive.open(entry) as file:
        return file.read(entry.file_size)
