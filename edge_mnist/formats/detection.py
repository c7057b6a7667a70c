"""Tells artifacts apart by content, and reads the contract inside, without running anything."""

from __future__ import annotations

from typing import Literal

from edge_mnist.formats import c_reader, onnx_reader, tflite_reader, torchscript_reader
from edge_mnist.formats.contract import KEY, Contract
from edge_mnist.system.errors import EdgeMnistError

Format = Literal["torchscript", "onnx", "tflite", "c"]

EXPECTED = "a TorchScript, ONNX or TFLite artifact, or a model.c"

_READERS = {
    "torchscript": torchscript_reader.metadata,
    "onnx": onnx_reader.metadata,
    "tflite": tflite_reader.metadata,
    "c": c_reader.metadata,
}


def format_of(data: bytes) -> Format | None:
    """The format of an artifact by its first bytes; None if it is none."""
    if data[4:8] == b"TFL3":
        return "tflite"
    if data[:4] == b"PK\x03\x04":
        return "torchscript"
    if c_reader.is_c(data):
        return "c"
    return "onnx" if data[:1] == b"\x08" else None  # field 1 of ModelProto, a varint: ir_version


def contract_of(data: bytes, name: str) -> Contract:
    """The contract inside an artifact; `name` is what errors call it.

    Raises:
        EdgeMnistError: it is no artifact, or not one of edge-mnist's.
    """
    kind = format_of(data)
    if kind is None:
        raise EdgeMnistError(f"{name}: expected {EXPECTED}, found {len(data)} other bytes")
    text = _READERS[kind](data, KEY)
    if text is None and torchscript_reader.is_of_torch_save(data):
        raise EdgeMnistError(f"{name}: {torchscript_reader.TORCH_SAVE}")
    try:
        return Contract.from_json((text or b"").decode())
    except ValueError as error:
        raise EdgeMnistError(
            f"{name}: no contract of edge-mnist inside: it is damaged, or something else wrote it"
        ) from error
