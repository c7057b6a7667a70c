"""torchvision beside a torch without CUDA."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

from edge_mnist.system.errors import missing_package

# kept for as long as the process lives: torch forgets the operators of a library that is collected
_LIBRARIES: list[torch.library.Library] = []

# as torchvision/csrc/ops/nms.cpp and quantized/cpu/qnms_kernel.cpp declare them
_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def import_torchvision() -> ModuleType:
    """The torchvision package, its datasets and transforms usable with any build of torch.

    The wheel on PyPI has operators compiled for CUDA, which a CPU-only torch cannot load; `import torchvision` then
    fails with "operator torchvision::nms does not exist", because it describes operators that are not there. Declaring
    them, without code, lets the import pass. Detection operators still do not work.

    Raises:
        EdgeMnistError: torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise missing_package("torchvision", "train") from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name, schema in _SCHEMAS.items():
        library.define(name + schema)  # type: ignore[no-untyped-call]
    _LIBRARIES.append(library)
    return importlib.import_module("torchvision")
