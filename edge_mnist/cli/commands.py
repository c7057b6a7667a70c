"""The group of commands, and what becomes of their errors.

Each command parses options, calls a function of the Python API and prints. It imports what it needs when it runs, so
that `--help` is instant and a machine without torch can use every command that needs no torch.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from types import FrameType

import click

from edge_mnist import __version__
from edge_mnist.cli.bench import bench
from edge_mnist.cli.demo import demo
from edge_mnist.cli.doctor import doctor
from edge_mnist.cli.evaluate import evaluate
from edge_mnist.cli.experiments import experiments
from edge_mnist.cli.export import export
from edge_mnist.cli.info import info
from edge_mnist.cli.options import add_verbosity
from edge_mnist.cli.predict import predict
from edge_mnist.cli.train import train
from edge_mnist.cli.verify import verify
from edge_mnist.system import progress
from edge_mnist.system.errors import EdgeMnistError, escape, first_line


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edge-mnist")
def commands() -> None:
    """Export a network as int8, prove that every format holds the same model, and read numbers with it.

    The network is the shipped one, which reads digits, one that `train` trains, or a PyTorch network of your own
    (`export --network`). `predict` and `demo` read handwritten numbers in pictures and before a camera.
    """


for _command in (train, experiments, evaluate, export, verify, info, bench, predict, demo, doctor):
    commands.add_command(_command)
for _command in commands.commands.values():
    add_verbosity(_command)


def main() -> None:
    """Run the command line. An error becomes one line on stderr and an exit status, without a traceback."""
    signal.signal(signal.SIGTERM, _terminate)
    # PyTorch's C++ code warns of functions that it will remove, about which a user of this command can do nothing.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files are printed as they are, UTF-8 or not
    try:
        with progress.report_to_stderr():
            commands.main(prog_name="edge-mnist", standalone_mode=False)
        click.echo(nl=False)  # flushes stdout, so that a full disk is reported
    except EdgeMnistError as error:
        click.echo(f"edge-mnist: {escape(str(error))}", err=True)
        sys.exit(error.exit_status)
    except OSError as error:  # a full disk under stdout, a folder without permission, no temporary folder
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"edge-mnist: {escape(where)}{error.strerror or error}", err=True)
        sys.exit(2 if error.errno in (errno.ENAMETOOLONG, errno.ELOOP) else 1)  # the path itself is wrong
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("edge-mnist: stopped", err=True)
        sys.exit(130)
    except Exception as error:
        if _is_out_of_memory(error):
            click.echo("edge-mnist: there is too little memory: end other programs, or add swap", err=True)
        elif isinstance(error, ImportError) and not (error.name or "edge_mnist").startswith("edge_mnist"):
            reason = f"{error.name}: is installed, but cannot be loaded: {first_line(error)}"
            click.echo(f"edge-mnist: {escape(reason)}: see edge-mnist doctor", err=True)
        else:
            raise
        sys.exit(1)


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that memory ran out: in Python, in OpenCV, in the loader."""
    signs = (
        "Insufficient memory",
        "Cannot allocate memory",
        "cannot allocate memory",
        "failed to map segment",
        "bad_alloc",
    )
    while error is not None:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in signs):
            return True
        error = error.__cause__ or error.__context__
    return False


def _terminate(number: int, frame: FrameType | None) -> None:
    """End the command on SIGTERM as Ctrl-C does, so that temporary files are removed and child processes end."""
    click.echo("edge-mnist: stopped", err=True)
    sys.exit(128 + number)
