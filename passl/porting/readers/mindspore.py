"""MindSpore weight files (`.ckpt`) read without MindSpore.

Such a file is a protobuf message: Checkpoint{repeated Value value = 1}, Value{string tag = 1;
TensorProto tensor = 2; MapTensorProto maptensor = 3}, TensorProto{repeated int64 dims = 1;
string tensor_type = 2; bytes tensor_content = 3}. A field is a key, `number << 3 | wire type`, and
a value: a varint (wire type 0), 8 or 4 bytes (1, 5), or a length and so many bytes (2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from passl.errors import CheckpointError
from passl.io.limits import DIMS, check_name, check_sizes, in_line, opened, widened

_TYPES = {
    "Float64": np.float64,
    "Float32": np.float32,
    "Float16": np.float16,
    "BFloat16": np.uint16,  # widened to float32 below
    "Int64": np.int64,
    "Int32": np.int32,
    "Int16": np.int16,
    "Int8": np.int8,
    "UInt8": np.uint8,
    "Bool": np.bool_,
}
_TEXT = "str"  # what save_checkpoint(append_dict=...) adds beside the weights
_ENCRYPTED = tuple(bytes([last, 0x5E, 0x3A, 0x7F]) for last in (0xD8, 0xD9, 0xDA))  # a mode each
_CRC, _CRC_AT = b"crc_num", slice(-17, -10)  # then 10 bytes of checksum
_VALUES = 100_000  # of a file: a tensor in some bytes of it takes hundreds in memory

_Part = tuple[str, list[int], str, memoryview]


def read_mindspore(path: Path) -> dict[str, np.ndarray]:
    """The parameters of a MindSpore file: name -> array, in the order of the file; bfloat16 as
    float32. Texts beside the parameters are dropped.

    It takes memory of the file, the arrays, and 100 MB.

    Raises:
        CheckpointError: the file is missing, damaged, encrypted, or has a checksum or a map.
    """
    with opened(path) as stream:
        content = memoryview(stream.read())
    if content[:4] in _ENCRYPTED:
        raise CheckpointError(
            f"{path}: encrypted; load it in MindSpore with its dec_key and save it without enc_key"
        )
    if content[_CRC_AT] == _CRC:
        raise CheckpointError(
            f"{path}: ends in a checksum; load it in MindSpore and save it without crc_check"
        )
    try:
        weights = _weights(content)
    except Exception as error:  # a damaged file can fail in any way
        raise CheckpointError(
            f"{path}: damaged, or not a MindSpore file: {in_line(error)}"
        ) from None
    if not weights:
        raise CheckpointError(f"{path}: holds no parameters")
    return weights


def _weights(content: memoryview) -> dict[str, np.ndarray]:
    parts = []
    for number, value in _fields(content):
        if number == 1:
            parts.append(_part(value))
        if len(parts) > _VALUES:
            raise ValueError(f"more than {_VALUES} values")
    weights: dict[str, np.ndarray] = {}
    # A parameter above 512 MB lies in slices one after another, each with the name and whole shape.
    for name, slices in groupby(parts, key=lambda part: part[0]):
        if name in weights:
            raise ValueError(f"two parameters are named {name!r}")
        array = _array(name, list(slices))
        if array is not None:
            weights[name] = array
    return weights


def _part(value: int | memoryview) -> _Part:
    fields = _once(value, "value", bytes_at=(1, 2, 3))
    if 3 in fields:
        raise ValueError("it holds a MapTensor, which no network of this package has")
    if 1 not in fields or 2 not in fields:
        raise ValueError("a value without name or tensor")
    dims: list[int] = []
    tensor = _once(fields[2], "tensor", bytes_at=(2, 3), dims=dims)
    if 2 not in tensor or 3 not in tensor:
        raise ValueError("a tensor without type or content")
    return check_name(_text(fields[1])), dims, _text(tensor[2]), tensor[3]


def _array(name: str, slices: list[_Part]) -> np.ndarray | None:
    _, dims, kind, _ = slices[0]
    if any((part[1], part[2]) != (dims, kind) for part in slices):
        raise ValueError(f"the slices of {name!r} differ in shape or type")
    if kind == _TEXT:
        return None
    if kind not in _TYPES:
        raise ValueError(f"{name!r} is of type {kind[:40]!r}; weights are {', '.join(_TYPES)}")
    dtype, size = np.dtype(_TYPES[kind]), sum(part[3].nbytes for part in slices)
    shape = check_sizes(dims)
    if shape == (0,) and size == dtype.itemsize:
        shape = ()  # how MindSpore writes a scalar
    if size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name!r} is {shape} {kind}, and has {size} bytes")
    array = np.frombuffer(b"".join(part[3] for part in slices), dtype).reshape(shape)
    return widened(array) if kind == "BFloat16" else array


def _text(content: memoryview) -> str:
    return str(content[:4096], "utf-8")


def _once(
    message: int | memoryview, what: str, bytes_at: tuple[int, ...], dims: list[int] | None = None
) -> dict[int, memoryview]:
    """The fields of bytes, each of which may come once; field 1 of a tensor goes to `dims`."""
    if isinstance(message, int):
        raise ValueError(f"a number instead of a {what}")
    fields: dict[int, memoryview] = {}
    for number, value in _fields(message):
        if dims is not None and number == 1:
            dims += [value] if isinstance(value, int) else _varints(value)
            if len(dims) > DIMS:
                raise ValueError(f"a shape of more than {DIMS} numbers")
        elif number in bytes_at:
            if isinstance(value, int) or number in fields:
                raise ValueError(f"field {number} of a {what} is a number, or comes twice")
            fields[number] = value
    return fields


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == 0:
            number, at = _varint(message, at)
            yield key >> 3, number
            continue
        if wire not in (1, 2, 5):
            raise ValueError(f"wire type {wire}")
        size = {1: 8, 5: 4}.get(wire)
        if size is None:
            size, at = _varint(message, at)
        if size > len(message) - at:
            raise ValueError(f"a field of {size} bytes where {len(message) - at} are left")
        yield key >> 3, message[at : at + size]
        at += size


def _varints(packed: memoryview) -> list[int]:
    at = 0
    numbers: list[int] = []
    while at < len(packed) and len(numbers) <= DIMS:
        number, at = _varint(packed, at)
        numbers.append(number)
    return numbers


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number at a place, seven bits a byte, and the place behind it."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it ends in the middle of a number")
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return number, at
    raise ValueError("a number of more than ten bytes")
