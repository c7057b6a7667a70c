"""What is measured: each module is a command, `python -m benchmarks.NAME`."""

from __future__ import annotations

import sys
from collections.abc import Callable

from edge_mnist.system.errors import EdgeMnistError


def run_command(main: Callable[[], object]) -> None:
    """Run a command. An error, such as that MNIST is missing, becomes one line on stderr and an exit status."""
    try:
        main()
    except EdgeMnistError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
