"""Prints what the bytes of artifacts are used for: `python benchmarks/sizes.py artifacts/model_int8.tflite ...`.

Run it from the checkout. It reads .tflite and .onnx files. Data that several tensors share counts once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from rich import box
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from edge_mnist.formats import onnx_reader, tflite_reader
from edge_mnist.formats.table import require_format
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import METADATA_KEY, read_bytes
from edge_mnist.system.tables import make_console

PARTS = ("weights", "biases", "scales", "zero points", "contract", "structure")
"""The parts of a file, in the order of the table."""


def iterate_tflite_vectors(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Iterate over the part and the content of each vector in a .tflite file, once for each reference to it."""
    part_by_suffix = {".w": "weights", ".b": "biases"}
    for name, what, content in tflite_reader.read_constants(data):
        yield part_by_suffix.get(name[-2:], "structure") if what == "data" else f"{what}s", content


def iterate_onnx_vectors(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Iterate over the part and the content of each initializer of an .onnx file."""
    graph = next(content for number, content in onnx_reader.read_fields(data) if number == 7)  # ModelProto.graph
    part_by_suffix = {".w": "weights", ".b": "biases", ".s": "scales", ".t": "scales"}
    for number, initializer in onnx_reader.read_fields(graph):
        if number == 5:  # GraphProto.initializer
            tensor = dict(onnx_reader.read_fields(initializer))
            name = tensor[8].decode()  # TensorProto.name
            activation = "scales" if name[0] == "s" else "zero points"
            yield part_by_suffix.get(name[-2:], activation), tensor[9]  # TensorProto.raw_data


def measure_parts(path: Path) -> dict[str, int]:
    """Measure the bytes of each of `PARTS` of an artifact; their sum is the size of the file.

    Raises:
        EdgeMnistError: the file is not a .tflite or .onnx artifact of edge-mnist.
    """
    data = read_bytes(path)
    kind = require_format(data, str(path)).name
    if kind == "tflite":
        vectors, contract = set(iterate_tflite_vectors(data)), tflite_reader.read_metadata(data, METADATA_KEY)
    elif kind == "onnx":
        vectors, contract = set(iterate_onnx_vectors(data)), onnx_reader.read_metadata(data, METADATA_KEY)
    else:
        raise EdgeMnistError(f"{path}: expected a .tflite or .onnx artifact")
    sizes = {part: sum(len(content) for name, content in vectors if name == part) for part in PARTS}
    sizes["contract"] = len(contract or b"")
    sizes["structure"] = len(data) - sum(size for part, size in sizes.items() if part != "structure")
    return sizes


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(files: tuple[Path, ...], as_json: bool) -> None:
    """Print what the bytes of .tflite and .onnx FILES are used for."""
    try:
        found = {path.name: measure_parts(path) for path in files}
    except EdgeMnistError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("bytes of")
    for name in found:
        table.add_column(name.replace(".", "\n."), justify="right")
    for part in PARTS:
        table.add_row(part, *(f"{sizes[part]:,}" for sizes in found.values()))
    table.add_section()
    table.add_row("the file", *(f"{sum(sizes.values()):,}" for sizes in found.values()))
    make_console().print(table)


if __name__ == "__main__":
    main()
