"""The command that describes a file: `info`."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(file: Path | None, as_json: bool) -> None:
    """Describe FILE: a checkpoint, an artifact or a bundle.

    A bundle is named by its folder. Without FILE, the shipped checkpoint is described.
    """
    from edge_mnist.inspect import summary

    facts = summary.describe(file)
    if as_json:
        click.echo(json.dumps(facts))
    else:
        summary.print_facts(facts)
