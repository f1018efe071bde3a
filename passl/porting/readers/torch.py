"""PyTorch weight files (`.pth`, `.pt`, `.bin`), read without PyTorch and without executing anything
from them.

Since PyTorch 1.6 such a file is a zip of `ROOT/data.pkl`, a pickle of the structure, and
`ROOT/data/KEY`, the bytes of each storage.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from passl.errors import CheckpointError
from passl.io.limits import GROWTH, LARGEST, check_sizes, in_line, opened, widened
from passl.io.plain_pickle import PlainUnpickler, inert, weights_of

_MEMBERS = 100_000  # of a zip

_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": np.uint16,  # widened to float32 below
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_KINDS = {type(np.dtype(dtype)) for dtype in _DTYPES.values()}
# Entries of a training checkpoint that may hold the state dict, in the order of the search:
# facebookresearch/convit and timm write `model`, microsoft/CvT `state_dict` (its `model` is the
# name of the network).
_NESTS = ("state_dict", "model", "model_ema", "state_dict_ema")
# What training checkpoints have beside the weights. It is not built, so nothing of it runs.
_INERT = (
    "argparse.Namespace",
    "collections.Counter",
    "builtins.set",
    "__builtin__.set",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "torch.Size",
    "torch.device",
    *(f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64", "int64", "bool")),
    "numpy.dtype",
    "numpy.ndarray",
    "_codecs.encode",
    *(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")),
    *(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")),
)


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """Read the state dict of a PyTorch file: name -> array, in PyTorch's layout; bfloat16 as
    float32.

    This takes at most twice the memory of the file, `GROWTH` times that of the file for arrays
    that are strided or widened, and 100 MB; the directory of a zip takes some 20 times its size.

    The state dict is the content of the file, or the first of its entries `state_dict`, `model`,
    `model_ema` and `state_dict_ema` that is one.

    Raises:
        CheckpointError: the file is missing, damaged, older than PyTorch 1.6, holds no state dict,
            or carries code.
    """
    with opened(path) as stream:
        if stream.read(4) == b"\x80\x02\x8a\x0a":
            raise CheckpointError(
                f"{path}: saved by PyTorch before 1.6 or in its old format; load it in PyTorch and "
                "save it again with torch.save(state_dict, path)"
            )
        try:
            with zipfile.ZipFile(stream) as archive:
                return _state_dict(_TorchUnpickler(archive, path).content(), path)
        except zipfile.BadZipFile as error:
            raise CheckpointError(
                f"{path}: damaged, or no PyTorch file of version 1.6 or later: {in_line(error)}; "
                "fetch it again, or save it again by torch.save(state_dict, path)"
            ) from None
        except CheckpointError:
            raise
        except Exception as error:  # a damaged file can fail in any way
            raise CheckpointError(f"{path}: damaged: {in_line(error)}") from None


def _state_dict(content: Any, path: Path) -> dict[str, np.ndarray]:
    places = [content]
    for _ in range(2):  # an entry may have entries
        places += [place.get(name) for place in places if type(place) is dict for name in _NESTS]
    for place in places:
        weights = weights_of(place)
        if weights is not None:
            return weights
    raise CheckpointError(
        f"{path}: holds no state dict; it may lie bare, or under {' or '.join(_NESTS)}"
    )


class _TorchUnpickler(PlainUnpickler):
    def __init__(self, archive: zipfile.ZipFile, path: Path):
        known = {
            **dict.fromkeys(_INERT, inert),
            **{f"torch.{name}": np.dtype(dtype) for name, dtype in _DTYPES.items()},
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": _first,
            "torch._utils._rebuild_parameter_with_state": _first,
        }
        self.size = path.stat().st_size
        super().__init__(known, path, GROWTH * self.size)
        self.archive, self.root = archive, ""
        self.storages: dict[str, bytes] = {}

    def content(self) -> Any:
        members = {member.filename: member for member in self.archive.infolist()}
        if len(members) < len(self.archive.infolist()) or len(members) > _MEMBERS:
            raise ValueError(f"a zip with over {_MEMBERS} members, or two of the same name")
        for name, member in members.items():
            if member.compress_type or member.compress_size != member.file_size:
                raise ValueError(f"{name[:80]!r} in it is compressed, which torch.save never does")
        if sum(member.file_size for member in members.values()) > self.size:
            raise ValueError("the members of the zip are larger than the file")
        roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise CheckpointError(
                f"{self.path}: a zip, but not a PyTorch file: it has {len(roots)} data.pkl instead "
                "of one"
            )
        self.root = roots[0]
        if f"{self.root}constants.pkl" in members:
            raise CheckpointError(
                f"{self.path}: a TorchScript program; load it in PyTorch and save its state_dict()"
            )
        name = f"{self.root}byteorder"
        order = self.archive.read(name) if name in members else b"little"
        if order != b"little":
            raise CheckpointError(
                f"{self.path}: its byte order is {order[:20]!r}, not little; load it in PyTorch on "
                "a little-endian machine and save it again"
            )
        return self.load(self.archive.read(f"{self.root}data.pkl"))

    def persistent(self, reference: Any) -> np.ndarray:
        """Return the values of a storage."""
        kind, dtype, key, _, count = reference
        if (kind, type(key), type(count)) != ("storage", str, int) or type(dtype) not in _KINDS:
            raise ValueError("its pickle refers to something that is no storage")
        if key not in self.storages:
            self.storages[key] = self.archive.read(f"{self.root}data/{key}")
        values = np.frombuffer(self.storages[key], dtype)
        if values.size != count:
            raise ValueError(f"storage {key} has {values.size} values instead of {count}")
        return values

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
        if not isinstance(storage, np.ndarray):
            raise ValueError("a tensor without a storage")
        size, stride = check_sizes(size), check_sizes(stride, -LARGEST)
        (offset,) = check_sizes((offset,), -LARGEST)
        if len(size) != len(stride):
            raise ValueError(f"a tensor of {len(size)} dimensions with {len(stride)} strides")
        count = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if count and (min(offset, *stride, 0) < 0 or last >= storage.size):
            raise ValueError(f"a tensor of {size} reaches beyond its {storage.size} values")
        bf16 = storage.dtype == np.uint16
        self.spend(count * (4 if bf16 else storage.itemsize))
        if not count:
            return np.empty(size, np.float32 if bf16 else storage.dtype)
        strides = [step * storage.itemsize for step in stride]
        view = np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)
        if bf16:
            return widened(view)
        return view if view.flags.c_contiguous else view.copy()


def _first(tensor: Any, *_: Any) -> Any:
    return tensor
