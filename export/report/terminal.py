"""Prints a parity report as tables on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_mnist.export.proof.parity import LayerSignal, ParityReport, VariantResult
from edge_mnist.export.report.wording import (
    describe_accuracy,
    describe_reason,
    describe_scope,
    describe_verdict,
    format_difference,
    format_interval,
    format_percent,
    format_scale,
    format_shift,
)
from edge_mnist.system.errors import escape
from edge_mnist.system.tables import make_table, print_table

_STATUS = {"passed": ("passed", "green"), "failed": ("FAILED", "bold red"), "not run": ("not run", "yellow")}
"""The word and the style of each status. The word alone is enough, because not every terminal shows colours."""

_WIDE = 116
"""The number of columns from which on every variant is printed on one line."""


def print_report(report: ParityReport, console: Console) -> None:
    """Print how every variant compares with the oracle, how int8 compares with float, and the verdict.

    A variant takes one line if the console is wide enough, and several otherwise; no value is cut off.
    """
    wide = console.width >= _WIDE
    headers = ["variant", "runtime"] if wide else ["variant"]
    numbers = ["bytes", "accuracy", "same\nclass", "logits\ndiffering", "off by\nat most"]
    table = make_table(f"Against the oracle: {describe_scope(report)}", headers, numbers, wraps=headers[-1:])
    table.add_column("status", no_wrap=True)
    for variant in report.variants:
        table.add_row(*_format_variant(variant, report.images, wide))
    print_table(table, console)
    console.print()
    for variant in report.variants:
        if variant.reason:
            word, style = _STATUS[variant.status]
            _print_line(console, Text.assemble(variant.name, " ", (word, style), ": ", describe_reason(variant)))
    _print_pairs(console, describe_accuracy(report))
    word, style = ("PASSED", "bold green") if report.passed else ("FAILED", "bold red")
    _print_line(console, Text.assemble((word, style), ": ", describe_verdict(report)))


def print_layers(report: ParityReport, console: Console) -> None:
    """Print what quantization did to each layer; print nothing if there is no int8 graph."""
    if not report.layers:
        return
    numbers = ["output", "scale", "zero\npoint", "signal to\nnoise", "bias shift,\nsteps", "clipped"]
    table = make_table("Float against int8, layer by layer", ["layer"], numbers)
    for layer in report.layers:
        table.add_row(*(Text(cell) for cell in _format_layer(layer)))
    console.print()
    print_table(table, console)


def _format_variant(variant: VariantResult, images: int, wide: bool) -> list[Text]:
    """Format the cells of a variant, on one line or on several."""
    word, style = _STATUS[variant.status]
    separator = " " if wide else "\n"
    runtime = [variant.name, variant.runtime] if wide else [f"{variant.name}\n{variant.runtime}"]
    accuracy = agreement = differing = "-"
    if variant.accuracy is not None:
        accuracy, ends = format_percent(variant.accuracy), format_interval(variant.accuracy, images, "-")
        accuracy += f" ({ends})" if wide else f"\n{ends}"
    if variant.agreement is not None:
        agreement = format_percent(variant.agreement)
    if variant.logits_compared:
        differing = f"{variant.logits_differing:,}{separator}of {variant.logits_compared:,}"
    largest = format_difference(variant.max_abs_difference)
    cells = [*runtime, f"{variant.bytes:,}", accuracy, agreement, differing, largest]
    return [*(Text(cell) for cell in cells), Text(word, style)]


def _format_layer(layer: LayerSignal) -> list[str]:
    """Format the cells of a layer."""
    return [
        escape(layer.name),
        "x".join(map(str, layer.shape)),
        format_scale(layer.scale),
        str(layer.zero_point),
        f"{layer.snr_db:.1f} dB",
        format_shift(layer, "->"),
        format_percent(layer.clipped),
    ]


def _print_pairs(console: Console, pairs: list[tuple[str, str]]) -> None:
    """Print headings and texts in two columns."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for heading, text in pairs:
        grid.add_row(Text(heading, "bold"), Text(text))
    console.print(grid)
    console.print()


def _print_line(console: Console, text: Text) -> None:
    """Print a line without interpreting it: a text from outside may look like markup, or like a number to colour."""
    console.print(text, highlight=False, overflow="fold")
