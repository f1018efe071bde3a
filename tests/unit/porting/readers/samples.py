"""Arrays and files of the readers' tests."""

from __future__ import annotations

import struct

import numpy as np

from tests.stress.fuzzing import (
    pickled,
    torch_members,
    torch_zip,
)

A = np.arange(12, dtype=np.float32).reshape(3, 4)
BF16 = np.array([0x3F80, 0xC000, 0x7F80, 0x0001], np.uint16)  # 1, -2, inf, the smallest
BF16_VALUES = np.array([1, -2, np.inf, 2.0**-133], np.float32)
DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


def torch_file(content: object) -> bytes:
    return torch_zip(torch_members(content))


def torch_pickle(body: bytes, **members: bytes) -> bytes:
    """A PyTorch file whose pickle is these opcodes."""
    return torch_zip({"data.pkl": b"\x80\2" + body + b".", **members})


def paddle_array(
    shape: object = (2,),
    content: object = b"\0" * 8,
    dtype: str = "f4",
    order: str = "<",
    fields: object = None,
    kind: bytes = b"cnumpy\nndarray\n",
) -> bytes:
    """The opcodes of an array, each part of which may lie."""
    state = pickled((3, order, None, None, fields, -1, -1, 0))
    made = b"cnumpy\ndtype\n" + pickled((dtype, False, True)) + b"R" + state + b"b"
    blank = b"cnumpy.core.multiarray\n_reconstruct\n(" + kind + b"K\0\x85C\1btR"
    data = pickled(content)
    if isinstance(content, bytes):
        data = b"B" + struct.pack("<I", len(content)) + content
    return blank + b"(K\1" + pickled(shape) + made + b"\x89" + data + b"tb"


def paddle_pickle(array: bytes) -> bytes:
    return b"\x80\3}X\1\0\0\0w" + array + b"s."
