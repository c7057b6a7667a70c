"""Reads a TorchScript archive as the ZIP file that it is, without running the code that it carries."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator


def metadata(data: bytes, name: str) -> bytes | None:
    """The content of the extra file called `name`; None if there is none, or the archive is damaged."""
    for path, content in _entries(data):
        if path == f"extra/{name}":
            return content
    return None


def contents(data: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Each constant of an archive of ours: which convolution's, what, and its bytes; then the code, and the rest.

    The convolution is given by its position, "0", "1", ...: the writer stores the tensors and classes of the layers
    in order. Class names have numbers that depend on what was traced before in the same process: these are left out.

    Raises:
        ValueError: the archive is cut short or damaged.
    """
    entries = list(_entries(data))
    if not entries:
        raise ValueError("it is no whole ZIP archive")
    tensors = sorted((int(path[5:]), content) for path, content in entries if re.fullmatch(r"data/\d+", path))
    classes = [
        content for path, content in entries if re.match(r"code/__torch__/torch/ao/nn/quantized/modules/conv", path)
    ]
    own = [_unnumbered(content) for path, content in entries if path.startswith("code/__torch__/edge_mnist/")]
    # Classes of ours share a file or not, by what was traced before: their statements are what counts.
    statements = sorted(line for content in own for line in content.splitlines() if line.startswith(b"    "))
    # Weight, scales, zero points and bias in int8, where each convolution has a class of its own; weight and bias in
    # float.
    for index, content in tensors:
        yield str(index // (4 if classes else 2)), "a constant", content
    for index, content in enumerate(classes):
        yield str(index), "the code, which holds the output's scale and zero point,", _unnumbered(content)
    yield "0", "the code that takes the pixels", b"\n".join(statements)


def _entries(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Path, less the archive's name, and content of each file; none of a damaged archive.

    What is stored uncompressed, as TorchScript does, is read whatever its checksum says: one changed byte shall be
    found where it is, not end the list.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                stored = entry.compress_type == zipfile.ZIP_STORED
                yield entry.filename.partition("/")[2], _stored(data, entry) if stored else archive.read(entry)
    except (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError):
        return  # RuntimeError: encrypted, or compressed in a way that is unknown


def _stored(data: bytes, entry: zipfile.ZipInfo) -> bytes:
    """The content of an uncompressed file, which follows its local header (APPNOTE.TXT, section 4.3.7)."""
    name, extra = struct.unpack_from("<HH", data, entry.header_offset + 26)
    start = entry.header_offset + 30 + name + extra
    return data[start : start + entry.file_size]


def _unnumbered(code: bytes) -> bytes:
    return re.sub(rb"\.___torch_mangle_\d+", b"", code)
