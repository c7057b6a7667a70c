"""Tells a parity report as one HTML file that needs no network and no script."""

from __future__ import annotations

import math
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from edge_mnist.export.proof.parity import ChangedImage, LayerSignal, ParityReport, VariantResult
from edge_mnist.export.report import drawings
from edge_mnist.export.report.wording import (
    comparison,
    difference,
    failures,
    fault,
    interval,
    percent,
    scale,
    scope,
    verdict,
)
from edge_mnist.measure.significance import wilson_interval

# A mark and a word beside the colour: not everybody sees it, and not every printer prints it.
_STATUS = {"passed": ("pass", "✓ passed"), "failed": ("fail", "✗ FAILED"), "not run": ("skip", "– not run")}
_MOST_PICTURED = 120  # a network that lost its way must not make a page of ten thousand images
_MOST_LISTED = 12  # numbers of a list that are shown at once


def render_html(report: ParityReport, manifest: dict[str, Any]) -> str:
    """The report as a page: verdict, variants, float against int8, changed images, layers, contract, reproduction.

    Args:
        report: what was compared.
        manifest: the manifest of the bundle: nested dictionaries and lists of texts and numbers.

    Returns:
        A whole HTML document, to be stored as UTF-8. It loads nothing, and every text from outside is escaped.
    """
    template = Template(files("edge_mnist.export.report").joinpath("template.html").read_text("utf-8"))
    word, style = ("PASSED", "pass") if report.passed else ("FAILED", "fail")
    return template.substitute(
        word=word,
        style=style,
        mark="✓" if report.passed else "✗",
        verdict="".join(
            f"<p>{escape(line)}</p>" for line in ([verdict(report)] if report.passed else failures(report))
        ),
        scope=escape(scope(report)),
        seconds=f"{report.seconds:.1f}",
        variants="".join(_variant(variant, report.images) for variant in report.variants),
        # A file may have been run in several runtimes.
        files="".join({variant.file: _file(variant) for variant in report.variants}.values()),
        comparison=_comparison(report),
        changed=_changed(report),
        layers=_layers(report.layers),
        # The quantization of each layer is told by the table of layers.
        manifest=_manifest({key: value for key, value in manifest.items() if key != "quantization"}),
    )


def _row(header: str, cells: list[tuple[str, str]]) -> str:
    """A table's row from its header cell and (class, content) of the others, all HTML."""
    rest = "".join(
        f'<td class="{style}">{content}</td>' if style else f"<td>{content}</td>" for style, content in cells
    )
    return f'<tr><th scope="row">{header}</th>{rest}</tr>\n'


def _variant(variant: VariantResult, images: int) -> str:
    """A variant's row, and below it why it failed or was not run."""
    style, word = _STATUS[variant.status]
    accuracy = agreement = differing = "-"
    if variant.accuracy is not None:
        accuracy = f"{percent(variant.accuracy)}<small>{interval(variant.accuracy, images)}</small>"
    if variant.agreement is not None:
        agreement = percent(variant.agreement)
    if variant.logits_compared:
        differing = f"{variant.logits_differing:,}<small>of {variant.logits_compared:,}</small>"
    row = _row(
        f"{escape(variant.name)}<small>{escape(variant.runtime)}</small>",
        [
            (f"status {style}", word),
            ("number", differing),
            ("number", difference(variant.max_abs_difference)),
            ("number", agreement),
            ("number", accuracy),
            ("number", f"{variant.bytes:,}"),
        ],
    )
    why = f'<tr class="why"><td colspan="7"><span class="fit">{escape(fault(variant))}</span></td></tr>\n'
    return row.replace("<tr>", '<tr class="explained">', 1) + why if fault(variant) else row


def _file(variant: VariantResult) -> str:
    """The row of a variant's file."""
    return _row(escape(variant.file), [("number", f"{variant.bytes:,}"), ("hash", escape(variant.sha256))])


def _comparison(report: ParityReport) -> str:
    """Float against int8: drawn, then in words."""
    pairs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in comparison(report))
    about = """<p class="about">McNemar's test looks only at the images that one of the two reads right and the other
wrong: p is the chance of counts at least as uneven if both read equally well.</p>"""
    return f"{_intervals(report)}<dl>{pairs}</dl>{'' if report.mcnemar_p is None else about}"


def _intervals(report: ParityReport) -> str:
    """Both accuracies with their intervals, drawn on one axis; nothing without labels."""
    shares = {
        name: (wilson_interval(round(share * report.images), report.images), share)
        for name, share in (("float", report.float_accuracy), ("int8", report.int8_accuracy))
        if share is not None
    }
    if not shares:
        return ""
    ends = [100 * end for pair, _ in shares.values() for end in pair]
    low, high, ticks = drawings.axis(min(ends), max(ends))
    rows = "".join(
        f"<span>{name}</span>{drawings.error_bar(100 * pair[0], 100 * share, 100 * pair[1], (low, high), ticks)}"
        f"<b>{percent(share)}</b>"
        for name, (pair, share) in shares.items()
    )
    return (
        f'<figure class="intervals"><div class="chart">{rows}<span></span>{drawings.tick_labels((low, high), ticks)}'
        "<span></span></div><figcaption>Accuracy in percent, with 95 % Wilson intervals</figcaption></figure>"
    )


