"""The `edge-mnist` command: the only place where the stages are joined.

Each command imports what it needs when it runs, so that `--help` is instant and a machine without torch can use every
command that needs no torch.
"""

from __future__ import annotations

import sys

import click

from edge_mnist import __version__
from edge_mnist.errors import EdgeMnistError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edge-mnist")
def commands() -> None:
    """Train a small digit network, export it as int8, prove that every format is the same model."""


def main() -> None:
    """Run the command line; a user's mistake becomes one line on stderr and an exit status."""
    try:
        commands.main(prog_name="edge-mnist", standalone_mode=False)
    except EdgeMnistError as error:
        click.echo(f"edge-mnist: {error}", err=True)
        sys.exit(error.exit_status)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("edge-mnist: stopped", err=True)
        sys.exit(130)
