"""Compiles the C of a quantized network into a WebAssembly module, which any browser runs.

The module imports nothing. It exports its `memory` and five functions without arguments: `input` and `output` give the
addresses in the memory of the uint8 values of one input and of the int8 values of its output, in the order of the
contract, `input_size` and `output_size` their numbers; `run` computes the output and returns the position of its
largest value. The contract is the custom section `edge_mnist`. Another custom section holds the same network as a
module with SIMD128 instructions, see `wasm_reader.SIMD_SECTION`; it exports the same.

The kernels of SSE2 compute with SIMD128: include/emmintrin.h says how each instruction is made.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from edge_mnist.export.c.writer import write_c
from edge_mnist.formats.table import FORMATS
from edge_mnist.formats.wasm_reader import SIMD_SECTION, append_section
from edge_mnist.graph.operations import FloatGraph, QuantizedGraph
from edge_mnist.runtime.compiled_c import run_compiler
from edge_mnist.system.errors import EdgeMnistError, NotInstalledError
from edge_mnist.system.files import METADATA_KEY

_NAME = "model_int8.wasm"
"""What errors call the artifact."""

_FLAGS = (
    *("--target=wasm32", "-O3", "-std=c99", "-nostdlib", "-nostdlibinc"),
    # A stack that overflows then leaves the memory, which is an error, instead of writing on constants.
    *("-Wl,--no-entry", "-Wl,--stack-first", "-Wl,-z,stack-size=65536"),
    # Each array of constants keeps its name, so that `verify` can name the layer of a constant that was changed.
    "-Wl,--no-merge-data-segments",
)
"""The compiler's options for a module."""

_SIMD_FLAGS = ("-msimd128", "-D__SSE2__")
"""The additional options for a module with SIMD128, which choose the kernels of SSE2."""


def write_wasm(graph: FloatGraph | QuantizedGraph) -> bytes:
    """Write a graph as a WebAssembly module, which computes the int8 outputs of one input.

    The same version of clang gives the same bytes.

    Raises:
        NotInstalledError: clang or its linker for WebAssembly, wasm-ld, is not installed.
        EdgeMnistError: the graph is a float graph or one that C cannot compute, or clang cannot compile it.
    """
    if isinstance(graph, FloatGraph):
        raise EdgeMnistError("WebAssembly is written from the quantized network only: export --int8")
    source = write_c(graph)
    clang = find_clang()
    package = files("edge_mnist.export.wasm")
    inputs, outputs = (int(np.prod(graph.shapes()[value])) for value in (0, -1))
    sizes = (f"-DEM_INPUTS={inputs}", f"-DEM_OUTPUTS={outputs}")
    with tempfile.TemporaryDirectory() as folder, as_file(package / "include") as include:
        path = Path(folder, "model.c")
        path.write_bytes(source + (package / "module.c").read_bytes())

        def compile_module(flags: tuple[str, ...]) -> bytes:
            module = path.with_suffix(".simd" if flags else ".scalar")
            run_compiler([clang, *_FLAGS, *flags, *sizes, f"-I{include}", "-o", str(module), str(path)], _NAME)
            return module.read_bytes()

        with ThreadPoolExecutor() as pool:
            scalar, simd = pool.map(compile_module, ((), _SIMD_FLAGS))
    contract = FORMATS["wasm"].make_contract(graph).to_json().encode()
    return append_section(append_section(scalar, METADATA_KEY, contract), SIMD_SECTION, simd)


def find_clang() -> str:
    """Find clang: the one that the environment variable CLANG names, otherwise `clang`; and check for its linker.

    Raises:
        NotInstalledError: one of them is not installed.
    """
    preferred = os.environ.get("CLANG")
    clang = shutil.which(preferred or "clang")
    if clang is None:
        missing = f"CLANG={preferred} is not there" if preferred else "clang is not installed"
        raise NotInstalledError(f"{_NAME}: {missing}: apt install clang lld, or name one in the environment's CLANG")
    linker = run_compiler([clang, "-print-prog-name=wasm-ld"], _NAME).decode().strip()
    if shutil.which(linker) is None:
        raise NotInstalledError(f"{_NAME}: wasm-ld, the linker of {clang}, is not installed: apt install lld")
    return clang
