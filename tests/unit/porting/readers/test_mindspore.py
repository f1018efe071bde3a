"""MindSpore's files: their arrays are read exactly, and defects are reported in one line."""

from __future__ import annotations

import numpy as np
import pytest

from passl.porting.readers.mindspore import read_mindspore
from tests.stress.fuzzing import (
    mindspore_value,
    wire,
)
from tests.unit.porting.readers.samples import (
    BF16,
    BF16_VALUES,
    A,
)

_MINDSPORE = {
    "Float64": "float64",
    "Float32": "float32",
    "Float16": "float16",
    "Int64": "int64",
    "Int32": "int32",
    "Int16": "int16",
    "Int8": "int8",
    "UInt8": "uint8",
    "Bool": "bool",
}


@pytest.mark.parametrize(("kind", "dtype"), _MINDSPORE.items())
@pytest.mark.parametrize("packed", [False, True])
def test_mindspore_types(write, kind, dtype, packed):
    array = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    path = write(mindspore_value("w", (2, 3), kind, array.tobytes(), packed))
    (read,) = read_mindspore(path).values()
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, array)


def test_mindspore_shapes_and_texts(write):
    data = (
        mindspore_value("bf16", [4], "BFloat16", BF16.tobytes())
        + mindspore_value("scalar", [0], "Float32", A[0, 1].tobytes())
        + mindspore_value("empty", [0], "Float32", b"")
        + mindspore_value("version", [0], "str", b"v\0\0\0")
        + mindspore_value("matrix", [3, 4], "Float32", A.tobytes())
        + wire(9, b"a field of a later version")
    )
    weights = read_mindspore(write(data))
    assert list(weights) == ["bf16", "scalar", "empty", "matrix"]
    np.testing.assert_array_equal(weights["bf16"], BF16_VALUES)
    assert weights["scalar"].shape == () and weights["scalar"] == 1
    assert weights["empty"].shape == (0,)
    np.testing.assert_array_equal(weights["matrix"], A)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes([0xD8, 0x5E, 0x3A, 0x7F]) + b"x" * 99, "encrypted; load it in MindSpore with its"),
        (
            mindspore_value("w", [1], "Int8", b"x") + b"crc_num" + bytes(10),
            "ends in a checksum; load it in MindSpore and save it without crc_check",
        ),
        (mindspore_value("w", [3], "Float32", bytes(8)), "'w' is (3,) Float32, and has 8 bytes"),
        (mindspore_value("w", [0], "Float32", bytes(8)), "'w' is (0,) Float32, and has 8 bytes"),
        (mindspore_value("w", [2**63, 2], "Float32", b""), "negative, absurd or no number"),
        (mindspore_value("w", [2**64 - 1], "Int8", b"x"), "negative, absurd or no number"),
        (mindspore_value("w", [1] * 33, "Int8", b"x"), "a shape is a tuple of at most 32 n"),
        (mindspore_value("w", [1] * 999, "Int8", b"x", True), "a shape is a tuple of at most 32"),
        (mindspore_value("w", [1], "Int4", b"x"), "'w' is of type 'Int4'; weights are Float64, "),
        (mindspore_value("w", [1], "Int8", b"x") * 2, "two parameters are named 'w'"),
        (
            b"".join(mindspore_value(name, [1], "Int8", b"x") for name in "aba"),
            "two parameters are named 'a'",
        ),
        (wire(1, wire(1, b"w") + wire(3, b"")), "it holds a MapTensor"),
        (wire(1, wire(1, b"w")), "'w' has no tensor"),
        (wire(1, wire(1, b"w") + wire(2, wire(1, 1))), "or one without type or content"),
        (wire(1, 7), "holds no parameters"),
        (wire(1, wire(1, b"") + wire(2, wire(2, b"Int8") + wire(3, b""))), "a line of text"),
        (wire(9, b"x"), "holds no parameters"),
        (b"\x0a\xff\xff\xff\xff\x7f", "Error parsing message"),
        (b"\xff" * 11, "Error parsing message"),
        (b"\x0b", "Error parsing message"),
        (wire(1, wire(1, b"\xff") + wire(2, wire(2, b"Int8") + wire(3, b""))), "damaged"),
    ],
)
def test_mindspore_wrong_files(refused, data, message):
    assert message in refused("mindspore", data)
