"""Tries a model file in another process, see `trial_worker`.

A damaged file can crash a runtime, make it take all memory, or run for ever: then only that process is lost.
"""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path

from edge_mnist.system.child_processes import ChildProcess, describe_end, last_line, module_command
from edge_mnist.system.errors import EdgeMnistError

SECONDS = 60.0
"""The seconds that a trial may take. The shipped model takes one second, and some seconds on a Raspberry Pi."""


def try_model(
    path: Path, *, trust: bool, golden: bool, stop: threading.Event | None = None, seconds: float = SECONDS
) -> str:
    """Open a model file and run it in another process, with limits on memory and time.

    Args:
        path: the file.
        trust: as in `models.load`.
        golden: whether it must pass `models.check_golden_images` as well.
        stop: an event; when it is set, the trial ends.
        seconds: the time that the trial may take.

    Returns:
        The SHA-256 of the content that was tried, hexadecimal.

    Raises:
        EdgeMnistError: the model is not good, it crashed the process, or it took too much memory or time.
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
