"""The command that examines the machine: `doctor`."""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import asdict

import click

_LOG = logging.getLogger(__name__)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def doctor(as_json: bool) -> None:
    """Examine what this machine has and lacks, with remedies.

    The exit status is 1 if no digit can be read on this machine.
    """
    from edge_mnist.doctor import examine

    found = []
    start = time.perf_counter()
    for finding in examine():
        found.append(finding)
        _LOG.debug("%s: examined in %.2f s", finding.name, time.perf_counter() - start)
        start = time.perf_counter()
        if not as_json:
            sign = {"good": "ok", "lacking": "--", "broken": "!!"}[finding.state]
            remedy = f": {finding.remedy}" if finding.remedy else ""
            click.echo(f"{sign}  {finding.name:<13} {finding.text}{remedy}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found]))
    if any(finding.state == "broken" for finding in found):
        sys.exit(1)
