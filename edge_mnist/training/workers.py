"""Workers that train one network together: processes of this machine, or those that torchrun started on several.

Worker 0 leads: it alone reads options and files, shows progress and writes. The others know only how to connect to it;
they receive images, settings and state over the connection (torch.distributed with gloo). A worker that ends takes its
connections with it, so that the others notice at once.
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

_LOOPBACK = "127.0.0.1"
"""The address at which the workers of one machine meet."""
_TIMEOUT = timedelta(seconds=120)
"""How long a worker waits for another. Two exchanges are usually milliseconds apart, or as long as writing a file
takes: a worker that is silent for longer has failed."""
_POLL_INTERVAL = 0.02
"""Seconds between two looks at whether a process has started or ended."""
_END_TIMEOUT = 10
"""Seconds to wait for the end of a process whose connection has ended: on a busy machine it may end seconds later."""


class WorkerLost(EdgeMnistError):
    """A worker ended, or does not answer."""


@dataclass(frozen=True)
class WorkerGroup:
    """This process's place in the group of processes that train together.

    Attributes:
        rank: the number of this process; 0 leads.
        size: the number of processes.
        children: the processes that this one started: workers 1, 2 and so on.
    """

    rank: int = 0
    size: int = 1
    children: tuple[ChildProcess, ...] = ()

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Gather the rows of all workers, those of worker 0 first.

        Args:
            rows: (K, ...), contiguous, of the same shape and dtype in each worker.

        Returns:
            (size * K, ...), with the same bits in each worker.

        Raises:
            WorkerLost: another worker ended or does not answer.
        """
        if self.size == 1:
            return rows
        all_rows = rows.new_empty((self.size * len(rows), *rows.shape[1:]))
        with self._report_lost_workers():
            dist.all_gather_single(all_rows, rows)
        return all_rows

    def broadcast(self, data: bytes = b"") -> bytes:
        """Return worker 0's data in each worker.

        Raises:
            WorkerLost: another worker ended or does not answer.
        """
        if self.size == 1:
            return data
        with self._report_lost_workers():
            length = torch.tensor([len(data)])
            dist.broadcast(length, 0)
            content = torch.empty(int(length), dtype=torch.uint8)
            if self.rank == 0:
                content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            dist.broadcast(content, 0)
        return content.numpy().tobytes()

    @contextmanager
    def _report_lost_workers(self) -> Iterator[None]:
        """Turn the failure of an exchange into a `WorkerLost` that says what happened."""
        try:
            yield
        except RuntimeError as error:
            raise WorkerLost(_describe_ended_child(self.children) or _describe_silence(error)) from error


