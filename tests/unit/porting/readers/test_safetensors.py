"""safetensors files: their arrays are read exactly, and defects are reported in one line."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from passl.errors import CheckpointError
from passl.porting.readers.safetensors import open_safetensors
from tests.stress.fuzzing import (
    read_safetensors,
    safetensors_bytes,
)
from tests.unit.porting.readers.samples import (
    BF16,
    BF16_VALUES,
    DTYPES,
    A,
)


def test_safetensors_of_the_library(tmp_path):
    arrays = {dtype: np.array([[0, 1, 2]]).astype(dtype) for dtype in (*DTYPES, "uint16", "uint32")}
    arrays |= {"scalar": np.array(3.5), "empty": np.zeros((0, 3), np.float32)}
    save_file(arrays, tmp_path / "weights.safetensors", {"format": "np", "note": "ä"})
    weights, metadata = read_safetensors(tmp_path / "weights.safetensors")
    assert metadata == {"format": "np", "note": "ä"}
    assert weights.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (weights[name].dtype, weights[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(weights[name], array, name)


def test_safetensors_bfloat16(write):
    entry = {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}
    weights, metadata = read_safetensors(write(safetensors_bytes({"w": entry}, BF16.tobytes())))
    assert (weights["w"].dtype, metadata) == (np.float32, {})
    np.testing.assert_array_equal(weights["w"], BF16_VALUES.reshape(2, 2))


def test_safetensors_bfloat16_of_paddle(tmp_path):
    paddle = pytest.importorskip("paddle")
    paddle.seed(0)
    state = paddle.nn.Linear(3, 4).to(dtype="bfloat16").state_dict()
    path = tmp_path / "weights.safetensors"
    paddle.save(state, str(path), safetensors=True)
    weights, _ = read_safetensors(path)
    assert weights.keys() == state.keys()
    for name, value in state.items():
        assert weights[name].dtype == np.float32
        np.testing.assert_array_equal(weights[name], value.astype("float32").numpy(), name)


def _entry(**fields: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [12], "data_offsets": [0, 48]} | fields


@pytest.mark.parametrize(
    "header",
    [
        {"w": _entry(shape=[13])},
        {"w": _entry(shape=[-12])},
        {"w": _entry(shape=[2**62, 2**62])},
        {"w": _entry(shape=[True] * 12)},
        {"w": _entry(shape="ab")},
        {"w": _entry(dtype=[])},
        {"w": _entry(dtype="F16")},
        {"w": _entry(data_offsets=[0, 99])},
        {"w": _entry(data_offsets=[4, 48])},
        {"w": _entry(data_offsets=[48, 0])},
        {"w": _entry(data_offsets=[0, 40], shape=[10])},
        {"w": _entry(), "v": _entry()},
        {"w": None},
        {"w": _entry(), "__metadata__": {"a": 1}},
        b"[]",
        b"[" * 100_000,
        b'{"w": ' + b"9" * 5000 + b"}",
        b'{"w\xff": 1}',
    ],
)
def test_safetensors_wrong_header(refused, header):
    message = refused("safetensors", safetensors_bytes(header, A.tobytes()))
    assert message.startswith("not a readable .safetensors file: ")
    assert message.endswith("; fetch it again")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F8_E4M3", "shape": [48]}, "'w' is of dtype 'F8_E4M3'; weights are F64, F32"),
        ({"shape": [1] * 32 + [12]}, "a shape is a tuple of at most 32 numbers"),
    ],
)
def test_safetensors_unsupported_by_numpy(refused, entry, message):
    header = {"w": _entry(**entry)}
    assert message in refused("safetensors", safetensors_bytes(header, A.tobytes()))


def test_safetensors_empty_array_that_is_too_large(refused):
    header = {"w": _entry(shape=[0, 2**47, 2**15], data_offsets=[0, 0])}
    assert "too big" in refused("safetensors", safetensors_bytes(header))


@pytest.mark.parametrize("size", [2**64 - 1, 2**63, 2**24, 1000, 9])
def test_safetensors_wrong_header_size(refused, size):
    refused("safetensors", struct.pack("<Q", size) + b"{}")


def test_safetensors_of_a_replaced_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"w": A}, path)
    stored, _ = open_safetensors(path)
    save_file({"w": A + 1, "v": A}, tmp_path / "other.safetensors")
    os.replace(tmp_path / "other.safetensors", path)
    np.testing.assert_array_equal(np.asarray(stored["w"]), A)


def test_safetensors_of_a_truncated_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"w": A}, path)
    stored, _ = open_safetensors(path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: has become shorter"):
        np.asarray(stored["w"])
