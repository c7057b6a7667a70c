"""Damages files at random and opens them, for the test.

The command is `python -m tests.support.fuzz_artifacts KIND FILE FOLDER START END`, in the root of the repository.

Before each file a line with its number goes to stdout, so that one at which this process crashes is known; at the end
one with how much its memory grew. What is no `EdgeMnistError` is a line with the traceback.
"""

from __future__ import annotations

import contextlib
import copy
import faulthandler
import gc
import io
import json
import random
import shutil
import sys
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_mnist import runtime
from edge_mnist.bundle.manifest import is_listed
from edge_mnist.bundle.reference import deserialize, read_bundle
from edge_mnist.formats.table import FORMATS, detect_format
from edge_mnist.graph import checkpoint
from edge_mnist.inspect import summary
from edge_mnist.system.child_processes import limit_memory
from edge_mnist.system.errors import EdgeMnistError

MEMORY = 1 << 30
"""Bytes that a damaged file may take."""
SECONDS = 30
"""That a damaged file may take."""

_ODD = (0, 1, 2, 127, 128, 255, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Values that lengths, offsets and indices do not expect."""
_ODD_JSON: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1 << 40, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "\udc80"),
    *([], {}, [[]], [None], {"": None}, [1 << 62] * 3, [0, 0], [1, 28, 28], [-1, 28, 28]),
)


def damage(data: bytes, chance: random.Random) -> bytes:
    """Bytes with one to three kinds of damage."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(changed) or 1)
        length = min(chance.choice((1, 4, 16, 256, 5000)), len(changed) - at)
        match chance.randrange(8):
            case 0:
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                changed[at : at + length] = bytes(length)
            case 2:
                changed[at : at + length] = chance.randbytes(length)
            case 3:
                changed[at : at + 4] = chance.choice(_ODD).to_bytes(4, "little")
            case 4:
                del changed[at : at + length]
            case 5:
                changed[at:at] = changed[at : at + length]
            case 6:
                del changed[max(at, 16) :]
            case _:
                place = chance.randrange(len(changed))
                changed[at : at + length] = changed[place : place + length]
        changed = changed or bytearray(b"\0")
    return bytes(changed)


def damage_json(text: bytes, chance: random.Random) -> bytes:
    """A JSON text in which values are replaced, left out, or nested too deeply."""
    value = json.loads(text)
    for _ in range(chance.randint(1, 3)):
        places: list[tuple[Any, Any]] = []
        found = [value]
        while found:
            part = found.pop()
            keys = list(part) if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()
            places += [(part, key) for key in keys]
            found += [part[key] for key in keys]
        if not places:
            break
        part, key = chance.choice(places)
        match chance.randrange(8):
            case 0:
                del part[key]
            case 1:
                other, place = chance.choice(places)
                if place in other or (isinstance(other, list) and place < len(other)):
                    part[key] = copy.deepcopy(other[place])
            case 2 if isinstance(part[key], str):  # a JSON text inside, or a number as text
                part[key] = damage(part[key].encode(), chance).decode(errors="replace")
            case _:
                part[key] = copy.deepcopy(chance.choice(_ODD_JSON))
    if chance.randrange(20) == 0:
        return b"[" * 100_000
    return json.dumps(value).encode()


def damage_artifact(data: bytes, chance: random.Random) -> bytes:
    """An artifact with damage; half of the TorchScript archives have it inside a file whose checksum then fits it."""
    if detect_format(data) is FORMATS["torchscript"] and chance.randrange(2):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = {entry: archive.read(entry) for entry in archive.infolist()}
        hit = chance.choice([entry for entry, content in files.items() if content])
        result = io.BytesIO()
        with zipfile.ZipFile(result, "w") as archive:
            for entry, content in files.items():
                archive.writestr(entry.filename, damage(content, chance) if entry is hit else content)
        return result.getvalue()
    return damage(data, chance)


def damage_safetensors(data: bytes, chance: random.Random) -> bytes:
    """A safetensors file with damage; half of them in our JSON text inside, the rest left valid."""
    if not chance.randrange(2):
        return damage(data, chance)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    (key,) = header["__metadata__"]
    text = damage_json(header["__metadata__"][key].encode(), chance)
    header["__metadata__"][key] = text.decode(errors="replace")
    packed = json.dumps(header).encode()
    return len(packed).to_bytes(8, "little") + packed + data[8 + size :]


def damage_text(data: bytes, chance: random.Random) -> bytes:
    """A JSON file with damage: half of them still JSON."""
    return damage_json(data, chance) if chance.randrange(2) else damage(data, chance)


def open_artifact(path: Path) -> None:
    """`info`, then what `predict --trust` and the demo do, and what a child of `verify` does."""
    with contextlib.suppress(EdgeMnistError):
        summary.describe(path)
    classifier = runtime.load(path, trust=True)
    for count in (1, 3):
        classifier.logits(np.zeros((count, 28, 28), np.uint8))


def open_source(path: Path) -> None:
    """`info` of a model.c, and what refuses to compile it: C that is damaged and compiled would be any program."""
    with contextlib.suppress(EdgeMnistError):
        summary.describe(path)
    runtime.load(path)


def open_checkpoint(path: Path) -> None:
    """`info`, and what `export` reads."""
    with contextlib.suppress(EdgeMnistError):
        summary.describe(path)
    checkpoint.load(path)


def open_reference(path: Path) -> None:
    """What `verify` and the demo's golden images read."""
    deserialize(path.read_bytes(), str(path))


def open_bundle(path: Path) -> None:
    """`info` of a folder, and what `verify` reads."""
    is_listed(path.parent / "model_int8.pt", b"")
    with contextlib.suppress(EdgeMnistError):
        summary.describe(path.parent)
    read_bundle(path.parent)


KINDS: dict[str, tuple[Callable[[bytes, random.Random], bytes], Callable[[Path], None]]] = {
    "artifact": (damage_artifact, open_artifact),
    "source": (damage, open_source),
    "checkpoint": (damage_safetensors, open_checkpoint),
    "reference": (damage_safetensors, open_reference),
    "bundle": (damage_text, open_bundle),
}


def damaged(kind: str, data: bytes, number: int) -> bytes:
    """The damaged file of that number."""
    return KINDS[kind][0](data, random.Random(number))


def main(kind: str, file: str, folder: str, start: str, end: str) -> None:
    """Run as the module's text says."""
    data, path = Path(file).read_bytes(), Path(folder, Path(file).name)
    warnings.simplefilter("error")
    KINDS[kind][1](Path(file))  # what is sound is opened, and what that imports is no growth
    if kind == "bundle":
        shutil.copytree(Path(file).parent, folder, dirs_exist_ok=True)
    limit_memory(MEMORY)
    before = resident()
    for number in range(int(start), int(end)):
        print(number, flush=True)
        path.write_bytes(damaged(kind, data, number))
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            KINDS[kind][1](path)
        except EdgeMnistError as error:
            if len(str(error).splitlines()) != 1:
                print(f"more than a line: {error!r}", flush=True)
        except Exception:
            print(traceback.format_exc().replace("\n", "\\n"), flush=True)
        faulthandler.cancel_dump_traceback_later()
        if number == int(start) + 50:
            before = resident()
    print(f"growth {resident() - before}", flush=True)


def resident() -> int:
    """KiB of memory that this process has."""
    gc.collect()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
