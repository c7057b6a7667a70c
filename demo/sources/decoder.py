"""Decodes uploaded images, each in a process of its own with limits on its memory and time.

The process reads a file from its standard input and writes the picture, or what is wrong with it, to its standard
output: a line of JSON, then the pixels. `python -m edge_mnist.demo.sources.decoder NAME` is such a process.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist.demo.sources import images
from edge_mnist.system.child_processes import ChildProcess, module_command, prefer_for_oom_kill
from edge_mnist.system.errors import EdgeMnistError

MAX_BYTES = 48_000_000
"""The most bytes of a decoded picture: 16 million pixels of 8-bit colour, as the whole demo may use 300 MB on a Pi."""
LARGEST = 2000
"""The longer side, in pixels, to which a larger picture is reduced."""
SECONDS = 20.0
"""Seconds that decoding a picture may take, with the start of its process on a slow board."""


class Decoder:
    """Starts the processes; any number of threads may use it at once.

    After each picture the process for the next one is started, so that it is ready when that comes.
    """

    def __init__(self, name: str, seconds: float = SECONDS) -> None:
        """Start no process yet.

        Args:
            name: the name of a picture in error messages.
            seconds: how long decoding a picture may take.
        """
        self._name, self._seconds = name, seconds
        self._lock = threading.Lock()
        self._spare: ChildProcess | None = None
        self._is_closed = False

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """Decode an image file for the reader.

        Args:
            data: the content of the file.

        Returns:
            uint8 (H, W), grey, whose longer side has at most `LARGEST` pixels.

        Raises:
            EdgeMnistError: as `images.decode`, or it takes too much memory or time.
        """
        process = self._take_process()
        try:
            answer, _ = process.communicate(data, timeout=self._seconds)
        except subprocess.TimeoutExpired as error:
            raise EdgeMnistError(f"{self._name}: takes more than {self._seconds:g} seconds to open") from error
        finally:
            process.end()
            self._prepare_process()
        line, _, pixels = answer.partition(b"\n")
        if process.returncode or not line:
            raise EdgeMnistError(f"{self._name}: is damaged, or takes too much memory to open")
        description = json.loads(line)
        if "error" in description:
            raise EdgeMnistError(description["error"])
        return np.frombuffer(pixels, np.uint8).reshape(description["shape"])

    def close(self) -> None:
        """End the process that waits for the next picture; no further one will wait."""
        with self._lock:
            self._is_closed = True
            if self._spare is not None:
                self._spare.end()
                self._spare = None

    def _take_process(self) -> ChildProcess:
        """Take the process that waits; start one if none does, or if it has ended."""
        with self._lock:
            process, self._spare = self._spare, None
        if process is not None and process.poll() is None:
            return process
        if process is not None:
            process.end()
        return self._start_process()

    def _prepare_process(self) -> None:
        """Start the process for the next picture."""
        with self._lock, contextlib.suppress(EdgeMnistError):  # if it fails again, the next picture reports it
            if self._spare is None and not self._is_closed:
                self._spare = self._start_process()

    def _start_process(self) -> ChildProcess:
        command = module_command("edge_mnist.demo.sources.decoder", self._name)
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return ChildProcess(self._name, command, **streams, start_new_session=True)


def _reduce(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture, uint8 (H, W) or (H, W, 3) BGR, in grey, whose longer side has at most `LARGEST` pixels."""
    grey = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    scale = min(1.0, LARGEST / max(grey.shape))
    height, width = (max(1, round(side * scale)) for side in grey.shape)
    return np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def main() -> None:
    """Decode the one picture that comes on the standard input."""
    prefer_for_oom_kill()
    data = sys.stdin.buffer.read()
    try:
        grey = _reduce(images.decode(data, sys.argv[1], max_bytes=MAX_BYTES))
        answer = json.dumps({"shape": grey.shape}).encode() + b"\n" + grey.tobytes()
    except EdgeMnistError as error:
        answer = json.dumps({"error": str(error)}).encode() + b"\n"
    sys.stdout.buffer.write(answer)


if __name__ == "__main__":
    main()
