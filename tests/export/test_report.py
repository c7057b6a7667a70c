from __future__ import annotations

import base64
import io
import json
import math
import struct
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from edge_mnist.bundle.reference import Reference
from edge_mnist.data import strokes
from edge_mnist.export.proof.parity import (
    ChangedImage,
    LayerSignal,
    LayerWeights,
    ParityReport,
    VariantResult,
    WeightRounding,
)
from edge_mnist.export.proof.verification import _choose_rounding, _list_weights, choose_max_drop
from edge_mnist.export.report import drawings, terminal
from edge_mnist.export.report.page import render_html
from edge_mnist.export.report.wording import describe_scope, describe_verdict, format_percent, format_scale
from edge_mnist.graph.arithmetic import Quantization
from edge_mnist.graph.geometry import Window
from edge_mnist.graph.operations import UNBOUNDED, Conv2d, FloatGraph, QuantizedConv2d, QuantizedGraph
from edge_mnist.measure.significance import mcnemar_exact

RUNTIMES = {"torchscript": "PyTorch 2.13.0, fbgemm", "onnx": "ONNX Runtime 1.23.0", "tflite": "LiteRT 2.3.0, XNNPACK"}
ENDINGS = {"torchscript": ".pt", "onnx": ".onnx", "tflite": ".tflite"}
SIZES = {"torchscript": (121_344, 66_170), "onnx": (78_411, 23_870), "tflite": (76_904, 23_640)}
HOSTILE = "<script>alert('x')</script> & [bold]\"no\"[/bold] $word"
MANIFEST: dict[str, Any] = {
    "edge_mnist": "0.1.0",
    "created": None,
    "contract": {
        "input": {"shape": [1, 28, 28], "type": "uint8 pixels, 0 is black", "layout": "NCHW"},
        "output": {"type": "uint8", "scale": 0.0625, "zero_point": 128},
    },
    "calibration": {"calibration": "mse", "weight_range": 64, "weight_scales": {"conv1": [2**-7 / 3] * 14}},
    "versions": {"torch": "2.13.0", "numpy": "2.3.1", "ai-edge-litert": "2.3.0"},
    "golden": {"images": 64, "seed": 7, "sha256": "9f" * 32, "corrected": True},
    "files": [{"name": "model.onnx", "bytes": 78_411}],
}


def variant(form: str, precision: str) -> VariantResult:
    exact = precision == "int8"
    return VariantResult(
        name=f"{form} {precision}",
        format=form,
        precision=precision,
        runtime=RUNTIMES[form],
        file=f"digitnet-{precision}{ENDINGS[form]}",
        bytes=SIZES[form][exact],
        sha256=f"{form}{precision}".encode().hex().ljust(64, "7"),
        accuracy=0.9951 if exact else 0.9952,
        agreement=1.0,
        logits_compared=100_640,
        logits_differing=0,
        max_abs_difference=0.0 if exact else 2.6e-6,
        status="passed",
        seconds=3.25,
    )


