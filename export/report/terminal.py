"""Tells a parity report: as JSON for programs, as tables on the terminal. The page is in `report_page`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_mnist.export.proof.parity import LayerSignal, ParityReport, VariantResult
from edge_mnist.export.report.wording import (
    comparison,
    difference,
    fault,
    interval,
    percent,
    scale,
    scope,
    verdict,
)
from edge_mnist.system.tables import make_table, print_table

# A word says the same; the colour only helps to find it.
_STATUS = {"passed": ("passed", "green"), "failed": ("FAILED", "bold red"), "not run": ("not run", "yellow")}
_WIDE = 116  # columns that a variant needs to stand on one line


def print_report(report: ParityReport, console: Console) -> None:
    """Print every variant against the oracle, float against int8, and the verdict.

    A variant is on one line where the console is wide enough, else on a few; no value is cut.
    """
    wide = console.width >= _WIDE
    headers = ["variant", "runtime"] if wide else ["variant"]
    numbers = ["bytes", "accuracy", "same\nclass", "logits\ndiffering", "off by\nat most"]
    table = make_table(f"Against the oracle: {scope(report)}", headers, numbers, wraps=headers[-1:])
    table.add_column("status", no_wrap=True)
    for variant in report.variants:
        table.add_row(*_cells(variant, report.images, wide))
    print_table(table, console)
    console.print()
    for variant in report.variants:
        if variant.reason:
            word, style = _STATUS[variant.status]
            _line(console, Text.assemble(variant.name, " ", (word, style), ": ", fault(variant)))
    _pairs(console, comparison(report))
    word, style = ("PASSED", "bold green") if report.passed else ("FAILED", "bold red")
    _line(console, Text.assemble((word, style), ": ", verdict(report)))


def print_layers(report: ParityReport, console: Console) -> None:
    """Print what quantization did to each layer; nothing without an int8 graph."""
    if not report.layers:
        return
    numbers = ["output", "scale", "zero\npoint", "signal to\nnoise", "bias shift,\nsteps", "clipped"]
    table = make_table("Float against int8, layer by layer", ["layer"], numbers)
    for layer in report.layers:
        table.add_row(*(Text(cell) for cell in _layer_cells(layer)))
    console.print()
    print_table(table, console)


def _cells(variant: VariantResult, images: int, wide: bool) -> list[Text]:
    """A variant's row, on one line or stacked."""
    word, style = _STATUS[variant.status]
    between = " " if wide else "\n"
    runtime = [variant.name, variant.runtime] if wide else [f"{variant.name}\n{variant.runtime}"]
    accuracy = agreement = differing = "-"
    if variant.accuracy is not None:
        ends = interval(variant.accuracy, images, "-")
        accuracy = f"{percent(variant.accuracy)} ({ends})" if wide else f"{percent(variant.accuracy)}\n{ends}"
    if variant.agreement is not None:
        agreement = percent(variant.agreement)
    if variant.logits_compared:
        differing = f"{variant.logits_differing:,}{between}of {variant.logits_compared:,}"
    cells = [*runtime, f"{variant.bytes:,}", accuracy, agreement, differing, difference(variant.max_abs_difference)]
    return [*(Text(cell) for cell in cells), Text(word, style)]


def _layer_cells(layer: LayerSignal) -> list[str]:
    """A layer's row."""
    return [
        layer.name,
        "x".join(map(str, layer.shape)),
        scale(layer.scale)[0],
        str(layer.zero_point),
        f"{layer.snr_db:.1f} dB",
        f"{layer.bias_shift_before:.3f} -> {layer.bias_shift_after:.3f}",
        percent(layer.clipped),
    ]


def _pairs(console: Console, pairs: list[tuple[str, str]]) -> None:
    """Print names and findings in two columns."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, finding in pairs:
        grid.add_row(Text(name, "bold"), Text(finding))
    console.print(grid)
    console.print()


def _line(console: Console, text: Text) -> None:
    """Print a line as it is: other people's words are neither markup nor to be coloured."""
    console.print(text, highlight=False, overflow="fold")
