"""PyTorch weight files (`.pth`, `.pt`, `.bin`) read without PyTorch, and without running anything
that they carry.

Since PyTorch 1.6 such a file is a zip of `ROOT/data.pkl`, a pickle of the structure, and
`ROOT/data/KEY`, the bytes of each storage. `PlainUnpickler` builds nothing but numbers, texts,
lists, tuples and dicts of a pickle, and calls nothing but the functions that it is given.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from passl.utils.errors import CheckpointError

GROWTH = 8
"""Arrays of a file may together take at most this multiple of its size: strides of zero and a text
that is encoded again and again would take any.
"""
DIMS = 32
"""Most dimensions of an array."""
LARGEST = 2**48
"""Sizes, strides and offsets are below this, so that no product of them takes time."""

_STEPS = 500_000  # of a pickle; CvT-W24 with AdamW and EMA takes some 100,000
_MEMBERS = 100_000  # of a zip
_KEYS = 2**32  # of dicts; larger ones can be chosen to collide
_NAME = 1000  # characters of a weight's name

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
# Opcodes that carry a value, or stand for one.
_LITERALS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4")),
    **dict.fromkeys(("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING")),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8")),
}
# Entries that may hold the state dict in a training checkpoint, in the order in which they are
# looked for: facebookresearch/convit and timm write `model`, microsoft/CvT `state_dict` (its
# `model` is the network's name).
_NESTS = ("state_dict", "model", "model_ema", "state_dict_ema")
# What training checkpoints carry beside the weights. Nothing of it is built, so nothing of it runs.
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


def read_torch(path: Path, nest: str | None = None) -> dict[str, np.ndarray]:
    """The state dict of a PyTorch file: name -> array, in PyTorch's layout; bfloat16 as float32.

    It takes memory of at most twice the file, `GROWTH` times the file for arrays that are strided
    or widened, and 100 MB; the directory of a zip, which is small, takes some 20 times its size.

    Args:
        path: the file.
        nest: the entry that holds the state dict, such as `model_ema`. None: the file itself, or
            the first of `state_dict`, `model`, `model_ema`, `state_dict_ema` that holds one.

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
                return _state_dict(_TorchUnpickler(archive, path).content(), nest, path)
        except zipfile.BadZipFile as error:
            raise CheckpointError(
                f"{path}: damaged, or no PyTorch file of version 1.6 or later: {in_line(error)}; "
                "fetch it again, or save it again by torch.save(state_dict, path)"
            ) from None
        except CheckpointError:
            raise
        except Exception as error:  # a damaged file can fail in any way
            raise CheckpointError(f"{path}: damaged: {in_line(error)}") from None