def sample() -> ParityReport:
    """A report as a good network gets it on MNIST's test images, four of which changed class."""
    drawn = strokes.draw(4, seed=5)
    readings = [(0, 1), (1, 0), (2, 1), (0, 7)]  # what float and int8 predict, minus the label
    names = ["conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "conv7", "linear"]
    sides = [26, 24, 22, 9, 7, 3, 1, 1]
    channels = [14, 14, 16, 18, 20, 22, 22, 10]
    decibels = [38.4, 33.1, 31.7, 30.9, 29.2, 27.5, 28.8, 33.6]
    return ParityReport(
        dataset="MNIST test",
        images=10_000,
        golden=64,
        variants=tuple(variant(form, precision) for form in RUNTIMES for precision in ("float", "int8")),
        float_accuracy=0.9952,
        int8_accuracy=0.9951,
        recorded_accuracy=0.9952,
        float_only_right=2,
        int8_only_right=1,
        mcnemar_p=mcnemar_exact(2, 1),
        max_drop=0.1,
        changed=tuple(
            ChangedImage(1000 * (n + 1), drawn.images[n], int(label), int(label + a) % 10, int(label + b) % 10)
            for n, ((a, b), label) in enumerate(zip(readings, drawn.labels, strict=True))
        ),
        layers=tuple(
            LayerSignal(name, (c, side, side), 2.0**-exponent, -128 if name != "linear" else 0, db, 0.21, 0.004, 0.0003)
            for exponent, (name, c, side, db) in enumerate(zip(names, channels, sides, decibels, strict=True))
        ),
        seconds=21.4,
    )


def with_variant(index: int, **changes: Any) -> ParityReport:
    """The sample with one variant changed."""
    report = sample()
    variants = list(report.variants)
    variants[index] = replace(variants[index], **changes)
    return replace(report, variants=tuple(variants))


def failed(reason: str = "12 of 100,640 logits differ") -> ParityReport:
    return with_variant(
        3,
        status="failed",
        reason=reason,
        layer="conv3",
        logits_differing=12,
        max_abs_difference=24.0,
        agreement=0.99996,
    )


def not_run() -> ParityReport:
    return with_variant(
        1,
        status="not run",
        reason="torch is not installed: pip install 'edge-mnist[train]'",
        accuracy=None,
        agreement=None,
        logits_compared=0,
        max_abs_difference=None,
    )


def on_strokes() -> ParityReport:
    report = sample()
    return replace(
        report,
        dataset="strokes",
        variants=tuple(replace(v, accuracy=None) for v in report.variants),
        float_accuracy=None,
        int8_accuracy=None,
        recorded_accuracy=0.9964,
        mcnemar_p=None,
    )


def float_only() -> ParityReport:
    report = replace(on_strokes(), layers=(), changed=())
    return replace(report, variants=tuple(v for v in report.variants if v.precision == "float"))


def in_two_runtimes() -> ParityReport:
    report = sample()
    other = replace(
        report.variants[-1],
        name="tflite int8 (tflite-micro)",
        runtime="TensorFlow Lite Micro 0.dev20261023182759",
        reason="requantizes in fixed point, as the oracle's mode 'fixed-point, reference kernels'",
    )
    return replace(report, variants=(*report.variants, other))


def of_a_deep_network() -> ParityReport:
    """Sixty layers with long names, some of them without weights, and scales that are no powers of two."""
    names = [f"features.stage{n // 9}.blocks.{n % 9}.{part}" for n in range(20) for part in ("conv", "act", "add")]
    layers = []
    for index, name in enumerate(names):
        shift = (0.21, 0.004) if name.endswith("conv") else (None, None)
        layers.append(LayerSignal(name, (256, 56, 56), 4097 * 2.0 ** -(index % 9), -12, 31.4, *shift, 0.0003))
    return replace(sample(), layers=tuple(layers))


def of_colour_pictures() -> ParityReport:
    """Images of three channels, one of them large, without labels."""
    pixels = np.random.default_rng(2).integers(0, 256, (300, 500, 3), np.uint8)
    changed = (ChangedImage(3, pixels[:32, :32], None, 1, 2), ChangedImage(5, pixels, None, 1, 0))
    return replace(on_strokes(), dataset="photos", changed=changed, recorded_accuracy=None)


def of_features() -> ParityReport:
    changed = tuple(replace(image, pixels=None) for image in sample().changed)
    return replace(sample(), dataset="readings.npz", is_pixels=False, changed=changed)


def of_an_autoencoder() -> ParityReport:
    report = on_strokes()
    variants = tuple(replace(v, agreement=None) for v in report.variants)
    return replace(
        report,
        dataset="readings",
        is_pixels=False,
        changed=(),
        has_classes=False,
        output_snr_db=31.44,
        variants=variants,
    )


REPORTS = [
    *(sample, failed, not_run, on_strokes, float_only, in_two_runtimes),
    *(of_a_deep_network, of_colour_pictures, of_features, of_an_autoencoder),
]


def printed(report: ParityReport, width: int = 80, encoding: str = "utf-8") -> str:
    """The tables as they are printed to a file with this encoding."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    console = Console(file=stream, width=width, color_system=None)
    terminal.print_report(report, console)
    terminal.print_layers(report, console)
    stream.seek(0)
    return stream.read()


def words(text: str) -> str:
    return " ".join(text.split())


class Page(HTMLParser):
    """Parses a page, whose elements must be closed in order, and collects its tags and texts."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = words(" ".join(self.texts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def having(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_json_has_the_promised_keys_first() -> None:
    content = json.loads(sample().to_json())
    promised = ["dataset", "images", "passed", "variants", "mcnemar_p", "accuracy_drop"]
    assert list(content)[: len(promised)] == promised
    promised = ["name", "format", "precision", "runtime", "file", "bytes", "sha256", "accuracy", "agreement"]
    promised += ["logits_compared", "logits_differing", "max_abs_difference", "status"]
    assert all(list(fields)[: len(promised)] == promised for fields in content["variants"])
    assert content["passed"] is True and content["mcnemar_p"] == 1.0
    assert content["accuracy_drop"] == pytest.approx(0.01)
    assert content["changed_images"] == [1000, 2000, 3000, 4000]
    low, high = content["float_interval"]
    assert low < content["float_accuracy"] < high
    assert [layer["snr_db"] for layer in content["layers"]] == [layer.snr_db for layer in sample().layers]


def test_json_contains_neither_infinity_nor_nan() -> None:
    layer = replace(sample().layers[0], snr_db=math.inf, clipped=math.nan)
    report = replace(with_variant(2, max_abs_difference=math.nan, status="failed", reason="NaN"), layers=(layer,))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    content = json.loads(report.to_json(), parse_constant=refuse)
    assert content["variants"][2]["max_abs_difference"] is None
    assert content["layers"][0]["snr_db"] is content["layers"][0]["clipped"] is None
    assert "exact" in Page(render_html(report, {})).text
    assert "nan" in printed(report)
    assert json.loads(on_strokes().to_json())["float_interval"] is None


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("make", REPORTS)
def test_no_value_of_the_table_is_cut_off_at_any_width(make: Any, width: int) -> None:
    report = make()
    text = printed(report, width)
    assert "\x1b" not in text and "…" not in text
    assert printed(report, width, "ascii").isascii()
    assert max(map(len, text.splitlines())) <= width
    for shown in report.variants:
        assert shown.name in text and f"{shown.bytes:,}" in text
        assert all(word in text for word in shown.runtime.split())
        assert shown.accuracy is None or "99.36-99.64" in text
    for layer in report.layers:
        assert f"{layer.snr_db:.1f} dB" in text


def test_the_table_states_the_result() -> None:
    text = words(printed(sample(), 120))
    assert "Against the oracle: 10,000 images of MNIST test and 64 golden images" in text
    assert "float 99.52 % (95 % interval 99.36 to 99.64)" in text
    assert "drop 0.01 points, at most 0.1 allowed" in text
    assert "p = 1, exact and two-sided: images read right only in float 2, only in int8 1" in text
    assert "4 of 10,000 images changed class" in text
    assert "PASSED: the same integers in every format: 0 of 301,920 logits differ" in text
    text = words(printed(failed(), 120))
    assert "onnx int8 FAILED: 12 of 100,640 logits differ; first differing layer: conv3" in text
    assert "FAILED: onnx int8: 12 of" in text and "PASSED" not in text
    assert "100.00 %" in text and "99.996 %" in text
    text = words(printed(not_run(), 120))
    assert "torchscript int8 not run: torch is not installed: pip install 'edge-mnist[train]'" in text
    assert "PASSED: the same integers in ONNX and TFLite: 0 of 201,280 logits differ; not run: torchscript int8" in text
    text = words(printed(on_strokes(), 120))
    assert "99.64 % on its test set, as recorded when the checkpoint was trained; not measured here" in text
    assert "10,000 digits drawn from strokes" in text and "interval" not in text and "McNemar" not in text
    text = words(printed(in_two_runtimes(), 120))
    assert "PASSED: the same integers in every format: 0 of 301,920 logits differ; tflite int8 (tflite-micro) " in text
    assert "rounds differently, and equals the oracle in that rounding: 0 of 100,640 logits differ" in text
    text = words(printed(float_only(), 120))
    assert "PASSED: the same float logits in every format, within 2.6e-06 of the oracle's, 301,920 compared" in text
    assert "changed class" not in text


def test_inputs_that_are_not_pixels_are_no_images() -> None:
    report = of_features()
    text = words(printed(report, 120))
    assert "10,000 inputs of readings.npz and 64 golden inputs" in text and "4 of 10,000 inputs changed class" in text
    assert "image" not in text
    page = Page(render_html(report, {}))
    assert "Inputs that changed class" in page.text and "input 1,000" in page.text and page.having("img") == []


def test_outputs_that_are_not_classes_have_no_accuracy() -> None:
    report = of_an_autoencoder()
    text = words(printed(report, 120))
    assert "int8 signal to noise 31.4 dB, over all outputs; they are not classes" in text
    assert "changed class" not in text and "accuracy is recorded" not in text
    assert "0 of 301,920 logits differ" in text
    assert "The outputs are not classes." in Page(render_html(report, {})).text
    assert json.loads(report.to_json())["output_snr_db"] == 31.44
    assert "output_snr_db" not in json.loads(sample().to_json())


def test_scales_are_shown_exactly_and_layers_without_weights_have_no_bias_shift() -> None:
    text = words(printed(of_a_deep_network(), 140))
    assert "features.stage2.blocks.1.conv 256x56x56 4097*2^-3 -12 31.4 dB 0.210 -> 0.004 0.03 %" in text
    assert "features.stage2.blocks.1.add 256x56x56 4097*2^-5 -12 31.4 dB - 0.03 %" in text
    assert "4097 · 2<sup>−3</sup>" in render_html(of_a_deep_network(), {})
    assert [format_scale(value) for value in (0.0625, 6 / 256, 1.0, 3.0, 96.0)] == [
        "2^-4",
        "3*2^-7",
        "2^0",
        "3*2^0",
        "3*2^5",
    ]


def test_large_pictures_are_shown_in_part_and_in_colour() -> None:
    page = render_html(of_colour_pictures(), {})
    small, large = Page(page).having("img")
    assert (small["width"], small["height"]) == ("96", "96")
    assert (large["width"], large["height"]) == ("100", "60")
    assert len(page) < 60_000


def test_the_reason_of_a_failure_is_stated() -> None:
    worse = replace(sample(), int8_accuracy=0.99)
    assert "FAILED: int8 loses 0.52 points of accuracy, at most 0.1 allowed" in words(printed(worse))
    nothing = replace(sample(), variants=tuple(replace(v, status="not run") for v in sample().variants))
    assert "FAILED: no variant was run" in words(printed(nothing))
    missing = tuple(replace(v, status="not run", reason="Wasmtime is not installed") for v in sample().variants)
    assert "FAILED: no variant was run: Wasmtime is not installed" in words(
        printed(replace(sample(), variants=missing))
    )


def test_the_allowed_drop_knows_how_few_images_there_are() -> None:
    usual = sample()

    def passes(images: int, lost: int) -> bool:
        right = (images - 1, images - 1 - lost)
        shares = [count / images for count in right]
        report = replace(usual, images=images, float_accuracy=shares[0], int8_accuracy=shares[1])
        return replace(report, max_drop=choose_max_drop(images)).passed

    for images in range(6, 4000):
        assert passes(images, 4) and not passes(images, 5), images
    for images in (4000, 10_000, 60_000):
        assert choose_max_drop(images) == 0.1
        assert passes(images, images // 1000) and not passes(images, images // 1000 + 1), images
    assert choose_max_drop(1) == 100


def test_texts_from_outside_are_shown_unchanged() -> None:
    report = failed(HOSTILE)
    assert HOSTILE in words(printed(report, 200))
    page = Page(render_html(report, {HOSTILE: {HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]}}))
    assert page.having("script") == []
    assert page.text.count(HOSTILE) >= 4
    assert "[bold]" in printed(report, 120, "ascii")


@pytest.mark.parametrize("make", REPORTS)
def test_the_page_loads_nothing_and_states_the_same_as_the_terminal(make: Any) -> None:
    report = make()
    html = render_html(report, MANIFEST)
    page = Page(html)
    for _, attributes in page.tags:
        assert not {"href", "srcset", "data", "action", "poster"} & attributes.keys()
        assert (attributes.get("src") or "data:image/png").startswith("data:image/png")
    assert "url(" not in html and "@import" not in html and "http://" not in html and "https://" not in html
    assert page.having("script") == page.having("link") == []
    assert page.having("html") == [{"lang": "en"}] and len(page.having("h1")) == 1
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.having("th"))
    assert len(page.having("caption")) == len(page.having("table"))
    identities = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    assert {a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a} <= set(identities)
    assert [attributes["alt"] for attributes in page.having("img")] == [
        f"Image {i.index}, labelled {'unknown' if i.label is None else i.label}: float reads {i.float_class}, "
        f"int8 reads {i.int8_class}"
        for i in report.changed
        if i.pixels is not None
    ]
    assert f"{'✓ PASSED' if report.passed else '✗ FAILED'} {describe_verdict(report)} Compared" in page.text
    assert describe_verdict(report) in words(printed(report))
    for shown in report.variants:
        assert shown.name in page.text and shown.sha256 in page.text and shown.file in page.text
        assert shown.reason in page.text
    assert "edge-mnist verify DIR" in page.text and f"This report compared {describe_scope(report)}." in page.text
    for text in ("weight_range 64", "14 values", "9f" * 32, "uint8 pixels, 0 is black", "corrected yes"):
        assert text in page.text


