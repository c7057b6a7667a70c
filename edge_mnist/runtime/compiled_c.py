"""Compiles a model.c once, into the user's cache, and calls it through ctypes, without Python's lock."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import NDArray

from edge_mnist.system.errors import EdgeMnistError, NotInstalledError

FLAGS = ("-O3", "-std=c99", "-fPIC", "-shared")

# Of the processor that this process sees, which under an emulator is not the one that the compiler sees: so
# -march=native would be wrong there.
_PROBE = b"""
int edge_mnist_processor(void) {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl")) return 2;
    return __builtin_cpu_supports("avx2") ? 1 : 0;
}
"""
_X86_FLAGS: tuple[tuple[str, ...], ...] = ((), ("-mavx2", "-mfma"), ("-mavx2", "-mfma", "-mavx512vl", "-mavx512vnni"))

_MOST_SECONDS = 300
"""That a compiler may take: for the shipped network a Raspberry Pi's takes some seconds."""

_BEFORE = b"""
static void edge_mnist_tap(int layer, const void *values, int count);
#define EDGE_MNIST_TAP edge_mnist_tap
"""

_AFTER = b"""
#if defined(__clang__)
#define EDGE_MNIST_COMPILER __VERSION__
#else
#define EDGE_MNIST_COMPILER "GCC " __VERSION__
#endif
const char *edge_mnist_built(void) {
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
int edge_mnist_many(const uint8_t *pixels, int8_t *logits, size_t images, void *arena) {
    size_t i;
    for (i = 0; i < images; ++i, pixels += edge_mnist_size(0), logits += edge_mnist_size(1)) {
        const int found = edge_mnist_run(pixels, logits, arena, edge_mnist_size(2));
        if (found < 0) return found;
    }
    return 0;
}
#if defined(EDGE_MNIST_TAP)
static int8_t *edge_mnist_tapped[EM_LAYERS];
size_t edge_mnist_layer_size(int layer) {
    return (size_t)em_rings[layer + 1].width * (size_t)em_rings[layer + 1].height;
}
static void edge_mnist_tap(int layer, const void *values, int count) {
    int i;
    for (i = 0; i < count; ++i) {
        *edge_mnist_tapped[layer]++ = (int8_t)(EM_U(((const em_value *)values)[i]) - 128);
    }
}
int edge_mnist_trace(const uint8_t *pixels, int8_t *logits, void *arena, int8_t *values) {
    int layer;
    for (layer = 0; layer < EM_LAYERS; ++layer) {
        edge_mnist_tapped[layer] = values;
        values += edge_mnist_layer_size(layer);
    }
    return edge_mnist_run(pixels, logits, arena, edge_mnist_size(2));
}
#endif
"""


