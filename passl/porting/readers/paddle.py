"""Paddle weight files (`.pdparams`), read without `paddle.load`, which executes code in a file.

Such a file is one pickle of name -> NumPy array, or name -> (name, array).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from passl.errors import CheckpointError
from passl.io.limits import GROWTH, in_line, opened, widened
from passl.io.plain_arrays import Array, ArrayUnpickler
from passl.io.plain_pickle import weights_of

_NAMES = "StructuredToParameterName@@"  # Paddle's internal names of the parameters
_NESTS = ("state_dict", "model")


def read_paddle(path: Path) -> dict[str, np.ndarray]:
    """Read the parameters of a Paddle file: name -> array, in Paddle's layout; bfloat16 as float32.

    Paddle saves bfloat16 as its bits in uint16. Every uint16 in such a file is bfloat16, because
    Paddle has no uint16 tensors: it uses NumPy arrays of that type for bfloat16.

    This takes at most `GROWTH` times the memory of the file for arrays, six times that of the file
    beside them (a text takes up to four times its UTF-8), and 100 MB.

    Raises:
        CheckpointError: the file is missing, damaged, holds no parameters, or carries code.
    """
    with opened(path) as stream:
        pickled = stream.read()
    try:
        weights = _weights(ArrayUnpickler(path, GROWTH * len(pickled)).load(pickled))
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
        if type(place) is dict:
            arrays = {name: _array(value) for name, value in place.items() if name != _NAMES}
            weights = weights_of(arrays)
            if weights is not None:
                return weights
    return None


def _array(value: Any) -> Any:
    """Return the array of a parameter, or the value if it is none."""
    if type(value) is tuple and len(value) == 2 and type(value[0]) is str:
        value = value[1]
    if not isinstance(value, Array):
        return value
    if value.array is not None and value.array.dtype == np.uint16:
        value.spend(value.array.nbytes)  # float32 takes as much again
        value.array = widened(value.array)  # once, however many names it has
    return value.array
