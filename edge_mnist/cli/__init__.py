"""The `edge-mnist` command: one module for each command."""

import sys


def main() -> None:
    """Run the command line, which is imported only now: no module of this package needs it."""
    try:
        from edge_mnist.cli.commands import main as run
    except KeyboardInterrupt:  # `run` deals with those that come later
        sys.stderr.write("edge-mnist: stopped\n")
        sys.exit(0 if sys.argv[1:2] == ["demo"] else 130)
    run()
