"""The facts of `summary.describe` as a person reads them: a table and labelled lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console

from edge_mnist.inspect.summary import Facts
from edge_mnist.system.tables import make_console, make_table, print_table

_LABEL_WIDTH = 18


def show(facts: Facts) -> None:
    """Print the facts about a checkpoint, an artifact or a bundle to stdout."""
    console = make_console(markup=False, highlight=False, emoji=False)  # a name in a file may look like markup
    kinds = {"checkpoint": _show_checkpoint, "artifact": _show_artifact, "bundle": _show_bundle}
    kinds[facts["kind"]](facts, console)


def _show_checkpoint(facts: Facts, console: Console) -> None:
    names, numbers = ("layer", "operation", "output"), ("parameters", "receptive\nfield", "jump", "MACs")
    table = make_table("", names, numbers, wraps=("operation",))
    for stage in facts["layers"]:
        table.add_row(
            _clean(stage["name"]),
            stage["operation"],
            _size(stage["output_shape"]),
            f"{stage['parameters']:,}",
            _pair(stage["receptive_field"]),
            _pair(stage["jump"]),
            f"{stage['multiply_accumulates']:,}",
        )
    table.add_section()
    table.add_row("in all", "", "", f"{facts['parameters']:,}", "", "", f"{facts['multiply_accumulates']:,}")
    print_table(table, console)
    console.print()
    recorded = facts["recorded"]
    _lines(
        console,
        [
            ("input", f"{_size(facts['input_shape'])} pixels, (pixel / 255 - {facts['mean']:g}) / {facts['std']:g}"),
            ("padding", _padding(facts["padding_pixel"])),
            *((_clean(key), _said(value, share=key == "accuracies")) for key, value in sorted(recorded.items())),
            ("statistics", "for int8, inside" if facts["calibrated"] else "none: --int8 needs --data"),
            ("folded graph", f"SHA-256 {facts['graph_sha256']}" if facts["graph_sha256"] else ""),
            ("not exportable", _clean(facts.get("not_exportable", ""))),
            *_file(facts),
        ],
    )


def _show_artifact(facts: Facts, console: Console) -> None:
    kind = f"{facts['format']}, {facts['precision']}"
    contract = ((key, _said(value)) for key, value in facts["contract"].items())
    _lines(
        console,
        [("artifact", kind), ("feed", facts["input"]), ("read", _clean(facts["output"])), *contract, *_file(facts)],
    )


def _show_bundle(facts: Facts, console: Console) -> None:
    table = make_table("", ("file", "format", "precision"), ("bytes",))
    table.add_column("since export", no_wrap=True)
    for entry in facts["files"]:
        table.add_row(
            _clean(entry["name"]), _said(entry["format"] or ""), _said(entry["precision"] or ""),
            f"{entry['bytes']:,}", entry["state"],
        )  # fmt: skip
    print_table(table, console)
    console.print()
    quantized = f"{facts['quantized']} convolutions" if facts["quantized"] else "none, float only"
    recorded = ((_clean(key), _said(value)) for key, value in facts["recorded"].items())
    golden = f"{facts['golden_images']} images"
    _lines(console, [("bundle", _clean(facts["file"])), ("quantized", quantized), ("golden", golden), *recorded])


def _file(facts: Facts) -> list[tuple[str, str]]:
    return [("file", f"{_clean(facts['file'])}, {facts['bytes']:,} bytes"), ("SHA-256", facts["sha256"])]


def _lines(console: Console, pairs: Iterable[tuple[str, str]]) -> None:
    """Label and value on a line each; what says nothing is left out."""
    for label, value in pairs:
        if value:
            console.print(f"{label.replace('_', ' '):<{_LABEL_WIDTH}}{value}", soft_wrap=True)  # a hash is copied whole


def _padding(pixel: Mapping[str, Any] | None) -> str:
    if pixel is None:
        return "the first convolution does not pad: normalisation folds exactly"
    return (
        f"{_clean(pixel['layer'])} pads with the pixel {pixel['pixel']}, the nearest to the mean: "
        f"{pixel['deviation']:+.4f} in normalised units where the network saw 0"
    )


def _said(value: object, *, share: bool = False) -> str:
    """A JSON value in one line; of shares 0..1 the percentage."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_clean(key)} {_said(item, share=share)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_said(item, share=share) for item in value)
    if value is None:
        return "not known"
    if isinstance(value, float):
        return f"{value:.2%}" if share else f"{value:g}"
    return _clean(value)


def _clean(value: object) -> str:
    """Text from a file without the control characters that would move the terminal's cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def _size(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


def _pair(values: tuple[int, int]) -> str:
    return str(values[0]) if values[0] == values[1] else _size(values)