def test_the_weights_are_drawn_as_integers() -> None:
    weights = np.array([-64, -64, -1, 0, 0, 0, 1, 63], np.int8)
    rounding = WeightRounding("conv<1>", 2, 0.5, -3, 3, ((-2.25, -2), (0.75, 1)))
    report = replace(sample(), weights=(LayerWeights("conv<1>", weights),) * 30, rounding=rounding)
    html = render_html(report, {})
    page = Page(html)
    assert "8 weights, 5 different" in page.text and "6 more layers are not shown" in page.text
    # 33 bars of four values each: -64 is in the first, -1, 0 and 1 are in the middle, 63 is in the last.
    heights = [float(a["height"]) for a in page.having("rect") if a.get("class") == "full" and "y" in a][:33]
    assert [(place, round(height)) for place, height in enumerate(heights) if height] == [(0, 24), (16, 60), (32, 12)]
    # On a line of seven steps -2.25 is 1.25 steps to the right of the middle of the first one.
    dots = {a["class"]: a["cx"] for a in page.having("circle") if a.get("cy") in ("18", "70")}
    assert dots == {"dot": f"{100 * 4.25 / 7:.2f}%", "stop": f"{100 * 4.5 / 7:.2f}%"}
    assert f'cx="{100 * 1.25 / 7:.2f}%" cy="18"' in html
    assert "The weight −1.12500 is −2.25 steps; −2 is stored, and the network computes with −1.00000" in page.text
    assert "by at most 0.25 steps" in page.text
    assert "The weights as integers" not in render_html(sample(), {})


