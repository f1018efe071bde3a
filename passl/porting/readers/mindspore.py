"""MindSpore weight files (`.ckpt`), read by protobuf without MindSpore."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
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
# Messages of mindspore/ccsrc/utils/checkpoint.proto, as protobuf's text format has them. Values are
# bytes here, parsed one after another, so that the memory of one of them is in use at a time.
_MESSAGES = """
name: "checkpoint.proto"
message_type {
  name: "Checkpoint"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES }
}
message_type {
  name: "Value"
  field { name: "tag" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "tensor" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: "Tensor" }
  field { name: "maptensor" number: 3 label: LABEL_OPTIONAL type: TYPE_BYTES }
}
message_type {
  name: "Tensor"
  field { name: "dims" number: 1 label: LABEL_REPEATED type: TYPE_INT64 }
  field { name: "kind" number: 2 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "content" number: 3 label: LABEL_OPTIONAL type: TYPE_BYTES }
}
"""
_POOL = DescriptorPool()
_POOL.Add(text_format.Parse(_MESSAGES, FileDescriptorProto()))
_Checkpoint = GetMessageClass(_POOL.FindMessageTypeByName("Checkpoint"))
_Value = GetMessageClass(_POOL.FindMessageTypeByName("Value"))


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
        checkpoint = _Checkpoint.FromString(content)
        del content  # protobuf has copied it
        weights = _weights(map(_Value.FromString, checkpoint.value))
    except Exception as error:  # a damaged file can fail in any way
        raise CheckpointError(
            f"{path}: damaged, or not a MindSpore file: {in_line(error)}"
        ) from None
    if not weights:
        raise CheckpointError(f"{path}: holds no parameters")
    return weights


def _weights(values: Iterable[Any]) -> dict[str, np.ndarray]:
    weights: dict[str, np.ndarray] = {}
    for value in values:
        if value.HasField("maptensor"):
            raise ValueError("it holds a MapTensor, which no network of this package has")
        name, tensor = check_name(value.tag), value.tensor
        if not tensor.HasField("kind") or not tensor.HasField("content"):
            raise ValueError(f"{name!r} has no tensor, or one without type or content")
        if name in weights:
            raise ValueError(f"two parameters are named {name!r}")
        if tensor.kind != _TEXT:
            weights[name] = _array(name, tensor)
    return weights


def _array(name: str, tensor: Any) -> np.ndarray:
    kind, shape = tensor.kind, check_sizes(tensor.dims[: DIMS + 1])
    if kind not in _DTYPES:
        raise ValueError(f"{name!r} is of type {kind[:40]!r}; weights are {', '.join(_DTYPES)}")
    content = tensor.content
    dtype = np.dtype(_DTYPES[kind])
    if shape == (0,) and len(content) == dtype.itemsize:
        shape = ()  # how MindSpore writes a scalar
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name!r} is {shape} {kind}, and has {len(content)} bytes")
    array = np.frombuffer(content, dtype).reshape(shape)
    return widened(array) if kind == "BFloat16" else array
