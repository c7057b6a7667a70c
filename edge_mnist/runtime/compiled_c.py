"""Runs C artifacts: compiles a model.c once, into the user's cache, and calls it through ctypes."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from edge_mnist.runtime.classifier import Classifier, is_x86
from edge_mnist.system.errors import EdgeMnistError, NotInstalledError
from edge_mnist.system.hashes import sha256

FLAGS = ("-O3", "-std=c99", "-fPIC", "-shared")
"""The compiler's options for a shared library of any source."""

_PROBE = b"""
int edge_mnist_processor(void) {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl")) return 2;
    return __builtin_cpu_supports("avx2") ? 1 : 0;
}
"""
"""A program that finds the vector instructions of the processor, as an index into `_X86_FLAGS`.

It asks in this process, because under an emulator the compiler runs on another processor than this process does, and
-march=native would choose the instructions of the wrong one."""

_X86_FLAGS: tuple[tuple[str, ...], ...] = ((), ("-mavx2", "-mfma"), ("-mavx2", "-mfma", "-mavx512vl", "-mavx512vnni"))
"""The compiler's options for each answer of `_PROBE`."""

_MOST_SECONDS = 300
"""The seconds that the compiler may take. For the shipped network it takes some seconds on a Raspberry Pi."""

_PREFIX = "compiling-"
"""What the names of the folders begin with in which the compiler works."""

_TRACE_HEADER = b"""
static void edge_mnist_tap(int layer, const void *values, int count);
#define EDGE_MNIST_TAP edge_mnist_tap
"""
"""What precedes a model.c whose layers are traced: its macro that is called with the values of each layer."""

_INTERFACE = b"""
#if defined(__clang__)
#define EDGE_MNIST_COMPILER __VERSION__
#else
#define EDGE_MNIST_COMPILER "GCC " __VERSION__
#endif
const char *edge_mnist_build(void) {
#if EM_FIXED_POINT
    return EDGE_MNIST_COMPILER ", fixed point";
#elif defined(EM_VNNI_512)
    return EDGE_MNIST_COMPILER ", AVX-512 VNNI";
#elif defined(EM_VNNI)
    return EDGE_MNIST_COMPILER ", AVX-VNNI";
#elif defined(EM_AVX2)
    return EDGE_MNIST_COMPILER ", AVX2";
#elif defined(EM_SSE2)
    return EDGE_MNIST_COMPILER ", SSE2";
#elif defined(EM_DOTPROD)
    return EDGE_MNIST_COMPILER ", NEON dot product";
#elif defined(EM_NEON)
    return EDGE_MNIST_COMPILER ", NEON";
#else
    return EDGE_MNIST_COMPILER ", portable";
#endif
}
int edge_mnist_fixed_point(void) {
    return EM_FIXED_POINT;
}
size_t edge_mnist_size(int of) { /* pixels, logits, bytes of the arena */
    const em_ring *ring = em_rings + (of ? EM_LAYERS : 0);
    return of == 2 ? EM_ARENA * sizeof(em_value) + 4 : (size_t)ring->width * (size_t)ring->height;
}
int edge_mnist_run_batch(const uint8_t *pixels, int8_t *logits, size_t images, void *arena) {
    size_t i;
    for (i = 0; i < images; ++i, pixels += edge_mnist_size(0), logits += edge_mnist_size(1)) {
        const int found = edge_mnist_run(pixels, logits, arena, edge_mnist_size(2));
        if (found < 0) return found;
    }
    return 0;
}
#if defined(EDGE_MNIST_TAP)
static int8_t *edge_mnist_traced[EM_LAYERS];
size_t edge_mnist_layer_size(int layer) {
    return (size_t)em_rings[layer + 1].width * (size_t)em_rings[layer + 1].height;
}
static void edge_mnist_tap(int layer, const void *values, int count) {
    int i;
    for (i = 0; i < count; ++i) {
        *edge_mnist_traced[layer]++ = (int8_t)(EM_U(((const em_value *)values)[i]) - 128);
    }
}
int edge_mnist_trace(const uint8_t *pixels, int8_t *logits, void *arena, int8_t *values) {
    int layer;
    for (layer = 0; layer < EM_LAYERS; ++layer) {
        edge_mnist_traced[layer] = values;
        values += edge_mnist_layer_size(layer);
    }
    return edge_mnist_run(pixels, logits, arena, edge_mnist_size(2));
}
#endif
"""
"""What follows every model.c: the functions that `Library` calls."""


