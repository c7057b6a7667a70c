"""TorchScript gives the oracle's integers for each operation, with the int8 kernels of x86 and those of ARM."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge_mnist import runtime  # noqa: E402 - torch is needed
from edge_mnist.export.proof import localize  # noqa: E402
from edge_mnist.export.torchscript_writer import write_torchscript  # noqa: E402
from edge_mnist.formats.torchscript_reader import read_constants  # noqa: E402
from edge_mnist.graph.arithmetic import tie_margin_of_add  # noqa: E402
from edge_mnist.graph.interpreter import quantized_activations, run_float, run_quantized  # noqa: E402
from edge_mnist.graph.operations import Quantization  # noqa: E402
from edge_mnist.runtime import torchscript  # noqa: E402
from tests.support.graphs import CASES, PAIRS, Builder, all_pairs, pairs_graph, random_inputs, to_float  # noqa: E402


@pytest.fixture(params=["fbgemm", "qnnpack"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The kernels with which archives are run: FBGEMM, that of x86, and QNNPACK, that of ARM, which x86 has too."""
    before = torch.backends.quantized.engine
    monkeypatch.setattr(torchscript, "choose_quantized_engine", lambda: request.param)
    yield request.param
    torch.backends.quantized.engine = before


@pytest.mark.parametrize("case", CASES)
def test_int8_outputs_are_the_oracles(case: str, engine: str) -> None:
    graph = CASES[case]()
    inputs = random_inputs(graph, 9)
    expected = run_quantized(graph, inputs)
    classifier = runtime.load_bytes(write_torchscript(graph), case)
    assert classifier.runtime.endswith(engine)
    np.testing.assert_array_equal(classifier.outputs(inputs), expected)
    assert classifier.outputs(inputs[:1]).shape == (1, expected.shape[1])


@pytest.mark.parametrize("case", CASES)
def test_float_outputs_are_near_the_oracles(case: str) -> None:
    graph = to_float(CASES[case]())
    inputs, expected = random_inputs(graph, 9), run_float(graph, random_inputs(graph, 9))
    outputs = runtime.load_bytes(write_torchscript(graph), case).outputs(inputs)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("operator", "a", "b", "output"), [(operator, *case) for operator, cases in PAIRS.items() for case in cases]
)
def test_all_pairs_of_values_give_the_oracles_sum_and_product(
    operator: str, a: Quantization, b: Quantization, output: Quantization, engine: str
) -> None:
    graph = pairs_graph(operator, a, b, output)
    outputs = runtime.load_bytes(write_torchscript(graph), operator).outputs(all_pairs())
    expected = run_quantized(graph, all_pairs())
    assert expected.size == 256 * 256
    assert (outputs != expected).sum() == 0


def test_qnnpack_refuses_the_scales_that_count_as_inexact() -> None:
    a, b, output = Quantization(2**-4, -128), Quantization(2**-19, 9), Quantization(2**-4 * (1 + 2**-12), -128)
    assert tie_margin_of_add(a, b, output) == -1
    first, second = (
        torch._make_per_tensor_quantized_tensor(torch.zeros(8, dtype=torch.uint8), value.scale, value.zero_point + 128)
        for value in (a, b)
    )
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "qnnpack"
    try:
        with pytest.raises(RuntimeError, match="QNNPACK"):
            torch.ops.quantized.add(first, second, output.scale, 0)
    finally:
        torch.backends.quantized.engine = before


@pytest.mark.parametrize(
    ("scale", "zero_point"), [(3 * 2**-7, -128), (2**-5 * (1 + 2**-12), 3), (2**-20 * (1 - 2**-12), 127)]
)
def test_joining_copies_every_integer(scale: float, zero_point: int, engine: str) -> None:
    builder = Builder((1, 16, 16))
    copies = [builder.copy(0, 0, Quantization(scale, zero_point)) for _ in range(2)]
    builder.concatenate(*copies)
    images = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    outputs = runtime.load_bytes(write_torchscript(builder.graph), "joined").outputs(images)
    np.testing.assert_array_equal(outputs, np.tile(np.arange(-128, 128), 2)[None])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["float", "int8"])
def test_the_output_of_each_operation_is_found(case: str, precision: str) -> None:
    graph = CASES[case]()
    inputs = random_inputs(graph, 3)
    archive = write_torchscript(graph if precision == "int8" else to_float(graph))
    classifier = runtime.load_bytes(archive, case)
    assert isinstance(classifier, torchscript.TorchScriptClassifier)
    outputs = list(classifier.layer_outputs(classifier.contract.convert_images(inputs)))
    assert len(outputs) == len(graph.operations)
    if precision == "int8":
        _, *expected = quantized_activations(graph, inputs)
        for found, values in zip(outputs, expected, strict=True):
            np.testing.assert_array_equal(classifier.contract.to_signed(found), values.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("precision", ["float", "int8"])
def test_what_was_traced_before_changes_no_constant(precision: str) -> None:
    graph = CASES["network"]() if precision == "int8" else to_float(CASES["network"]())
    first = write_torchscript(graph)
    write_torchscript(CASES["add"]())
    write_torchscript(CASES["vectors"]())
    assert list(read_constants(write_torchscript(graph))) == list(read_constants(first))


@pytest.mark.parametrize("precision", ["float", "int8"])
def test_a_changed_constant_or_scale_names_its_operation(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = CASES["network"]() if precision == "int8" else to_float(CASES["network"]())
    inputs = random_inputs(graph, 4)
    data = write_torchscript(graph)
    monkeypatch.setattr(localize, "WRITERS", {"torchscript": lambda _: data})  # writing it each time would be slow
    for trust in (True, False):
        assert localize.find_first_difference(data, graph, inputs, trust=trust) == (None, "")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    kinds = {"convolution"} if precision == "float" else {"convolution", "table"}
    names = {identifier: name for name, identifier in graph.identifiers().items()}
    owners = [names[owner] for owner, what, _ in read_constants(data) if what == "a constant"]
    assert {re.sub(r"\d+", "", owner) for owner in owners} == kinds
    for index, owner in enumerate(owners):
        name = f"archive/data/{index}"
        content = bytearray(entries[name])
        content[-2] ^= 0x40
        for trust in (True, False) if index in (0, len(owners) - 1) else (False,):
            assert (
                localize.find_first_difference(replaced(entries, name, bytes(content)), graph, inputs, trust=trust)[0]
                == owner
            )
    # A number in the code of each operation: a scale of the output, a factor, an axis.
    changed = set()
    for name, content in entries.items():
        for call in re.finditer(
            rb"(?:quantized\.(?:add|mul)\(.*, |repeat_interleave\(.*?, |cat\(.*\], )([\d.e-]+)", content
        ):
            number = b"2" if call[1] in (b"0.03125", b"1") else b"3" if call[1] == b"2" else b"1"
            code = content[: call.start(1)] + number + content[call.end(1) :]
            owner, difference = localize.find_first_difference(
                replaced(entries, name, code), graph, inputs, trust=False
            )
            assert owner is not None and difference.startswith("the code")
            changed.add(re.sub(r"\d+", "", owner))
    assert changed == (
        {"add", "multiply", "upsample", "concatenate"} if precision == "int8" else {"upsample", "concatenate"}
    )


def replaced(entries: dict[str, bytes], name: str, content: bytes) -> bytes:
    """An archive with one entry replaced."""
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        for key, value in entries.items():
            archive.writestr(key, content if key == name else value)
    return result.getvalue()
