"""The law on which everything else depends: every format computes the same integers, whatever the network is."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edge_mnist import runtime
from edge_mnist.export import WRITERS
from edge_mnist.export.proof.run_artifact import compute_tolerance
from edge_mnist.formats.table import FORMATS, choose_formats
from edge_mnist.graph import calibration
from edge_mnist.graph.checkpoint import Checkpoint
from edge_mnist.graph.folding import fold
from edge_mnist.graph.interpreter import Rounding, run_float, run_quantized
from edge_mnist.graph.layers import ACTIVATIONS, ActivationLayer
from edge_mnist.graph.operations import (
    RELU,
    UNBOUNDED,
    Add,
    FloatGraph,
    MaxPool2d,
    QuantizedConv2d,
    QuantizedGraph,
)
from edge_mnist.graph.quantization import quantize_graph
from edge_mnist.runtime import torchscript
from edge_mnist.runtime.tflite import TFLiteClassifier
from edge_mnist.system.errors import EdgeMnistError
from tests.support.c_programs import COMPILERS, require_compiler
from tests.support.networks import random_checkpoint, random_features, random_graph, random_images

NETWORKS = 220
GRAPHS, FEW_GRAPHS = 240, 16
"""How many random graphs are drawn for the slow tests, and for the fast ones."""
IMAGES = 40
OTHER_ROUNDINGS: tuple[Rounding, ...] = (
    *("float", "fixed-point", "fixed-point, ties away", "fixed-point, single rounding"),
)


@dataclass(frozen=True)
class Network:
    """A random network, folded and quantized, with inputs (N, *input_shape)."""

    seed: int
    checkpoint: Checkpoint
    graph: FloatGraph
    quantized: QuantizedGraph
    images: np.ndarray


def quantize_all(checkpoints: Iterable[tuple[int, Checkpoint]]) -> list[Network]:
    """The networks that can be quantized: not those of which a layer always gives the same."""
    found = []
    for seed, checkpoint in checkpoints:
        draw = random_images if checkpoint.is_pixels else random_features
        images = draw(checkpoint, IMAGES, seed)
        graph = fold(checkpoint)
        try:
            quantized, _ = quantize_graph(graph, calibration.collect(graph, images))
        except EdgeMnistError as error:
            assert "every output is" in str(error), seed
            continue
        found.append(Network(seed, checkpoint, graph, quantized, images))
    return found


@pytest.fixture(scope="module")
def networks() -> list[Network]:
    """Random chains."""
    return quantize_all((seed, random_checkpoint(seed)) for seed in range(1000, 1000 + NETWORKS))


@pytest.fixture(scope="module")
def few_graphs() -> list[Network]:
    """A few random graphs: the first with a product of maps of one channel; the last two clamp to narrow bounds."""
    return quantize_all((seed, random_graph(seed)) for seed in (3005, *range(2000, 2000 + FEW_GRAPHS), 3170, 3228))


@pytest.fixture(scope="module")
def graphs() -> list[Network]:
    """Random graphs."""
    return quantize_all((seed, random_graph(seed)) for seed in range(3000, 3000 + GRAPHS))


def compare(kind: str, networks: Sequence[Network]) -> None:
    """Compare an int8 and a float artifact of each network with the oracle, the former bit for bit."""
    if kind == "torchscript":
        pytest.importorskip("torch")
    compared = 0
    differing: Counter[int] = Counter()
    runtimes = ("", runtime.SCALAR) if kind == "wasm" else ("",)

    def open_int8(network: Network) -> list[runtime.Classifier]:
        data = WRITERS[kind](network.quantized)
        return [runtime.load_bytes(data, kind, runtime=name) for name in runtimes]

    # Opening a model.c, and writing WebAssembly, compiles in processes of their own: one for each processor at a time.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        opened = pool.map(open_int8, networks) if kind in COMPILERS else map(open_int8, networks)
        for network, classifiers in zip(networks, opened, strict=True):
            expected = run_quantized(network.quantized, network.images)
            for classifier in classifiers:
                outputs = classifier.outputs(network.images)
                assert outputs.dtype == np.int8 and outputs.shape == expected.shape
                differing[network.seed] += int((outputs != expected).sum())
                compared += expected.size
            if "float" in FORMATS[kind].precisions:
                real = runtime.load_bytes(WRITERS[kind](network.graph), kind).outputs(network.images)
                expected_real = run_float(network.graph, network.images)
                assert (np.abs(real - expected_real) <= compute_tolerance(expected_real)).all(), network.seed
    print(f"\n{kind}: {len(networks)} networks, {compared} int8 logits compared, {differing.total()} differing")
    assert +differing == Counter()


@pytest.mark.parametrize("kind", [record.name for record in choose_formats()])
def test_random_networks_give_the_oracles_logits(kind: str, networks: list[Network]) -> None:
    assert len(networks) >= 200
    # Each archive is compiled by torch, which takes long; the slow test below opens as many.
    compare(kind, networks[::4] if kind == "torchscript" else networks)


@pytest.mark.parametrize("kind", [record.name for record in choose_formats()])
def test_a_few_random_graphs_give_the_oracles_logits(kind: str, few_graphs: list[Network]) -> None:
    assert len(few_graphs) >= 0.8 * FEW_GRAPHS
    compare(kind, few_graphs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_random_graphs_give_the_oracles_logits(
    kind: str, graphs: list[Network], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_compiler(kind)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert len(graphs) >= 200
    # Each graph is compiled twice to WebAssembly, and the kernels are those of C.
    compare(kind, graphs[::4] if kind == "wasm" else graphs)


@pytest.mark.parametrize("kind", COMPILERS)
def test_a_few_random_graphs_that_are_compiled_give_the_oracles_logits(
    kind: str, few_graphs: list[Network], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_compiler(kind)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compare(kind, few_graphs[:4])


@pytest.mark.slow
def test_the_random_graphs_use_every_operation(graphs: list[Network]) -> None:
    seen: Counter[str] = Counter()
    varied = unsaturated = 0
    for network in graphs:
        quantized, shape = network.quantized, network.checkpoint.input_shape
        seen.update(layer.op for layer in network.checkpoint.architecture)
        seen.update(layer.function for layer in network.checkpoint.architecture if isinstance(layer, ActivationLayer))
        seen.update(type(operation).__name__ for operation in quantized.operations)
        windows = [o.window for o in quantized.operations if isinstance(o, QuantizedConv2d | MaxPool2d)]
        adds = {index + 1 for index, operation in enumerate(quantized.operations) if isinstance(operation, Add)}
        for what, found in {
            "one-sided padding": any(window.padding_after is not None for window in windows),
            "maps as output": quantized.shapes()[-1][1:] != (1, 1),
            "features": not quantized.is_pixels,
            "vectors": len(shape) == 1,
            "sequences": len(shape) == 2,
            "large images": len(shape) == 3 and max(shape) > 32,
            **{f"{channels} channels": len(shape) == 3 and shape[0] == channels for channels in (1, 2, 3, 4)},
            "clamp": any(operation.bounds not in (RELU, UNBOUNDED) for operation in quantized.convolutions),
            "chain of adds": any(adds & {*quantized.sources(index - 1)} for index in adds),
            "adds of different scales": any(
                len({quantized.quantizations()[source].scale for source in quantized.sources(index - 1)}) == 2
                for index in adds
            ),
            "padded input": quantized.zero_pixel > 0,
        }.items():
            seen[what] += found
        logits = run_quantized(quantized, network.images)
        varied += len(np.unique(logits)) >= 8
        unsaturated += bool((np.abs(logits.astype(int)) >= 127).mean() < 0.2)
    print(f"\n{len(graphs)} graphs: varied logits {varied}, under 20 % saturated {unsaturated}")
    print(", ".join(f"{what} {count}" for what, count in sorted(seen.items()) if count))
    assert min(varied, unsaturated) >= 0.9 * len(graphs)
    for what in (
        *("QuantizedConv2d", "MaxPool2d", "Upsample", "Concatenate", "Add", "Multiply", "Table", *ACTIVATIONS),
        *("conv1d", "linear", "clamp", "zero_pad2d", "max_pool2d_ceil", "avg_pool2d", "adaptive_avg_pool2d"),
        *("one-sided padding", "maps as output", "features", "vectors", "sequences", "large images", "padded input"),
        *("1 channels", "2 channels", "3 channels", "4 channels"),
        *("chain of adds", "adds of different scales"),
    ):
        assert seen[what] >= 10, what


def test_the_random_networks_use_every_operation(networks: list[Network]) -> None:
    seen: Counter[str] = Counter()
    varied = unsaturated = 0
    for network in networks:
        quantized = network.quantized
        for layer in network.checkpoint.architecture:
            fields = layer.to_json()
            seen[layer.op] += 1
            for key in ("stride", "dilation"):
                seen[f"{layer.op} {key}"] += max(fields.get(key, [1])) > 1
            seen[f"{layer.op} padding"] += max(fields.get("padding", [0])) > 0
            groups, inputs = fields.get("groups", 1), fields.get("in_channels")
            seen["grouped"] += 1 < groups < (inputs or 0)
            seen["depthwise"] += groups > 1 and groups == inputs
        seen["padded input"] += quantized.zero_pixel > 0
        seen["signed activations"] += any(not c.relu for c in quantized.convolutions[:-1])
        logits = run_quantized(quantized, network.images)
        varied += len(np.unique(logits)) >= 8
        unsaturated += bool((np.abs(logits.astype(int)) >= 127).mean() < 0.2)
    print(f"\n{len(networks)} networks: varied logits {varied}, under 20 % saturated {unsaturated}")
    print(", ".join(f"{what} {count}" for what, count in sorted(seen.items()) if count))
    assert min(varied, unsaturated) >= 0.9 * len(networks)
    for what in (
        *("conv2d", "batch_norm2d", "relu", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "flatten", "linear"),
        *("conv2d stride", "conv2d padding", "conv2d dilation", "max_pool2d stride", "max_pool2d padding"),
        *("avg_pool2d stride", "avg_pool2d padding", "grouped", "depthwise", "padded input", "signed activations"),
    ):
        assert seen[what] >= 10, what


def test_xnnpack_supports_every_operation(networks: list[Network]) -> None:
    left_out = 0
    for network in networks:
        pools = [operation.window for operation in network.graph.operations if isinstance(operation, MaxPool2d)]
        if any(max(s - k for s, k in zip(pool.stride, pool.kernel_size, strict=True)) > 0 for pool in pools):
            left_out += 1  # XNNPACK supports no pool whose stride exceeds its window
            continue
        for graph in (network.graph, network.quantized):
            classifier = runtime.load_bytes(WRITERS["tflite"](graph), "tflite")
            assert isinstance(classifier, TFLiteClassifier)
            delegates = [o for o in classifier._interpreter._get_ops_details() if o["op_name"] == "DELEGATE"]
            # If one delegate reaches from the input to the output, it contains every operation.
            assert len(delegates) == 1
            assert classifier._input["index"] in delegates[0]["inputs"]
            assert classifier._output in delegates[0]["outputs"]
    print(f"\n{len(networks) - left_out} networks wholly in XNNPACK, {left_out} with a pool that it does not have")


every_kind = pytest.mark.parametrize(
    "which", ["networks", "few_graphs", pytest.param("graphs", marks=pytest.mark.slow)]
)


@every_kind
def test_kernels_without_xnnpack_equal_the_fixed_point_mode(which: str, request: pytest.FixtureRequest) -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    plain = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    compared = 0
    differing: Counter[int] = Counter()
    for network in request.getfixturevalue(which):
        executor = interpreter.Interpreter(
            model_content=WRITERS["tflite"](network.quantized), experimental_op_resolver_type=plain
        )
        contract = FORMATS["tflite"].make_contract(network.quantized)
        inputs = contract.convert_images(network.images)
        executor.resize_tensor_input(executor.get_input_details()[0]["index"], inputs.shape)
        executor.allocate_tensors()
        executor.set_tensor(executor.get_input_details()[0]["index"], inputs)
        executor.invoke()
        outputs = executor.get_tensor(executor.get_output_details()[0]["index"])
        expected = run_quantized(network.quantized, network.images, "fixed-point")
        differing[network.seed] += int((contract.flatten_outputs(outputs, IMAGES) != expected).sum())
        compared += expected.size
    print(f"\nwithout XNNPACK: {compared} logits compared with the fixed-point mode, {differing.total()} differing")
    assert +differing == Counter()


@every_kind
def test_tensorflow_lite_micro_equals_its_rounding_mode(which: str, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("tflite_micro", exc_type=ImportError)
    compared = 0
    differing: Counter[int] = Counter()
    unlike: Counter[str] = Counter()
    networks = request.getfixturevalue(which)
    for network in networks:
        quantized, images = network.quantized, network.images
        classifier = runtime.load_bytes(WRITERS["tflite"](quantized), "tflite", runtime=runtime.MICRO)
        outputs = classifier.outputs(images)
        differing[network.seed] += int((outputs != run_quantized(quantized, images, classifier.rounding)).sum())
        compared += outputs.size
        for rounding in OTHER_ROUNDINGS:
            unlike[rounding] += int((outputs != run_quantized(quantized, images, rounding)).sum())
        real = runtime.load_bytes(WRITERS["tflite"](network.graph), "tflite", runtime=runtime.MICRO).outputs(images)
        expected = run_float(network.graph, images)
        assert (np.abs(real - expected) <= compute_tolerance(expected)).all(), network.seed
    print(f"\n{classifier.runtime}: {len(networks)} networks, {compared} logits, {differing.total()} differing")
    print(", ".join(f"from {rounding} {count}" for rounding, count in unlike.items()))
    assert +differing == Counter()
    assert which == "few_graphs" or min(unlike.values()) > 0  # every other mode differs


@every_kind
def test_archives_written_on_x86_compute_the_same_in_qnnpack(
    which: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    if "qnnpack" not in torch.backends.quantized.supported_engines:
        pytest.skip("this PyTorch has no QNNPACK, the kernels that it uses on ARM")
    networks = request.getfixturevalue(which)[: 60 if which == "graphs" else 20]  # torch compiles each of them
    archives = [WRITERS["torchscript"](network.quantized) for network in networks]
    engine = torch.backends.quantized.engine
    monkeypatch.setattr(torchscript, "choose_quantized_engine", lambda: "qnnpack")
    try:
        for archive, network in zip(archives, networks, strict=True):
            classifier = runtime.load_bytes(archive, "torchscript")
            assert classifier.runtime.endswith("qnnpack")
            expected = run_quantized(network.quantized, network.images)
            np.testing.assert_array_equal(classifier.outputs(network.images), expected, str(network.seed))
    finally:
        torch.backends.quantized.engine = engine
