"""What a parity report says, in words: the same ones on the terminal and on the page."""

from __future__ import annotations

import math

from edge_mnist.export.proof.parity import ParityReport, VariantResult
from edge_mnist.formats.table import FORMATS
from edge_mnist.measure.significance import wilson_interval

FORMAT_TITLES = {name: record.title for name, record in FORMATS.items()}
"""By the name of each format: its name as its makers write it."""


def percent(share: float) -> str:
    """A share 0..1 in percent, with two decimals, or as many as tell it from 0 and 100 %."""
    text = ""
    for decimals in range(2, 8):
        text = f"{100 * share:.{decimals}f} %"
        if (float(text[:-2]) in (0.0, 100.0)) == (share in (0.0, 1.0)):
            break
    return text


def interval(share: float, images: int, between: str = " to ") -> str:
    """Both ends of the 95 % Wilson interval of a share of `images`, in percent."""
    low, high = wilson_interval(round(share * images), images)
    return f"{100 * low:.2f}{between}{100 * high:.2f}"


def difference(value: float | None) -> str:
    """A difference of logits: a whole number as such, others with two digits; "-" if there is none."""
    if value is None:
        return "-"
    return str(int(value)) if math.isfinite(value) and value == int(value) else f"{value:.1e}"


def scale(value: float) -> tuple[str, int | None]:
    """A scale as text, and its exponent if it is a power of two: ("2^-4", -4), or ("0.0392", None)."""
    fraction, exponent = math.frexp(value)
    return (f"2^{exponent - 1}", exponent - 1) if fraction == 0.5 else (f"{value:.4g}", None)


def verdict(report: ParityReport) -> str:
    """The report in one sentence: what was proven if it passed, why not if it failed."""
    if not report.passed:
        return "; ".join(failures(report))
    left_out = ", ".join(v.name for v in report.variants if v.status == "not run")
    return f"{proven(report)}; not run: {left_out}" if left_out else proven(report)


def proven(report: ParityReport) -> str:
    """What the variants that passed have in common: the same integers, or float logits within the tolerance."""
    passed = [v for v in report.variants if v.status == "passed"]
    exact = [v for v in passed if v.precision == "int8"]
    # A reason to note although it passed: integers of another rounding than the other runtimes'.
    own = [v for v in exact if v.reason]
    exact = [v for v in exact if not v.reason]
    compared = sum(v.logits_compared for v in exact or own or passed)
    formats = list(dict.fromkeys(FORMAT_TITLES.get(v.format, v.format) for v in exact or own or passed))
    usual = {record.title for record in FORMATS.values() if record.is_default}
    where = "every format" if usual <= set(formats) else " and ".join(formats)
    if exact:
        same = "the same integers as the oracle" if len(formats) == 1 else "the same integers"
        others = "".join(
            f"; {v.name} rounds in its own way, and equals the oracle's mode for that: {_differing(v)}" for v in own
        )
        return f"{same} in {where}: {_differing(*exact)}{others}"
    if own:
        return f"the integers of the oracle's mode of each runtime in {where}; {compared:,} logits compared"
    largest = max((v.max_abs_difference or 0.0 for v in passed), default=0.0)
    return f"the same float logits in {where}, within {difference(largest)} of the oracle's, {compared:,} compared"


def _differing(*variants: VariantResult) -> str:
    """How many logits of variants differ from the oracle's."""
    differing, compared = (sum(getattr(v, f"logits_{what}") for v in variants) for what in ("differing", "compared"))
    return f"{differing:,} of {compared:,} logits differ"


def failures(report: ParityReport) -> list[str]:
    """Why the report did not pass, one line each."""
    lines = [f"{v.name}: {fault(v)}" for v in report.variants if v.status == "failed"]
    drop = report.accuracy_drop
    if drop is not None and drop > report.max_drop:
        lines.append(f"int8 loses {drop:.4g} points of accuracy, at most {report.max_drop:g} allowed")
    if not lines and not report.passed:
        lines.append("no variant was run")
    return lines


def fault(variant: VariantResult) -> str:
    """Why a variant failed or was not run, with the first layer that differs; a note, or "", if it passed."""
    return f"{variant.reason}; first differing layer: {variant.layer}" if variant.layer else variant.reason


def scope(report: ParityReport) -> str:
    """What was compared: "10,000 images of MNIST test and 64 golden images"."""
    golden = f" and {report.golden:,} golden images" if report.golden else ""
    drawn = report.dataset == "strokes"
    return f"{report.images:,} {'digits drawn from strokes' if drawn else f'images of {report.dataset}'}{golden}"


def comparison(report: ParityReport) -> list[tuple[str, str]]:
    """Float against int8 and what is known of the accuracy, as pairs of a name and a finding."""
    pairs = [
        (name, f"{percent(share)} (95 % interval {interval(share, report.images)})")
        for name, share in (("float", report.float_accuracy), ("int8", report.int8_accuracy))
        if share is not None
    ]
    if report.float_accuracy is None:
        recorded = "no accuracy is recorded with the checkpoint"
        if report.recorded_accuracy is not None:
            recorded = f"{percent(report.recorded_accuracy)} on its test set, as recorded when the"
            recorded += " checkpoint was trained"
        pairs.append(("accuracy", f"{recorded}; not measured here"))
    if report.accuracy_drop is not None:
        drop = round(report.accuracy_drop, 4) + 0.0  # no "-0.00"
        pairs.append(("drop", f"{drop:.2f} points, at most {report.max_drop:g} allowed"))
    if report.mcnemar_p is not None:
        float_only, int8_only = report.float_only_right, report.int8_only_right
        counts = f"images read right only in float {float_only:,}, only in int8 {int8_only:,}"
        pairs.append(("McNemar", f"p = {report.mcnemar_p:.3g}, exact and two-sided: {counts}"))
    if any(v.precision == "int8" and v.status != "not run" for v in report.variants) or report.changed:
        pairs.append(("changed", f"{len(report.changed):,} of {report.images:,} images changed class"))
    return pairs