def test_the_example_of_rounding_is_of_the_network(reference: Reference) -> None:
    rounding = _choose_rounding(reference)
    assert rounding is not None and 4 <= len(rounding.pairs) <= 16
    assert reference.quantized_graph is not None
    layers = {layer.name: layer.integers for layer in _list_weights(reference.quantized_graph)}
    assert set(layers) == {layer.name for layer in reference.layers}
    real = next(o for o in reference.float_graph.operations if o.name == rounding.layer)
    for steps, integer in rounding.pairs:
        assert abs(steps - integer) <= 0.5 and rounding.first <= integer <= rounding.last
        assert integer in layers[rounding.layer]
        assert np.isclose(real.weight[0], steps * rounding.scale).any()  # type: ignore[attr-defined]
    assert _choose_rounding(replace(reference, quantized_graph=None)) is None


def test_of_many_changed_images_only_some_are_shown() -> None:
    report = replace(sample(), changed=sample().changed * 375)
    page = Page(render_html(report, {}))
    assert len(page.having("img")) == 120
    assert "1,380 more are not pictured" in page.text
    assert "1,500 of 10,000 images changed class" in page.text


@pytest.mark.parametrize(("shape", "kind"), [((5, 7), 0), ((5, 7, 3), 2)])
def test_a_png_holds_the_pixels(shape: tuple[int, ...], kind: int) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    start, _, text = drawings.encode_png_uri(pixels).partition(",")
    content = base64.b64decode(text)
    assert start == "data:image/png;base64" and content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        name, data = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        assert struct.unpack_from(">I", content, place + 8 + length) == (zlib.crc32(name + data),)
        chunks[name] = data
        place += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (7, 5, 8, kind, 0, 0, 0)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(5, -1)
    assert not rows[:, 0].any() and np.array_equal(rows[:, 1:], pixels.reshape(5, -1))


