"""Presents a parity report as one HTML file that needs no network and no script."""

from __future__ import annotations

import html
import math
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

from edge_mnist.export.proof.parity import ChangedImage, LayerSignal, ParityReport, VariantResult, WeightRounding
from edge_mnist.export.report import drawings
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
    list_failures,
)
from edge_mnist.measure.significance import wilson_interval
from edge_mnist.system.errors import escape as escape_controls

_STATUS = {"passed": ("pass", "✓ passed"), "failed": ("fail", "✗ FAILED"), "not run": ("skip", "– not run")}
"""The style class and the text of each status. The text says the same as the colour, which not everybody can see."""

_MOST_PICTURES = 120
"""The most images that changed class that are shown, so that a useless network does not make a page of thousands."""

_PICTURE_PIXELS = 112
"""The width and height in pixels at which a picture is shown: whole multiples of smaller images, a part of the rows and
columns of larger ones."""

_MOST_HISTOGRAMS = 24
"""The most layers whose weights are shown, so that the page of a deep network stays readable."""

_MOST_ITEMS = 12
"""The most items of a list in the manifest that are shown without a click."""


def escape(text: str) -> str:
    """Escape what HTML would interpret, and the characters that cannot be printed: names of layers may hold them."""
    return html.escape(escape_controls(text))


def render_html(report: ParityReport, manifest: dict[str, Any]) -> str:
    """Render a report as a page: verdict, variants, float and int8, changed images, layers, files and manifest.

    Args:
        report: the result of a verification.
        manifest: the manifest of the bundle: nested dictionaries and lists of texts and numbers.

    Returns:
        A complete HTML document, to be stored as UTF-8. It loads nothing, and every text from outside is escaped.
    """
    template = Template(files("edge_mnist.export.report").joinpath("template.html").read_text("utf-8"))
    verdict = [describe_verdict(report)] if report.passed else list_failures(report)
    word, style = ("PASSED", "pass") if report.passed else ("FAILED", "fail")
    return template.substitute(
        word=word,
        style=style,
        mark="✓" if report.passed else "✗",
        verdict="".join(f"<p>{escape(line)}</p>" for line in verdict),
        scope=escape(describe_scope(report)),
        seconds=f"{report.seconds:.1f}",
        variants="".join(_render_variant(variant, report.images) for variant in report.variants),
        # A file that was run in several runtimes is listed once.
        files="".join({variant.file: _render_file(variant) for variant in report.variants}.values()),
        comparison=_render_accuracy(report),
        noun="Images" if report.is_pixels else "Inputs",
        changed=_render_changed(report),
        layers=_render_layers(report.layers),
        weights=_render_weights(report),
        # The table of layers already shows the quantization.
        manifest=_render_manifest({key: value for key, value in manifest.items() if key != "quantization"}),
    )


def _render_row(header: str, cells: list[tuple[str, str]]) -> str:
    """Render a row of a table from its header cell and the (style class, content) of the others, which are HTML."""
    rest = "".join(
        f'<td class="{style}">{content}</td>' if style else f"<td>{content}</td>" for style, content in cells
    )
    return f'<tr><th scope="row">{header}</th>{rest}</tr>\n'


def _render_variant(variant: VariantResult, images: int) -> str:
    """Render the row of a variant, and a row below it that says why it failed or was not run."""
    style, word = _STATUS[variant.status]
    accuracy = agreement = differing = "-"
    if variant.accuracy is not None:
        accuracy = f"{format_percent(variant.accuracy)}<small>{format_interval(variant.accuracy, images)}</small>"
    if variant.agreement is not None:
        agreement = format_percent(variant.agreement)
    if variant.logits_compared:
        differing = f"{variant.logits_differing:,}<small>of {variant.logits_compared:,}</small>"
    row = _render_row(
        f"{escape(variant.name)}<small>{escape(variant.runtime)}</small>",
        [
            (f"status {style}", word),
            ("number", differing),
            ("number", format_difference(variant.max_abs_difference)),
            ("number", agreement),
            ("number", accuracy),
            ("number", f"{variant.bytes:,}"),
        ],
    )
    reason = describe_reason(variant)
    if not reason:
        return row
    below = f'<tr class="why"><td colspan="7"><span class="fit">{escape(reason)}</span></td></tr>\n'
    return row.replace("<tr>", '<tr class="explained">', 1) + below


def _render_file(variant: VariantResult) -> str:
    """Render the row of the file of a variant."""
    return _render_row(escape(variant.file), [("number", f"{variant.bytes:,}"), ("hash", escape(variant.sha256))])


