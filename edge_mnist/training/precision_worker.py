"""Times steps in each precision: `python -m edge_mnist.training.precision_worker FACTORY DEVICE IMAGES`."""

from __future__ import annotations

import json
import os
import sys
import time

import torch
import torch.nn.functional as F

from edge_mnist.system.child_processes import end_with_parent
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.training.network import CLASSES, build_network

_ROUNDS = 8
"""The number of rounds in which each precision is timed. The least time counts, which is the one least disturbed."""
_SECONDS = 10
"""The seconds after which no further round begins."""


def time_steps(factory: str, device: str, images: int) -> dict[str, float]:
    """Time forward and backward passes in turns with and without bfloat16.

    Args:
        factory: the factory of the network, `package.module:factory`.
        device: cpu or cuda.
        images: the number of images in a pass.

    Returns:
        The least milliseconds of a pass in "bfloat16" and in "float32".

    Raises:
        UsageError: the network cannot be built.
    """
    network = build_network(factory).to(device).train()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks this form
    pixels = torch.rand((images, 1, 28, 28), device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(images, device=device) % CLASSES
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]

    # what else the processor does must not count, and it does not know how long a GPU takes
    read_clock = time.perf_counter if device == "cuda" else time.process_time

    def time_step(bfloat16: bool) -> float:
        start = read_clock()
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            logits = network(pixels)
        torch.autograd.grad(F.cross_entropy(logits.float(), labels), parameters)
        if device == "cuda":
            torch.cuda.synchronize()
        return read_clock() - start

    start = time.monotonic()
    time_step(True), time_step(False)  # the first passes choose kernels and allocate memory
    rounds = [(time_step(True), time_step(False))]
    while len(rounds) < _ROUNDS and time.monotonic() - start < _SECONDS:
        rounds.append((time_step(True), time_step(False)))
    seconds = map(min, zip(*rounds, strict=True))
    return {name: round(1e3 * least, 4) for name, least in zip(("bfloat16", "float32"), seconds, strict=True)}


def main(factory: str, device: str, images: str) -> None:
    """Print one line of JSON: the times."""
    end_with_parent()
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that what a user's network prints is not taken for the answer
    torch.set_num_threads(1)  # as in a worker
    try:
        print(json.dumps(time_steps(factory, device, int(images))), file=answer, flush=True)
    except EdgeMnistError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