def _changed(report: ParityReport) -> str:
    """The images whose class changed, pictured."""
    if not report.changed:
        return (
            "<p>None: float and int8 read every image alike.</p>" if report.layers else "<p>There is no int8 graph.</p>"
        )
    more = len(report.changed) - _MOST_PICTURED
    rest = f"<p>{more:,} more are not pictured.</p>" if more > 0 else ""
    return f'<div class="images">{"".join(map(_picture, report.changed[:_MOST_PICTURED]))}</div>{rest}'


def _picture(image: ChangedImage) -> str:
    """An image with what it is and how it was read."""
    read = f"float reads {image.float_class}, int8 reads {image.int8_class}"
    marks = [
        f"<span>{name} <b>{digit}</b>{'' if image.label is None else ' ✓' if digit == image.label else ' ✗'}</span>"
        for name, digit in (("float", image.float_class), ("int8", image.int8_class))
    ]
    height, width = image.pixels.shape
    label = "unknown" if image.label is None else image.label
    return (
        f'<figure><img src="{drawings.png_uri(image.pixels)}" width="{4 * width}" height="{4 * height}" '
        f'alt="Image {image.index}, labelled {label}: {read}">'
        f"<figcaption><span>label <b>{label}</b></span>{''.join(marks)}"
        f"<small>image {image.index:,}</small></figcaption></figure>"
    )


def _layers(layers: tuple[LayerSignal, ...]) -> str:
    """The part on what quantization did to each layer; nothing without an int8 graph."""
    if not layers:
        return ""
    loudest = max([1.0, *(layer.snr_db for layer in layers if math.isfinite(layer.snr_db))])
    columns = ("Signal to noise", "Output", "Scale", "Zero point", "Bias shift, steps", "Clipped")
    heads = "".join(f'<th scope="col" class="number">{column}</th>' for column in columns)
    return f"""<section aria-labelledby="layers">
<h2 id="layers">Layer by layer</h2>
<p class="about">What quantization does to each layer's output, over the golden images: the power of the float output
over the power of the int8 output's error; the shift of its channels' means by rounded weights, in output steps, before
and after bias correction; the share of calibration values beyond the int8 range.</p>
<div class="scroll" role="region" aria-labelledby="layers" tabindex="0">
<table>
<caption><span class="fit">A full bar is {loudest:.1f} dB. Output: channels × height × width.</span></caption>
<thead><tr><th scope="col">Layer</th>{heads}</tr></thead>
<tbody>
{"".join(_layer(layer, loudest) for layer in layers)}</tbody>
</table>
</div>
</section>
"""


def _layer(layer: LayerSignal, loudest: float) -> str:
    """A layer's row; its bar is full at `loudest` decibels."""
    text, exponent = scale(layer.scale)
    ratio = "exact" if layer.snr_db == math.inf else f"{layer.snr_db:.1f} dB"
    filled = 0.0 if math.isnan(layer.snr_db) else layer.snr_db / loudest
    return _row(
        escape(layer.name),
        [
            ("meter number", f"{ratio}{drawings.bar(filled)}"),
            ("number", " × ".join(map(str, layer.shape))),
            ("number", text if exponent is None else f"2<sup>{exponent}</sup>".replace("-", "−")),
            ("number", str(layer.zero_point).replace("-", "−")),
            ("number", f"{layer.bias_shift_before:.3f} → {layer.bias_shift_after:.3f}"),
            ("number", percent(layer.clipped)),
        ],
    )


def _manifest(manifest: dict[str, Any]) -> str:
    """The manifest: first its plain entries, then a part for each nested one."""
    plain = {name: value for name, value in manifest.items() if not isinstance(value, dict)}
    parts = [_value(plain)] if plain else []
    for name, value in manifest.items():
        if isinstance(value, dict):
            parts.append(f"<h3>{escape(str(name).replace('_', ' '))}</h3>{_value(value)}")
    return "\n".join(parts)


def _value(value: Any) -> str:
    """Any value of the manifest as HTML."""
    if isinstance(value, dict):
        return (
            "<dl>"
            + "".join(f"<dt>{escape(str(key))}</dt><dd>{_value(item)}</dd>" for key, item in value.items())
            + "</dl>"
        )
    if isinstance(value, (list, tuple)):
        if any(isinstance(item, (dict, list, tuple)) for item in value):
            return "<ol>" + "".join(f"<li>{_value(item)}</li>" for item in value) + "</ol>"
        listed = escape(", ".join(map(_plain, value))) or "-"
        long = len(value) > _MOST_LISTED
        return f"<details><summary>{len(value)} values</summary>{listed}</details>" if long else listed
    text = escape(_plain(value))
    hexadecimal = len(text) >= 16 and all(digit in "0123456789abcdef" for digit in text)
    return f'<code class="hash">{text}</code>' if hexadecimal else text


def _plain(value: object) -> str:
    """A text or a number as it is, truth as yes or no, nothing as "-"."""
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    return str(value)
