"""The law on which everything else depends: every format computes the same integers, whatever the network is."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edge_mnist import runtime
from edge_mnist.export import WRITERS
from edge_mnist.formats.table import choose_formats
from edge_mnist.graph import calibration
from edge_mnist.graph.checkpoint import Checkpoint
from edge_mnist.graph.folding import fold
from edge_mnist.graph.interpreter import Rounding, run_float, run_quantized
from edge_mnist.graph.operations import FloatGraph, MaxPool2d, QuantizedGraph
from edge_mnist.graph.quantization import quantize_graph
from edge_mnist.runtime import torchscript
from edge_mnist.runtime.tflite import TFLiteClassifier
from edge_mnist.system.errors import EdgeMnistError
from tests.support.networks import random_checkpoint, random_images

NETWORKS = 220
IMAGES = 40
OTHER_ROUNDINGS: tuple[Rounding, ...] = (
    *("float", "fixed-point", "fixed-point, ties away", "fixed-point, single rounding"),
)


@pytest.fixture(scope="module")
def networks() -> list[tuple[Checkpoint, FloatGraph, QuantizedGraph, np.ndarray]]:
    """Random networks, folded and quantized, with images. Quantization refuses those that always give 0."""
    found = []
    for seed in range(1000, 1000 + NETWORKS):
        checkpoint = random_checkpoint(seed)
        images = random_images(checkpoint, IMAGES, seed)
        graph = fold(checkpoint)
        try:
            quantized, _ = quantize_graph(graph, calibration.collect(graph, images))
        except EdgeMnistError as error:
            assert "every output is" in str(error)
            continue
        found.append((checkpoint, graph, quantized, images))
    return found


@pytest.mark.parametrize("kind", [record.name for record in choose_formats()])
def test_random_networks_give_the_oracles_logits(kind: str, networks: list) -> None:
    if kind == "torchscript":
        pytest.importorskip("torch")
    assert len(networks) >= 200
    differing = compared = 0
    for _, graph, quantized, images in networks:
        classifier = runtime.load_bytes(WRITERS[kind](quantized), kind)
        outputs, expected = classifier.outputs(images), run_quantized(quantized, images)
        assert outputs.dtype == np.int8
        differing += int((outputs != expected).sum())
        compared += expected.size
        real, expected_real = (
            runtime.load_bytes(WRITERS[kind](graph), kind).outputs(images),
            run_float(graph, images),
        )
        np.testing.assert_allclose(real, expected_real, rtol=0, atol=1e-4 * max(1, np.abs(expected_real).max() / 10))
    print(f"\n{kind}: {len(networks)} networks, {compared} int8 logits compared, {differing} differing")
    assert differing == 0


def test_the_random_networks_use_every_operation(networks: list) -> None:
    seen: Counter[str] = Counter()
    varied = unsaturated = 0
    for checkpoint, _, quantized, images in networks:
        for layer in checkpoint.architecture:
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
        logits = run_quantized(quantized, images)
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


def test_xnnpack_supports_every_operation(networks: list) -> None:
    left_out = 0
    for _, graph, quantized, _ in networks:
        pools = [operation.window for operation in graph.operations if isinstance(operation, MaxPool2d)]
        if any(max(s - k for s, k in zip(pool.stride, pool.kernel_size, strict=True)) > 0 for pool in pools):
            left_out += 1  # XNNPACK supports no pool whose stride exceeds its window
            continue
        for network in (graph, quantized):
            classifier = runtime.load_bytes(WRITERS["tflite"](network), "tflite")
            assert isinstance(classifier, TFLiteClassifier)
            delegates = [o for o in classifier._interpreter._get_ops_details() if o["op_name"] == "DELEGATE"]
            # If one delegate reaches from the input to the output, it contains every operation.
            assert len(delegates) == 1
            assert classifier._input["index"] in delegates[0]["inputs"]
            assert classifier._output in delegates[0]["outputs"]
    print(f"\n{len(networks) - left_out} networks wholly in XNNPACK, {left_out} with a pool that it does not have")


def test_kernels_without_xnnpack_equal_the_fixed_point_mode(networks: list) -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    plain = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    apart = compared = 0
    for _, _, quantized, images in networks:
        executor = interpreter.Interpreter(
            model_content=WRITERS["tflite"](quantized), experimental_op_resolver_type=plain
        )
        pixels = np.ascontiguousarray((images ^ 0x80).view(np.int8).transpose(0, 2, 3, 1))
        executor.resize_tensor_input(executor.get_input_details()[0]["index"], pixels.shape)
        executor.allocate_tensors()
        executor.set_tensor(executor.get_input_details()[0]["index"], pixels)
        executor.invoke()
        outputs = executor.get_tensor(executor.get_output_details()[0]["index"])
        expected = run_quantized(quantized, images, "fixed-point")
        apart += int((outputs != expected).sum())
        compared += expected.size
    print(f"\nwithout XNNPACK: {compared} logits compared with the fixed-point mode, {apart} differing")
    assert apart == 0


def test_tensorflow_lite_micro_equals_its_rounding_mode(networks: list) -> None:
    pytest.importorskip("tflite_micro", exc_type=ImportError)
    apart = compared = 0
    unlike: Counter[str] = Counter()
    for _, graph, quantized, images in networks:
        classifier = runtime.load_bytes(WRITERS["tflite"](quantized), "tflite", runtime=runtime.MICRO)
        outputs = classifier.outputs(images)
        apart += int((outputs != run_quantized(quantized, images, classifier.rounding)).sum())
        compared += outputs.size
        for rounding in OTHER_ROUNDINGS:
            unlike[rounding] += int((outputs != run_quantized(quantized, images, rounding)).sum())
        real = runtime.load_bytes(WRITERS["tflite"](graph), "tflite", runtime=runtime.MICRO).outputs(images)
        expected = run_float(graph, images)
        np.testing.assert_allclose(real, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max() / 10))
    print(f"\n{classifier.runtime}: {len(networks)} networks, {compared} logits compared, {apart} differing")
    print(", ".join(f"from {rounding} {count}" for rounding, count in unlike.items()))
    assert apart == 0 and min(unlike.values()) > 0  # every other mode differs


def test_archives_written_on_x86_compute_the_same_in_qnnpack(networks: list, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    if "qnnpack" not in torch.backends.quantized.supported_engines:
        pytest.skip("this PyTorch has no QNNPACK, the kernels that it uses on ARM")
    archives = [WRITERS["torchscript"](quantized) for _, _, quantized, _ in networks[:60]]
    engine = torch.backends.quantized.engine
    monkeypatch.setattr(torchscript, "choose_quantized_engine", lambda: "qnnpack")
    try:
        for archive, (_, _, quantized, images) in zip(archives, networks, strict=False):
            classifier = runtime.load_bytes(archive, "torchscript")
            assert classifier.runtime.endswith("qnnpack")
            np.testing.assert_array_equal(classifier.outputs(images), run_quantized(quantized, images))
    finally:
        torch.backends.quantized.engine = engine
