"""`.safetensors` files. The safetensors package reads and checks the header; the values are read
here, because NumPy has no bfloat16, which the package returns only as the bytes of a whole file.
"""

from __future__ import annotations

import math
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

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
_SIZE = 8  # bytes that hold the size of the header
_HEADER = 4 * 2**20  # bytes; parsed it takes some 20 times its size; 5,000 arrays take 0.6 MB


class StoredArray:
    """An array in a file, which takes memory only when it is read: `np.asarray(stored)`.

    Args:
        source: the open file.
        offset: of the first byte of the array.
        kind: dtype in the terms of the format.
        shape: shape of the array.
    """

    def __init__(self, source: _Source, offset: int, kind: str, shape: tuple[int, ...]):
        self._source, self._offset, self._kind, self.shape = source, offset, kind, shape

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the array that is read: float32 for bfloat16."""
        return np.dtype(np.float32 if self._kind == "BF16" else _DTYPES[self._kind])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array: np.ndarray = np.empty(self.shape, _DTYPES[self._kind])
        self._source.read(array.reshape(-1).view(np.uint8).data, self._offset)
        array = widened(array) if self._kind == "BF16" else array
        return array if dtype is None else array.astype(dtype, copy=False)


Array = np.ndarray | StoredArray
"""An array in memory, or one that NumPy reads when it needs it. Both have a shape and a dtype."""


class _Source:
    """A file that is open as long as one of its arrays is referred to, so that they stay readable
    when another file takes its name. It is not memory-mapped: a read that fails raises an error,
    where a page that cannot be read ends the process.
    """

    def __init__(self, path: Path):
        with opened(path) as stream:
            self._path, self.descriptor = path, os.dup(stream.fileno())
        weakref.finalize(self, os.close, self.descriptor)

    def read(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer from that offset.

        Raises:
            CheckpointError: the file cannot be read, or has become shorter.
        """
        try:
            while buffer:  # one call reads 2 GiB at most
                count = os.preadv(self.descriptor, [buffer], offset)
                if not count:
                    raise CheckpointError(f"{self._path}: has become shorter while it was read")
                buffer, offset = buffer[count:], offset + count
        except OSError as error:
            raise CheckpointError(f"{self._path}: cannot be read: {error.strerror}") from None


def open_safetensors(path: Path) -> tuple[dict[str, StoredArray], dict[str, str]]:
    """Open the arrays of a file, name -> array with bfloat16 as float32, and read its metadata.

    This takes 100 MB at most; the arrays take memory when they are read.

    Raises:
        CheckpointError: the file is missing, damaged, or not in the format.
    """
    source = _Source(path)
    try:
        size = int.from_bytes(os.pread(source.descriptor, _SIZE, 0), "little")
        if size > _HEADER:
            raise ValueError(f"a header of {size} bytes, of which at most {_HEADER} are read")
        # By descriptor: another file may have taken the name.
        with safe_open(f"/dev/fd/{source.descriptor}", "numpy") as file:
            return _arrays(file, source, _SIZE + size), file.metadata() or {}
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise CheckpointError(
            f"{path}: not a readable .safetensors file: {in_line(error)}; fetch it again"
        ) from None


def _arrays(file: Any, source: _Source, offset: int) -> dict[str, StoredArray]:
    """The arrays of a file whose values begin at `offset` and follow each other without gaps,
    which safe_open has checked.
    """
    arrays = {}
    for name in file.offset_keys():
        entry = file.get_slice(name)
        kind, shape = entry.get_dtype(), check_sizes(entry.get_shape())
        if kind not in _DTYPES:
            raise ValueError(f"{name!r} is of dtype {kind!r}; weights are {', '.join(_DTYPES)}")
        if 0 in shape:
            np.empty(shape, _DTYPES[kind])  # some sizes are too large even beside a zero
        arrays[check_name(name)] = StoredArray(source, offset, kind, shape)
        offset += math.prod(shape) * np.dtype(_DTYPES[kind]).itemsize
    return arrays
