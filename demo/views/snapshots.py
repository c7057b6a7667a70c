"""Snapshots: a picture as the camera gave it, and beside it the same picture with what was read in it.

Only the first can be read again, by `predict` or the demo: the labels in the second would be read too.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import cv2

from edge_mnist.demo.live.recognition import FrameResult
from edge_mnist.demo.reading.reader import DOUBTFUL
from edge_mnist.demo.sources.cameras import Image
from edge_mnist.system.files import write_whole

READ_FOLDER = "read"
"""The folder, within that of the snapshots, for the pictures with boxes: `predict` does not look into it."""
_MAX_NUMBERS = 60
"""Characters of the numbers in the name of a file; file systems allow 255 bytes in all."""


def make_name(result: FrameResult) -> str:
    """Make a name for a snapshot from the time and the numbers in the frame.

    A doubtful digit is an x: the file systems of Windows and of memory cards allow no question mark in a name.
    """
    numbers = "_".join(number.text.replace(DOUBTFUL, "x") for number in result.numbers)
    return f"{format_time()}{'-' if numbers else ''}{numbers[:_MAX_NUMBERS]}"


def format_time() -> str:
    """Format the local time for the name of a file, to the hundredth of a second."""
    return datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-4]


def encode_png(picture: Image) -> bytes:
    """Encode a picture, uint8 (H, W, 3) BGR or (H, W), as a PNG file."""
    return cv2.imencode(".png", picture)[1].tobytes()


def save(folder: Path, name: str, plain: bytes, read: bytes) -> Path:
    """Save the two PNG files of a snapshot.

    Args:
        folder: the folder for snapshots.
        name: the name of both files, without a suffix.
        plain: the picture as the camera gave it.
        read: the picture with boxes.

    Returns:
        The path of the picture without boxes.

    Raises:
        EdgeMnistError: the folder cannot be written, or the disk is full.
    """
    path = folder / f"{name}.png"
    write_whole(path, plain)
    write_whole(folder / READ_FOLDER / path.name, read)
    return path
