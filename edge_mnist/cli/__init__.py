"""The `edge-mnist` command: one module for each command."""


def main() -> None:
    """Run the command line, which is imported only now: no module of this package needs it."""
    from edge_mnist.cli.commands import main as run

    run()