def is_under_torchrun() -> bool:
    """Whether torchrun, or a program like it, started this process as one of several."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def read_torchrun_rank() -> int:
    """Read the number of this process among those that torchrun started; 0 without torchrun."""
    return int(os.environ["RANK"]) if is_under_torchrun() else 0


def choose_size(ghost_batches: int, wanted: int | None, device: str) -> int:
    """Choose how many workers train together.

    Args:
        ghost_batches: the number of ghost batches in a batch.
        wanted: the number that the user asks for. If None, the number of processes that torchrun started, or as many
            as there are physical cores and as can share the ghost batches evenly.
        device: cpu or cuda.

    Raises:
        UsageError: so many cannot share the ghost batches evenly, or several would share one GPU.
    """
    if is_under_torchrun():
        if wanted is not None:
            raise UsageError("--workers: torchrun has started them; leave the option out")
        wanted, option = int(os.environ["WORLD_SIZE"]), "torchrun"
    elif wanted is None:
        cores = 1 if device == "cuda" else torch.get_num_threads()
        return max(size for size in range(1, ghost_batches + 1) if ghost_batches % size == 0 and size <= max(cores, 1))
    else:
        option = "--workers"
    if device == "cuda" and wanted > 1:
        raise UsageError(f"{option}: {wanted} workers for one GPU: 1 keeps it busy; or --device cpu")
    if ghost_batches % wanted:
        possible = ", ".join(str(size) for size in range(1, ghost_batches + 1) if ghost_batches % size == 0)
        raise UsageError(
            f"{option}: {wanted} workers cannot share the {ghost_batches} ghost batches of a batch evenly: "
            f"possible are {possible}; a larger --batch-size has more"
        )
    return wanted


@contextmanager
def join_torchrun() -> Iterator[WorkerGroup]:
    """Join the group of the processes that torchrun started, for as long as the context lasts.

    Raises:
        WorkerLost: the others cannot be reached.
    """
    try:
        dist.init_process_group("gloo", timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise WorkerLost(f"the workers do not find each other: {first_line(error)}") from error
    try:
        yield WorkerGroup(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


@contextmanager
def start_workers(size: int) -> Iterator[WorkerGroup]:
    """Start `size - 1` workers on this machine and lead them; they end with the context.

    Raises:
        WorkerLost: one of them ended before the training began.
    """
    if size == 1:
        yield WorkerGroup()
        return
    store = TCPStore(_LOOPBACK, 0, size, is_master=True, wait_for_workers=False, timeout=_TIMEOUT)
    command = module_command("edge_mnist.training.worker_main", store.port, size)
    children = tuple(
        # in a session of its own, so that Ctrl-C reaches only worker 0, which then informs the others; its stdin ends
        # with worker 0, in whatever way that ends
        ChildProcess(f"worker {rank}", [*command, str(rank)], start_new_session=True)
        for rank in range(1, size)
    )
    try:
        _await_children(store, children)
        _connect(store, 0, size)
        try:
            yield WorkerGroup(0, size, children)
        finally:
            dist.destroy_process_group()
    finally:
        for child in children:
            child.end()  # it has no state of its own that could be lost


@contextmanager
def join_parent(port: int, rank: int, size: int) -> Iterator[WorkerGroup]:
    """Join the group of the process that started this one in `start_workers`.

    Raises:
        WorkerLost: it cannot be reached.
    """
    try:
        store = TCPStore(_LOOPBACK, port, size, is_master=False, wait_for_workers=False, timeout=_TIMEOUT)
        store.set(f"ready {rank}", "")
        _connect(store, rank, size)
    except RuntimeError as error:
        raise WorkerLost(_describe_silence(error)) from error
    try:
        yield WorkerGroup(rank, size)
    finally:
        dist.destroy_process_group()


def _await_children(store: TCPStore, children: tuple[ChildProcess, ...]) -> None:
    """Wait until each child is ready, or one has ended."""
    deadline = time.monotonic() + _TIMEOUT.total_seconds()
    while not store.check([f"ready {rank}" for rank in range(1, len(children) + 1)]):
        if any(child.poll() is not None for child in children):
            raise WorkerLost(_describe_ended_child(children))
        if time.monotonic() > deadline:
            raise WorkerLost(f"a worker did not start within {_TIMEOUT.total_seconds():.0f} s")
        time.sleep(_POLL_INTERVAL)


def _connect(store: TCPStore, rank: int, size: int) -> None:
    """Connect with the other workers over the loopback interface."""
    name = "GLOO_SOCKET_IFNAME"
    before = os.environ.get(name)
    # without it, gloo resolves the name of the host, which need not have an address
    loopback = [interface for _, interface in socket.if_nameindex() if interface in ("lo", "lo0")]
    try:
        if loopback:
            os.environ[name] = loopback[0]
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_TIMEOUT)
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _describe_ended_child(children: tuple[ChildProcess, ...]) -> str:
    """Describe which child ended, and how; empty if none ended."""
    deadline = time.monotonic() + _END_TIMEOUT
    while children and time.monotonic() < deadline:
        for rank, child in enumerate(children, 1):
            if (status := child.poll()) is not None:
                cause = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
                return f"worker {rank} of {len(children) + 1} {cause}"
        time.sleep(_POLL_INTERVAL)
    return ""


def _describe_silence(error: Exception) -> str:
    return f"a worker ended or does not answer: {first_line(error)}"
