"""Reads a TorchScript archive as a ZIP file, without running the code inside it."""

from __future__ import annotations

import pickletools
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
    """Every constant of an archive that edge-mnist wrote, and its code, operation by operation.

    Names in it contain numbers that depend on what was traced before in the same process; these numbers are removed.

    Yields:
        The identifier of the operation, or "" for what belongs to none of them, what the part is, and its bytes.

    Raises:
        ValueError: the archive is cut short or damaged.
    """
    with open_archive(data) as archive:
        entries = {entry.filename.partition("/")[2]: read_entry(data, archive, entry) for entry in archive.infolist()}
    owners = _find_owners(entries.get("data.pkl", b""))
    numbers = sorted(int(path[5:]) for path in entries if re.fullmatch(r"data/\d+", path))
    constants = [(owners.get(str(number), ""), "a constant", entries[f"data/{number}"]) for number in numbers]
    what = "the code, which holds scales and zero points,"
    code = [
        (owners.get(name, ""), what, _remove_numbers(text))
        for path, content in entries.items()
        if path.startswith("code/__torch__/")
        for name, text in _split_classes(path, content)
    ]
    # What was traced before in the same process decides the order of the classes in an archive.
    order = {owner: index for index, owner in enumerate(owners.values())}
    yield from sorted([*constants, *sorted(code)], key=lambda part: order.get(part[0], len(order)))


def _split_classes(path: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """The qualified name and the code of each class in a file of code."""
    module = path.removeprefix("code/").removesuffix(".py").replace("/", ".")
    for text in re.split(rb"(?m)^(?=class )", content)[1:]:
        name = text.removeprefix(b"class ").partition(b"(")[0].decode(errors="replace")
        yield f"{module}.{name}", text


def _find_owners(content: bytes) -> dict[str, str]:
    """Find the operation to which each tensor and each class of an archive belongs, without unpickling.

    Args:
        content: the archive's data.pkl, a pickle of the network. The attributes of the network, among them its
            submodules, are the strings within one mark.

    Returns:
        The identifiers of operations, by the numbers of tensors and the qualified names of classes.
    """
    owners: dict[str, str] = {}
    memo: dict[object, str] = {}
    depth, owner = 0, ""
    strings = ["", ""]  # the last two: before a tensor's reference they are its number and its device
    for opcode, argument, _ in pickletools.genops(content):
        depth += (opcode.name == "MARK") - (pickletools.markobject in opcode.stack_before)
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = strings[-1]
        elif opcode.name in ("BINUNICODE", "BINGET", "LONG_BINGET"):
            strings = [strings[-1], argument if isinstance(argument, str) else memo.get(argument, "")]
            if depth == 1:
                owner = strings[-1] if re.match(r"L\d", strings[-1]) else ""
        elif opcode.name == "GLOBAL" and str(argument).startswith("__torch__.") and owner:
            owners[str(argument).replace(" ", ".")] = owner
        elif opcode.name == "BINPERSID" and owner:
            owners[strings[0]] = owner
    return owners


def _remove_numbers(code: bytes) -> bytes:
    """Code of a class without the numbers that depend on what was traced before.

    torch.jit appends them to the names of classes of the same name. It also numbers variables, `_0`, `_1`, but not
    always from 0; they are numbered anew here.
    """
    variables: dict[bytes, bytes] = {}
    code = re.sub(rb"\.___torch_mangle_\d+", b"", code)
    return re.sub(rb"\b_\d+\b", lambda name: variables.setdefault(name[0], b"_%d" % len(variables)), code)
