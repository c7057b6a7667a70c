"""The command that says what a machine lacks: `doctor`."""

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
    """Say what this machine lacks, and the remedy.

    And what it has. Exit status 1 if no digit can be read on it.
    """
    from edge_mnist import doctor as findings

    found = []
    start = time.perf_counter()
    for finding in findings.examine():
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
