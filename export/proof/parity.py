"""The parity report: what was found when every artifact was held against the oracle. Plain data, see `verification`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Status = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class Variant:
    """One artifact in one runtime, and how it compared.

    Attributes:
        name: format and precision, such as "tflite int8", and the runtime if it is not the format's usual one:
            "tflite int8 (tflite-micro)".
        format: "torchscript", "onnx", "tflite" or "c".
        precision: "float" or "int8".
        runtime: the runtime that executed it with its version, such as "LiteRT 2.3.0, XNNPACK".
        file: the file's name in its folder.
        bytes: its size.
        sha256: of its content, hexadecimal.
        accuracy: share of the labels that it reads right, 0..1; None without labels of a real set.
        agreement: share of the images that get the oracle's class, 0..1; None if not run.
        logits_compared: how many.
        logits_differing: int8: how many differ from the oracle's; float: how many by more than the tolerance.
        max_abs_difference: int8: in integers; float: in logits; None if not run.
        status: "passed", "failed" or "not run".
        reason: why it failed or was not run, one line; if it passed, how it rounds unlike the others, or "".
        layer: the first layer that differs from the oracle, if one does.
        seconds: time that its process took, with start and load.
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
    """What quantization did to a layer's output over the golden images.

    Attributes:
        name: the layer.
        shape: channels, height, width of its output.
        scale: of its int8 output.
        zero_point: of its int8 output.
        snr_db: power of the float output over the power of (int8 - float), in decibels.
        bias_shift_before: root mean square shift of its channels' means by rounded weights, in output steps.
        bias_shift_after: the same after bias correction.
        clipped: share of the calibration values beyond the int8 range, 0..1.
    """

    name: str
    shape: tuple[int, int, int]
    scale: float
    zero_point: int
    snr_db: float
    bias_shift_before: float
    bias_shift_after: float
    clipped: float


@dataclass(frozen=True, eq=False)
class ChangedImage:
    """An image whose class differs between float and int8.

    Attributes:
        index: its place in the data set.
        pixels: uint8 (28, 28).
        label: the truth; None if it is not known.
        float_class: what the float network reads.
        int8_class: what the int8 network reads.
    """

    index: int
    pixels: NDArray[np.uint8]
    label: int | None
    float_class: int
    int8_class: int


@dataclass(frozen=True, eq=False)
class ParityReport:
    """The proof: every variant against the oracle, and float against int8.

    Attributes:
        dataset: "MNIST test", "strokes" (drawn digits, where MNIST is not to be had), or the source of other data.
        images: how many were compared, beside the golden images.
        golden: how many golden images were compared.
        variants: in the order of formats, float first.
        float_accuracy: of the oracle in float, 0..1; None on strokes.
        int8_accuracy: of the oracle in int8, 0..1; None on strokes or without an int8 graph.
        recorded_accuracy: the test accuracy that the checkpoint's training recorded, if any.
        float_only_right: images that float reads right and int8 wrong.
        int8_only_right: images that int8 reads right and float wrong.
        mcnemar_p: exact two-sided p-value of these two counts; None without an int8 graph or labels.
        max_drop: the largest accuracy drop allowed, in points.
        changed: images whose class changed.
        layers: signal and noise by layer, if there is an int8 graph.
        seconds: time that the whole proof took.
    """

    dataset: str
    images: int
    golden: int
    variants: tuple[Variant, ...]
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

    @property
    def accuracy_drop(self) -> float | None:
        """Float minus int8 accuracy, in points (percent); negative if int8 reads better."""
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
