"""ONNX gives the oracle's integers for each operation, and ONNX Runtime computes it in the form that was chosen."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from edge_mnist import runtime
from edge_mnist.export.onnx_writer import add_output, write_onnx
from edge_mnist.export.proof.localize import find_first_difference
from edge_mnist.graph.arithmetic import tie_margin_of_add, tie_margin_of_multiply
from edge_mnist.graph.interpreter import quantized_activations, run_float, run_quantized
from edge_mnist.graph.operations import Quantization, QuantizedGraph, Table
from edge_mnist.runtime.onnx_runtime import OnnxClassifier
from tests.export.test_other_tools import run_elsewhere
from tests.support.graphs import CASES, PAIRS, Builder, all_pairs, pairs_graph, random_inputs, to_float


def optimized_operators(data: bytes, folder: Path) -> list[str]:
    """The operators that ONNX Runtime runs after all its optimisations."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


@pytest.mark.parametrize("case", CASES)
def test_int8_outputs_are_the_oracles(case: str) -> None:
    graph = CASES[case]()
    inputs = random_inputs(graph, 9)
    expected = run_quantized(graph, inputs)
    classifier = runtime.load_bytes(write_onnx(graph), case)
    np.testing.assert_array_equal(classifier.outputs(inputs), expected)
    assert len(np.unique(expected)) > 10, "the outputs must differ enough to show a fault"
    assert classifier.outputs(inputs[:0]).shape == (0, expected.shape[1])


@pytest.mark.parametrize("case", CASES)
def test_float_outputs_are_near_the_oracles(case: str) -> None:
    graph = to_float(CASES[case]())
    inputs, expected = random_inputs(graph, 9), run_float(graph, random_inputs(graph, 9))
    outputs = runtime.load_bytes(write_onnx(graph), case).outputs(inputs)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["float", "int8"])
def test_the_checker_and_shape_inference_accept_every_operation(case: str, precision: str) -> None:
    graph = CASES[case]()
    model = onnx.load_from_string(write_onnx(to_float(graph) if precision == "float" else graph))
    onnx.checker.check_model(model, full_check=True)
    names = [node.name for node in model.graph.node]
    assert all(names) and len(set(names)) == len(names)
    (output,) = model.graph.output
    shape = graph.shapes()[-1]
    assert [d.dim_value for d in output.type.tensor_type.shape.dim[1:]] == list(
        shape[:1] if shape[1:] == (1, 1) else shape
    )


@pytest.mark.parametrize("case", ["add", "multiply by a gate", "concatenate with the input", "upsample 1x3", "network"])
def test_onnxs_reference_evaluator_gives_the_oracles_integers(case: str) -> None:
    graph = CASES[case]()
    inputs = random_inputs(graph, 2)
    (outputs,) = ReferenceEvaluator(onnx.load_from_string(write_onnx(graph))).run(None, {"pixels": inputs})
    np.testing.assert_array_equal(outputs.reshape(2, -1) ^ 0x80, run_quantized(graph, inputs).view(np.uint8))


@pytest.mark.parametrize(
    ("operator", "a", "b", "output"), [(operator, *case) for operator, cases in PAIRS.items() for case in cases]
)
def test_all_pairs_of_values_give_the_oracles_sum_and_product(
    operator: str, a: Quantization, b: Quantization, output: Quantization, tmp_path: Path
) -> None:
    margin = {"add": tie_margin_of_add, "multiply": tie_margin_of_multiply}[operator]
    assert margin(a, b, output) > 0
    graph = pairs_graph(operator, a, b, output)
    data = write_onnx(graph)
    assert {"add": "QLinearAdd", "multiply": "QLinearMul"}[operator] in optimized_operators(data, tmp_path)
    outputs, expected = runtime.load_bytes(data, operator).outputs(all_pairs()), run_quantized(graph, all_pairs())
    assert expected.size == 256 * 256
    assert (outputs != expected).sum() == 0


