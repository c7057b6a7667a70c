"""The process of a worker that worker 0 started: `python -m edge_mnist.training.worker_main PORT SIZE RANK`."""

from __future__ import annotations

import sys

from edge_mnist.system import signals
from edge_mnist.system.child_processes import end_with_parent
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.training import loop, workers


def main(port: str, size: str, rank: str) -> None:
    """Train until the run ends or worker 0 is gone; worker 0 tells the user what happened."""
    end_with_parent()
    try:
        with workers.join_parent(int(port), int(rank), int(size)) as group:
            loop.train_as_worker(group, signals.collect)
    except workers.WorkerLost:
        sys.exit(1)
    except signals.Stopped:
        sys.exit()
    except EdgeMnistError as error:
        sys.exit(f"edge-mnist: worker {rank}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
