"""Runs TorchScript artifacts in PyTorch."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.runtime.classifier import Classifier, is_x86
from edge_mnist.system.archives import check_archive
from edge_mnist.system.errors import check_package, explain_missing_packages


class TorchScriptClassifier(Classifier):
    """An artifact in PyTorch, whose int8 kernels are those of `choose_quantized_engine`."""

    def __init__(self, data: bytes, name: str, threads: int) -> None:
        super().__init__(data, name)
        with explain_missing_packages():
            import torch
        check_archive(data)
        engine = choose_quantized_engine()
        torch.backends.quantized.engine = engine
        torch.set_num_threads(threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated in the version of PyTorch that is pinned
            self._module = torch.jit.load(io.BytesIO(data), map_location="cpu")  # type: ignore[no-untyped-call]
        self.runtime = f"PyTorch {torch.__version__.split('+')[0]}"
        if self.contract.precision == "int8":
            self.runtime += f", {engine}"
        self._torch = torch

    @staticmethod
    def check_installed() -> None:
        """Check that PyTorch is installed."""
        check_package("torch")

    def _run(self, inputs: NDArray[Any]) -> NDArray[Any]:
        with self._torch.inference_mode():
            return self._to_array(self._module(self._torch.from_numpy(inputs)))

    def layer_outputs(self, inputs: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """Run the submodules one by one, as the archive connects them, and yield what each operation gives, in order.

        Args:
            inputs: as in `run`.
        """
        graph = self._module.graph
        values = dict(
            zip(
                (value.debugName() for value in graph.inputs()),
                (self._module, self._torch.from_numpy(inputs)),
                strict=True,
            )
        )
        names: dict[str, str] = {}
        outputs: dict[int, NDArray[Any]] = {}
        following = 0
        with self._torch.inference_mode():
            for node in graph.nodes():
                output = node.output().debugName()
                sources = [value.debugName() for value in node.inputs()]
                first, *others = (values[source] for source in sources)
                if node.kind() == "prim::GetAttr":
                    names[output] = node.s("name")
                    values[output] = getattr(first, names[output])
                    continue
                values[output] = first(*others)  # prim::CallMethod
                # An operation's submodule begins with "L" and its index, see `identifiers` of graphs; others convert.
                if index := re.match(r"L(\d+)", names[sources[0]]):
                    outputs[int(index[1])] = self._to_array(values[output])
                while following in outputs:
                    yield outputs.pop(following)
                    following += 1

    @staticmethod
    def _to_array(tensor: Any) -> NDArray[Any]:
        """Convert a tensor to an array; a quantized tensor to an array of its integers."""
        return np.asarray((tensor.int_repr() if tensor.is_quantized else tensor).numpy())


def choose_quantized_engine() -> str:
    """Choose the int8 kernels of PyTorch that are bit-exact: FBGEMM on x86, QNNPACK elsewhere.

    oneDNN, the other choice on x86, gives a value that differs by one at times.
    """
    return "fbgemm" if is_x86() else "qnnpack"
