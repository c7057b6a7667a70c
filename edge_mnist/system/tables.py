"""Tables on stdout in which no value is ever cut: neither a number nor a name, whatever the width."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

_UNBOUNDED = 10_000
"""Columns of a file or a pipe, which has no edge: more than any table needs."""


def make_console(**options: Any) -> Console:
    """A console on stdout: as wide as the terminal, or as wide as any table needs where stdout is no terminal.

    Args:
        options: others of `rich.console.Console`.
    """
    return Console(**options) if sys.stdout.isatty() else Console(width=_UNBOUNDED, **options)


def make_table(
    title: str, names: Sequence[str], numbers: Sequence[str], *, wraps: Sequence[str] = (), gap: int = 1
) -> Table:
    """An empty table with columns of names, on the left, and of numbers.

    Args:
        title: above it; empty for none.
        names: headings of the columns that are aligned on the left.
        numbers: headings of those that are aligned on the right.
        wraps: the headings, of either, whose cells are text and may be wrapped between words.
        gap: spaces between two columns, beside the one of the box.
    """
    table = Table(title=Text(title, "bold") if title else None, title_justify="left", box=box.SIMPLE_HEAD)
    table.padding, table.show_edge, table.pad_edge = (0, gap, 0, 0), False, False
    for heading in (*names, *numbers):
        table.add_column(heading, justify="left" if heading in names else "right", no_wrap=heading not in wraps)
    return table


def print_table(table: Table, console: Console) -> None:
    """Print a table; where the terminal is too narrow for it, each row as lines of heading and value."""
    if _least_width(table, console) <= console.width:
        console.print(table)
        return
    if table.title:
        console.print(table.title, soft_wrap=True)
    columns = [[_plain(cell) for cell in column.cells] for column in table.columns]
    for row in zip(*columns, strict=True):
        for number, (column, cell) in enumerate(zip(table.columns, row, strict=True)):
            if cell:
                line = f"{'  ' if number else ''}{_plain(column.header)}: {cell}".replace("\n", " ")
                console.print(Text(line), soft_wrap=True)
    console.print()


def _least_width(table: Table, console: Console) -> int:
    """The columns that a table needs if only what may wrap is wrapped, between words."""
    whole = Measurement.get(console, console.options.update(width=_UNBOUNDED), table).maximum
    return whole - sum(_spare(column, console) for column in table.columns if not column.no_wrap)


def _spare(column: Column, console: Console) -> int:
    """By how much a column can be narrower than its longest line without breaking a word."""
    measured = [Measurement.get(console, console.options, cell) for cell in (column.header, *column.cells)]
    return max(found.maximum for found in measured) - max(found.minimum for found in measured)


def _plain(cell: Any) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)