def test_sums_at_powers_of_two_differ() -> None:
    """What the scales of sums are for: ties are rounded differently."""
    graph = pairs_graph("add", Quantization(2**-4, -7), Quantization(2**-5, 3), Quantization(2**-3, 5))
    outputs = runtime.load_bytes(write_onnx(graph), "add").outputs(all_pairs())
    assert (outputs != run_quantized(graph, all_pairs())).sum() > 1000


@pytest.mark.parametrize(
    "function", ["sigmoid", "tanh", "hardsigmoid", "hardswish", "silu", "leaky_relu", "elu", "gelu"]
)
def test_a_table_is_computed_only_where_all_256_values_are_the_same(function: str, tmp_path: Path) -> None:
    """Every value of every table is the oracle's, whether it is computed or looked up; both forms occur."""
    images = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    found = set()
    for exponent in range(-8, -2):
        for output in (Quantization(2**-7, 0), Quantization(2**-6, -100), Quantization(2**-8, -128)):
            builder = Builder((1, 16, 16))
            copy = builder.copy(0, 0, Quantization(2.0**exponent, 3))
            builder.tabulate(copy, function, {"leaky_relu": 0.01, "elu": 1.0}.get(function, 0.0), output)
            data = write_onnx(builder.graph)
            found.add("Gather" in optimized_operators(data, tmp_path))
            outputs = runtime.load_bytes(data, function).outputs(images)
            np.testing.assert_array_equal(outputs, run_quantized(builder.graph, images))
    assert False in found


def test_a_table_with_a_tie_or_another_value_is_looked_up() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    for scale, change in ((1.0, 0), (2**-7, 1), (2**-7, 0)):  # sigmoid(0) is 1/2, which is a tie at scale 1
        builder = Builder((1, 16, 16))
        builder.tabulate(builder.copy(0, 0, Quantization(2**-4, 0)), "sigmoid", 0.0, Quantization(scale, 0))
        table = builder.operations[-1]
        assert isinstance(table, Table)
        table.values[100] += change
        data = write_onnx(builder.graph)
        assert (b"Gather" in data) == ((scale, change) != (2**-7, 0))
        np.testing.assert_array_equal(
            runtime.load_bytes(data, "table").outputs(images), run_quantized(builder.graph, images)
        )


@pytest.mark.parametrize("factor", range(2, 65))
def test_upsampling_repeats_values_by_every_factor(factor: int) -> None:
    builder = Builder((1, 2, 64))
    builder.upsample(0, (1, factor))
    images = np.arange(128, dtype=np.uint8).reshape(1, 1, 2, 64)
    outputs = runtime.load_bytes(write_onnx(builder.graph), "upsample").outputs(images)
    np.testing.assert_array_equal(outputs, (images ^ 0x80).view(np.int8).repeat(factor, 3).reshape(1, -1))


def layer_outputs(data: bytes, graph: QuantizedGraph, inputs: np.ndarray) -> list[np.ndarray]:
    """The int8 output of each operation: (N, channels, height, width)."""
    contract = runtime.load_bytes(data, "model").contract
    return [
        contract.to_signed(
            OnnxClassifier(add_output(data, name, "uint8"), name, 1, name).run(contract.convert_images(inputs))
        )
        for name in graph.identifiers().values()
    ]


@pytest.mark.parametrize("case", CASES)
def test_the_output_of_each_operation_has_its_name(case: str) -> None:
    graph = CASES[case]()
    inputs = random_inputs(graph, 2)
    _, *expected = quantized_activations(graph, inputs)
    for found, values in zip(layer_outputs(write_onnx(graph), graph, inputs), expected, strict=True):
        np.testing.assert_array_equal(found, values.transpose(0, 3, 1, 2))


