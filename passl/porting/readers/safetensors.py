"""`.safetensors` files: eight bytes with the size of a header, the header in JSON (name -> dtype,
shape, place), and the values of all arrays one after another.

The header is parsed here, not by the safetensors package: numpy has no bfloat16, and a message
names the array that is wrong.
"""

from __future__ import annotations

import json
import math
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from passl.errors import CheckpointError
from passl.io.limits import check_name, check_sizes, in_line, opened, widened

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


class StoredArray:
    """An array of a file, read when NumPy asks for it: `np.asarray(stored)`. Only then does it take
    memory.

    Args:
        source: the file.
        offset: of the array's first byte in it.
        kind: dtype as the format names it.
        shape: of the array.
    """

    def __init__(self, source: _Source, offset: int, kind: str, shape: tuple[int, ...]):
        self._source, self._offset, self._kind, self.shape = source, offset, kind, shape

    @property
    def dtype(self) -> np.dtype:
        """Of the array that is read: float32 for bfloat16."""
        return np.dtype(np.float32 if self._kind == "BF16" else _DTYPES[self._kind])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array: np.ndarray = np.empty(self.shape, _DTYPES[self._kind])
        self._source.read(array.reshape(-1).view(np.uint8).data, self._offset)
        array = widened(array) if self._kind == "BF16" else array
        return array if dtype is None else array.astype(dtype, copy=False)


Array = np.ndarray | StoredArray
"""One in memory, or one that NumPy reads when it needs it. Both have a shape and a dtype."""


class _Source:
    """A file that is open as long as one of its arrays is referred to, so that they stay readable
    when another file takes its name. It is read, not memory-mapped: a read that fails raises an
    error, where a page that cannot be had ends the process.
    """

    def __init__(self, path: Path):
        with opened(path) as stream:
            self._path, self._descriptor = path, os.dup(stream.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with what begins there.

        Raises:
            CheckpointError: it cannot be read, or the file has become shorter.
        """
        try:
            while buffer:  # one call reads 2 GiB at most
                count = os.preadv(self._descriptor, [buffer], offset)
                if not count:
                    raise CheckpointError(f"{self._path}: has become shorter while it was read")
                buffer, offset = buffer[count:], offset + count
        except OSError as error:
            raise CheckpointError(f"{self._path}: cannot be read: {error.strerror}") from None


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file, name -> array with bfloat16 as float32, and its metadata.

    It takes memory of the arrays, and 100 MB.

    Raises:
        CheckpointError: the file is missing, damaged, or not in the format.
    """
    stored, metadata = open_safetensors(path)
    return {name: np.asarray(array) for name, array in stored.items()}, metadata


def open_safetensors(path: Path) -> tuple[dict[str, StoredArray], dict[str, str]]:
    """The same as `read_safetensors`, but the arrays are still in the file.

    Raises:
        CheckpointError: the file is missing, damaged, or not in the format.
    """
    source = _Source(path)
    try:
        return _parsed(source)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise CheckpointError(
            f"{path}: not a readable .safetensors file: {in_line(error)}; fetch it again"
        ) from None


def _parsed(source: _Source) -> tuple[dict[str, StoredArray], dict[str, str]]:
    size = int.from_bytes(_bytes(source, 0, min(_SIZE, source.size)), "little")
    rest = max(source.size - _SIZE, 0)
    if size > min(rest, _HEADER):
        raise ValueError(
            f"a header of {size} bytes, where {rest} follow and at most {_HEADER} are read"
        )
    header = json.loads(str(_bytes(source, _SIZE, size), "utf-8"), object_pairs_hook=_once)
    if type(header) is not dict:
        raise ValueError("its header is no mapping")
    metadata = header.pop(_METADATA, {})
    if type(metadata) is not dict or not all(type(text) is str for text in metadata.values()):
        raise ValueError("its metadata is not name -> text")
    end, arrays = 0, {}
    begin, values = _SIZE + size, rest - size
    places = {check_name(name): _place(name, entry) for name, entry in header.items()}
    for name, (start, stop) in sorted(places.items(), key=lambda item: item[1]):
        if start != end or stop > values:
            raise ValueError(
                f"{name!r} lies at {start} to {stop}, where {end} is next and {values} the end"
            )
        end = stop
        kind, shape = _form(name, header[name], stop - start)
        arrays[name] = StoredArray(source, begin + start, kind, shape)
    if end != values:
        raise ValueError(f"{values - end} bytes at its end belong to no array")
    return {name: arrays[name] for name in header}, metadata


def _bytes(source: _Source, offset: int, size: int) -> bytearray:
    content = bytearray(size)
    source.read(memoryview(content), offset)
    return content


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


def _form(name: str, entry: dict[str, Any], size: int) -> tuple[str, tuple[int, ...]]:
    """Dtype and shape of an array of that many bytes."""
    kind, shape = entry["dtype"], check_sizes(entry["shape"])
    if type(kind) is not str or kind not in _DTYPES:
        shown = f"{kind[:20]!r}" if type(kind) is str else type(kind).__name__
        raise ValueError(f"{name!r} is of dtype {shown}; weights are {', '.join(_DTYPES)}")
    if math.prod(shape) * np.dtype(_DTYPES[kind]).itemsize != size:
        raise ValueError(f"{name!r} is {shape} {kind}, and has {size} bytes")
    if not size:
        np.empty(shape, _DTYPES[kind])  # some sizes are too large even beside a zero
    return kind, shape
