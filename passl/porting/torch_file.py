"""PyTorch weight files (`.pth`, `.pt`, `.bin`) read without PyTorch, and without running anything
that they carry.

Since PyTorch 1.6 such a file is a zip of `ROOT/data.pkl`, a pickle of the structure, and
`ROOT/data/KEY`, the bytes of each storage. The unpickler here knows the few names that a state dict
needs and refuses any other.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from passl.utils.errors import CheckpointError

_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": np.uint16,  # widened to float32 below: bf16 is its upper half
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# Entries that may hold the state dict in a training checkpoint, in the order in which they are
# looked for: facebookresearch/convit and timm write `model`, microsoft/CvT `state_dict` (its
# `model` is the network's name).
_NESTS = ("state_dict", "model")


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """The state dict of a PyTorch file: name -> array, in PyTorch's layout.

    Raises:
        CheckpointError: the file is damaged, older than PyTorch 1.6, holds no state dict, or
            carries code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content = _Unpickler.open(archive, path).load()
    except zipfile.BadZipFile:
        raise CheckpointError(
            f"{path}: not a PyTorch file of version 1.6 or later (no zip); "
            "load it in PyTorch and save it again with torch.save(state_dict, path)"
        ) from None
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise CheckpointError(f"{path}: damaged: {type(error).__name__}: {error}") from None
    weights = _state_dict(content)
    if weights is None:
        raise CheckpointError(
            f"{path}: holds no state dict; it may lie bare, or under {' or '.join(_NESTS)}"
        )
    return weights


def _state_dict(content: Any) -> dict[str, np.ndarray] | None:
    if not isinstance(content, Mapping):
        return None
    if content and all(isinstance(value, np.ndarray) for value in content.values()):
        return dict(content)
    nested = (content.get(nest) for nest in _NESTS)
    return next((weights for weights in map(_state_dict, nested) if weights is not None), None)


class _Inert:
    """Stands in for an object that a training checkpoint carries beside the weights, such as
    argparse.Namespace.
    """

    def __setstate__(self, state: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: IO[bytes], archive: zipfile.ZipFile, root: str, path: Path):
        super().__init__(stream, encoding="utf-8")
        self.archive, self.root, self.path = archive, root, path

    @classmethod
    def open(cls, archive: zipfile.ZipFile, path: Path) -> _Unpickler:
        roots = [
            name.removesuffix("data.pkl")
            for name in archive.namelist()
            if name.endswith("/data.pkl")
        ]
        if len(roots) != 1:
            raise CheckpointError(
                f"{path}: a zip, but not a PyTorch file: it has {len(roots)} data.pkl instead of "
                "one"
            )
        return cls(io.BytesIO(archive.read(roots[0] + "data.pkl")), archive, roots[0], path)

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return name
        known = {
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            "collections.OrderedDict": OrderedDict,
            "argparse.Namespace": _Inert,
        }
        if f"{module}.{name}" not in known:
            raise CheckpointError(
                f"{self.path}: refused: it asks for {module}.{name}, which weights do not need; "
                "nothing was run"
            )
        return known[f"{module}.{name}"]

    def persistent_load(self, reference: Any) -> np.ndarray:
        _, storage, key, _, _ = reference
        return np.frombuffer(self.archive.read(f"{self.root}data/{key}"), dtype=_DTYPES[storage])

    def _tensor(
        self,
        storage: np.ndarray,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        *_: Any,
    ) -> np.ndarray:
        count = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if count and (min(offset, *size, *stride, 0) < 0 or last >= storage.size):
            raise CheckpointError(
                f"{self.path}: damaged: a tensor of {size} reaches beyond its {storage.size} values"
            )
        strides = [step * storage.itemsize for step in stride]
        view = np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)
        if storage.dtype == np.uint16:
            return (view.astype(np.uint32) << 16).view(np.float32)
        return np.ascontiguousarray(view)
