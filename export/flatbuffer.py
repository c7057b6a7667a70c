"""A TensorFlow Lite model as plain lists, and its bytes: whatever is equal is stored once.

Tables and their fields are those of tensorflow/lite/schema/schema.fbs, through the Python code that flatc makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import EdgeMnistError

_ALIGNMENT = 16
"""Of a buffer's data: `force_align: 16` in the schema."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """An activation or a constant.

    Attributes:
        name: its name.
        dtype: "FLOAT32", "INT8" or "INT32".
        shape: its shape; 0 as the first dimension stands for the batch, of any size.
        data: the constant's elements, or None.
        scales: float32 scales, one or one a channel; None if not quantized.
        zero_points: int64, as many.
        dimension: of the channels, if there are several scales.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.generic] | None = None
    scales: NDArray[np.float32] | None = None
    zero_points: NDArray[np.int64] | None = None
    dimension: int = 0


@dataclass(frozen=True)
class Operator:
    """One operation on tensors that are given by index.

    Attributes:
        name: of the schema's BuiltinOperator, such as "CONV_2D".
        version: of the operator.
        inputs: indices of tensors.
        output: index of a tensor.
        options: the name of the options table and its fields.
    """

    name: str
    version: int
    inputs: tuple[int, ...]
    output: int
    options: tuple[str, dict[str, int]]


@dataclass
class Model:
    """A model of one subgraph, built up by appending."""

    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    tensors: list[Tensor] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    metadata: dict[str, bytes] = field(default_factory=dict)

    def add(self, tensor: Tensor) -> int:
        """Append a tensor; return its index."""
        self.tensors.append(tensor)
        return len(self.tensors) - 1


