"""Tries a model file in a process of its own, see `trial_worker`.

A damaged file can crash a runtime, make it take all memory, or never come to an end: then only that process is lost.
"""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path

from edge_mnist.system.child_processes import ChildProcess, describe_end, last_line, module_command
from edge_mnist.system.errors import EdgeMnistError

SECONDS = 60.0
"""That a model may take to be opened and tried; the shipped one takes a second, on a Raspberry Pi some seconds."""


def try_model(
    path: Path, *, trust: bool, golden: bool, stop: threading.Event | None = None, seconds: float = SECONDS
) -> str:
    """Open a model file and run it, with a limit on memory and time.

    Args:
        path: the file.
        trust: as in `models.load`.
        golden: whether it must pass `models.check_golden_images` as well.
        stop: ends the trial when it is set.
        seconds: that the trial may take.

    Returns:
        The SHA-256 of what was tried, hexadecimal.

    Raises:
        EdgeMnistError: the model is not good, or crashed the process, or took too much memory or time.
    """
    command = module_command(
        "edge_mnist.demo.live.trial_worker", path, "trust" if trust else "distrust", "golden" if golden else "open"
    )
    pipe = subprocess.PIPE
    with ChildProcess(str(path), command, stdout=pipe, stderr=pipe, start_new_session=True) as process:
        try:
            output, errors = process.finish(stop, seconds)
        except TimeoutError:
            raise EdgeMnistError(f"{path}: takes more than {seconds:g} s to be opened and tried") from None
    if process.returncode == 0:
        sha256: str = json.loads(output.splitlines()[-1])["sha256"]
        return sha256
    if process.returncode == 1 and errors.strip():
        raise EdgeMnistError(last_line(errors))
    raise EdgeMnistError(f"{path}: is damaged: {describe_end(process.returncode)} when it was tried")
