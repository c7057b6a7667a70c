"""A worker that another process started: `python -m edge_mnist.training.worker_main PORT SIZE RANK`."""

from __future__ import annotations

import os
import sys
import threading

from edge_mnist.system import signals
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.training import loop, workers


def main(port: str, size: str, rank: str) -> None:
    """Train along until the run is over, or worker 0 is gone; worker 0 tells the user what happened."""
    threading.Thread(target=_end_with_worker_0, daemon=True).start()
    try:
        with workers.follow(int(port), int(rank), int(size)) as team:
            loop.follow(team, signals.watch)
    except workers.WorkerLost:
        sys.exit(1)
    except signals.Stopped:
        sys.exit()
    except EdgeMnistError as error:
        sys.exit(f"edge-mnist: worker {rank}: {error}")


def _end_with_worker_0() -> None:
    """Leave when stdin ends: at a kill of worker 0 its end of the pipe is closed, whatever this process waits for."""
    os.read(sys.stdin.fileno(), 1)  # not through a buffer, whose lock would be missed at the end
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
