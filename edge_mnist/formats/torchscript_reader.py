"""Reads a TorchScript archive as the ZIP file that it is, without running the code that it carries."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_mnist.system.archives import open_archive, read_entry


def read_metadata(data: bytes, name: str) -> bytes | None:
    """The content of the extra file called `name`; None if there is none, or the archive is damaged."""
    try:
        with open_archive(data) as archive:
            for entry in archive.infolist():
                if entry.filename.partition("/")[2] == f"extra/{name}":
                    return read_entry(data, archive, entry)
    except ValueError:
        pass
    return None


def read_constants(data: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Each constant of an archive of ours: which convolution's, what, and its bytes; then the code, and the rest.

    The convolution is given by its position, "0", "1", ...: the writer stores the tensors and classes of the layers
    in order. Class names have numbers that depend on what was traced before in the same process: these are left out.

    Raises:
        ValueError: the archive is cut short or damaged.
    """
    with open_archive(data) as archive:
        entries = [(entry.filename.partition("/")[2], read_entry(data, archive, entry)) for entry in archive.infolist()]
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


def _unnumbered(code: bytes) -> bytes:
    return re.sub(rb"\.___torch_mangle_\d+", b"", code)
