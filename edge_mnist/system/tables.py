"""Tables on stdout in which no number and no name is ever cut, however narrow the terminal is."""

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
"""The width, in characters, of a file or a pipe, which has no edge: more than any table needs."""


def make_console(**options: Any) -> Console:
    """Make a console on stdout that is as wide as the terminal, or unbounded where stdout is not a terminal.

    Square brackets are printed as they are: '.[train]' is an extra, and not a style.

    Args:
        options: further options of `rich.console.Console`.
    """
    options = {"markup": False, **options}
    return Console(**options) if sys.stdout.isatty() else Console(width=_UNBOUNDED, **options)


def make_table(
    title: str, names: Sequence[str], numbers: Sequence[str], *, wraps: Sequence[str] = (), gap: int = 1
) -> Table:
    """Make an empty table.

    Args:
        title: the text above the table; empty for none.
        names: the headings of the first columns, which are aligned on the left.
        numbers: the headings of the other columns, which are aligned on the right.
        wraps: those headings whose cells are text that may be wrapped between words.
        gap: the number of spaces between two columns, beside the one that the box adds.
    """
    table = Table(title=Text(title, "bold") if title else None, title_justify="left", box=box.SIMPLE_HEAD)
    table.padding, table.show_edge, table.pad_edge = (0, gap, 0, 0), False, False
    for heading in (*names, *numbers):
        table.add_column(heading, justify="left" if heading in names else "right", no_wrap=heading not in wraps)
    return table


def print_table(table: Table, console: Console) -> None:
    """Print a table. Where the terminal is too narrow for it, print each row as lines of heading and value instead."""
    if _measure_least_width(table, console) <= console.width:
        console.print(table)
        return
    if table.title:
        console.print(table.title, soft_wrap=True)
    columns = [[_get_text(cell) for cell in column.cells] for column in table.columns]
    for row in zip(*columns, strict=True):
        for number, (column, cell) in enumerate(zip(table.columns, row, strict=True)):
            if cell:
                line = f"{'  ' if number else ''}{_get_text(column.header)}: {cell}".replace("\n", " ")
                console.print(Text(line), soft_wrap=True)
    console.print()


def _measure_least_width(table: Table, console: Console) -> int:
    """Measure how wide a table must be, in characters, if only the cells that may wrap do, between words."""
    full = Measurement.get(console, console.options.update(width=_UNBOUNDED), table).maximum
    return full - sum(_measure_spare_width(column, console) for column in table.columns if not column.no_wrap)


def _measure_spare_width(column: Column, console: Console) -> int:
    """Measure by how many characters a column can be narrower than its longest line without breaking a word."""
    widths = [Measurement.get(console, console.options, cell) for cell in (column.header, *column.cells)]
    return max(width.maximum for width in widths) - max(width.minimum for width in widths)


def _get_text(cell: Any) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)