def schema() -> ModuleType:
    """The schema's Python code.

    Raises:
        EdgeMnistError: ai-edge-litert, which carries it, is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise EdgeMnistError("writing TFLite needs ai-edge-litert: pip install ai-edge-litert") from error
    module: ModuleType = schema_py_generated
    return module


def serialize(model: Model) -> bytes:
    """The bytes of a .tflite file."""
    return _Writer().model(model)


class _Writer:
    """A flatbuffers builder that remembers what it wrote, and refers to it rather than write it again."""

    def __init__(self) -> None:
        import flatbuffers

        self.schema = schema()
        self.builder = flatbuffers.Builder(1 << 16)
        self.written: dict[tuple[str, bytes], int] = {}

    def model(self, model: Model) -> bytes:
        versions = {operator.name: operator.version for operator in model.operators}
        codes = [self.operator_code(name, version) for name, version in versions.items()]
        contents: list[bytes] = [b""]  # buffer 0 is the empty one, by the schema
        for tensor in model.tensors:
            if tensor.data is not None and _data(tensor.data) not in contents:
                contents.append(_data(tensor.data))
        first_metadata = len(contents)
        contents.extend(model.metadata.values())
        ends = {*model.inputs, *model.outputs}
        tensors = [self.tensor(tensor, contents, index in ends) for index, tensor in enumerate(model.tensors)]
        operators = [self.operator(operator, list(versions)) for operator in model.operators]
        subgraph = self.table(
            "SubGraph",
            Tensors=self.offsets(tensors),
            Inputs=self.vector(np.array(model.inputs, np.int32)),
            Outputs=self.vector(np.array(model.outputs, np.int32)),
            Operators=self.offsets(operators),
        )
        metadata = [
            self.table("Metadata", Name=self.string(name), Buffer=first_metadata + index)
            for index, name in enumerate(model.metadata)
        ]
        buffers = self.buffers(contents)
        root = self.table(
            "Model",
            Version=3,
            OperatorCodes=self.offsets(codes),
            Subgraphs=self.offsets([subgraph]),
            Description=self.string(next(iter(model.metadata), "")),
            Buffers=self.offsets(buffers),
            Metadata=self.offsets(metadata),
        )
        self.builder.Finish(root, b"TFL3")
        return bytes(self.builder.Output())

    def tensor(self, tensor: Tensor, contents: list[bytes], is_end: bool) -> int:
        quantization = {}
        if tensor.scales is not None and tensor.zero_points is not None:
            quantization["Quantization"] = self.table(
                "QuantizationParameters",
                Scale=self.vector(tensor.scales),
                ZeroPoint=self.vector(tensor.zero_points),
                QuantizedDimension=tensor.dimension,
            )
        free = bool(tensor.shape) and tensor.shape[0] == 0
        # Only the inputs' and outputs' signatures are read, by whoever resizes the batch.
        signature = (
            {"ShapeSignature": self.vector(np.array((-1, *tensor.shape[1:]), np.int32))} if free and is_end else {}
        )
        return self.table(
            "Tensor",
            Shape=self.vector(np.array((1, *tensor.shape[1:]) if free else tensor.shape, np.int32)),
            Type=getattr(self.schema.TensorType, tensor.dtype),
            Buffer=0 if tensor.data is None else contents.index(_data(tensor.data)),
            Name=self.string(tensor.name),
            **quantization,
            **signature,
        )

    def operator(self, operator: Operator, codes: list[str]) -> int:
        options_name, fields = operator.options
        return self.table(
            "Operator",
            OpcodeIndex=codes.index(operator.name),
            Inputs=self.vector(np.array(operator.inputs, np.int32)),
            Outputs=self.vector(np.array([operator.output], np.int32)),
            BuiltinOptionsType=getattr(self.schema.BuiltinOptions, options_name),
            BuiltinOptions=self.table(options_name, **fields),
        )

    def operator_code(self, name: str, version: int) -> int:
        code = getattr(self.schema.BuiltinOperator, name)
        # Codes below 127 stand in both fields, for readers older than the second one.
        return self.table("OperatorCode", DeprecatedBuiltinCode=code, Version=version, BuiltinCode=code)

    def buffers(self, contents: list[bytes]) -> list[int]:
        """A Buffer for each content, laid out so that little is lost to their alignment."""
        tables = {index: self.table("Buffer") for index, content in enumerate(contents) if not content}
        while len(tables) < len(contents):
            end = self.builder.Offset()
            left = (index for index in range(len(contents)) if index not in tables)
            best = min(left, key=lambda index: -(end + len(contents[index])) % _ALIGNMENT)
            content = contents[best]
            self.builder.StartVector(1, len(content), _ALIGNMENT)
            self.builder.head -= len(content)
            self.builder.Bytes[self.builder.head : self.builder.head + len(content)] = content
            tables[best] = self.table("Buffer", Data=self.builder.EndVector())
        return [tables[index] for index in range(len(contents))]

    def string(self, text: str) -> int:
        return self.once("string", text.encode(), lambda: self.builder.CreateString(text))

    def vector(self, array: NDArray[np.generic]) -> int:
        return self.once(array.dtype.name, _data(array), lambda: self.builder.CreateNumpyVector(array))

    def once(self, kind: str, content: bytes, write: Callable[[], int]) -> int:
        key = (kind, content)
        if key not in self.written:
            self.written[key] = write()
        return self.written[key]

    def offsets(self, items: Sequence[int]) -> int:
        self.builder.StartVector(4, len(items), 4)
        for item in reversed(items):
            self.builder.PrependUOffsetTRelative(item)
        return int(self.builder.EndVector())

    def table(self, name: str, **fields: int) -> int:
        """A table: its fields are added by the functions of the schema's code, TensorAddShape and the like."""

        def write() -> int:
            getattr(self.schema, f"{name}Start")(self.builder)
            for key, value in fields.items():
                getattr(self.schema, f"{name}Add{key}")(self.builder, value)
            return int(getattr(self.schema, f"{name}End")(self.builder))

        return self.once(name, repr(fields).encode(), write)


def _data(array: NDArray[np.generic]) -> bytes:
    """Elements in the file's byte order, which is little-endian."""
    return array.astype(array.dtype.newbyteorder("<")).tobytes()
