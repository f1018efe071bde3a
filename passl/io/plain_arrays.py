"""Pickles with NumPy arrays. NumPy's constructors trust their arguments, so stand-ins that check
them take their place.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from passl.io.limits import check_sizes
from passl.io.plain_pickle import PlainUnpickler

_DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "b1")
_NDARRAY = object()


class _Dtype:
    """Stand-in for numpy.dtype: plain numbers only."""

    def __init__(self, code: Any):
        if code not in _DTYPES:
            shown = f"{code[:20]!r}" if type(code) is str else type(code).__name__
            raise ValueError(f"an array of dtype {shown}; weights are {', '.join(_DTYPES)}")
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        """Check the state: version, byte order, subarray, names, fields, sizes, flags."""
        _, order, *structure = state
        if order not in ("<", "|", "="):
            raise ValueError("an array in big-endian; save it on another machine")
        if structure[:3] != [None, None, None]:
            raise ValueError("a structured array; weights are plain numbers")


class Array:
    """Stand-in for a numpy.ndarray, which `build` fills.

    Attributes:
        array: None until then.
    """

    array: np.ndarray | None = None

    def __init__(self, unpickler: PlainUnpickler):
        self.spend = unpickler.spend

    def build(self, state: Any) -> None:
        """Read the state of an array: version, shape, dtype, whether in Fortran order, bytes."""
        _, shape, dtype, fortran, content = state
        self.array = _filled(check_sizes(shape), dtype, content, bool(fortran))
        self.spend(self.array.nbytes)


def _filled(shape: tuple[int, ...], dtype: Any, content: Any, fortran: bool = False) -> np.ndarray:
    if not isinstance(dtype, _Dtype):
        raise ValueError("an array without a dtype")
    if type(content) is str:  # bytes of Python 2
        content = content.encode("latin-1")
    elif type(content) is bytearray:  # protocol 5
        content = bytes(content)
    if type(content) is not bytes or len(content) != math.prod(shape) * dtype.dtype.itemsize:
        held = f"{len(content)} bytes" if type(content) is bytes else type(content).__name__
        raise ValueError(f"an array of {shape} {dtype.dtype} that has {held}")
    array = np.frombuffer(content, dtype.dtype).reshape(shape, order="F" if fortran else "C")
    return array if array.flags.c_contiguous else array.copy()


class ArrayUnpickler(PlainUnpickler):
    """Reader of pickles of plain data and NumPy arrays, which become `Array`; of any protocol, from
    Python 2 or 3.

    Args:
        path: the file, for messages.
        limit: bytes that arrays and encoded texts may take together.
    """

    def __init__(self, path: Path, limit: int):
        known: dict[str, Any] = {
            "numpy.ndarray": _NDARRAY,
            "numpy.dtype": self._dtype,
            "_codecs.encode": self._encode,
            "builtins.tuple": self._tuple,
            "__builtin__.tuple": self._tuple,
        }
        for core in ("numpy.core", "numpy._core"):
            known[f"{core}.multiarray._reconstruct"] = self._reconstruct
            known[f"{core}.multiarray.scalar"] = self._scalar
            known[f"{core}.numeric._frombuffer"] = self._from_buffer
        super().__init__(known, path, limit)

    def _dtype(self, code: Any, *_: Any) -> _Dtype:
        return _Dtype(code)

    def _reconstruct(self, kind: Any, *_: Any) -> Array:
        if kind is not _NDARRAY:
            raise ValueError("an array of another class than numpy.ndarray")
        return Array(self)

    def _scalar(self, dtype: Any, content: Any) -> np.ndarray:
        return _filled((), dtype, content)

    def _from_buffer(self, buffer: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> Array:
        """Return an array that was written by protocol 5."""
        array = Array(self)
        array.build((1, shape, dtype, order == "F", buffer))
        return array

    def _tuple(self, items: Any = ()) -> tuple[Any, ...]:
        if type(items) is not tuple:  # a list could be copied again and again
            raise ValueError("a tuple made of something else")
        return items

    def _encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        """Return bytes, which protocol 2 writes as text."""
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise ValueError("bytes are written as latin-1")
        self.spend(len(text))
        return text.encode("latin-1")
