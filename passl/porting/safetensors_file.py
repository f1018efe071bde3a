"""`.safetensors` files: eight bytes with the size of a header, the header in JSON (name -> dtype,
shape, place), and the values of all arrays one after another.

The header is parsed here, not by the safetensors package: numpy has no bfloat16, and a message
names the array that is wrong.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from passl.utils.errors import CheckpointError
from passl.utils.limits import check_name, check_sizes, in_line, opened, widened

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,  # widened to float32 below
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}
_SIZE = 8  # bytes that hold the header's size
_HEADER = 4 * 2**20  # bytes; JSON takes some twenty times its size, and 5,000 arrays some 0.6 MB


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file, name -> array with bfloat16 as float32, and its metadata.

    It takes memory of the file, the arrays, and 100 MB.

    Raises:
        CheckpointError: the file is missing, damaged, or not in the format.
    """
    with opened(path) as stream:
        content = memoryview(stream.read())
    try:
        return _parsed(content)
    except Exception as error:  # a damaged file can fail in any way
        raise CheckpointError(
            f"{path}: not a readable .safetensors file: {in_line(error)}; fetch it again"
        ) from None


def _parsed(content: memoryview) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    size = int.from_bytes(content[:_SIZE], "little")
    if size > min(len(content) - _SIZE, _HEADER):
        raise ValueError(
            f"a header of {size} bytes, where {max(len(content) - _SIZE, 0)} follow and at most "
            f"{_HEADER} are read"
        )
    header = json.loads(str(content[_SIZE : _SIZE + size], "utf-8"), object_pairs_hook=_once)
    if type(header) is not dict:
        raise ValueError("its header is no mapping")
    metadata = header.pop(_METADATA, {})
    if type(metadata) is not dict or not all(type(text) is str for text in metadata.values()):
        raise ValueError("its metadata is not name -> text")
    values, end, arrays = content[_SIZE + size :], 0, {}
    places = {check_name(name): _place(name, entry) for name, entry in header.items()}
    for name, (start, stop) in sorted(places.items(), key=lambda item: item[1]):
        if start != end or stop > len(values):
            raise ValueError(
                f"{name!r} lies at {start} to {stop}, where {end} is next and {len(values)} the end"
            )
        end = stop
        arrays[name] = _array(name, header[name], values[start:stop])
    if end != len(values):
        raise ValueError(f"{len(values) - end} bytes at its end belong to no array")
    return {name: arrays[name] for name in header}, metadata


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        raise ValueError("a name comes twice in its header")
    return names


def _place(name: str, entry: Any) -> tuple[int, int]:
    if type(entry) is not dict or entry.keys() != _FIELDS:
        raise ValueError(f"{name!r} is not described by {', '.join(sorted(_FIELDS))}")
    start, stop = check_sizes(entry["data_offsets"])
    if start > stop:
        raise ValueError(f"{name!r} lies at {start} to {stop}")
    return start, stop


def _array(name: str, entry: dict[str, Any], values: memoryview) -> np.ndarray:
    kind, shape = entry["dtype"], check_sizes(entry["shape"])
    if type(kind) is not str or kind not in _DTYPES:
        shown = f"{kind[:20]!r}" if type(kind) is str else type(kind).__name__
        raise ValueError(f"{name!r} is of dtype {shown}; weights are {', '.join(_DTYPES)}")
    dtype = np.dtype(_DTYPES[kind])
    if math.prod(shape) * dtype.itemsize != len(values):
        raise ValueError(f"{name!r} is {shape} {kind}, and has {len(values)} bytes")
    # A copy, because the header's size decides how the file's own bytes are aligned.
    array = np.frombuffer(bytes(values), dtype).reshape(shape)
    return widened(array) if kind == "BF16" else array
