"""Chooses the precision of a run by timing a few steps: hardware that has bfloat16 need not be faster with it.

The steps are timed in a process of their own, so that nothing in this one depends on whether that was done. The times
are kept in the user's cache, so that equal runs on one machine are trained in the same precision.
"""

from __future__ import annotations

import json
import logging
import math
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import platformdirs
import torch

from edge_mnist.system.child_processes import ChildProcess, describe_end, last_line, module_command
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import parse_json, read_bytes, write_whole
from edge_mnist.system.hashes import sha256
from edge_mnist.training.runs import TrainingSettings, has_bfloat16
from edge_mnist.training.steps import count_ghost_batches

_LOG = logging.getLogger(__name__)

ADVANTAGE = 1.1
"""By how many times bfloat16 must be faster than float32, which rounds less. It is more than the noise of the times,
which must not decide."""
_MOST_SECONDS = 60
"""The seconds that the process which times the steps may take: many times what it needs, to import torch included."""
_MAX_BYTES = 1 << 16
"""The largest size in bytes of a file with times: a hundred times that of one that this module writes."""


def choose_bfloat16(settings: TrainingSettings) -> bool:
    """Choose whether to train in bfloat16: if the device has it and trains the network clearly faster with it.

    Where the device has bfloat16, a note with both times is logged. They are measured once for each processor, version
    of torch, network and size of a ghost batch, and then read from the cache. Teachers and augmentation are not timed.

    Args:
        settings: the settings of the run; their `bfloat16` is not used.

    Returns:
        Whether to train in bfloat16. False if the steps could not be timed; nothing is remembered then.
    """
    if not has_bfloat16(settings.device):
        return False
    images = settings.recipe.batch_size // count_ghost_batches(settings, settings.recipe.batch_size)
    key = {
        "processor": _identify_processor(settings.device),
        "torch": str(torch.__version__),
        "network": settings.network,
        "images": images,
    }
    path = _find_file(key)
    milliseconds, origin = _read_times(path, key), f"remembered in {path}"
    if milliseconds is None:
        _LOG.info("timing steps in bfloat16 and in float32")
        try:
            measured = _measure_times(settings, images)
        except EdgeMnistError as error:
            _LOG.warning("note: training in float32, because the speed of bfloat16 could not be measured: %s", error)
            return False
        milliseconds = _read_times(path, key)  # the times that another run has measured meanwhile come first
        if milliseconds is None:
            milliseconds, origin = measured, "measured now"
            try:
                write_whole(path, (json.dumps(key | {"milliseconds": milliseconds}, indent=2) + "\n").encode())
            except EdgeMnistError as error:
                origin = f"measured now and not remembered, because {error}"
    chosen = milliseconds["float32"] >= ADVANTAGE * milliseconds["bfloat16"]
    _LOG.warning(
        "note: training in %s: a step of %d images takes %.4g ms in float32 and %.4g ms in bfloat16 (%s)",
        "bfloat16" if chosen else "float32", images, milliseconds["float32"], milliseconds["bfloat16"], origin,
    )  # fmt: skip
    return chosen


def _identify_processor(device: str) -> str:
    """Identify the processor, or the GPU, by all that says how fast it multiplies."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        first = Path("/proc/cpuinfo").read_text("utf-8", "replace").partition("\n\n")[0]
    except OSError:  # only Linux has the file
        return platform.processor() or platform.machine()
    fields = re.findall(r"^(?:vendor_id|cpu family|model|model name|stepping)\s*: *(.*)$", first, re.MULTILINE)
    # a virtual machine may hide the matrix unit that the same processor has elsewhere
    return " ".join([*fields, *re.findall(r"\bamx_bf16\b", first)]) or platform.machine()


def _find_file(key: dict[str, Any]) -> Path:
    """Find the place in the user's cache for the times that belong to a key; there may be no file yet."""
    name = sha256(json.dumps(key).encode())[:32]
    return platformdirs.user_cache_path("edge-mnist") / "precision" / f"{name}.json"


def _read_times(path: Path, key: dict[str, Any]) -> dict[str, float] | None:
    """Read the milliseconds of a step by precision; None if there is no file, or it is damaged or of another key."""
    try:
        record = parse_json(read_bytes(path, _MAX_BYTES))
        milliseconds = _parse_times(record["milliseconds"])
        return milliseconds if record == key | {"milliseconds": milliseconds} else None
    except (EdgeMnistError, ArithmeticError, LookupError, TypeError, ValueError):
        return None


def _parse_times(record: Any) -> dict[str, float]:
    """Parse the milliseconds of a step by precision.

    Raises:
        ArithmeticError, LookupError, TypeError, ValueError: the record is not what `precision_worker` prints.
    """
    milliseconds = {precision: float(record[precision]) for precision in ("bfloat16", "float32")}
    if not all(0 < value < math.inf for value in milliseconds.values()):
        raise ValueError(f"expected positive times, found {milliseconds}")
    return milliseconds


def _measure_times(settings: TrainingSettings, images: int) -> dict[str, float]:
    """Let a process time steps of a network, and return their milliseconds by precision.

    Raises:
        EdgeMnistError: the process fails or takes too long.
    """
    command = module_command("edge_mnist.training.precision_worker", settings.network, settings.device, images)
    pipe = subprocess.PIPE
    try:
        with ChildProcess("timing steps", command, stdout=pipe, stderr=pipe) as process:
            output, errors = process.finish(seconds=_MOST_SECONDS)
    except TimeoutError:
        raise EdgeMnistError(f"timing steps takes more than {_MOST_SECONDS} s") from None
    if process.returncode:
        raise EdgeMnistError(f"{describe_end(process.returncode)}: {last_line(errors)}")
    try:
        return _parse_times(parse_json(output))
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise EdgeMnistError(f"its process printed {last_line(output)}") from error