def test_a_changed_constant_or_node_names_its_operation() -> None:
    graph = CASES["network"]()
    inputs = random_inputs(graph, 4)
    data = write_onnx(graph)
    assert find_first_difference(data, graph, inputs, trust=True) == (None, "")
    names = {identifier: name for name, identifier in graph.identifiers().items()}
    changed = set()
    for index, constant in enumerate(onnx.load_from_string(data).graph.initializer):
        array = onnx.numpy_helper.to_array(constant).copy()
        if array.size < 2:
            continue  # scales and zero points, which several operations may share
        model = onnx.load_from_string(data)
        array.reshape(-1)[-1] += 1
        model.graph.initializer[index].CopyFrom(onnx.numpy_helper.from_array(array, constant.name))
        owner = names[constant.name.partition(".")[0]]
        assert find_first_difference(model.SerializeToString(), graph, inputs, trust=True)[0] == owner
        changed.add(re.sub(r"\d+", "", owner))
    assert changed == {"convolution", "table", "upsample"}
    for index, node in enumerate(onnx.load_from_string(data).graph.node):
        if node.op_type == "Add":
            model = onnx.load_from_string(data)
            model.graph.node[index].op_type = "Mul"
            assert (
                find_first_difference(model.SerializeToString(), graph, inputs, trust=True)[0]
                == names[node.name.partition(".")[0]]
            )


@pytest.mark.skipif(int(cv2.__version__.split(".")[0]) < 5, reason="OpenCV 4 has no integer input")
@pytest.mark.parametrize("case", [case for case in CASES if case != "upsample 41x5"])  # it interpolates up to 41
def test_opencv_5_gives_the_oracles_integers(case: str) -> None:
    graph = CASES[case]()
    data, inputs = write_onnx(graph), random_inputs(graph, 3)
    network = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
    outputs = []
    for item in runtime.load_bytes(data, case).contract.convert_images(inputs):
        network.setInput(np.ascontiguousarray(item[None]))
        outputs.append(network.forward().reshape(-1))
    np.testing.assert_array_equal(np.array(outputs, dtype=np.int64) - 128, run_quantized(graph, inputs))


ONNX_RUNTIME = """
import sys
from pathlib import Path
import numpy as np
import onnxruntime
for path in Path(sys.argv[1]).glob("*.onnx"):
    model = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.save(path.with_suffix(".out.npy"), model.run(None, {model.get_inputs()[0].name: np.load(f"{path}.npy")})[0])
"""

TRACT = """
import sys
from pathlib import Path
import numpy as np
import tract
for path in Path(sys.argv[1]).glob("*.onnx"):
    inputs = np.load(f"{path}.npy")
    model = tract.onnx().load(str(path))
    model.set_input_fact(0, ",".join(map(str, (1, *inputs.shape[1:], "u8"))))
    model = model.into_model().into_runnable()
    np.save(path.with_suffix(".out.npy"), np.concatenate([model.run([item[None]])[0].to_numpy() for item in inputs]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "packages"),
    [
        (ONNX_RUNTIME, ("onnxruntime==1.16.3", "numpy<2")),
        (ONNX_RUNTIME, ("onnxruntime==1.20.0",)),
        (TRACT, ("tract", "numpy")),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_other_onnx_runtimes_give_the_oracles_integers(script: str, packages: tuple[str, ...], tmp_path: Path) -> None:
    graphs = [make() for make in CASES.values()]
    inputs = [random_inputs(graph, 9) for graph in graphs]
    for operator, cases in PAIRS.items():
        graphs += [pairs_graph(operator, *case) for case in cases]
        inputs += [all_pairs()] * len(cases)
    for index, (graph, values) in enumerate(zip(graphs, inputs, strict=True)):
        data = write_onnx(graph)
        (tmp_path / f"{index}.onnx").write_bytes(data)
        np.save(tmp_path / f"{index}.onnx.npy", runtime.load_bytes(data, "model").contract.convert_images(values))
    run_elsewhere(script, "3.11", packages, tmp_path, tmp_path, all_pairs())
    for index, (graph, values) in enumerate(zip(graphs, inputs, strict=True)):
        outputs = np.load(tmp_path / f"{index}.out.npy").reshape(len(values), -1)
        np.testing.assert_array_equal((outputs ^ 0x80).view(np.int8), run_quantized(graph, values))
