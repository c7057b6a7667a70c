"""Reads a TorchScript archive as a ZIP file, without running the code inside it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_mnist.system.archives import open_archive, read_entry


def read_metadata(data: bytes, name: str) -> bytes | None:
    """The content of the extra file `name`, or None if there is no such file or the archive is damaged."""
    try:
        with open_archive(data) as archive:
            for entry in archive.infolist():
                if entry.filename.partition("/")[2] == f"extra/{name}":
                    return read_entry(data, archive, entry)
    except ValueError:
        pass
    return None


def read_constants(data: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Every constant of an archive that edge-mnist wrote, then its code.

    The writer stores the tensors and the classes of the layers in order. Class names contain numbers that depend on
    what was traced before in the same process; these numbers are removed.

    Yields:
        The position of the convolution among the convolutions ("0", "1", ...), what the part is, and its bytes.

    Raises:
        ValueError: the archive is cut short or damaged.
    """
    with open_archive(data) as archive:
        entries = [(entry.filename.partition("/")[2], read_entry(data, archive, entry)) for entry in archive.infolist()]
    tensors = sorted((int(path[5:]), content) for path, content in entries if re.fullmatch(r"data/\d+", path))
    classes = [
        content for path, content in entries if re.match(r"code/__torch__/torch/ao/nn/quantized/modules/conv", path)
    ]
    own_code = [_remove_numbers(content) for path, content in entries if path.startswith("code/__torch__/edge_mnist/")]
    # What was traced before decides whether the classes of edge-mnist share a file; so statements are compared.
    statements = sorted(line for content in own_code for line in content.splitlines() if line.startswith(b"    "))
    # In int8, each convolution has a class and four tensors: weight, scales, zero points, bias. In float, it has two.
    for index, content in tensors:
        yield str(index // (4 if classes else 2)), "a constant", content
    for index, content in enumerate(classes):
        yield str(index), "the code, which holds the output's scale and zero point,", _remove_numbers(content)
    yield "0", "the code that takes the pixels", b"\n".join(statements)


def _remove_numbers(code: bytes) -> bytes:
    """Code without the numbers that torch.jit appends to the names of classes of the same name."""
    return re.sub(rb"\.___torch_mangle_\d+", b"", code)