def _render_accuracy(report: ParityReport) -> str:
    """Render the accuracy of float and int8, as a drawing and in words."""
    pairs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in describe_accuracy(report))
    about = """<p class="about">McNemar's test considers only the images that one of the two reads correctly and the
other does not: p is the probability of counts at least as uneven if both read equally well.</p>"""
    return f"{_render_intervals(report)}<dl>{pairs}</dl>{'' if report.mcnemar_p is None else about}"


def _render_intervals(report: ParityReport) -> str:
    """Draw both accuracies with their intervals on one axis; "" without labels."""
    shares = {
        name: (wilson_interval(round(share * report.images), report.images), share)
        for name, share in (("float", report.float_accuracy), ("int8", report.int8_accuracy))
        if share is not None
    }
    if not shares:
        return ""
    ends = [100 * end for pair, _ in shares.values() for end in pair]
    low, high, ticks = drawings.choose_axis(min(ends), max(ends))
    rows = "".join(
        f"<span>{name}</span>{drawings.draw_error_bar(100 * pair[0], 100 * share, 100 * pair[1], (low, high), ticks)}"
        f"<b>{format_percent(share)}</b>"
        for name, (pair, share) in shares.items()
    )
    labels = drawings.draw_tick_labels((low, high), ticks)
    return (
        f'<figure class="intervals"><div class="chart">{rows}<span></span>{labels}'
        "<span></span></div><figcaption>Accuracy in percent, with 95 % Wilson intervals</figcaption></figure>"
    )


def _render_changed(report: ParityReport) -> str:
    """Render the inputs that changed class."""
    if not report.layers:
        return "<p>There is no int8 graph.</p>"
    if not report.has_classes:
        return "<p>The outputs are not classes.</p>"
    if not report.changed:
        return (
            f"<p>None: float and int8 predict the same class for every {'image' if report.is_pixels else 'input'}.</p>"
        )
    more = len(report.changed) - _MOST_PICTURES
    rest = f"<p>{more:,} more are not pictured.</p>" if more > 0 else ""
    return f'<div class="images">{"".join(map(_render_picture, report.changed[:_MOST_PICTURES]))}</div>{rest}'


