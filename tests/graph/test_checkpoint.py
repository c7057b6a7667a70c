"""Checkpoints: equal content, equal bytes; damage of every kind is named."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from edge_mnist.graph.checkpoint import Checkpoint, load, save
from edge_mnist.graph.layers import (
    BatchNorm2dLayer,
    Conv2dLayer,
    FlattenLayer,
    GlobalAvgPool2dLayer,
    LinearLayer,
    MaxPool2dLayer,
    ReluLayer,
    weight_shapes,
)
from edge_mnist.graph.tensor_file import encode_tensors, read_tensors
from edge_mnist.pretrained import SHIPPED
from edge_mnist.system.errors import EdgeMnistError

LAYERS = (
    Conv2dLayer("conv", 1, 4, kernel_size=(3, 3), stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, bias=True),
    BatchNorm2dLayer("bn", 4, eps=1e-5, affine=True),
    ReluLayer("relu"),
    GlobalAvgPool2dLayer("pool"),
    FlattenLayer("flatten"),
    LinearLayer("linear", 4, 10, bias=False),
)


def _checkpoint() -> Checkpoint:
    random = np.random.default_rng(0)
    weights = {
        name: random.random(shape, np.float32) + np.float32(0.5) for name, shape in weight_shapes(LAYERS).items()
    }
    statistics = {"conv.range": np.array([0.0, 1.5]), "conv.histogram": np.arange(5)}
    return Checkpoint(LAYERS, (1, 28, 28), 0.1307, 0.3081, weights, statistics, {"seed": 1, "note": "é"})


def test_comes_back_as_it_was_and_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    saved = _checkpoint()
    save(tmp_path / "plain", saved)
    assert not {"is_pixels", "ending"} & read_tensors(tmp_path / "plain")[1].keys()
    saved = dataclasses.replace(saved, mean=(0.5,), std=(0.25,), is_pixels=False, ending="softmax")
    save(tmp_path / "a", saved)
    loaded = load(tmp_path / "a")
    for name in ("architecture", "input_shape", "mean", "std", "metadata", "is_pixels", "ending"):
        assert getattr(loaded, name) == getattr(saved, name)
    for name in ("weights", "statistics"):
        before, after = getattr(saved, name), getattr(loaded, name)
        assert before.keys() == after.keys()
        for key, array in before.items():
            assert array.dtype == after[key].dtype
            np.testing.assert_array_equal(array, after[key])
    backwards = dataclasses.replace(
        loaded,
        weights=dict(reversed(loaded.weights.items())),
        metadata=dict(reversed(loaded.metadata.items())),
    )
    save(tmp_path / "b", backwards)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def _changed(
    name: str, change: Callable[[np.ndarray[Any, Any]], Any]
) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def apply(tensors: dict[str, Any], header: dict[str, Any]) -> None:
        tensors[name] = np.asarray(change(tensors[name]))

    return apply


def _poke(value: float) -> Callable[[np.ndarray[Any, Any]], Any]:
    def apply(array: np.ndarray[Any, Any]) -> Any:
        array = array.copy()
        array.flat[-1] = value
        return array

    return apply


def _layer(index: int, **fields: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda tensors, header: header["architecture"][index].update(fields)


FAULTS: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    "weights/conv.weight holds 1 values that are NaN": _changed("weights/conv.weight", _poke(np.nan)),
    "weights/linear.weight holds 1 values": _changed("weights/linear.weight", _poke(-np.inf)),
    "weights/bn.running_var is -1.0, expected variances of at least 0": _changed("weights/bn.running_var", _poke(-1)),
    "weights/conv.bias is float64, expected float32": _changed("weights/conv.bias", lambda a: a.astype(np.float64)),
    "weights/conv.weight has shape (4, 9), expected (4, 1, 3, 3)": _changed(
        "weights/conv.weight", lambda a: a.reshape(4, 9)
    ),
    "weights/conv.bias is missing": lambda tensors, header: tensors.pop("weights/conv.bias"),
    "weights/conv9.bias belongs to no layer": lambda tensors, header: tensors.update(
        {"weights/conv9.bias": np.ones(1)}
    ),
    "weights/linear.bias is missing": _layer(5, bias=True),
    "bn: weight has shape (5,), expected (4,) after conv (4 channels)": _layer(1, num_features=5),
    "linear: weight has shape (10, 5), expected (10, 4) after flatten (4 features)": _layer(5, in_features=5),
    "conv: weight has shape (4, 2, 3, 3), expected (4, 1, 3, 3) after the input (1 channels)": _layer(0, in_channels=2),
    "conv: a window of 29x3 does not fit into an input of 28x28, padded by 0x0": _layer(0, kernel_size=[29, 3]),
    "conv: stride is [0, 1], expected [height, width] of at least 1": _layer(0, stride=[0, 1]),
    "conv: groups is True, expected an integer": _layer(0, groups=True),
    "conv: 1 -> 4 channels cannot be split into 3 groups": _layer(0, groups=3),
    "relu: the operation 'gelu' is unknown": _layer(2, op="gelu"),
    "relu: two layers have this name": _layer(3, name="relu"),
    "missing or unknown: slope": _layer(2, slope=0.1),
    "a layer is described by 7": lambda tensors, header: header["architecture"].insert(0, 7),
    "the network has no layers": lambda tensors, header: header.update(architecture=[]),
    "input shape [1, 0]": lambda tensors, header: header.update(input_shape=[1, 0]),
    "std is 0.0, expected a positive number": lambda tensors, header: header.update(std=0.0),
    "mean has 3 numbers, expected one for each of 1 channels": lambda tensors, header: header.update(mean=[0.1] * 3),
    "std is (0.0,), expected a positive number": lambda tensors, header: header.update(std=[0.0]),
    "is_pixels is 0, expected true or false": lambda tensors, header: header.update(is_pixels=0),
    "ending is 'argmax', expected softmax": lambda tensors, header: header.update(ending="argmax"),
    "mean is 'grey'": lambda tensors, header: header.update(mean="grey"),
    "its description is incomplete ('mean')": lambda tensors, header: header.pop("mean"),
    "its description is incomplete": lambda tensors, header: header.update(architecture=3),
    "format 2, expected 1": lambda tensors, header: header.update(format=2),
    "metadata is list": lambda tensors, header: header.update(metadata=[]),
}


@pytest.mark.parametrize("text", FAULTS)
def test_damage_is_named_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    save(path, _checkpoint())
    tensors, header = read_tensors(path)
    FAULTS[text](tensors, header)
    path.write_bytes(encode_tensors(tensors, header))
    with pytest.raises(EdgeMnistError, match=re.escape(text)) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    save(path, _checkpoint())
    whole = path.read_bytes()
    for size in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(EdgeMnistError, match="is not a safetensors file, or cut short"):
            load(path)
    for content in (b"\x80\x02}q\x00." * 20, b"\xff" * 64, json.dumps({"a": 1}).encode() * 9):
        path.write_bytes(content)
        with pytest.raises(EdgeMnistError, match="is not a safetensors file, or cut short"):
            load(path)
    tensor = {"weight": np.zeros(3, np.float32)}
    for metadata in (None, {"format": "pt"}, {"edge-mnist": "{"}, {"edge-mnist": "[]"}):
        path.write_bytes(safetensors.numpy.save(tensor, metadata))
        with pytest.raises(EdgeMnistError, match="was not written by edge-mnist"):
            load(path)
    with pytest.raises(EdgeMnistError, match="absent: there is no such file"):
        load(tmp_path / "absent")


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    good = _checkpoint()
    bad = dataclasses.replace(good, weights={**good.weights, "conv.bias": np.full(4, np.nan, np.float32)})
    with pytest.raises(EdgeMnistError, match="weights/conv.bias holds 4 values"):
        save(tmp_path / "x", bad)
    assert not any(tmp_path.iterdir())


def test_an_older_checkpoint_is_written_back_byte_for_byte(tmp_path: Path) -> None:
    save(tmp_path / "again.safetensors", load(SHIPPED))
    assert (tmp_path / "again.safetensors").read_bytes() == SHIPPED.read_bytes()


def test_a_layer_checks_its_settings_when_it_is_made() -> None:
    with pytest.raises(EdgeMnistError, match=r"^pool: stride is \[0, 1\], expected \[height, width\] of at least 1"):
        MaxPool2dLayer("pool", kernel_size=(2, 2), stride=(0, 1), padding=(0, 0))
    with pytest.raises(EdgeMnistError, match="^bn: eps is 0.0, expected a positive number"):
        dataclasses.replace(LAYERS[1], eps=0.0)  # type: ignore[call-arg]
