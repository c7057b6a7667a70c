"""Workers that train one network together: processes of this machine, or those that torchrun started on several.

Worker 0 leads: it alone reads options and files, draws progress and writes. The others know nothing but where to find
it; images, settings and state reach them over the connection (torch.distributed, gloo). One that ends takes its
connections with it, so the rest learn of it at once.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # which lists it for Linux only

from edge_mnist.system.child_processes import ChildProcess, module_command
from edge_mnist.system.errors import EdgeMnistError, UsageError, first_line

_HERE = "127.0.0.1"
# Between two exchanges lie some milliseconds of work, or a file that is written: longer silence is no slowness.
_SILENCE = timedelta(seconds=120)
_POLL = 0.02  # seconds


class WorkerLost(EdgeMnistError):
    """A worker ended, or does not answer."""


@dataclass(frozen=True)
class Team:
    """This process among those that train together."""

    rank: int = 0
    """0 leads."""
    size: int = 1
    helpers: tuple[ChildProcess, ...] = ()
    """Those that this process started: workers 1, 2, ..."""

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of all workers, those of worker 0 first.

        Args:
            rows: (K, ...), contiguous, of the same shape and dtype in each worker.

        Returns:
            (size * K, ...), the same bits in each worker.

        Raises:
            WorkerLost: another worker ended or does not answer.
        """
        if self.size == 1:
            return rows
        everyone = rows.new_empty((self.size * len(rows), *rows.shape[1:]))
        with self._told():
            dist.all_gather_single(everyone, rows)
        return everyone

    def broadcast(self, data: bytes = b"") -> bytes:
        """What worker 0 says, in each worker.

        Raises:
            WorkerLost: another worker ended or does not answer.
        """
        if self.size == 1:
            return data
        with self._told():
            length = torch.tensor([len(data)])
            dist.broadcast(length, 0)
            content = torch.empty(int(length), dtype=torch.uint8)
            if self.rank == 0:
                content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            dist.broadcast(content, 0)
        return content.numpy().tobytes()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """An exchange; what goes wrong in it is told as a worker that was lost."""
        try:
            yield
        except RuntimeError as error:
            raise WorkerLost(_post_mortem(self.helpers) or _silent(error)) from error


def launched() -> bool:
    """Whether torchrun, or a program like it, started this process as one of several."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def launched_rank() -> int:
    """This process's place among those that torchrun started; 0 without it."""
    return int(os.environ["RANK"]) if launched() else 0


def choose_size(ghosts: int, wanted: int | None, device: str) -> int:
    """How many workers train together.

    Args:
        ghosts: into how many ghost batches a batch is cut.
        wanted: what the user asks for; else what torchrun started, or the physical cores as far as they can share the
            ghost batches evenly.
        device: cpu or cuda.

    Raises:
        UsageError: so many cannot share the ghost batches evenly, or there is a GPU to be kept busy by one.
    """
    if launched():
        if wanted is not None:
            raise UsageError("--workers: torchrun has started them; leave the option out")
        wanted, option = int(os.environ["WORLD_SIZE"]), "torchrun"
    elif wanted is None:
        cores = 1 if device == "cuda" else torch.get_num_threads()
        return max(size for size in range(1, ghosts + 1) if ghosts % size == 0 and size <= max(cores, 1))
    else:
        option = "--workers"
    if device == "cuda" and wanted > 1:
        raise UsageError(f"{option}: {wanted} workers for one GPU: 1 keeps it busy; or --device cpu")
    if ghosts % wanted:
        possible = ", ".join(str(size) for size in range(1, ghosts + 1) if ghosts % size == 0)
        raise UsageError(
            f"{option}: {wanted} workers cannot share the {ghosts} ghost batches of a batch evenly: "
            f"possible are {possible}; a larger --batch-size has more"
        )
    return wanted


@contextmanager
def join() -> Iterator[Team]:
    """The team of the processes that torchrun started.

    Raises:
        WorkerLost: the others cannot be reached.
    """
    try:
        dist.init_process_group("gloo", timeout=_SILENCE)
    except (RuntimeError, ValueError) as error:
        raise WorkerLost(f"the workers do not find each other: {first_line(error)}") from error
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


@contextmanager
def start(size: int) -> Iterator[Team]:
    """Start `size - 1` workers on this machine and lead them; they end when the block ends.

    Raises:
        WorkerLost: one of them ended before it began.
    """
    if size == 1:
        yield Team()
        return
    store = TCPStore(_HERE, 0, size, is_master=True, wait_for_workers=False, timeout=_SILENCE)
    command = module_command("edge_mnist.training.worker_main", store.port, size)
    helpers = tuple(
        # a session of its own, so that Ctrl-C reaches worker 0 alone, which then tells the others; stdin ends with
        # worker 0, however that ends
        ChildProcess(f"worker {rank}", [*command, str(rank)], start_new_session=True)
        for rank in range(1, size)
    )
    try:
        _await(store, helpers)
        _meet(store, 0, size)
        try:
            yield Team(0, size, helpers)
        finally:
            dist.destroy_process_group()
    finally:
        for helper in helpers:
            helper.end()  # has nothing of its own to lose


@contextmanager
def follow(port: int, rank: int, size: int) -> Iterator[Team]:
    """The team of the process that `start`ed this one.

    Raises:
        WorkerLost: it cannot be reached.
    """
    try:
        store = TCPStore(_HERE, port, size, is_master=False, wait_for_workers=False, timeout=_SILENCE)
        store.set(f"ready {rank}", "")
        _meet(store, rank, size)
    except RuntimeError as error:
        raise WorkerLost(_silent(error)) from error
    try:
        yield Team(rank, size)
    finally:
        dist.destroy_process_group()


def _await(store: TCPStore, helpers: tuple[ChildProcess, ...]) -> None:
    """Wait until each has come, or one has ended."""
    until = time.monotonic() + _SILENCE.total_seconds()
    while not store.check([f"ready {rank}" for rank in range(1, len(helpers) + 1)]):
        if any(helper.poll() is not None for helper in helpers):
            raise WorkerLost(_post_mortem(helpers))
        if time.monotonic() > until:
            raise WorkerLost(f"a worker did not start within {_SILENCE.total_seconds():.0f} s")
        time.sleep(_POLL)


def _meet(store: TCPStore, rank: int, size: int) -> None:
    """Connect with the others, within this machine."""
    name = "GLOO_SOCKET_IFNAME"
    before = os.environ.get(name)
    # else gloo takes the address of the host's name, which need not exist
    loopback = [interface for _, interface in socket.if_nameindex() if interface in ("lo", "lo0")]
    try:
        if loopback:
            os.environ[name] = loopback[0]
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_SILENCE)
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _post_mortem(helpers: tuple[ChildProcess, ...]) -> str:
    """Which of the helpers ended, and of what; empty where none did."""
    until = time.monotonic() + 10  # a connection is gone before the process is, by seconds on a busy machine
    while time.monotonic() < until:
        for rank, helper in enumerate(helpers, 1):
            if (status := helper.poll()) is not None:
                cause = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
                return f"worker {rank} of {len(helpers) + 1} {cause}"
        if not helpers:
            break
        time.sleep(_POLL)
    return ""


def _silent(error: Exception) -> str:
    return f"a worker ended or does not answer: {first_line(error)}"