class Library:
    """A compiled model.c.

    Attributes:
        path: the file of the shared library.
        build: the compiler and the kernels, such as "GCC 12.2.0, AVX2".
        is_fixed_point: whether it requantizes with integers only.
        pixels: the number of bytes of an image.
        logits: the number of logits that it computes for an image.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.edge_mnist_size.restype = ctypes.c_size_t
        self._library.edge_mnist_build.restype = ctypes.c_char_p
        self.build: str = self._library.edge_mnist_build().decode()
        self.is_fixed_point = bool(self._library.edge_mnist_fixed_point())
        self.pixels, self.logits, self._arena_size = (int(self._library.edge_mnist_size(of)) for of in range(3))
        pointer = ctypes.c_void_p
        self._library.edge_mnist_run_batch.argtypes = [pointer, pointer, ctypes.c_size_t, pointer]
        self._thread_memory = threading.local()

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.int8]:
        """Compute the logits, int8 (N, logits), of contiguous uint8 inputs (N, height, width, channels).

        Outputs that are maps are in PyTorch's order: channel, row, column.

        Several threads may call it at the same time: each has its working memory, and ctypes releases Python's lock.

        Raises:
            RuntimeError: the code of the library refuses to run.
        """
        logits = np.zeros((len(images), self.logits), np.int8)
        if not logits.size:
            return logits
        arena = getattr(self._thread_memory, "arena", None)
        if arena is None:
            arena = self._thread_memory.arena = ctypes.create_string_buffer(self._arena_size)
        # `logits.ctypes.data` would take a tenth of the time that the network takes.
        target = ctypes.byref(ctypes.c_char.from_buffer(logits.data))
        if self._library.edge_mnist_run_batch(images.ctypes.data, target, len(images), arena) < 0:
            raise RuntimeError("its code refuses the memory that it asked for")
        return logits

    def trace(self, images: NDArray[np.uint8], layers: int) -> list[NDArray[np.int8]]:
        """Compute the output of each layer of a library that was opened with `traced=True`.

        Args:
            images: contiguous, uint8 (N, height, width, channels).
            layers: the number of layers of the model.c.

        Returns:
            For each layer int8 (N, height * width * channels).
        """
        self._library.edge_mnist_layer_size.restype = ctypes.c_size_t
        sizes = [int(self._library.edge_mnist_layer_size(layer)) for layer in range(layers)]
        logits, arena = np.zeros(self.logits, np.int8), np.empty(self._arena_size, np.uint8)
        values = np.zeros((len(images), sum(sizes)), np.int8)
        for image, row in zip(images, values, strict=True):
            self._library.edge_mnist_trace(_pointer(image), _pointer(logits), _pointer(arena), _pointer(row))
        return np.split(values, np.cumsum(sizes)[:-1], axis=1)


def open_library(source: bytes, name: str, flags: tuple[str, ...] = (), *, traced: bool = False) -> Library:
    """Compile a model.c, unless the cache holds the result already, and load it.

    Args:
        source: the text of the model.c.
        name: the name that errors use for it.
        flags: options of the compiler after `FLAGS`; if empty, those for the vector instructions of the processor.
        traced: whether `Library.trace` is needed.

    Raises:
        EdgeMnistError: there is no C compiler, it refuses the source, or the cache cannot be written.
    """
    compiler = _find_compiler(name)
    text = (_TRACE_HEADER if traced else b"") + source + _INTERFACE
    return Library(_compile(compiler, text, name, (*FLAGS, *(flags or _choose_flags(compiler, name)))))


class CClassifier(Classifier):
    """A model.c, compiled with the machine's C compiler on first use. It runs on one thread."""

    def __init__(self, data: bytes, name: str, threads: int) -> None:
        super().__init__(data, name)
        self._library = open_library(data, name)
        if self._library.pixels != math.prod(self.contract.input_shape):
            raise ValueError(f"its code takes {self._library.pixels} pixels, its contract says otherwise")
        self.runtime = self._library.build
        self.rounding = "fixed-point" if self._library.is_fixed_point else "float"

    @staticmethod
    def check_installed() -> None:
        """Check that there is a C compiler."""
        _find_compiler("C")

    def _run(self, inputs: NDArray[Any]) -> NDArray[Any]:
        outputs = self._library.run(inputs)
        if self.contract.output_shape is None:
            return outputs
        maps = outputs.reshape(len(outputs), *self.contract.output_shape)  # (N, channels, height, width)
        return maps.transpose(0, 2, 3, 1)


