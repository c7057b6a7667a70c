"""The C code computes the oracle's integers with any compiler, optimization, instruction set and sanitizer."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_mnist import runtime
from edge_mnist.bundle.reference import Reference
from edge_mnist.cli.demo import STARTING
from edge_mnist.data import strokes
from edge_mnist.data.images import load_test_images
from edge_mnist.export import bundle_writer
from edge_mnist.export.c.tables import choose_chain_lengths, fuse_operations, pack_weights
from edge_mnist.export.c.writer import write_c, write_header
from edge_mnist.export.proof.localize import find_first_difference
from edge_mnist.export.proof.verification import verify
from edge_mnist.exportable import load_network
from edge_mnist.formats.table import FORMATS
from edge_mnist.graph import calibration
from edge_mnist.graph.folding import fold
from edge_mnist.graph.geometry import Window
from edge_mnist.graph.interpreter import Rounding, run_quantized
from edge_mnist.graph.operations import MaxPool2d, QuantizedConv2d, QuantizedGraph
from edge_mnist.graph.quantization import quantize_graph
from edge_mnist.runtime import compiled_c
from edge_mnist.system.errors import EdgeMnistError
from tests.support.c_programs import STRICT, build, has_sanitizers, run_program
from tests.support.networks import random_checkpoint, random_images

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler: apt install gcc")

VNNI = """
#include <immintrin.h>
static inline __m256i emulated(__m256i sum, __m256i u, __m256i s) {
    const __m256i low = _mm256_set1_epi16(255);
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(u, low), _mm256_srai_epi16(_mm256_slli_epi16(s, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(u, 8), _mm256_srai_epi16(s, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}
#undef _mm256_dpbusd_avx_epi32
#define _mm256_dpbusd_avx_epi32 emulated
#define __AVXVNNI__ 1
"""
"""The instruction of AVX-VNNI, four products added without saturation, emulated with AVX2 for processors without it."""

SANITIZE = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
ARM = ("aarch64-linux-gnu-gcc", *STRICT, "-O2", "-static")
AVX_512 = ("-mavx2", "-mavx512vnni")
TARGETS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "gcc -O0": (("gcc", *STRICT, "-O0"), (), "float"),
    "gcc -O2": (("gcc", *STRICT, "-O2"), (), "float"),
    "gcc -O3 native": (("gcc", *STRICT, "-O3", "-march=native"), (), "float"),
    "clang -O0 native": (("clang", *STRICT, "-O0", "-march=native"), (), "float"),
    "clang -O2": (("clang", *STRICT, "-O2"), (), "float"),
    "clang -O3 native": (("clang", *STRICT, "-O3", "-march=native"), (), "float"),
    # These flags let the compiler contract a product and a sum into one rounding, which must change nothing.
    "gcc contracting": (
        ("gcc", *STRICT, "-O3", "-march=native", "-ffp-contract=fast", "-DEDGE_MNIST_PORTABLE"),
        (),
        "float",
    ),
    "clang contracting": (
        ("clang", *STRICT, "-O3", "-march=native", "-ffp-contract=fast", "-DEDGE_MNIST_PORTABLE"),
        (),
        "float",
    ),
    "gcc SSE2 sanitized": (("gcc", *STRICT, "-O1", *SANITIZE), (), "float"),
    "gcc AVX2 sanitized": (("gcc", *STRICT, "-O1", "-mavx2", *SANITIZE), (), "float"),
    "gcc AVX-512 VNNI": (("gcc", *STRICT, "-O3", *AVX_512), (), "float"),
    "clang AVX-512 VNNI sanitized": (("clang", *STRICT, "-O1", *AVX_512, *SANITIZE), (), "float"),
    "clang sanitized native": (("clang", *STRICT, "-O1", "-march=native", *SANITIZE), (), "float"),
    "gcc fixed point": (("gcc", *STRICT, "-O2", "-DEDGE_MNIST_FIXED_POINT"), (), "fixed-point"),
    "clang fixed point sanitized": (
        ("clang", *STRICT, "-O1", "-DEDGE_MNIST_FIXED_POINT", *SANITIZE),
        (),
        "fixed-point",
    ),
    "AVX-VNNI, one instruction emulated": (("gcc", *STRICT, "-O2", "-mavx2", "-include", "vnni.h"), (), "float"),
    "haswell": (("gcc", *STRICT, "-O2", "-march=haswell"), ("qemu-x86_64", "-cpu", "Haswell"), "float"),
    "cortex-a53": (ARM, ("qemu-aarch64-static", "-cpu", "cortex-a53"), "float"),
    "cortex-a72": (
        (*ARM, "-O3", "-mcpu=cortex-a72"),
        ("qemu-aarch64-static", "-cpu", "cortex-a72"),
        "float",
    ),
    "cortex-a76": (
        (*ARM, "-mcpu=cortex-a76"),
        ("qemu-aarch64-static", "-cpu", "cortex-a76"),
        "float",
    ),
}

KERNELS = {
    "gcc -O0": "EM_PORTABLE",
    "gcc -O2": "EM_SSE2",
    "gcc contracting": "EM_PORTABLE",
    "gcc SSE2 sanitized": "EM_SSE2",
    "gcc AVX2 sanitized": "EM_AVX2",
    "gcc AVX-512 VNNI": "EM_VNNI_512",
    "clang AVX-512 VNNI sanitized": "EM_VNNI_512",
    "AVX-VNNI, one instruction emulated": "EM_VNNI",
    "haswell": "EM_AVX2",
    "cortex-a53": "EM_NEON",
    "cortex-a72": "EM_NEON",
    "cortex-a76": "EM_DOTPROD",
}
"""The kernels that each target chooses. For the other targets it depends on this machine."""


def random_graph(seed: int) -> tuple[QuantizedGraph, np.ndarray] | None:
    """A random quantized network with images; None if it always gives 0, which quantization refuses."""
    checkpoint = random_checkpoint(seed)
    images = random_images(checkpoint, 24, seed)
    graph = fold(checkpoint)
    try:
        return quantize_graph(graph, calibration.collect(graph, images))[0], images
    except EdgeMnistError as error:
        assert "every output is" in str(error)
        return None


def append_pool(graph: QuantizedGraph) -> Iterator[QuantizedGraph]:
    """The network up to its first convolution of all channels, and a max pool that C takes of the sums.

    Random networks rarely have such a pool.
    """
    for index, (operation, shape) in enumerate(zip(graph.operations, graph.shapes()[1:], strict=True)):
        if isinstance(operation, QuantizedConv2d) and operation.groups == 1 and min(shape[1:]) >= 2:
            pool = MaxPool2d("pooled", Window((2, 2), (2, 2)))
            yield QuantizedGraph(graph.input_shape, graph.zero_pixel, (*graph.operations[: index + 1], pool))
            return


def random_graphs(first: int, count: int) -> Iterator[tuple[QuantizedGraph, np.ndarray]]:
    """Random networks with images, and what `append_pool` makes of them."""
    for graph, images in filter(None, map(random_graph, range(first, first + count))):
        yield graph, images
        yield from ((other, images) for other in append_pool(graph))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of compiled libraries that the tests of this session share, instead of the user's."""
    folder = tmp_path_factory.getbasetemp() / "c_cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "edge-mnist" / "c"


@pytest.fixture
def graph(reference: Reference) -> QuantizedGraph:
    """The shipped network."""
    assert reference.quantized_graph is not None
    return reference.quantized_graph


@pytest.mark.parametrize(
    ("flags", "rounding"), [((*STRICT, "-O1"), "float"), ((*STRICT, "-O1", "-DEDGE_MNIST_FIXED_POINT"), "fixed-point")]
)
def test_random_networks_give_the_oracles_logits(flags: tuple[str, ...], rounding: Rounding) -> None:
    kernels: set[str] = set()
    for graph, images in random_graphs(1000, 6):
        kernels |= {fused.kernel for fused in fuse_operations(graph)}
        library = compiled_c.open_library(write_c(graph), "model.c", flags)
        outputs = library.run(np.ascontiguousarray(images.transpose(0, 2, 3, 1)))
        np.testing.assert_array_equal(outputs, run_quantized(graph, images, rounding))
    assert kernels == {"EM_CONV", "EM_CONV_POOL", "EM_GROUPED", "EM_DEPTHWISE", "EM_POOL"}


def test_the_shipped_network_gives_the_oracles_logits_whichever_way_it_is_opened(
    graph: QuantizedGraph, tmp_path: Path
) -> None:
    images = strokes.draw(300, seed=8).images
    path = tmp_path / "model.c"
    path.write_bytes(write_c(graph))
    with pytest.raises(EdgeMnistError, match=r"model\.c: C carries code, and .* does not hold its hash"):
        runtime.load(path)
    classifier = runtime.load(path, trust=True)
    expected = run_quantized(graph, images[:, None])
    np.testing.assert_array_equal(classifier.outputs(images), expected)
    np.testing.assert_array_equal(classifier.predict(images), expected.argmax(axis=1))
    scale = graph.quantizations()[-1].scale
    np.testing.assert_array_equal(classifier.logits(images), expected * np.float32(scale))
    assert classifier.outputs(images[:0]).shape == (0, 10)
    assert classifier.runtime.startswith(("GCC", "Clang", "Apple", "Debian"))


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_random_networks_on_every_target(target: str, graph: QuantizedGraph, tmp_path: Path) -> None:
    compiler, emulator, rounding = TARGETS[target]
    for tool in (compiler[0], *emulator[:1]):
        if not shutil.which(tool):
            pytest.skip(f"needs {tool}")
    if "sanitized" in target and not has_sanitizers(compiler[0]):
        pytest.skip(f"needs the sanitizers of {compiler[0]}")
    if target == "gcc contracting":
        assert (
            "FMA"
            in subprocess.run(
                ["gcc", "-march=native", "-dM", "-E", "-xc", os.devnull], capture_output=True, text=True
            ).stdout
        )
    if "AVX-512" in target and "avx512_vnni" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("needs a processor with AVX-512 VNNI")
    (tmp_path / "vnni.h").write_text(VNNI)
    compiler = tuple(str(tmp_path / part) if part == "vnni.h" else part for part in compiler)
    first = 1000 + 6 * list(TARGETS).index(target)  # different networks for each target
    networks = [(graph, strokes.draw(100, seed=3).images[:, None])]
    # Sanitizers make the compilation of unrolled code slow.
    networks += random_graphs(first, 2 if "sanitized" in target else 5)
    for number, (network, images) in enumerate(networks):
        outputs = run_program(network, images, tmp_path / str(number), compiler, emulator)
        macros = subprocess.run([*compiler, "-dM", "-E", str(tmp_path / str(number) / "model.c")], capture_output=True)
        assert f"#define {KERNELS.get(target, 'EM_BLOCK')} " in macros.stdout.decode()
        np.testing.assert_array_equal(outputs, run_quantized(network, images, rounding))  # type: ignore[arg-type]
    print(f"\n{target}: {len(networks)} networks")


def test_the_bytes_change_only_on_purpose(graph: QuantizedGraph) -> None:
    hashes = [hashlib.sha256(data).hexdigest() for data in (write_c(graph), write_header(graph))]
    assert hashes == [
        "55e8b8c52e0a952768e33768ba88ae3765d8ffe608c02225912befae969838ae",
        "89e0bbaebcb40cd1cb8c1cb929e7dee1271f344a68ebd85e747aa2cb623bea88",
    ]


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_the_header_compiles_as_c_plus_plus(graph: QuantizedGraph, tmp_path: Path) -> None:
    (tmp_path / "model.h").write_bytes(write_header(graph))
    (tmp_path / "main.cpp").write_text(
        '#include "model.h"\n#include "model.h"\n'
        "int (*run)(const uint8_t *, int8_t *, void *, size_t) = edge_mnist_run;\n"
    )
    build(
        [
            "g++",
            "-std=c++11",
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-c",
            str(tmp_path / "main.cpp"),
            "-o",
            str(tmp_path / "main.o"),
        ]
    )


def test_null_pointers_and_a_small_arena_are_errors(graph: QuantizedGraph) -> None:
    library = compiled_c.open_library(write_c(graph), "model.c")
    run = library._library.edge_mnist_run
    pixels, logits, arena = np.zeros(784, np.uint8), np.zeros(10, np.int8), np.zeros(1 << 15, np.uint8)
    pointers = [compiled_c._pointer(array) for array in (pixels, logits, arena)]
    size = int(library._library.edge_mnist_size(2))
    assert run(*pointers, compiled_c.ctypes.c_size_t(size)) >= 0
    assert run(*pointers, compiled_c.ctypes.c_size_t(size - 5)) == -2
    for missing in range(3):
        given = [None if index == missing else pointer for index, pointer in enumerate(pointers)]
        assert run(*given, compiled_c.ctypes.c_size_t(size)) == -1


def test_sums_in_16_bits_do_not_overflow_for_any_image(graph: QuantizedGraph) -> None:
    for operation in graph.convolutions:
        weight = pack_weights(operation)
        for taps in (2, 4):
            lengths = iter(choose_chain_lengths(weight, taps))
            for block in weight.astype(np.int64)[::-1]:
                for run in block:
                    group = 0
                    while group < len(run):
                        length = next(lengths)
                        lanes = run[group : group + max(length, 1)].reshape(max(length, 1), -1, taps)
                        positive, negative = (np.maximum(sign * lanes, 0).sum(axis=(0, 2)) for sign in (1, -1))
                        # The worst case is 255 for all weights of one sign, or -128 and 127 by the sign of each weight.
                        worst = 255 * max(positive.max(), negative.max())
                        assert length == 0 or (worst if taps == 2 else 128 * (positive + negative).max()) <= 32767
                        group += max(length, 1)
            assert next(lengths, None) is None


def test_weights_up_to_127_do_not_saturate(tmp_path: Path) -> None:
    source = load_network(None)
    float_graph = fold(source)
    graph, _ = quantize_graph(float_graph, source.statistics, weight_range=127)
    assert any(0 in choose_chain_lengths(pack_weights(operation), 2) for operation in graph.convolutions)
    images = strokes.draw(60, seed=8).images[:, None]
    outputs = compiled_c.open_library(write_c(graph), "model.c").run(images.reshape(60, 28, 28, 1))
    np.testing.assert_array_equal(outputs, run_quantized(graph, images))


def test_layers_that_the_kernels_cannot_compute_are_refused_by_name(
    reference: Reference, graph: QuantizedGraph
) -> None:
    with pytest.raises(EdgeMnistError, match="the quantized network only"):
        write_c(reference.float_graph)
    first = graph.operations[0]
    assert isinstance(first, QuantizedConv2d)
    huge = replace(first, weight_scale=first.weight_scale * np.float32(2**28))
    with pytest.raises(EdgeMnistError, match="conv1: a multiplier of .* out of the range"):
        write_c(QuantizedGraph(graph.input_shape, graph.zero_pixel, (huge,)))
    with pytest.raises(EdgeMnistError, match="no layers"):
        write_c(QuantizedGraph(graph.input_shape, graph.zero_pixel, ()))


def test_a_damaged_library_is_compiled_again(cache: Path) -> None:
    compiler, source = compiled_c._find_compiler("model.c"), b"int answer(void) { return 42; }"
    path = compiled_c._compile(compiler, source, "model.c", compiled_c.FLAGS)
    path.write_bytes(b"")
    assert compiled_c._compile(compiler, source, "model.c", compiled_c.FLAGS) == path
    assert ctypes.CDLL(str(path)).answer() == 42


def test_a_source_is_compiled_once(graph: QuantizedGraph, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_c(graph) + b"/* of this test alone */\n"
    before = len(list(cache.glob("*.so"))) if cache.exists() else 0
    compiled_c.open_library(source, "model.c", ("-O0",))
    after = set(cache.glob("*.so"))
    assert len(after) - before == 1
    compiled_c.open_library(source, "model.c", ("-O0",))
    assert set(cache.glob("*.so")) == after
    compiled_c.open_library(source + b"\n", "model.c", ("-O0",))
    assert len(set(cache.glob("*.so"))) == len(after) + 1
    with pytest.raises(EdgeMnistError, match=r"model\.c: .* cannot compile it: .*error"):
        compiled_c.open_library(source + b"nonsense\n", "model.c", ("-O0",))
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(EdgeMnistError, match=r"model\.c: CC=no-such-compiler is not there: apt install gcc"):
        compiled_c.open_library(source, "model.c")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EdgeMnistError, match=r"model\.c: a C compiler is not installed: apt install gcc"):
        compiled_c.open_library(source, "model.c")


def mutate(source: bytes, layer: str, what: str) -> bytes:
    """Change one number of a layer's constants; `layer` is its identifier."""
    lines = source.decode().split("\n")

    def find_line(beginning: str) -> int:
        return next(index for index, line in enumerate(lines) if line.startswith(beginning))

    if what == "zero point":
        index = find_line("static const em_layer em_layers") + 1
        index += [line.split(" ")[1].rstrip(":") for line in lines if line.startswith("/* L")].index(layer)
        parts = lines[index].split(", ")
        parts[12] = str(int(parts[12]) + 1)
        lines[index] = ", ".join(parts)
        return "\n".join(lines).encode()
    kind = {"weight": "em_weight", "bias": "int32_t", "multiplier": "em_multiplier"}[what]
    index = find_line(f"static const {kind} {layer}_{what}[") + 1
    first, _, rest = lines[index].partition(",")
    if what == "weight":
        first = f"    {int(first) + (1 if int(first) < 64 else -1)}"
    elif what == "bias":
        first = f"    EM_BIAS({int(first.split('(')[1]) + 1}"
    else:
        first = f"    EM_MULTIPLIER({float(first.split('(')[1].rstrip('f')) * 1.125:.9g}f"
    lines[index] = f"{first},{rest}"
    return "\n".join(lines).encode()


FOUND_BY_RUNNING = {
    ("weight", "conv1"),
    ("bias", "conv3"),
    ("multiplier", "conv6"),
    ("zero point", "conv7"),
    ("weight", "linear"),
}
"""Mutations that are also found by running the code, which takes one compilation each."""


def test_every_mutation_names_its_layer(
    graph: QuantizedGraph, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_c, "FLAGS", ("-O0", "-fPIC", "-shared", "-DEDGE_MNIST_PORTABLE"))
    source = write_c(graph)
    assert find_first_difference(source, graph, reference.images[:8], trust=True) == (None, "")
    for operation in graph.convolutions:
        for what in ("weight", "bias", "multiplier", "zero point"):
            changed = mutate(source, graph.identifiers()[operation.name], what)
            assert changed != source
            for trust in (True, False) if (what, operation.name) in FOUND_BY_RUNNING else (False,):
                found, difference = find_first_difference(changed, graph, reference.images[:8], trust=trust)
                assert (found, bool(difference)) == (operation.name, True), (operation.name, what, found, difference)
    found, difference = find_first_difference(
        source.replace(b"done[0] < first->height", b"done[0] + 1 < first->height"),
        graph,
        reference.images[:8],
        trust=False,
    )
    assert (found, difference) == (None, "its code differs")


def test_the_outputs_of_layers_are_compared(
    graph: QuantizedGraph, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A constant differs, and so do the outputs: the difference that is reported is that of the outputs.
    monkeypatch.setattr(compiled_c, "FLAGS", ("-O0", "-fPIC", "-shared", "-DEDGE_MNIST_PORTABLE"))
    convolution = graph.operations[4]
    assert isinstance(convolution, QuantizedConv2d) and convolution.name == "conv4"
    bias = convolution.bias.copy()
    bias[:] += 500
    operations = tuple(replace(o, bias=bias) if o is convolution else o for o in graph.operations)  # type: ignore[type-var]
    other = QuantizedGraph(graph.input_shape, graph.zero_pixel, operations)
    found, difference = find_first_difference(write_c(other), graph, reference.images[:8], trust=True)
    assert found == "conv4" and "values differ" in difference


def test_verify_runs_c_as_a_variant(reference: Reference, graph: QuantizedGraph, tmp_path: Path) -> None:
    folder = tmp_path / "artifacts"
    bundle_writer.write_bundle(folder, bundle_writer.make_bundle(reference, [FORMATS["c"]], {}))
    assert sorted(path.name for path in folder.iterdir()) == [
        *("manifest.json", "model_int8.c", "model_int8.h", "reference.safetensors")
    ]
    report = verify(folder, load_test_images((1, 28, 28), None, 40))
    assert [(v.name, v.status, v.logits_differing) for v in report.variants] == [("c int8", "passed", 0)]
    assert report.passed
    path = folder / "model_int8.c"
    assert runtime.load(path).contract.model == report_model(graph)
    path.write_bytes(mutate(path.read_bytes(), graph.identifiers()["conv5"], "weight"))
    report = verify(folder, load_test_images((1, 28, 28), None, 20))
    assert [(v.status, v.layer) for v in report.variants] == [("failed", "conv5")]
    assert "changed since the export: weight differs" in report.variants[0].reason


def report_model(graph: QuantizedGraph) -> str:
    from edge_mnist.formats.contract import hash_graph

    return hash_graph(graph)[:16]


def test_without_a_compiler_c_is_not_run(reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "artifacts"
    bundle_writer.write_bundle(folder, bundle_writer.make_bundle(reference, [FORMATS["c"]], {}))
    monkeypatch.setenv("PATH", "")
    report = verify(folder, load_test_images((1, 28, 28), None, 20))
    assert [(v.status, v.reason) for v in report.variants] == [
        ("not run", "model_int8.c: a C compiler is not installed: apt install gcc, or name one in the environment's CC")
    ]
    assert not report.passed


def test_export_writes_c_only_if_it_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge_mnist", "export", "--format", "c", "--no-verify", "--out", "c"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stderr) == (
        2,
        "edge-mnist: --format c: C is written from the quantized network only: add --int8\n",
    )
    subprocess.run([*command, "--int8"], cwd=tmp_path, check=True, env=environment)
    assert (tmp_path / "c" / "model_int8.c").is_file()


def test_predict_and_demo_accept_c_as_a_model(reference: Reference, tmp_path: Path, cache: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    drawn = strokes.draw(5, seed=4)
    row = np.pad(255 - np.hstack(list(drawn.images)), 20, constant_values=255)
    cv2.imwrite(str(tmp_path / "row.png"), cv2.resize(row, None, fx=3, fy=3))
    folder, alone = tmp_path / "artifacts", tmp_path / "alone"
    bundle_writer.write_bundle(folder, bundle_writer.make_bundle(reference, [FORMATS["c"]], {}))
    alone.mkdir()
    shutil.copy(folder / "model_int8.c", alone)

    def run(*arguments: object, **variables: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "edge_mnist", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **variables}
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
        return result.returncode, result.stdout, result.stderr

    expected = run("predict", "row.png")
    assert expected[0] == 0 and len(expected[1].strip()) >= 4
    assert run("predict", "row.png", "--model", folder / "model_int8.c") == expected
    assert run("predict", "row.png", "--model", alone / "model_int8.c", "--trust") == expected
    demo = ("demo", "--camera", "sample", "--view", "none", "--max-frames", 3, "--fps", 0, "--model")
    status, _, errors = run(*demo, folder / "model_int8.c")
    assert status == 0 and "3 frames" in errors
    for command in (("predict", "row.png", "--model"), demo):
        status, output, errors = run(*command, alone / "model_int8.c")
        assert (status, output, len(errors.removeprefix(f"{STARTING}\n").splitlines())) == (1, "", 1)
        assert "carries code" in errors and "put the manifest of its export beside it" in errors
        status, output, errors = run(*command, folder / "model_int8.c", CC="no-such-compiler")
        assert (status, output, len(errors.removeprefix(f"{STARTING}\n").splitlines())) == (1, "", 1)
        assert "CC=no-such-compiler is not there: apt install gcc" in errors
