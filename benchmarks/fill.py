"""Prints what stands in a document anew: `python benchmarks/fill.py docs/benchmarks.md`, from the checkout.

Of each block of code that is called `console`, the first line is `$ COMMAND`, and the rest becomes what the command
prints. The document is written when all commands have succeeded.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from edge_mnist.system.files import write_whole

_BLOCK = re.compile(r"^```console\n\$ (?P<command>.+)\n(?P<printed>(?:(?!```).*\n)*)```\n", re.MULTILINE)


def _filled(block: re.Match[str]) -> str:
    command = block["command"]
    print(f"$ {command}", file=sys.stderr, flush=True)
    result = subprocess.run(command, shell=True, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(f"{command}: ended with status {result.returncode}; nothing was written")
    printed = "".join(line.rstrip() + "\n" for line in result.stdout.rstrip().splitlines())
    return f"```console\n$ {command}\n{printed}```\n"


def main(document: str) -> None:
    """Fill one document."""
    path = Path(document)
    text, found = _BLOCK.subn(_filled, path.read_text("utf-8"))
    if not found:
        sys.exit(f"{document}: holds no block of code called console that begins with $")
    write_whole(path, text.encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
