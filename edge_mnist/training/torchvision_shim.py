"""Imports torchvision beside a build of torch without CUDA."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

from edge_mnist.system.errors import explain_missing_packages

_LIBRARIES: list[torch.library.Library] = []
"""Keeps the libraries alive, because torch removes the operators of a library that is garbage-collected."""

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
"""The operators, as torchvision/csrc/ops/nms.cpp and quantized/cpu/qnms_kernel.cpp declare them."""


def import_torchvision() -> ModuleType:
    """Import torchvision so that its models, datasets and transforms work with any build of torch.

    The wheel on PyPI has operators that were compiled for CUDA, which a torch without CUDA cannot load. Then `import
    torchvision` fails with "operator torchvision::nms does not exist", because it registers kernels for operators that
    do not exist. To declare these operators without any code is enough for the import; detection still does not work.

    Raises:
        EdgeMnistError: torchvision is not installed.
    """
    try:
        with explain_missing_packages():
            return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name, schema in _SCHEMAS.items():
        library.define(name + schema)  # type: ignore[no-untyped-call]
    _LIBRARIES.append(library)
    return importlib.import_module("torchvision")