@pytest.mark.parametrize(("low", "high"), [(99.36, 99.64), (0.0, 100.0), (5.0, 5.0), (98.8, 99.9)])
def test_an_axis_contains_its_range_and_has_round_steps(low: float, high: float) -> None:
    start, end, ticks = drawings.choose_axis(low, high)
    assert start < low <= high < end
    assert 3 <= len(ticks) <= 8 and all(start <= tick <= end for tick in ticks)
    step = ticks[1] - ticks[0]
    assert f"{step:e}"[0] in "125" and np.allclose(np.diff(ticks), step)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.9952, "99.52 %"), (1.0, "100.00 %"), (0.0, "0.00 %"), (69_999 / 70_000, "99.999 %"), (3e-5, "0.003 %")],
)
def test_percent_is_never_rounded_to_0_or_100(share: float, text: str) -> None:
    assert format_percent(share) == text


def test_the_example_of_rounding_shows_weights_even_if_they_take_few_values() -> None:
    signs = np.where(np.arange(36) % 2, 1, -1).reshape(1, 4, 3, 3)
    zero, window = np.zeros(1, np.float32), Window((3, 3))
    real = Conv2d("conv", signs.astype(np.float32), zero, window)
    scale = np.float32([1 / 64])
    int8 = QuantizedConv2d(
        "conv", (64 * signs).astype(np.int8), scale, zero.astype(np.int32), window, 1, UNBOUNDED, Quantization(1.0, 0)
    )
    graphs = SimpleNamespace(
        float_graph=FloatGraph((4, 6, 6), 0, (real,)), quantized_graph=QuantizedGraph((4, 6, 6), 0, (int8,))
    )
    found = _choose_rounding(graphs)  # type: ignore[arg-type]
    assert found is not None and len(found.pairs) == 18
