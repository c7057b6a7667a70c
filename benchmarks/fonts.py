"""Fetches the fonts of fonts.txt for the training: `python -m benchmarks.fonts FOLDER`.

They come from npm, and handwritten ones also from what Debian has installed (fonts-breip, fonts-femkeklaver,
fonts-dkg-handwriting, fonts-rufscript, fonts-sjfonts). FOLDER then has the folders `hand` and `print`, which `--fonts`
of the training and of the benchmarks takes. A package that cannot be had is named and left out.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import run_command
from edge_mnist.system.errors import EdgeMnistError

LIST = Path(__file__).with_name("fonts.txt")
DEBIAN = Path("/usr/share/fonts/truetype")
"""Where Debian's packages put fonts."""
DEBIAN_HANDS = ("breip", "femkeklaver", "fifthhorseman", "rufscript", "sjfonts")
"""The folders of its handwritten fonts."""
AT_ONCE = 8
"""Packages that are fetched at the same time."""


def listed() -> list[tuple[str, str]]:
    """The folder, "hand" or "print", and the name of each font in the list."""
    lines = [line.split() for line in LIST.read_text().splitlines() if line and not line.startswith("#")]
    return [(kind, name) for kind, *names in lines for name in names]


def fetch(name: str) -> tuple[str, bytes] | None:
    """Fetch a font's regular weight for Latin letters: its file name and its bytes, or None where it cannot be had."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--json", "--silent", "--pack-destination", folder, f"@fontsource/{name}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not json.loads(done.stdout or "[]"):
            return None
        (archive,) = Path(folder).iterdir()
        with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as packed:
            regular = f"package/files/{name}-latin-400-normal.woff"
            if regular not in packed.getnames():
                return None
            member = packed.extractfile(regular)
            return None if member is None else (f"{name}.woff", member.read())


def main() -> None:
    """Fill the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if shutil.which("npm") is None:
        raise EdgeMnistError("npm, which fetches the fonts, is not installed: install Node.js with it")
    for kind in ("hand", "print"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    fonts = listed()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for (kind, name), fetched in zip(fonts, pool.map(fetch, (name for _, name in fonts)), strict=True):
            if fetched is None:
                print(f"@fontsource/{name} cannot be had")
            else:
                (folder / kind / fetched[0]).write_bytes(fetched[1])
    for family in DEBIAN_HANDS:
        for font in sorted((DEBIAN / family).glob("*.ttf")):
            shutil.copy(font, folder / "hand" / font.name)
    if not any(path for kind in ("hand", "print") for path in (folder / kind).iterdir()):
        raise EdgeMnistError(f"{folder}: no font could be had: is npm's registry reached?")
    print(*(f"{kind}: {len(list((folder / kind).iterdir()))} fonts" for kind in ("hand", "print")), sep=", ")


if __name__ == "__main__":
    run_command(main)
