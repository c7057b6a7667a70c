"""The result of a verification as plain data: how each artifact compared with the oracle, and float with int8."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_mnist.measure.significance import wilson_interval

Status = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class VariantResult:
    """How one variant, that is one artifact in one runtime, compared with the oracle.

    Attributes:
        name: the format and the precision, such as "tflite int8". The runtime follows in parentheses if it is not the
            usual one of the format: "tflite int8 (tflite-micro)".
        format: the name of the format in `FORMATS`.
        precision: "float" or "int8".
        runtime: the runtime that executed it with its version, such as "LiteRT 2.3.0, XNNPACK".
        file: the name of the artifact's file in its folder.
        bytes: the size of the file.
        sha256: the SHA-256 of the file's content, as hexadecimal digits.
        accuracy: the share of the labels that it predicts, 0..1; None if there are no labels of real images.
        agreement: the share of the images for which it predicts the oracle's class, 0..1; a float variant may predict
            another class whose logit is within the tolerance of it. None if it was not run, or the outputs are not
            classes.
        logits_compared: the number of logits that were compared.
        logits_differing: int8: how many of them are not equal to the oracle's; float: how many are further from the
            oracle's than the tolerance, 1e-4, or 1e-4 of the largest magnitude of a logit if that is above 1.
        max_abs_difference: the largest distance from the oracle's logits; int8: in integer steps, float: in logits.
            None if it was not run.
        status: "passed", "failed" or "not run".
        reason: one line that says why it failed or was not run. If it passed, how its rounding differs from the usual
            one, or "".
        layer: the name of the first layer that differs from the oracle, if one does.
        seconds: the time that its process took, including starting the process and loading the artifact.
    """

    name: str
    format: str
    precision: str
    runtime: str
    file: str
    bytes: int
    sha256: str
    accuracy: float | None
    agreement: float | None
    logits_compared: int
    logits_differing: int
    max_abs_difference: float | None
    status: Status
    reason: str = ""
    layer: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class LayerSignal:
    """What quantization did to the output of a layer, measured over the first 64 of the compared inputs.

    Attributes:
        name: the name of the layer.
        shape: channels, height and width of its output; the latter are 1 for a vector.
        scale: the scale of its int8 output.
        zero_point: the zero point of its int8 output, -128..127.
        snr_db: the power of the float output over the power of (int8 output - float output), in decibels.
        bias_shift_before: the root mean square, over the channels, of the shift of the mean that rounding the weights
            causes, in steps of the output's scale; None if the layer has no weights.
        bias_shift_after: the same after bias correction.
        clipped: the share of the calibration values that are outside the int8 range, 0..1.
    """

    name: str
    shape: tuple[int, int, int]
    scale: float
    zero_point: int
    snr_db: float
    bias_shift_before: float | None
    bias_shift_after: float | None
    clipped: float


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """The int8 weights of a layer.

    Attributes:
        name: the name of the layer.
        integers: int8 (number of weights,), the weights of all its channels.
    """

    name: str
    integers: NDArray[np.int8]


@dataclass(frozen=True)
class WeightRounding:
    """A few weights of one output channel of a layer, and the integers that they became.

    Attributes:
        layer: the name of the layer.
        channel: the index of the output channel.
        scale: the real number that one integer step of this channel stands for.
        first: the first of the integers that are looked at.
        last: the last of them.
        pairs: each weight in steps, that is divided by `scale`, with its integer, in the order of the weights.
    """

    layer: str
    channel: int
    scale: float
    first: int
    last: int
    pairs: tuple[tuple[float, int], ...]


@dataclass(frozen=True, eq=False)
class ChangedImage:
    """An input for which float and int8 predict different classes.

    Attributes:
        index: its index in the data set.
        pixels: uint8 (height, width), or (height, width, 3) of an RGB image; None if it is no image.
        label: the true class; None if it is not known.
        float_class: the class that the float network predicts.
        int8_class: the class that the int8 network predicts.
    """

    index: int
    pixels: NDArray[np.uint8] | None
    label: int | None
    float_class: int
    int8_class: int


@dataclass(frozen=True, eq=False)
class ParityReport:
    """How every variant compared with the oracle, and int8 with float.

    Attributes:
        dataset: "MNIST test", "strokes" (drawn digits, used where MNIST is not available), or the source of other
            images.
        images: the number of images that were compared, without the golden images.
        golden: the number of golden images that were compared.
        variants: the results in the order of the formats, float first.
        float_accuracy: the accuracy of the float oracle, 0..1; None for drawn digits.
        int8_accuracy: the accuracy of the int8 oracle, 0..1; None for drawn digits or without an int8 graph.
        recorded_accuracy: the test accuracy that training recorded in the checkpoint, 0..1; None if it recorded none.
        float_only_right: the number of images that only float predicts correctly.
        int8_only_right: the number of images that only int8 predicts correctly.
        mcnemar_p: the exact two-sided p-value of these two counts; None without an int8 graph or without labels.
        max_drop: the largest accuracy drop that is allowed, in percentage points.
        changed: the images for which float and int8 predict different classes.
        layers: what quantization did to each layer that computes new values; empty without an int8 graph.
        seconds: the time that the whole verification took.
        page: the file that the report was written into as a page; None if it was not written.
        is_pixels: whether the inputs are images of pixels.
        has_classes: whether the outputs are classes; otherwise there is no accuracy, and no image changes class.
        output_snr_db: if the outputs are not classes, the power of the float outputs over that of the int8 outputs'
            error, in decibels, over the inputs without the golden ones. None if they are classes, or without an int8
            graph.
        weights: the int8 weights of each layer that has some. They are not part of the JSON.
        rounding: an example of how weights were rounded, None if there is none. It is not part of the JSON.
    """

    dataset: str
    images: int
    golden: int
    variants: tuple[VariantResult, ...]
    float_accuracy: float | None
    int8_accuracy: float | None
    recorded_accuracy: float | None
    float_only_right: int
    int8_only_right: int
    mcnemar_p: float | None
    max_drop: float
    changed: tuple[ChangedImage, ...]
    layers: tuple[LayerSignal, ...]
    seconds: float
    page: Path | None = None
    is_pixels: bool = True
    has_classes: bool = True
    output_snr_db: float | None = None
    weights: tuple[LayerWeights, ...] = ()
    rounding: WeightRounding | None = None

    @property
    def accuracy_drop(self) -> float | None:
        """Float accuracy minus int8 accuracy, in percentage points; negative if int8 is more accurate."""
        if self.float_accuracy is None or self.int8_accuracy is None:
            return None
        # Rounded, so that a drop of exactly the limit is not above it by a rounding error.
        return round(100 * (self.float_accuracy - self.int8_accuracy), 9)

    @property
    def passed(self) -> bool:
        """Whether no variant failed, at least one was run, and the accuracy drop is within its limit."""
        states = [variant.status for variant in self.variants]
        drop = self.accuracy_drop
        return "failed" not in states and "passed" in states and (drop is None or drop <= self.max_drop)

    def to_json(self) -> str:
        """The report as indented JSON, which is the content of parity.json.

        Shares are 0..1, an interval is [low, high] at 95 % confidence, and the accuracy drop is in percentage points.
        A value that is unknown, infinite or not a number is null.
        """
        content = {
            "dataset": self.dataset,
            "images": self.images,
            "passed": self.passed,
            "variants": [self._to_fields(variant) for variant in self.variants],
            "mcnemar_p": self.mcnemar_p,
            "accuracy_drop": self.accuracy_drop,
            "max_drop": self.max_drop,
            "golden": self.golden,
            "float_accuracy": self.float_accuracy,
            "float_interval": self._compute_interval(self.float_accuracy),
            "int8_accuracy": self.int8_accuracy,
            "int8_interval": self._compute_interval(self.int8_accuracy),
            "recorded_accuracy": self.recorded_accuracy,
            "float_only_right": self.float_only_right,
            "int8_only_right": self.int8_only_right,
            "changed_images": [image.index for image in self.changed],
            "layers": [vars(layer) for layer in self.layers],
            "seconds": self.seconds,
        } | ({} if self.has_classes else {"output_snr_db": self.output_snr_db})
        return json.dumps(_replace_non_finite(content), indent=2, allow_nan=False)

    def _to_fields(self, variant: VariantResult) -> dict[str, Any]:
        """The entry of a variant in the JSON."""
        fields = dict(vars(variant))
        last = {name: fields.pop(name) for name in ("reason", "layer", "seconds")}
        return {**fields, "accuracy_interval": self._compute_interval(variant.accuracy), **last}

    def _compute_interval(self, share: float | None) -> tuple[float, float] | None:
        """The 95 % Wilson interval of a share of the images."""
        return None if share is None else wilson_interval(round(share * self.images), self.images)


def _replace_non_finite(value: Any) -> Any:
    """The value with None for every number that JSON cannot express."""
    if isinstance(value, dict):
        return {name: _replace_non_finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace_non_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
