"""The table of formats: everything that the rest of the package asks about a format, in one record each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from edge_mnist.formats import c_reader, onnx_reader, tflite_reader, torchscript_reader, wasm_reader
from edge_mnist.formats.contract import Contract, IntegerType, Layout, Precision, make_contract
from edge_mnist.graph.operations import FloatGraph, QuantizedGraph
from edge_mnist.system.archives import TORCH_SAVE_HINT, is_torch_save_file
from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.system.files import METADATA_KEY

FormatName = Literal["torchscript", "onnx", "tflite", "c", "wasm"]

Constant = tuple[str, str, bytes]
"""A part of an artifact that is compared with a fresh export: the name of its layer, what it is, and its bytes."""


@dataclass(frozen=True)
class Format:
    """A format that artifacts are written in.

    The writer of a format is in `edge_mnist.export.WRITERS` and its runtime in `edge_mnist.runtime.RUNTIMES`, both by
    the format's name.

    Attributes:
        name: what `--format`, the manifest and the reports call it.
        title: its name as its makers write it.
        suffix: the end of its files' names, with the dot.
        sniff: takes the content of a file and returns whether it begins as this format does.
        read_metadata: takes the content and a key; returns the bytes of that metadata entry, or None if there is none.
        read_constants: takes the content; yields every part that is compared to find a layer that was changed.
        precisions: the precisions in which the format can be written.
        layout: the order of the input's dimensions, "NCHW" or "NHWC".
        input_type: the type of the pixels that an int8 artifact takes.
        output_type: the type of the logits that an int8 artifact gives.
        carries_code: whether opening a file runs code that is inside it, so that only a trusted file may be opened.
        is_default: whether an export writes it if no format is named.
        is_single_threaded: whether its runtime uses one thread, whatever number is asked for.
        companion_suffix: the end of the name of the file that an export writes beside the int8 artifact, or "" if it
            writes none. The writer of that file is in `edge_mnist.export.COMPANION_WRITERS`.
    """

    name: FormatName
    title: str
    suffix: str
    sniff: Callable[[bytes], bool]
    read_metadata: Callable[[bytes, str], bytes | None]
    read_constants: Callable[[bytes], Iterator[Constant]]
    precisions: tuple[Precision, ...] = ("float", "int8")
    layout: Layout = "NCHW"
    input_type: IntegerType = "uint8"
    output_type: IntegerType = "uint8"
    carries_code: bool = False
    is_default: bool = True
    is_single_threaded: bool = False
    companion_suffix: str = ""

    @property
    def companion_name(self) -> str:
        """The name of the file that an export writes beside the int8 artifact, such as model_int8.h; or ""."""
        return self.companion_suffix and f"model_int8{self.companion_suffix}"

    def make_contract(self, graph: FloatGraph | QuantizedGraph) -> Contract:
        """The contract of this format's artifact of a graph."""
        return make_contract(graph, self.input_type, self.output_type, self.layout)

    def artifact_name(self, precision: Precision) -> str:
        """The name of an artifact's file, such as model_int8.tflite."""
        return f"model_{precision}{self.suffix}"


def _is_onnx(data: bytes) -> bool:
    """Whether a file begins as an ONNX model does, with the field ir_version (1) of ModelProto, a varint.

    One byte is a weak sign, which a flatbuffer may have too.
    """
    return data[:1] == b"\x08" and not tflite_reader.is_tflite(data)


FORMATS: dict[str, Format] = {
    record.name: record
    for record in (
        Format(
            name="torchscript",
            title="TorchScript",
            suffix=".pt",
            sniff=lambda data: data.startswith(b"PK\x03\x04"),  # a ZIP archive (APPNOTE.TXT, section 4.3.7)
            read_metadata=torchscript_reader.read_metadata,
            read_constants=torchscript_reader.read_constants,
            carries_code=True,
        ),
        Format(
            name="onnx",
            title="ONNX",
            suffix=".onnx",
            sniff=_is_onnx,
            read_metadata=onnx_reader.read_metadata,
            read_constants=onnx_reader.read_constants,
        ),
        Format(
            name="tflite",
            title="TFLite",
            suffix=".tflite",
            sniff=tflite_reader.is_tflite,
            read_metadata=tflite_reader.read_metadata,
            read_constants=tflite_reader.read_constants,
            layout="NHWC",
            input_type="int8",
            output_type="int8",
        ),
        Format(
            name="c",
            title="C",
            suffix=".c",
            sniff=c_reader.is_c,
            read_metadata=c_reader.read_metadata,
            read_constants=c_reader.read_constants,
            precisions=("int8",),
            layout="NHWC",
            output_type="int8",
            carries_code=True,
            is_default=False,  # running it takes a compiler, which many machines that run the others do not have
            is_single_threaded=True,
            companion_suffix=".h",
        ),
        Format(
            name="wasm",
            title="WebAssembly",
            suffix=".wasm",
            sniff=wasm_reader.is_wasm,
            read_metadata=wasm_reader.read_metadata,
            read_constants=wasm_reader.read_constants,
            precisions=("int8",),
            layout="NHWC",
            output_type="int8",
            is_default=False,  # writing it takes clang
            is_single_threaded=True,
            companion_suffix=".html",
        ),
    )
}
"""Every format by its name, in the order in which reports list them."""


def detect_format(data: bytes) -> Format | None:
    """The format of an artifact.

    Args:
        data: its content, or at least the first 4096 bytes of it.

    Returns:
        The format, or None if the content is of none of them.
    """
    return next((record for record in FORMATS.values() if record.sniff(data)), None)


def require_format(data: bytes, name: str) -> Format:
    """The format of an artifact.

    Args:
        data: its content.
        name: its name in error messages.

    Raises:
        EdgeMnistError: the content is of no format that is known.
    """
    found = detect_format(data)
    if found is None:
        *titles, last = (f"{record.title} ({record.suffix})" for record in FORMATS.values())
        size = f"{len(data)} other bytes" if data else "an empty file"
        raise EdgeMnistError(f"{name}: expected an artifact, {', '.join(titles)} or {last}, found {size}")
    return found


def read_contract(data: bytes, name: str) -> Contract:
    """The contract inside an artifact.

    Args:
        data: the artifact's content.
        name: its name in error messages.

    Raises:
        EdgeMnistError: the content is not an artifact, or not one that edge-mnist wrote.
    """
    text = require_format(data, name).read_metadata(data, METADATA_KEY)
    if text is None and is_torch_save_file(data):
        raise EdgeMnistError(f"{name}: {TORCH_SAVE_HINT}")
    try:
        return Contract.from_json((text or b"").decode())
    except ValueError as error:
        raise EdgeMnistError(
            f"{name}: holds no contract of edge-mnist: it is damaged, or another program wrote it"
        ) from error


def choose_formats(names: Sequence[str] = ()) -> tuple[Format, ...]:
    """The formats of these names in the order of `FORMATS`, or the default ones if no name is given.

    Raises:
        UsageError: a name is not that of a format.
    """
    for name in names:
        if name not in FORMATS:
            hint = ": name each with a --format of its own" if "," in str(name) else ""
            raise UsageError(f"--format {name}: expected one of {', '.join(FORMATS)}{hint}")
    return tuple(record for record in FORMATS.values() if (record.name in names if names else record.is_default))
