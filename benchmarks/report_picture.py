"""Takes the picture of the report that an export writes: `python benchmarks/report_picture.py docs`, from the checkout.

It exports the shipped network, opens report.html in Chromium and saves what is visible without scrolling as report.png.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

import edge_mnist
from benchmarks import run_command
from benchmarks.evidence import save_picture

WIDTH, HEIGHT = 1080, 1180
"""The size of the browser's window, in pixels."""


def take_picture(page: Path, picture: Path, width: int, height: int) -> None:
    """Save what Chromium shows of a page in a window of this size."""
    program = shutil.which("chromium") or sys.exit("chromium is not installed")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},{height}"]
    command = [program, *flags, f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main(folder: str) -> None:
    """Export, and take the picture."""
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch) / "artifacts"
        edge_mnist.export_model(out=bundle)
        shot = Path(scratch) / "report.png"
        take_picture(bundle / "report.html", shot, WIDTH, HEIGHT)
        colours = Image.open(shot).convert("RGB").quantize(128, dither=Image.Dither.NONE)
        save_picture(colours, Path(folder) / "report.png", optimize=True)


if __name__ == "__main__":
    run_command(lambda: main(*sys.argv[1:]))
