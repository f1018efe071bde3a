"""MindSpore weight files (`.ckpt`), read by protobuf without MindSpore."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from passl.errors import CheckpointError
from passl.io.limits import DIMS, check_name, check_sizes, in_line, opened, widened

_DTYPES = {
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
_CRC, _CRC_END = b"crc_num", 17  # the word and 10 bytes of checksum
# Messages of mindspore/ccsrc/utils/checkpoint.proto: name -> field, number, type. Values are bytes
# here, parsed one after another, so that the memory of one of them is in use at a time.
_MESSAGES = {
    "Checkpoint": [("value", 1, "repeated bytes")],
    "Value": [("tag", 1, "string"), ("tensor", 2, "Tensor"), ("maptensor", 3, "bytes")],
    "Tensor": [("dims", 1, "repeated int64"), ("kind", 2, "string"), ("content", 3, "bytes")],
}


def _message_classes() -> dict[str, Any]:
    """protobuf's classes of the messages."""
    field = FieldDescriptorProto
    file = FileDescriptorProto(name="checkpoint.proto", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = DescriptorProto(name=name)
        for label, number, kind in fields:
            repeated = "repeated " in kind
            kind = kind.removeprefix("repeated ")
            message.field.add(
                name=label,
                number=number,
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
                type=getattr(field, f"TYPE_{kind.upper()}", field.TYPE_MESSAGE),
                type_name=kind if kind in _MESSAGES else None,
            )
        file.message_type.append(message)
    pool = DescriptorPool()
    pool.Add(file)
    return {name: GetMessageClass(pool.FindMessageTypeByName(name)) for name in _MESSAGES}


_CLASSES = _message_classes()


def read_mindspore(path: Path) -> dict[str, np.ndarray]:
    """Read the parameters of a MindSpore file: name -> array, in the order of the file; bfloat16 as
    float32. Texts beside the parameters are left out.

    This takes twice the memory of the file, and for a crafted one up to 20 times.

    Raises:
        CheckpointError: the file is missing, damaged, encrypted, or has a checksum or a map.
    """
    with opened(path) as stream:
        content = stream.read()
    if content[:4] in _ENCRYPTED:
        raise CheckpointError(
            f"{path}: encrypted; load it in MindSpore with its dec_key and save it without enc_key"
        )
    if content[-_CRC_END:].startswith(_CRC):
        raise CheckpointError(
            f"{path}: ends in a checksum; load it in MindSpore and save it without crc_check"
        )
    try:
        checkpoint = _CLASSES["Checkpoint"].FromString(content)
        del content  # protobuf has copied it
        weights = _weights(_CLASSES["Value"].FromString(value) for value in checkpoint.value)
    except Exception as error:  # a damaged file can fail in any way
        raise CheckpointError(
            f"{path}: damaged, or not a MindSpore file: {in_line(error)}"
        ) from None
    if not weights:
        raise CheckpointError(f"{path}: holds no parameters")
    return weights


def _weights(values: Iterable[Any]) -> dict[str, np.ndarray]:
    weights: dict[str, np.ndarray] = {}
    # A parameter above 512 MB lies in slices one after another, each with the name and whole shape.
    for name, slices in groupby(values, key=_name):
        if name in weights:
            raise ValueError(f"two parameters are named {name!r}")
        array = _array(name, slices)
        if array is not None:
            weights[name] = array
    return weights


def _name(value: Any) -> str:
    if value.HasField("maptensor"):
        raise ValueError("it holds a MapTensor, which no network of this package has")
    if not value.tensor.HasField("kind") or not value.tensor.HasField("content"):
        raise ValueError("a value without a tensor, or a tensor without type or content")
    return check_name(value.tag)


def _array(name: str, slices: Iterator[Any]) -> np.ndarray | None:
    tensors = [value.tensor for value in slices]
    forms = {(tensor.kind, *tensor.dims[: DIMS + 1]) for tensor in tensors}
    if len(forms) > 1:
        raise ValueError(f"the slices of {name!r} differ in shape or type")
    kind, *dims = forms.pop()
    if kind == _TEXT:
        return None
    if kind not in _DTYPES:
        raise ValueError(f"{name!r} is of type {kind[:40]!r}; weights are {', '.join(_DTYPES)}")
    shape = check_sizes(dims)
    content = b"".join(tensor.content for tensor in tensors)
    dtype = np.dtype(_DTYPES[kind])
    if shape == (0,) and len(content) == dtype.itemsize:
        shape = ()  # how MindSpore writes a scalar
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name!r} is {shape} {kind}, and has {len(content)} bytes")
    array = np.frombuffer(content, dtype).reshape(shape)
    return widened(array) if kind == "BFloat16" else array
