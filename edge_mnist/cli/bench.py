"""The command that measures speed, size and memory: `bench`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_mnist.cli import options
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.progress import INTERVAL, make_bar

if TYPE_CHECKING:
    from edge_mnist.measure.benchmark import Tell

_LOG = logging.getLogger(__name__)


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("artifacts"))
@click.option(
    "--seconds",
    type=click.FloatRange(0.01, 3600),
    default=2.0,
    show_default=True,
    help="That each artifact runs for each size of batch and number of threads.",
)
@options.trust_changed
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(folder: Path, seconds: float, trust: bool, as_json: bool) -> None:
    """Measure every artifact in DIR: latency, memory, size.

    Those that this machine can run; images/s and the time to load as well.

    DIR is a folder that `edge-mnist export` wrote, [default: artifacts]. One image and 32 at a time, on one thread and
    on all, the artifacts taking turns. What is timed is the runtime's call, from a prepared input to the output as an
    array; memory is that of a process that does nothing else. On a Raspberry Pi the board, the governor of its clock
    and its throttling are told too.
    """
    from edge_mnist.bundle.reference import read_bundle
    from edge_mnist.measure import benchmark, benchmark_text
    from edge_mnist.system.tables import make_console

    manifest, reference = read_bundle(folder)
    paths = [folder / name for name, entry in manifest["files"].items() if "format" in entry]
    if not paths:
        raise EdgeMnistError(f"{folder}: holds no artifact: export again")
    if missing := [path for path in paths if not path.is_file()]:
        raise EdgeMnistError(f"{missing[0]}: is missing, though the manifest names it: export again")
    facts: dict[str, Any] = {"machine": machine()}
    with progress() as tell:
        facts |= benchmark.measure(paths, reference.images, tell, seconds, trust=trust)
    facts |= {"seconds": seconds, "machine_after": machine()}
    if as_json:
        click.echo(json.dumps(facts))
    else:
        benchmark_text.show(facts, make_console(highlight=False))


def machine() -> list[dict[str, str]]:
    """What the doctor finds of the machine as far as speed depends on it."""
    from edge_mnist import doctor

    return [asdict(finding) for finding in doctor.machine()]


@contextmanager
def progress() -> Iterator[Tell]:
    """A bar on stderr where that is a terminal, else what is under way as a step."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    with make_bar(BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False)) as bar:
        task = bar.add_task("", total=1.0)
        begun: set[str] = set()
        logged = 0.0

        def tell(what: str, done: float) -> None:
            nonlocal logged
            bar.update(task, description=what, completed=done)
            if what not in begun or time.monotonic() - logged >= INTERVAL:  # it is called many times a second
                begun.add(what)
                logged = time.monotonic()
                _LOG.info("%s, %s of the time", what, f"{done:.0%}")

        yield tell
        _LOG.info("")