class Library:
    """A compiled model.c.

    Attributes:
        path: of the shared library.
        built: compiler and kernels, such as "GCC 12.2.0, AVX2".
        is_fixed_point: whether it requantizes with integers only.
        pixels: bytes of an image.
        logits: how many it gives.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.edge_mnist_size.restype = ctypes.c_size_t
        self._library.edge_mnist_built.restype = ctypes.c_char_p
        self.built: str = self._library.edge_mnist_built().decode()
        self.is_fixed_point = bool(self._library.edge_mnist_fixed_point())
        self.pixels, self.logits, self._arena_size = (int(self._library.edge_mnist_size(of)) for of in range(3))
        pointer = ctypes.c_void_p
        self._library.edge_mnist_many.argtypes = [pointer, pointer, ctypes.c_size_t, pointer]
        self._own = threading.local()

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.int8]:
        """Logits, int8 (N, logits), of contiguous uint8 images (N, height, width, channels).

        Each thread has working memory of its own, so that several may call at the same time; ctypes releases the lock.
        """
        logits = np.zeros((len(images), self.logits), np.int8)
        if not logits.size:
            return logits
        arena = getattr(self._own, "arena", None)
        if arena is None:
            arena = self._own.arena = ctypes.create_string_buffer(self._arena_size)
        # An array's own `ctypes.data` takes as long as a tenth of the network.
        target = ctypes.byref(ctypes.c_char.from_buffer(logits.data))
        if self._library.edge_mnist_many(images.ctypes.data, target, len(images), arena) < 0:
            raise RuntimeError("its code refuses the memory that it asked for")
        return logits

    def trace(self, images: NDArray[np.uint8], layers: int) -> list[NDArray[np.int8]]:
        """What each of its layers gives, int8 (N, height * width * channels); the library was compiled to be traced."""
        self._library.edge_mnist_layer_size.restype = ctypes.c_size_t
        sizes = [int(self._library.edge_mnist_layer_size(layer)) for layer in range(layers)]
        logits, arena = np.zeros(self.logits, np.int8), np.empty(self._arena_size, np.uint8)
        values = np.zeros((len(images), sum(sizes)), np.int8)
        for image, row in zip(images, values, strict=True):
            self._library.edge_mnist_trace(_pointer(image), _pointer(logits), _pointer(arena), _pointer(row))
        return np.split(values, np.cumsum(sizes)[:-1], axis=1)


def open_library(source: bytes, name: str, flags: tuple[str, ...] = (), *, traced: bool = False) -> Library:
    """Compile a model.c, unless the cache holds it already, and load it.

    Args:
        source: the text of model.c.
        name: what errors call it.
        flags: for the compiler, after `FLAGS`; without any, those of the processor's vector instructions.
        traced: with `Library.trace`.

    Raises:
        EdgeMnistError: there is no C compiler, it refuses the source, or the cache cannot be written.
    """
    compiler = _compiler(name)
    text = (_BEFORE if traced else b"") + source + _AFTER
    return Library(_compile(compiler, text, name, (*FLAGS, *(flags or _processor_flags(compiler, name)))))


def _compiler(name: str) -> str:
    """The C compiler: what the environment's CC names, else cc, gcc or clang."""
    wanted = os.environ.get("CC")
    for candidate in [wanted] if wanted else ["cc", "gcc", "clang"]:
        if found := shutil.which(candidate):
            return found
    missing = f"CC={wanted} is not there" if wanted else "a C compiler is not installed"
    raise NotInstalledError(f"{name}: {missing}: apt install gcc, or name one in the environment's CC")


def _processor_flags(compiler: str, name: str) -> tuple[str, ...]:
    """Flags for the vector instructions of this processor."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        probe = ctypes.CDLL(str(_compile(compiler, _PROBE, name, FLAGS)))
        return _X86_FLAGS[int(probe.edge_mnist_processor())]
    return ("-mcpu=native",) if platform.machine().lower() in ("aarch64", "arm64") else ()


def _compile(compiler: str, source: bytes, name: str, flags: tuple[str, ...]) -> Path:
    """The shared library of a source; compiled anew if source, compiler or flags are."""
    # What the compiler predefines tells its version, and what it makes of the flags on this machine.
    told = _run([compiler, *flags, "-dM", "-E", "-x", "c", os.devnull], name)
    key = hashlib.sha256(b"\0".join([source, compiler.encode(), " ".join(flags).encode(), told])).hexdigest()
    path = Path(platformdirs.user_cache_dir("edge-mnist"), "c", f"{key[:32]}.so")
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            Path(scratch, "model.c").write_bytes(source)
            _run([compiler, *flags, "-o", f"{scratch}/model.so", f"{scratch}/model.c"], name)
            os.replace(f"{scratch}/model.so", path)
    except OSError as error:
        raise EdgeMnistError(
            f"{path}: cannot be written: {error.strerror or error}: name another cache in XDG_CACHE_HOME"
        ) from error
    return path


def _run(command: list[str], name: str) -> bytes:
    """The output of a compiler."""
    try:
        result = subprocess.run(command, capture_output=True, timeout=_MOST_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise EdgeMnistError(f"{name}: {command[0]} takes more than {_MOST_SECONDS} s to compile it") from error
    if result.returncode:
        lines = result.stderr.decode(errors="replace").strip().splitlines()
        told = next((line for line in lines if "error" in line), (lines or ["no message"])[0])
        raise EdgeMnistError(f"{name}: {command[0]} cannot compile it: {told}")
    return result.stdout


def _pointer(array: NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
