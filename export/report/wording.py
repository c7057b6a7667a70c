"""The words and numbers of a parity report, which the terminal and the page share."""

from __future__ import annotations

import math

from edge_mnist.export.proof.parity import LayerSignal, ParityReport, VariantResult
from edge_mnist.formats.table import FORMATS
from edge_mnist.measure.significance import wilson_interval
from edge_mnist.system.errors import escape


def format_percent(share: float) -> str:
    """Format a share 0..1 in percent with two decimals, or with more where these would show 0 % or 100 %."""
    text = ""
    for decimals in range(2, 8):
        text = f"{100 * share:.{decimals}f} %"
        if (float(text[:-2]) in (0.0, 100.0)) == (share in (0.0, 1.0)):
            break
    return text


def format_interval(share: float, images: int, separator: str = " to ") -> str:
    """Format the 95 % Wilson interval of a share of `images`, in percent."""
    low, high = wilson_interval(round(share * images), images)
    return f"{100 * low:.2f}{separator}{100 * high:.2f}"


def format_difference(value: float | None) -> str:
    """Format a difference of logits: a whole number without decimals, others with two digits, None as "-"."""
    if value is None:
        return "-"
    return str(int(value)) if math.isfinite(value) and value == int(value) else f"{value:.1e}"


def format_shift(layer: LayerSignal, arrow: str) -> str:
    """Format by how much rounded weights shift the means, before and after bias correction; "-" without weights."""
    if layer.bias_shift_before is None or layer.bias_shift_after is None:
        return "-"
    return f"{layer.bias_shift_before:.3f} {arrow} {layer.bias_shift_after:.3f}"


def format_scale(value: float, power: str = "2^{}") -> str:
    """Format a scale as an odd integer times a power of two, such as "3*2^-7", or "2^-4" alone.

    Args:
        value: the scale.
        power: how a power of two is written, with its exponent in place of {}.
    """
    numerator, denominator = value.as_integer_ratio()
    trailing = (numerator & -numerator).bit_length() - 1
    mantissa, exponent = numerator >> trailing, trailing + 1 - denominator.bit_length()
    return f"{mantissa}*{power.format(exponent)}" if mantissa != 1 else power.format(exponent)


def describe_verdict(report: ParityReport) -> str:
    """Describe the result in one sentence: what was proven if the report passed, the reasons if it failed."""
    if not report.passed:
        return "; ".join(list_failures(report))
    left_out = ", ".join(variant.name for variant in report.variants if variant.status == "not run")
    return f"{_describe_proof(report)}; not run: {left_out}" if left_out else _describe_proof(report)


def list_failures(report: ParityReport) -> list[str]:
    """List the reasons for which a report did not pass, each in one line."""
    lines = [f"{v.name}: {describe_reason(v)}" for v in report.variants if v.status == "failed"]
    drop = report.accuracy_drop
    if drop is not None and drop > report.max_drop:
        lines.append(f"int8 loses {drop:.4g} points of accuracy, at most {report.max_drop:.4g} allowed")
    if not lines and not report.passed:
        reasons = "; ".join(dict.fromkeys(variant.reason for variant in report.variants if variant.reason))
        lines.append(f"no variant was run: {reasons}" if reasons else "no variant was run")
    return lines


def describe_reason(variant: VariantResult) -> str:
    """Say why a variant failed or was not run, with the first layer that differs; a note or "" if it passed."""
    return escape(f"{variant.reason}; first differing layer: {variant.layer}" if variant.layer else variant.reason)


def describe_scope(report: ParityReport) -> str:
    """Describe the inputs that were compared, such as "10,000 images of MNIST test and 64 golden images"."""
    noun = _name_inputs(report)
    golden = f" and {report.golden:,} golden {noun}" if report.golden else ""
    inputs = "digits drawn from strokes" if report.dataset == "strokes" else f"{noun} of {report.dataset}"
    return f"{report.images:,} {inputs}{golden}"


def _name_inputs(report: ParityReport) -> str:
    return "images" if report.is_pixels else "inputs"


def describe_accuracy(report: ParityReport) -> list[tuple[str, str]]:
    """Describe the accuracy of float and int8 and how they differ, as pairs of a heading and a text."""
    pairs = [
        (name, f"{format_percent(share)} (95 % interval {format_interval(share, report.images)})")
        for name, share in (("float", report.float_accuracy), ("int8", report.int8_accuracy))
        if share is not None
    ]
    if not report.has_classes:
        if report.output_snr_db is not None:
            ratio = "exact" if report.output_snr_db == math.inf else f"signal to noise {report.output_snr_db:.1f} dB"
            pairs.append(("int8", f"{ratio}, over all outputs; they are not classes, so that none is right or wrong"))
        return pairs
    if report.float_accuracy is None:
        recorded = "no accuracy is recorded with the checkpoint"
        if report.recorded_accuracy is not None:
            recorded = f"{format_percent(report.recorded_accuracy)} on its test set, as recorded when the"
            recorded += " checkpoint was trained"
        pairs.append(("accuracy", f"{recorded}; not measured here"))
    if report.accuracy_drop is not None:
        drop = round(report.accuracy_drop, 4) + 0.0  # the sum turns -0.0 into 0.0
        pairs.append(("drop", f"{drop:.2f} points, at most {report.max_drop:.4g} allowed"))
    if report.mcnemar_p is not None:
        float_only, int8_only = report.float_only_right, report.int8_only_right
        counts = f"{_name_inputs(report)} read right only in float {float_only:,}, only in int8 {int8_only:,}"
        pairs.append(("McNemar", f"p = {report.mcnemar_p:.3g}, exact and two-sided: {counts}"))
    if any(v.precision == "int8" and v.status != "not run" for v in report.variants) or report.changed:
        counts = f"{len(report.changed):,} of {report.images:,} {_name_inputs(report)} changed class"
        pairs.append(("changed", counts))
    return pairs


def _describe_proof(report: ParityReport) -> str:
    """Describe what the variants that passed share: the same integers, or float logits within the tolerance."""
    passed = [variant for variant in report.variants if variant.status == "passed"]
    int8 = [variant for variant in passed if variant.precision == "int8"]
    # A variant that passed has a reason if its runtime rounds differently from the others.
    usual = [variant for variant in int8 if not variant.reason]
    special = [variant for variant in int8 if variant.reason]
    variants = usual or special or passed
    compared = sum(variant.logits_compared for variant in variants)
    titles = list(dict.fromkeys(FORMATS[variant.format].title for variant in variants))
    defaults = {record.title for record in FORMATS.values() if record.is_default}
    where = "every format" if defaults <= set(titles) else " and ".join(titles)
    if usual:
        same = "the same integers as the oracle" if len(titles) == 1 else "the same integers"
        others = "".join(
            f"; {variant.name} rounds differently, and equals the oracle in that rounding: {_count_differing(variant)}"
            for variant in special
        )
        return f"{same} in {where}: {_count_differing(*usual)}{others}"
    if special:
        return f"the integers of the oracle's mode of each runtime in {where}; {compared:,} logits compared"
    largest = format_difference(max((variant.max_abs_difference or 0.0 for variant in passed), default=0.0))
    return f"the same float logits in {where}, within {largest} of the oracle's, {compared:,} compared"


def _count_differing(*variants: VariantResult) -> str:
    """Say how many logits of these variants differ from the oracle's."""
    differing = sum(variant.logits_differing for variant in variants)
    return f"{differing:,} of {sum(variant.logits_compared for variant in variants):,} logits differ"