def opened(path: Path) -> BinaryIO:
    """A file to read.

    Raises:
        CheckpointError: it is missing, empty, not a file, or may not be read.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        raise CheckpointError(f"{path}: there is no such weight file")
    if not path.stat().st_size:
        raise CheckpointError(f"{path}: an empty file; fetch it again")
    try:
        return path.open("rb")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None


def in_line(error: Exception) -> str:
    """What an error says, in one line that can be printed."""
    text = " ".join(str(error)[:300].split())
    if not text or not isinstance(error, (ValueError, zipfile.BadZipFile)):
        text = f"{type(error).__name__} {text}"  # a KeyError says no more than the key
    return "".join(character if character.isprintable() else "?" for character in text)


def check_name(name: Any) -> str:
    """The name of a weight, which messages will show.

    Raises:
        ValueError: it is no line of text.
    """
    if type(name) is not str or not name or len(name) > _NAME or not name.isprintable():
        shown = f"{name[:40]!r}" if type(name) is str else type(name).__name__
        raise ValueError(f"the name of a weight is a line of text, not {shown}")
    return name


def check_sizes(sizes: Any, lowest: int = 0) -> tuple[int, ...]:
    """A shape, strides or offsets.

    Raises:
        ValueError: it is no tuple of at most `DIMS` numbers, or one is negative or absurd.
    """
    if type(sizes) not in (tuple, list) or len(sizes) > DIMS:
        raise ValueError(f"a shape is a tuple of at most {DIMS} numbers")
    if not all(type(size) is int and lowest <= size < LARGEST for size in sizes):
        raise ValueError("a size or stride is negative, absurd or no number")
    return tuple(sizes)


def widened(bf16: np.ndarray) -> np.ndarray:
    """Float32 of bfloat16, which is its upper half, given as uint16."""
    return (bf16.astype(np.uint32).reshape(-1) << 16).view(np.float32).reshape(bf16.shape)


def _state_dict(content: Any, nest: str | None, path: Path) -> dict[str, np.ndarray]:
    nests = _NESTS if nest is None else (nest,)
    outer = [content] if nest is None else []
    outer += [content.get(name) for name in nests] if isinstance(content, dict) else []
    inner = [place.get(name) for place in outer if isinstance(place, dict) for name in _NESTS]
    for place in outer + inner:
        weights = weights_of(place)
        if weights is not None:
            return weights
    raise CheckpointError(
        f"{path}: holds no state dict; it may lie {'under' if nest else 'bare, or under'} "
        f"{' or '.join(nests)}"
    )


def weights_of(content: Any) -> dict[str, np.ndarray] | None:
    """The content as a state dict, if it is one: names -> arrays.

    Raises:
        ValueError: a name is no line of text.
    """
    if type(content) is not dict or not content:
        return None
    if not all(isinstance(value, np.ndarray) for value in content.values()):
        return None
    return {check_name(name): array for name, array in content.items()}


class Inert:
    """Stands in for an object that a checkpoint carries beside the weights."""


def inert(*_: Any) -> Inert:
    """Instead of a constructor whose object nobody needs."""
    return Inert()


class PlainUnpickler:
    """A pickle as plain data. It imports nothing, and no opcode allocates more than it carries.
    Only texts and numbers become keys: the hash of tuples of tuples can take for ever.

    Args:
        known: what the pickle may ask for: its name -> a function, called with the pickle's
            arguments, or a value. A method `build` of what it makes takes the state that follows.
        path: the file, for messages.
        limit: bytes that arrays and encoded texts may take together.
    """

    def __init__(self, known: Mapping[str, Any], path: Path, limit: int):
        self.path, self.left = path, limit
        self.known = {"collections.OrderedDict": self._ordered_dict, **known}
        self.steps = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stack under each mark
        self.memo: dict[int, Any] = {}

    def load(self, pickled: bytes) -> Any:
        """What the pickle holds."""
        for opcode, argument, _ in pickletools.genops(io.BytesIO(pickled)):
            self._count(1)
            self._step(opcode.name, argument)
        return self.stack.pop()

    def spend(self, size: int) -> None:
        """Take bytes from the limit."""
        self.left -= size
        if self.left < 0:
            raise ValueError(f"its arrays take more than {GROWTH} times the file")

    def persistent(self, reference: Any) -> Any:
        """What a reference to data outside of the pickle stands for."""
        raise ValueError("its pickle refers to data outside of it")

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        match opcode:
            case "PROTO" if argument <= 5:
                pass
            case "FRAME" | "STOP":
                pass
            case _ if opcode in _LITERALS:
                stack.append(_LITERALS[opcode] if argument is None else argument)
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "EMPTY_LIST" | "EMPTY_SET":  # what is in a set would be hashed
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(opcode[-1]))]
                stack.append(tuple(reversed(items)))
            case "TUPLE" | "FROZENSET":
                items = self._marked()
                self.stack.append(tuple(items))
            case "LIST":
                items = self._marked()
                self.stack.append(items)
            case "DICT":
                items = self._marked()
                self.stack.append({})
                self._set(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set([key, value])
            case "SETITEMS":
                self._set(self._marked())
            case "APPEND":
                self._extend([stack.pop()])
            case "APPENDS" | "ADDITEMS":
                self._extend(self._marked())
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._marked()
            case "DUP":
                stack.append(stack[-1])
            case "GLOBAL":
                stack.append(self._find(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(self._find(module, name))
            case "REDUCE" | "NEWOBJ":
                arguments, call = stack.pop(), stack.pop()
                stack.append(self._call(call, arguments))
            case "BUILD":
                self._build(stack.pop())
            case "BINPERSID":
                stack.append(self.persistent(stack.pop()))
            case "INST":  # makes an object as Python 2 does; what it asks for is named
                self._find(*argument.split(" ", 1))
                raise ValueError("its pickle makes an object by INST")
            case _:
                shown = f" {argument}" if type(argument) is int else ""
                raise ValueError(f"its pickle uses {opcode}{shown}, which weights do not need")

    def _count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > _STEPS:
            raise ValueError(f"its pickle takes more than {_STEPS} steps")

    def _marked(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            return
        if type(target) is not dict or len(items) % 2:
            raise ValueError("its pickle sets items of something that has none")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not (type(key) is str or (type(key) is int and abs(key) < _KEYS)):
                raise ValueError(f"a key is a text or a small number, not a {type(key).__name__}")
            target[key] = value

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, Inert):
            raise ValueError("its pickle appends to something that is no list")

    def _find(self, module: Any, name: Any) -> Any:
        if type(module) is not str or type(name) is not str:
            raise ValueError("its pickle asks for something whose name is no text")
        full = f"{module[:200]}.{name[:200]}"
        if full not in self.known:
            shown = full if full.isprintable() else ascii(full)
            raise CheckpointError(
                f"{self.path}: refused: it asks for {shown}, which weights do not need; nothing "
                "was run. If the file is trusted, load it where it was made and save its "
                "state_dict() alone"
            )
        return self.known[full]

    def _call(self, call: Any, arguments: Any) -> Any:
        if not callable(call) or type(arguments) is not tuple:
            raise ValueError("its pickle calls something that is no function")
        return call(*arguments)

    def _build(self, state: Any) -> None:
        target = self.stack[-1]
        if hasattr(target, "build"):
            target.build(state)
        elif type(target) is not dict and not isinstance(target, Inert):  # dict: its attributes
            raise ValueError("its pickle sets the state of something that has none")

    def _ordered_dict(self, pairs: Any = ()) -> dict[Any, Any]:
        self._count(len(pairs))  # one list can be passed many times
        self.stack.append({})
        self._set([item for key, value in pairs for item in (key, value)])
        return self.stack.pop()


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
        """The values of a storage."""
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
