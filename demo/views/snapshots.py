"""Snapshots: a picture as the camera gave it, and beside it what was read in it.

The first can be read again, by `predict` or the demo; boxes and letters in a picture would be read with it.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import cv2

from edge_mnist.demo.live.loop import FrameResult
from edge_mnist.demo.reading.reader import DOUBTFUL
from edge_mnist.demo.sources.cameras import Image
from edge_mnist.system.files import write_whole

READ = "read"
"""The folder, below that of the snapshots, of the pictures with boxes: `predict` does not look there."""


def name(moment: FrameResult) -> str:
    """A name for a moment's snapshot: when it is taken, and the numbers that stand; x is a doubtful digit.

    The file systems of Windows and of memory cards have no question mark in a name.
    """
    text = "_".join(number.text.replace(DOUBTFUL, "x") for number in moment.numbers)
    return f"{stamp()}{'-' if text else ''}{text[:60]}"


def stamp() -> str:
    """The local time for a file's name, to the hundredth of a second."""
    return datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-4]


def png(picture: Image) -> bytes:
    """A picture, uint8 (H, W, 3) BGR or (H, W), as a PNG file."""
    return cv2.imencode(".png", picture)[1].tobytes()


def save(folder: Path, stem: str, plain: bytes, read: bytes) -> Path:
    """Save a snapshot's two PNG files; the path of the one without boxes.

    Raises:
        EdgeMnistError: the folder cannot be written, or the disk is full.
    """
    path = folder / f"{stem}.png"
    write_whole(path, plain)
    write_whole(folder / READ / path.name, read)
    return path
