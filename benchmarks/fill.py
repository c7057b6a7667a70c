"""Renews the output of commands in a document: `python benchmarks/fill.py docs/benchmarks.md`, from the checkout.

The first line of each code block of the language `console` is `$ COMMAND`; the rest of the block is replaced by what
the command prints. The document is written after all commands have succeeded.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from edge_mnist.system.files import write_whole

_BLOCK = re.compile(r"^```console\n\$ (?P<command>.+)\n(?P<printed>(?:(?!```).*\n)*)```\n", re.MULTILINE)


def _fill_block(block: re.Match[str]) -> str:
    """Run the command of a block, and return the block with its output."""
    command = block["command"]
    print(f"$ {command}", file=sys.stderr, flush=True)
    result = subprocess.run(command, shell=True, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(f"{command}: ended with status {result.returncode}; nothing was written")
    output = "".join(line.rstrip() + "\n" for line in result.stdout.rstrip().splitlines())
    return f"```console\n$ {command}\n{output}```\n"


def main(document: str) -> None:
    """Renew the outputs in one document."""
    path = Path(document)
    text, count = _BLOCK.subn(_fill_block, path.read_text("utf-8"))
    if not count:
        sys.exit(f"{document}: holds no code block of the language console that begins with $")
    write_whole(path, text.encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