def _find_compiler(name: str) -> str:
    """Find the C compiler: the one that the environment variable CC names, otherwise cc, gcc or clang."""
    preferred = os.environ.get("CC")
    for candidate in [preferred] if preferred else ["cc", "gcc", "clang"]:
        if path := shutil.which(candidate):
            return path
    missing = f"CC={preferred} is not there" if preferred else "a C compiler is not installed"
    raise NotInstalledError(f"{name}: {missing}: apt install gcc, or name one in the environment's CC")


def _choose_flags(compiler: str, name: str) -> tuple[str, ...]:
    """Choose the compiler's options for the vector instructions of this processor."""
    if is_x86():
        probe = ctypes.CDLL(str(_compile(compiler, _PROBE, name, FLAGS)))
        return _X86_FLAGS[int(probe.edge_mnist_processor())]
    return ("-mcpu=native",) if platform.machine().lower() in ("aarch64", "arm64") else ()


def _compile(compiler: str, source: bytes, name: str, flags: tuple[str, ...]) -> Path:
    """Return the path of a source's shared library, which is compiled if source, compiler or flags are new."""
    # The macros that the compiler predefines contain its version, and depend on what the flags mean on this machine.
    macros = run_compiler([compiler, *flags, "-dM", "-E", "-x", "c", os.devnull], name)
    key = sha256(b"\0".join([source, compiler.encode(), " ".join(flags).encode(), macros]))
    path = Path(platformdirs.user_cache_dir("edge-mnist"), "c", f"{key[:32]}.so")
    if path.exists() and _is_loadable(path):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=path.parent) as scratch:
            Path(scratch, "model.c").write_bytes(source)
            command = [compiler, *flags, "-o", f"{scratch}/model.so", f"{scratch}/model.c"]
            run_compiler(command, name, {**os.environ, "TMPDIR": scratch})
            os.replace(f"{scratch}/model.so", path)
    except OSError as error:
        raise EdgeMnistError(
            f"{path}: cannot be written: {error.strerror or error}: name another cache in XDG_CACHE_HOME"
        ) from error
    return path


def _remove_abandoned(folder: Path) -> None:
    """Remove what compilations left that were killed: folders that are older than a compilation may take."""
    for place in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another process removes it
            if place.stat().st_mtime < time.time() - 2 * _MOST_SECONDS:
                shutil.rmtree(place, ignore_errors=True)


def _is_loadable(path: Path) -> bool:
    """Whether a library of the cache can be loaded; one that a power cut has damaged cannot."""
    try:
        ctypes.CDLL(str(path))
    except OSError:
        return False
    return True


def run_compiler(command: list[str], name: str, environment: Mapping[str, str] | None = None) -> bytes:
    """Run a compiler and return its output.

    Args:
        command: the compiler and its arguments.
        name: the name that errors use for what is compiled.
        environment: its environment variables; None for those of this process.

    Raises:
        EdgeMnistError: it fails, with its first error, or takes too long.
    """
    try:
        result = subprocess.run(command, capture_output=True, timeout=_MOST_SECONDS, env=environment)
    except subprocess.TimeoutExpired as error:
        raise EdgeMnistError(f"{name}: {command[0]} takes more than {_MOST_SECONDS} s to compile it") from error
    if result.returncode:
        lines = result.stderr.decode(errors="replace").strip().splitlines()
        message = next((line for line in lines if "error" in line), (lines or ["no message"])[0])
        raise EdgeMnistError(f"{name}: {command[0]} cannot compile it: {message}")
    return result.stdout


def _pointer(array: NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