def _render_picture(image: ChangedImage) -> str:
    """Render an input with its label and the classes that float and int8 predict."""
    read = f"float reads {image.float_class}, int8 reads {image.int8_class}"
    marks = [
        f"<span>{name} <b>{digit}</b>{'' if image.label is None else ' ✓' if digit == image.label else ' ✗'}</span>"
        for name, digit in (("float", image.float_class), ("int8", image.int8_class))
    ]
    label = "unknown" if image.label is None else image.label
    kind, picture = "input", ""
    if image.pixels is not None:
        step = -(-max(image.pixels.shape[:2]) // _PICTURE_PIXELS)
        pixels = image.pixels[::step, ::step]
        height, width = pixels.shape[:2]
        factor = max(_PICTURE_PIXELS // max(height, width), 1)
        kind, picture = (
            "image",
            (
                f'<img src="{drawings.encode_png_uri(pixels)}" width="{factor * width}" height="{factor * height}" '
                f'alt="Image {image.index}, labelled {label}: {read}">'
            ),
        )
    return (
        f"<figure>{picture}<figcaption><span>label <b>{label}</b></span>{''.join(marks)}"
        f"<small>{kind} {image.index:,}</small></figcaption></figure>"
    )


def _render_layers(layers: tuple[LayerSignal, ...]) -> str:
    """Render the section on what quantization did to each layer; "" without an int8 graph."""
    if not layers:
        return ""
    full_bar = max([1.0, *(layer.snr_db for layer in layers if math.isfinite(layer.snr_db))])
    columns = ("Signal to noise", "Output", "Scale", "Zero point", "Bias shift, steps", "Clipped")
    heads = "".join(f'<th scope="col" class="number">{column}</th>' for column in columns)
    return f"""<section aria-labelledby="layers">
<h2 id="layers">Layer by layer</h2>
<p class="about">The table shows what quantization does to the output of each layer, over the first 64 inputs. Signal to
noise is the power of the float output over the power of the int8 output's error. Bias shift is by how much rounded
weights shift the means of the channels, in output steps, before and after bias correction. Clipped is the share of
calibration values outside the int8 range.</p>
<div class="scroll" role="region" aria-labelledby="layers" tabindex="0">
<table class="blocks layers">
<caption><span class="fit">A full bar is {full_bar:.1f} dB. Output: channels × height × width.</span></caption>
<thead><tr><th scope="col">Layer</th>{heads}</tr></thead>
<tbody>
{"".join(_render_layer(layer, full_bar) for layer in layers)}</tbody>
</table>
</div>
</section>
"""


def _render_layer(layer: LayerSignal, full_bar: float) -> str:
    """Render the row of a layer, whose bar is full at `full_bar` decibels."""
    ratio = "exact" if layer.snr_db == math.inf else f"{layer.snr_db:.1f} dB"
    filled = 0.0 if math.isnan(layer.snr_db) else layer.snr_db / full_bar
    return _render_row(
        escape(layer.name),
        [
            ("meter number", f"{ratio}{drawings.draw_bar(filled)}"),
            ("number", " × ".join(map(str, layer.shape))),
            ("number", format_scale(layer.scale, "2<sup>{}</sup>").replace("-", "−").replace("*", " · ")),
            ("number", str(layer.zero_point).replace("-", "−")),
            ("number", format_shift(layer, "→")),
            ("number", format_percent(layer.clipped)),
        ],
    )


def _render_weights(report: ParityReport) -> str:
    """Render the section on the weights: their histograms, and some of them on a number line; "" without weights."""
    if not report.weights:
        return ""
    figures = "".join(
        f"<figure>{drawings.draw_histogram(layer.integers)}<figcaption><b>{escape(layer.name)}</b>"
        f"<small>{layer.integers.size:,} weights, {len(np.unique(layer.integers)):,} different</small></figcaption>"
        "</figure>"
        for layer in report.weights[:_MOST_HISTOGRAMS]
    )
    more = len(report.weights) - _MOST_HISTOGRAMS
    rest = f"<p>{more:,} more layers are not shown.</p>" if more > 0 else ""
    return f"""<section aria-labelledby="weights">
<h2 id="weights">The weights as integers</h2>
{_render_rounding(report.rounding)}<p class="about">How often each integer is a weight, layer by layer. Each channel
has a scale of its own, so that its largest weight is near the end of the range.</p>
<div class="histograms">{figures}</div>{rest}
</section>
"""


def _render_rounding(rounding: WeightRounding | None) -> str:
    """Render the number line on which some weights are rounded; "" without an example."""
    if rounding is None:
        return ""
    real, integer = max(rounding.pairs, key=lambda pair: abs(pair[0] - pair[1]))
    line = drawings.draw_rounding(rounding.first, rounding.last, rounding.pairs)
    return f"""<p>A weight is stored as an integer: it is divided by the scale of its channel, and rounded. In layer
{escape(rounding.layer)}, channel {rounding.channel}, one step is {rounding.scale:.5f}. The weight
{_sign(f"{real * rounding.scale:.5f}")} is {_sign(f"{real:.2f}")} steps; {_sign(str(integer))} is stored, and the
network computes with {_sign(f"{integer * rounding.scale:.5f}")}.</p>
<figure class="intervals">{line}<figcaption>{len(rounding.pairs)} weights of this channel, in steps, and the integers
that they become. Rounding moves them by at most {abs(real - integer):.2f} steps.</figcaption></figure>
"""


def _sign(number: str) -> str:
    """Write a number with a minus sign instead of a hyphen."""
    return number.replace("-", "−")


def _render_manifest(manifest: dict[str, Any]) -> str:
    """Render the manifest: first its simple entries, then a part for each nested one."""
    simple = {name: value for name, value in manifest.items() if not isinstance(value, dict)}
    parts = [_render_value(simple)] if simple else []
    for name, value in manifest.items():
        if isinstance(value, dict):
            parts.append(f"<h3>{escape(str(name).replace('_', ' '))}</h3>{_render_value(value)}")
    return "\n".join(parts)


def _render_value(value: Any) -> str:
    """Render a value of the manifest."""
    if isinstance(value, dict):
        return (
            "<dl>"
            + "".join(f"<dt>{escape(str(key))}</dt><dd>{_render_value(item)}</dd>" for key, item in value.items())
            + "</dl>"
        )
    if isinstance(value, (list, tuple)):
        if any(isinstance(item, (dict, list, tuple)) for item in value):
            return "<ol>" + "".join(f"<li>{_render_value(item)}</li>" for item in value) + "</ol>"
        listed = escape(", ".join(map(_format_value, value))) or "-"
        long = len(value) > _MOST_ITEMS
        return f"<details><summary>{len(value)} values</summary>{listed}</details>" if long else listed
    text = escape(_format_value(value))
    hexadecimal = len(text) >= 16 and all(digit in "0123456789abcdef" for digit in text)
    return f'<code class="hash">{text}</code>' if hexadecimal else text


def _format_value(value: object) -> str:
    """Format a text or a number as it is, True and False as "yes" and "no", None as "-"."""
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    return str(value)
