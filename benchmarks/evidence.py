"""Renews the figures and pictures of the documents, and stamps them. It runs from the checkout.

    python -m benchmarks.evidence                                # everything: an hour, on a machine without other work
    python -m benchmarks.evidence docs/prove.md docs/report.png  # the outputs in a document, and a picture

The first line of each code block of the language `console` in a document is `$ COMMAND`; the rest of the block is
replaced by what the command prints. A document is written after all its commands have succeeded. A picture is made by
the command that `PICTURES` has for it. MNIST is read from EDGE_MNIST_DATA, photographs from EDGE_MNIST_PHOTOS, the
folder that holds their truth.json.

Below each output and each picture there is a line, the stamp, with the version and the networks that it was made with:

    *Made with edge-mnist 0.1.0 and digitnet_int8.tflite 94ae5b768609.*

A picture holds the same text in its metadata. A test fails as long as a stamp has another hash than the network that is
shipped now. What was measured once, and is not renewed, such as the steps of a development, says so instead:

    *Measured once, with edge-mnist 0.1.0 and digitnet_int8.tflite a813eaaeab17.*
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from edge_mnist import __version__
from edge_mnist.pretrained import SHIPPED
from edge_mnist.system.files import write_whole

ROOT = Path(__file__).parent.parent
DIGITNET = ("digitnet_int8.tflite",)
"""What a command uses that reads single digits."""
READER = tuple(sorted(path.name for path in SHIPPED.parent.glob("*.tflite")))
"""What a command uses that reads pictures: all networks that are shipped to run."""

COMMANDS = {
    "edge-mnist export": DIGITNET,
    "edge-mnist verify": DIGITNET,
    "edge-mnist bench": DIGITNET,
    "edge-mnist evaluate": DIGITNET,
    "python benchmarks/sizes.py": DIGITNET,
    "python benchmarks/outliers.py": DIGITNET,
    "python benchmarks/browser.py": DIGITNET,
    "make --silent peers": DIGITNET,
    "python -m benchmarks.reading ": READER,
    "make --silent reading-peers": READER,
    "python -m benchmarks.finding ": READER,
    "python -m benchmarks.crops ": READER,
    "python -m benchmarks.pi": READER,
    "python benchmarks/accumulators.py": (),
    ".venv-peers/bin/python benchmarks/networks.py": (),
}
"""The shipped networks that each command uses, by how the command begins."""

PICTURES = {
    "docs/report.png": ("python benchmarks/report_picture.py docs", DIGITNET),
    "docs/demo.png": ("python benchmarks/demo_pictures.py docs", READER),
    "docs/demo.webp": ("python benchmarks/demo_pictures.py docs", READER),
    "docs/reading.jpg": ("python -m benchmarks.reading_pictures docs", READER),
    "docs/misread.jpg": ("python -m benchmarks.reading_pictures docs", READER),
    "docs/desk.jpg": ("python -m benchmarks.reading_pictures docs", ()),
}
"""The command that makes each picture, and the shipped networks that it shows at work."""

NO_NETWORK = ", without the shipped networks"
"""How a stamp says that something was made without them."""
STAMP = re.compile(
    r"^\*(?P<kind>Made|Measured once,) with edge-mnist (?P<version>\S+?)"
    rf"(?P<networks>{NO_NETWORK}| and \S+ [0-9a-f]{{12}}(?:, \S+ [0-9a-f]{{12}})*)\.\*$",
    re.MULTILINE,
)
BLOCK = re.compile(
    r"^```console\n\$ (?P<command>.+)\n(?P<printed>(?:(?!```).*\n)*)```\n(?:\n(?P<stamp>\*M.+\*)\n)?", re.MULTILINE
)
"""A code block with a command and what it printed, and the stamp below it."""


def hash_network(name: str) -> str:
    """Compute the first 12 digits of the SHA-256 of a shipped file, such as "digitnet_int8.tflite"."""
    return hashlib.sha256((SHIPPED.parent / name).read_bytes()).hexdigest()[:12]


def describe_networks(networks: tuple[str, ...]) -> str:
    """List shipped networks with their hashes, as a stamp does behind the version."""
    return f" and {', '.join(f'{name} {hash_network(name)}' for name in networks)}" if networks else NO_NETWORK


def make_stamp(networks: tuple[str, ...]) -> str:
    """Make the line that says with which version and which shipped networks something is made now."""
    return f"*Made with edge-mnist {__version__}{describe_networks(networks)}.*"


def find_networks(command: str) -> tuple[str, ...]:
    """Find the shipped networks that the command of a block uses.

    Raises:
        KeyError: `COMMANDS` does not know the command.
    """
    return next(networks for beginning, networks in COMMANDS.items() if f"{command} ".startswith(beginning))


def save_picture(image: Image.Image, path: Path, **options: Any) -> None:
    """Save a picture of the documents with its stamp: a text of PNG, a comment of JPEG, XMP of WebP."""
    stamp = make_stamp(PICTURES[f"docs/{path.name}"][1]).strip("*")
    if path.suffix == ".png":
        information = PngImagePlugin.PngInfo()
        information.add_text("Comment", stamp)
        options["pnginfo"] = information
    else:
        options["comment" if path.suffix == ".jpg" else "xmp"] = stamp.encode()
    image.save(path, **options)


def read_stamp(path: Path) -> str:
    """Read the stamp of a picture, as a line of a document; "" if it has none."""
    with Image.open(path) as image:
        found = image.info.get("Comment") or image.info.get("comment") or image.info.get("xmp") or ""
    text = found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)
    return f"*{text}*" if text else ""


def run(command: str) -> str:
    """Run a command with this checkout's code and the programs beside this Python, and return what it prints."""
    print(f"$ {command}", file=sys.stderr, flush=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    result = subprocess.run(command, shell=True, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(f"{command}: ended with status {result.returncode}; nothing was written")
    return "".join(line.rstrip() + "\n" for line in result.stdout.strip("\n").splitlines())


def fill_block(block: re.Match[str]) -> str:
    """Run the command of a block, and return the block with its output and its stamp."""
    command = block["command"]
    networks = find_networks(command)
    return f"```console\n$ {command}\n{run(command)}```\n\n{make_stamp(networks)}\n"


def fill(path: Path) -> None:
    """Renew the outputs in a document."""
    text, count = BLOCK.subn(fill_block, path.read_text("utf-8"))
    if not count:
        sys.exit(f"{path}: holds no code block of the language console that begins with $")
    write_whole(path, text.encode())


def list_documents() -> list[Path]:
    """List the documents that may hold figures and pictures: README.md and those of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def caption_pictures(path: Path) -> None:
    """Write the stamp of each picture below it, in place of the one that is there."""

    def caption(line: re.Match[str]) -> str:
        picture = f"docs/{Path(line['target']).name}"
        stamp = read_stamp(ROOT / picture) if picture in PICTURES else ""
        return f"{line['image']}\n\n{stamp}\n" if stamp else line[0]

    text = path.read_text("utf-8")
    captioned = PICTURE.sub(caption, text)
    if captioned != text:
        write_whole(path, captioned.encode())


PICTURE = re.compile(
    r"^(?P<image>!\[[^\]]*\]\((?P<target>[^)]+\.(?:png|jpe?g|webp))[^\n]*)\n"
    r"(?:\n(?P<stamp>\*M.+\*)\n)?",
    re.MULTILINE,
)
"""A picture in a document, and the stamp below it."""


def list_old_stamps(path: Path) -> list[str]:
    """List the stamps in a document that name another network than the shipped ones: tables that people write."""
    shipped = {f"{file.name} {hash_network(file.name)}" for file in SHIPPED.parent.iterdir() if file.is_file()}
    stamps = [stamp for stamp in STAMP.finditer(path.read_text("utf-8")) if stamp["kind"] == "Made"]
    return [stamp[0] for stamp in stamps if not {*list_networks(stamp)} <= shipped]


def list_networks(stamp: re.Match[str]) -> list[str]:
    """List the networks of a stamp, each with the beginning of its hash."""
    return [] if stamp["networks"] == NO_NETWORK else stamp["networks"].removeprefix(" and ").split(", ")


def main(*names: str) -> None:
    """Renew the documents and pictures that are named, or all of them, and say what is to be renewed by hand."""
    if "EDGE_MNIST_DATA" not in os.environ:
        sys.exit("EDGE_MNIST_DATA is not set: it names the folder with MNIST, on which accuracy is measured")
    chosen = [(ROOT / name).relative_to(ROOT).as_posix() for name in names]
    unknown = [name for name in chosen if name not in PICTURES and not (ROOT / name).is_file()]
    if unknown:
        sys.exit(f"{unknown[0]}: neither a document nor one of the pictures {', '.join(PICTURES)}")
    for path in list_documents():
        name = path.relative_to(ROOT).as_posix()
        if name in chosen or (not chosen and BLOCK.search(path.read_text("utf-8"))):
            fill(path)
    for command in dict.fromkeys(command for name, (command, _) in PICTURES.items() if not chosen or name in chosen):
        print(run(command), end="", file=sys.stderr)
    for path in list_documents():
        caption_pictures(path)
        for stamp in list_old_stamps(path):
            print(f"{path.relative_to(ROOT)}: renew by hand what is above {stamp}", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
