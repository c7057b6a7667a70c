"""The network that finds digits, for the page of a network that reads them: its module, its proof, and its constants.

The page reads as `edge_mnist.demo.reading` does, and gets the constants from that package's source. They are read, not
imported, because the reader needs OpenCV, which an export does not.
"""

from __future__ import annotations

import ast
import functools
from base64 import b64encode
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.data import canvases, finder_map
from edge_mnist.data.finder_map import BEYOND, CANVAS_HEIGHT, CANVAS_WIDTH
from edge_mnist.export.wasm.writer import write_wasm
from edge_mnist.graph import checkpoint
from edge_mnist.graph.folding import fold
from edge_mnist.graph.interpreter import run_quantized
from edge_mnist.graph.operations import QuantizedGraph
from edge_mnist.graph.quantization import quantize_graph
from edge_mnist.pretrained import FINDER
from edge_mnist.system.hashes import sha256

_CANVASES = 4
"""The number of golden canvases; the oracle takes a quarter of a second for each."""


@functools.cache
def quantize_finder() -> QuantizedGraph:
    """Quantize the shipped finder as `export --int8` does."""
    source = checkpoint.load(FINDER)
    graph, _ = quantize_graph(fold(source), source.statistics)
    return graph


@functools.cache
def write_finder() -> bytes:
    """Write the shipped finder as a WebAssembly module; a process compiles it once.

    Raises:
        NotInstalledError: clang or its linker for WebAssembly, wasm-ld, is not installed.
    """
    return write_wasm(quantize_finder())


def describe_finder(images: NDArray[np.uint8]) -> dict[str, Any]:
    """What the page needs to run the finder, and to prove that its integers are the oracle's.

    Args:
        images: uint8 (N, 28, 28), the golden images that the page holds, of which it composes the golden canvases.

    Returns:
        An object for JSON.
    """
    inputs = finder_map.split_places(draw_golden_canvases(images))
    outputs = run_quantized(quantize_finder(), inputs)
    return {
        "module": b64encode(write_finder()).decode(),
        "golden": {
            "count": len(inputs),
            "inputs_sha256": sha256(inputs.transpose(0, 2, 3, 1).tobytes()),  # in the order that the module takes
            "outputs_sha256": sha256(outputs.tobytes()),
        },
    }


def draw_golden_canvases(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Compose canvases of the golden images of a network that reads digits, side by side in rows.

    Each canvas begins with another image, and every second one is inverted. So a page that holds the images needs no
    canvases.

    Args:
        images: uint8 (N, 28, 28).

    Returns:
        uint8 (4, CANVAS_HEIGHT, CANVAS_WIDTH).
    """
    canvases = np.full((_CANVASES, CANVAS_HEIGHT, CANVAS_WIDTH), BEYOND, np.uint8)
    side = images.shape[-1]
    across, down = CANVAS_WIDTH // side, CANVAS_HEIGHT // side
    for number, canvas in enumerate(canvases):
        for place in range(across * down):
            image = images[(place + 16 * number) % len(images)]
            top, left = (side * index for index in divmod(place, across))
            canvas[top : top + side, left : left + side] = image if number % 2 == 0 else 255 - image
    return canvases


def read_settings() -> dict[str, dict[str, Any]]:
    """The constants of the reader that the page needs, by the module in which they are."""
    names = ("finder", "digit_images", "layout", "confidence", "reader")
    settings = {name: _read_constants(name) for name in names}
    for module in (canvases, finder_map):
        constants = {name: value for name, value in vars(module).items() if name.isupper()}
        settings[module.__name__.rpartition(".")[2]] = constants
    return settings


def _read_constants(module: str) -> dict[str, Any]:
    """The constants of a module of the reader that are written as literals, also those of its classes, by name."""
    source = (files("edge_mnist.demo.reading") / f"{module}.py").read_text("utf-8")
    found = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef):
            continue
        for statement in node.body:
            if isinstance(statement, ast.Assign):
                target, value = statement.targets[0], statement.value
            elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
                target, value = statement.target, statement.value
            else:
                continue
            if isinstance(value, ast.Call) and ast.unparse(value.func) == "np.array":
                value = value.args[0]
            try:
                found[ast.unparse(target)] = ast.literal_eval(value)
            except ValueError:  # not a literal
                continue
    return found
