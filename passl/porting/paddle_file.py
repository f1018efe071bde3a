"""Paddle weight files (`.pdparams`) read without `paddle.load`, which runs what a file carries.

Such a file is one pickle of name -> numpy array, or name -> (name, array). numpy's own constructors
trust their arguments, so stand-ins that check them take their place.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from passl.porting.limits import GROWTH, check_sizes, in_line, opened
from passl.porting.plain_pickle import PlainUnpickler, weights_of
from passl.utils.errors import CheckpointError

_DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "b1")
_NAMES = "StructuredToParameterName@@"  # Paddle's own names of the parameters
_SLICES = "UnpackBigParamInfor@@"  # arrays above 1 GB that pickle's protocols 2 and 3 take in parts
_NESTS = ("state_dict", "model")
_NDARRAY = object()


def read_paddle(path: Path) -> dict[str, np.ndarray]:
    """The parameters of a Paddle file: name -> array, in Paddle's layout.

    Paddle saves bfloat16 as its bits in uint16, and a file does not say which it is. They stay
    uint16; `torch_file.widened` makes float32 of them where the caller knows.

    It takes memory of `GROWTH` times the file for arrays, six times the file beside them (a text is
    up to four times its UTF-8), and 100 MB.

    Raises:
        CheckpointError: the file is missing, damaged, holds no parameters, or carries code.
    """
    with opened(path) as stream:
        pickled = stream.read()
    try:
        weights = _weights(_PaddleUnpickler(path, GROWTH * len(pickled)).load(pickled))
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise CheckpointError(f"{path}: damaged, or not a Paddle file: {in_line(error)}") from None
    if weights is None:
        raise CheckpointError(
            f"{path}: holds no state dict; it may lie bare, or under {' or '.join(_NESTS)}"
        )
    return weights


def _weights(content: Any) -> dict[str, np.ndarray] | None:
    nested = [content.get(nest) for nest in _NESTS] if type(content) is dict else []
    for place in (content, *nested):
        if type(place) is not dict:
            continue
        joins = place.get(_SLICES, {})
        weights = weights_of(
            _joined(
                {n: _array(value) for n, value in place.items() if n not in (_NAMES, _SLICES)},
                joins,
            )
        )
        if weights is not None:
            return weights
    return None


def _array(value: Any) -> Any:
    """The array of a parameter, where it is one."""
    if type(value) is tuple and len(value) == 2 and type(value[0]) is str:
        value = value[1]
    return value.array if isinstance(value, _Array) else value


def _joined(arrays: dict[Any, Any], joins: Any) -> dict[Any, Any]:
    """The arrays with those that lie in slices put together."""
    if type(joins) is not dict:
        raise ValueError(f"{_SLICES} is no dict")
    for name, join in joins.items():
        shape, parts = check_sizes(join["OriginShape"]), [arrays.pop(n) for n in join["slices"]]
        if not all(type(part) is np.ndarray and part.ndim == 1 for part in parts):
            raise ValueError(f"{_SLICES} names something that is no slice")
        if name in arrays or len({part.dtype for part in parts}) != 1:
            raise ValueError(f"{_SLICES} joins slices of several types, or to a name that is taken")
        if sum(part.size for part in parts) != math.prod(shape):
            raise ValueError(f"the slices of an array of {shape} have another number of values")
        arrays[name] = np.concatenate(parts).reshape(shape)
    return arrays


class _Dtype:
    """Stands in for numpy.dtype: plain numbers only."""

    def __init__(self, code: Any):
        if code not in _DTYPES:
            shown = f"{code[:20]!r}" if type(code) is str else type(code).__name__
            raise ValueError(f"an array of dtype {shown}; weights are {', '.join(_DTYPES)}")
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        """Take the state of a dtype: version, byte order, subarray, names, fields, sizes, flags."""
        _, order, *structure = state
        if order not in ("<", "|", "="):
            raise ValueError("an array in big-endian; save it on another machine")
        if structure[:3] != [None, None, None]:
            raise ValueError("a structured array; weights are plain numbers")


class _Array:
    """Stands in for a numpy.ndarray, which `build` fills."""

    array: np.ndarray | None = None

    def __init__(self, unpickler: PlainUnpickler):
        self.spend = unpickler.spend

    def build(self, state: Any) -> None:
        """Take the state of an array: version, shape, dtype, whether in Fortran's order, bytes."""
        _, shape, dtype, fortran, content = state
        self.array = _filled(check_sizes(shape), dtype, content, bool(fortran))
        self.spend(self.array.nbytes)


def _filled(shape: tuple[int, ...], dtype: Any, content: Any, fortran: bool = False) -> np.ndarray:
    if not isinstance(dtype, _Dtype):
        raise ValueError("an array without a dtype")
    content = content.encode("latin-1") if type(content) is str else content  # Python 2's bytes
    if type(content) is not bytes or len(content) != math.prod(shape) * dtype.dtype.itemsize:
        held = f"{len(content)} bytes" if type(content) is bytes else type(content).__name__
        raise ValueError(f"an array of {shape} {dtype.dtype} that has {held}")
    array = np.frombuffer(content, dtype.dtype).reshape(shape, order="F" if fortran else "C")
    return array if array.flags.c_contiguous else array.copy()


class _PaddleUnpickler(PlainUnpickler):
    def __init__(self, path: Path, limit: int):
        known: dict[str, Any] = {
            "numpy.ndarray": _NDARRAY,
            "numpy.dtype": self._dtype,
            "_codecs.encode": self._encode,
            "builtins.tuple": self._tuple,
            "__builtin__.tuple": self._tuple,
        }
        for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
            known[f"{core}._reconstruct"] = self._reconstruct
            known[f"{core}.scalar"] = self._scalar
        super().__init__(known, path, limit)

    def _dtype(self, code: Any, *_: Any) -> _Dtype:
        return _Dtype(code)

    def _reconstruct(self, kind: Any, *_: Any) -> _Array:
        if kind is not _NDARRAY:
            raise ValueError("an array of another class than numpy.ndarray")
        return _Array(self)

    def _scalar(self, dtype: Any, content: Any) -> np.ndarray:
        return _filled((), dtype, content)

    def _tuple(self, items: Any = ()) -> tuple[Any, ...]:
        if type(items) is not tuple:  # a list could be copied again and again
            raise ValueError("a tuple made of something else")
        return items

    def _encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        """Bytes, which protocol 2 writes as text."""
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise ValueError("bytes are written as latin-1")
        self.spend(len(text))
        return text.encode("latin-1")
