"""Two networks of the MLPerf Tiny benchmark as PyTorch modules: ResNet-8, and MobileNetV1 with a quarter of the width.

The weights and the pictures are not part of the project. They lie in a folder mlperf_tiny in ../shared of the checkout,
or where the environment variable EDGE_MNIST_NETWORKS says: resnet8.safetensors, mobilenet_vww.safetensors and
cifar10_sample.npz. The networks are those of Banbury et al., "MLPerf Tiny Benchmark", 2021, which were trained with
TensorFlow: its padding "same" adds one zero below and to the right only, where a convolution has stride 2 and the size
is even, as all sizes here are.
"""

# mypy: disable-error-code="operator, arg-type"
# PyTorch types a layer that `add_module` adds as "Tensor | Module".
from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import safetensors.torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from edge_mnist.system.errors import EdgeMnistError

FOLDER = Path(os.environ.get("EDGE_MNIST_NETWORKS") or Path(__file__).parents[2] / "shared" / "mlperf_tiny")
"""The folder of the weights and the pictures."""

BATCH_NORM_EPSILON = 1e-3
"""What Keras adds to a variance."""

WIDTHS = (8, 16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256)
"""The channels after the first convolution of MobileNetV1, and after each of its pointwise convolutions."""

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
"""The strides of the depthwise convolutions of MobileNetV1."""


def convolve(convolution: nn.Module, maps: Tensor) -> Tensor:
    """Convolve maps (N, channels, height, width) of an even height and width with TensorFlow's padding "same"."""
    if convolution.kernel_size == (3, 3):
        maps = functional.pad(maps, (0, 1, 0, 1) if convolution.stride == (2, 2) else (1, 1, 1, 1))
    result: Tensor = convolution(maps)
    return result


class ResNet8(nn.Module):
    """ResNet-8 for CIFAR-10: float32 pixels 0..255 (N, 3, 32, 32) to logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = ((3, 16, 1), (16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1))
        names = ("conv0", "conv1", "conv2", "conv3", "conv4", "conv6", "conv7")
        for index, (name, (before, after, stride)) in enumerate(zip(names, convolutions, strict=True)):
            self.add_module(name, nn.Conv2d(before, after, 3, stride))
            self.add_module(f"bn{index}", nn.BatchNorm2d(after, BATCH_NORM_EPSILON))
        self.conv5 = nn.Conv2d(16, 32, 1, 2)
        self.conv8 = nn.Conv2d(32, 64, 1, 2)
        self.dense = nn.Linear(64, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """The logits (N, 10) of pixels (N, 3, 32, 32)."""
        maps = functional.relu(self.bn0(convolve(self.conv0, pixels)))  # (N, 16, 32, 32)
        branch = functional.relu(self.bn1(convolve(self.conv1, maps)))
        maps = functional.relu(maps + self.bn2(convolve(self.conv2, branch)))
        branch = functional.relu(self.bn3(convolve(self.conv3, maps)))  # (N, 32, 16, 16)
        maps = functional.relu(self.conv5(maps) + self.bn4(convolve(self.conv4, branch)))
        branch = functional.relu(self.bn5(convolve(self.conv6, maps)))  # (N, 64, 8, 8)
        maps = functional.relu(self.conv8(maps) + self.bn6(convolve(self.conv7, branch)))
        vectors = functional.avg_pool2d(maps, 8).flatten(1)  # (N, 64)
        logits: Tensor = self.dense(vectors)
        return logits


class MobileNetV1(nn.Module):
    """MobileNetV1 0.25 that sees whether there is a person: float32 pixels / 255 (N, 3, 96, 96) to logits (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, WIDTHS[0], 3, 2)
        self.bn0 = nn.BatchNorm2d(WIDTHS[0], BATCH_NORM_EPSILON)
        for k, (before, after, stride) in enumerate(zip(WIDTHS, WIDTHS[1:], STRIDES, strict=False), 1):
            self.add_module(f"depthwise{k}", nn.Conv2d(before, before, 3, stride, groups=before))
            self.add_module(f"bn{2 * k - 1}", nn.BatchNorm2d(before, BATCH_NORM_EPSILON))
            self.add_module(f"pointwise{k}", nn.Conv2d(before, after, 1))
            self.add_module(f"bn{2 * k}", nn.BatchNorm2d(after, BATCH_NORM_EPSILON))
        self.dense = nn.Linear(WIDTHS[-1], 2)

    def forward(self, images: Tensor) -> Tensor:
        """The logits (N, 2) of images (N, 3, 96, 96)."""
        maps = functional.relu(self.bn0(convolve(self.conv0, images)))
        for k in range(1, len(WIDTHS)):
            maps = convolve(self.get_submodule(f"depthwise{k}"), maps)
            maps = functional.relu(self.get_submodule(f"bn{2 * k - 1}")(maps))
            maps = functional.relu(self.get_submodule(f"bn{2 * k}")(self.get_submodule(f"pointwise{k}")(maps)))
        logits: Tensor = self.dense(functional.adaptive_avg_pool2d(maps, 1).flatten(1))
        return logits


def load(module: nn.Module, name: str) -> nn.Module:
    """Give a module the weights of a file in `FOLDER`, and set it to inference.

    Raises:
        EdgeMnistError: the file is not there.
    """
    path = FOLDER / name
    if not path.is_file():
        raise EdgeMnistError(f"{path}: is not there; {__name__} says what belongs there")
    state = safetensors.torch.load_file(path)
    module.load_state_dict({key: state.get(key, value) for key, value in module.state_dict().items()})
    return module.eval()


def load_images() -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    """Load the images of CIFAR-10.

    Returns:
        Images to calibrate with and images to test on, uint8 (N, 32, 32, 3), and the labels of the latter, int64 (N,).

    Raises:
        EdgeMnistError: the file is not there.
    """
    path = FOLDER / "cifar10_sample.npz"
    if not path.is_file():
        raise EdgeMnistError(f"{path}: is not there; {__name__} says what belongs there")
    with np.load(path) as arrays:
        return arrays["calibration"], arrays["images"], arrays["labels"].astype(np.int64)


def resize(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Enlarge images uint8 (N, height, width, 3), smoothly, to (N, 3, side, side)."""
    resized = [Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR) for image in images]
    return np.ascontiguousarray(np.stack([np.asarray(image) for image in resized]).transpose(0, 3, 1, 2))
