"""Tells a parity report: as JSON for programs, as tables on the terminal. The page is in `report_page`."""

from __future__ import annotations

import json
import math
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_mnist.export.proof.parity import LayerSignal, ParityReport, Variant
from edge_mnist.export.report.findings import (
    comparison,
    difference,
    fault,
    interval,
    percent,
    scale,
    scope,
    verdict,
)
from edge_mnist.export.report.page import to_html
from edge_mnist.measure.significance import wilson_interval
from edge_mnist.system.tables import make_table
from edge_mnist.system.tables import print_table as print_whole

__all__ = ["print_layers", "print_table", "to_html", "to_json"]

# A word says the same; the colour only helps to find it.
_STATUS = {"passed": ("passed", "green"), "failed": ("FAILED", "bold red"), "not run": ("not run", "yellow")}
_WIDE = 116  # columns that a variant needs to stand on one line


def to_json(report: ParityReport) -> str:
    """The report as JSON, indented.

    Shares are 0..1, intervals are [low, high] of 95 %, the accuracy drop is in points. What is unknown, infinite or not
    a number is null.
    """
    content = {
        "dataset": report.dataset,
        "images": report.images,
        "passed": report.passed,
        "variants": [_variant_fields(variant, report.images) for variant in report.variants],
        "mcnemar_p": report.mcnemar_p,
        "accuracy_drop": report.accuracy_drop,
        "max_drop": report.max_drop,
        "golden": report.golden,
        "float_accuracy": report.float_accuracy,
        "float_interval": _interval(report.float_accuracy, report.images),
        "int8_accuracy": report.int8_accuracy,
        "int8_interval": _interval(report.int8_accuracy, report.images),
        "recorded_accuracy": report.recorded_accuracy,
        "float_only_right": report.float_only_right,
        "int8_only_right": report.int8_only_right,
        "changed_images": [image.index for image in report.changed],
        "layers": [vars(layer) for layer in report.layers],
        "seconds": report.seconds,
    }
    return json.dumps(_finite(content), indent=2, allow_nan=False, ensure_ascii=False)


def _variant_fields(variant: Variant, images: int) -> dict[str, Any]:
    """A variant as JSON has it."""
    fields = {name: value for name, value in vars(variant).items() if name not in ("reason", "layer", "seconds")}
    return {
        **fields,
        "accuracy_interval": _interval(variant.accuracy, images),
        "reason": variant.reason,
        "layer": variant.layer,
        "seconds": variant.seconds,
    }


def _interval(share: float | None, images: int) -> tuple[float, float] | None:
    """The 95 % Wilson interval of a share of `images`."""
    return None if share is None else wilson_interval(round(share * images), images)


def _finite(value: Any) -> Any:
    """The value with null for every number that JSON does not know."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(report: ParityReport, console: Console) -> None:
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
    print_whole(table, console)
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
    print_whole(table, console)


def _cells(variant: Variant, images: int, wide: bool) -> list[Text]:
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
