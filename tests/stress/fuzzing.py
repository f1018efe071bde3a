"""Small weight files of each format written by hand, their mutations, and reading them under limits
of time and memory. `tests/stress/fuzz_weights.py` is its command line.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import resource
import signal
import struct
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from passl.errors import CheckpointError
from passl.porting.readers.mindspore import read_mindspore
from passl.porting.readers.paddle import read_paddle
from passl.porting.readers.safetensors import open_safetensors
from passl.porting.readers.torch import read_torch


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read all arrays of a file, and its metadata."""
    arrays, metadata = open_safetensors(path)
    return {name: np.asarray(array) for name, array in arrays.items()}, metadata


SECONDS = 5
"""A file that takes longer to read hangs: each is of some kB."""
MEMORY = 64 * 2**20
"""Bytes that reading may add to the process: far above what files of some kB need."""
BATCH = 50  # files a child process
READERS: dict[str, Callable[[Path], Any]] = {
    "torch": read_torch,
    "mindspore": read_mindspore,
    "paddle": read_paddle,
    "safetensors": read_safetensors,
}
SUFFIXES = {"torch": "pth", "mindspore": "ckpt", "paddle": "pdparams", "safetensors": "safetensors"}

_STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "uint16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


# --- PyTorch ---


@dataclass
class Tensor:
    """A view of a storage, as torch.save writes it. Arrays of uint16 stand for bfloat16."""

    storage: np.ndarray
    size: Sequence[int]
    stride: Sequence[int]
    offset: int = 0
    key: str = "0"
    count: int | None = None
    parameter: bool = False


def tensor(array: np.ndarray, key: str = "0", **fields: Any) -> Tensor:
    """A tensor that owns its storage."""
    strides = [step // array.itemsize for step in array.strides]
    return Tensor(array.reshape(-1), array.shape, strides, key=key, **fields)


def pickled(value: Any) -> bytes:
    """A value in pickle's protocol 2, without head and end; bytes are opcodes as they are."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, Tensor):
        return _pickled_tensor(value)
    if isinstance(value, dict):
        items = b"".join(pickled(key) + pickled(item) for key, item in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(pickled, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(pickled, value)) + b"e"
    return pickle.dumps(value, 2)[2:-1].split(b"q\0")[0]


def _pickled_tensor(value: Tensor) -> bytes:
    name = _STORAGES[value.storage.dtype.name].encode()
    count = value.storage.size if value.count is None else value.count
    reference = (b"X\7\0\0\0storage", b"ctorch\n" + name + b"\n", value.key, "cpu", count)
    arguments = (
        pickled(reference) + b"Q",
        value.offset,
        tuple(value.size),
        tuple(value.stride),
        False,
        b"ccollections\nOrderedDict\n)R",
    )
    made = b"ctorch._utils\n_rebuild_tensor_v2\n" + pickled(arguments) + b"R"
    if value.parameter:
        hooks = b"ccollections\nOrderedDict\n)R"
        made = b"ctorch._utils\n_rebuild_parameter\n" + pickled((made, True, hooks)) + b"R"
    return made


def tensors_of(content: Any) -> Iterator[Tensor]:
    """The tensors in nested dicts."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from tensors_of(value)


def torch_members(content: Any) -> dict[str, bytes]:
    """The members of the zip that torch.save writes of nested dicts of tensors."""
    storages = {f"data/{t.key}": t.storage.tobytes() for t in tensors_of(content)}
    return {"data.pkl": b"\x80\2" + pickled(content) + b".", "byteorder": b"little", **storages}


def torch_zip(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(f"archive/{name}", data)
    return buffer.getvalue()


# --- MindSpore ---


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    low = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(part | 0x80 for part in low[:-1]), low[-1]])


def wire(number: int, value: int | bytes) -> bytes:
    """A field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def mindspore_value(
    tag: str, dims: Sequence[int], kind: str, content: bytes, packed: bool = False
) -> bytes:
    """A value of a MindSpore checkpoint."""
    written = (
        wire(1, b"".join(map(varint, dims))) if packed else b"".join(wire(1, size) for size in dims)
    )
    message = written + wire(2, kind.encode()) + wire(3, content)
    return wire(1, wire(1, tag.encode()) + wire(2, message))


# --- safetensors ---


def safetensors_bytes(header: Any, values: bytes = b"") -> bytes:
    """A file of a header (JSON's text, or what becomes it) and the values behind it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


# --- valid files to start from ---


def valid_files() -> dict[str, list[bytes]]:
    """Small files of each format that its reader takes."""
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((2, 4, 3)).astype(np.float32)
    bits = generator.integers(0, 2**15, 5).astype(np.uint16)
    return {
        "torch": [torch_zip(torch_members(content)) for content in _torch_contents(a, b, bits)],
        "mindspore": [
            mindspore_value("cls_token", [4, 3], "Float32", a.tobytes())
            + mindspore_value("blocks.0.norm1.gamma", [5], "BFloat16", bits.tobytes())
            + mindspore_value("step", [0], "Int32", bytes(4))
            + mindspore_value("note", [0], "str", b"a\0\0\0"),
            mindspore_value("packed", [4, 3], "Float32", b.tobytes(), packed=True),
        ],
        "paddle": [
            pickle.dumps(content, protocol)
            for protocol in (2, 4)
            for content in _paddle_contents(a, b)
        ],
        "safetensors": [
            safetensors_bytes(
                {
                    "__metadata__": {"format": "np"},
                    "a": {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48]},
                    "bits": {"dtype": "BF16", "shape": [5], "data_offsets": [48, 58]},
                    "step": {"dtype": "I64", "shape": [], "data_offsets": [58, 66]},
                },
                a.tobytes() + bits.tobytes() + bytes(8),
            )
        ],
    }


def _torch_contents(a: np.ndarray, b: np.ndarray, bits: np.ndarray) -> list[Any]:
    state = {
        "cls_token": tensor(a, parameter=True),
        "tied": tensor(a),
        "strided": Tensor(b.reshape(-1), (3, 4), (1, 3), key="1"),
        "bits": tensor(bits, "2"),
        "steps": tensor(np.array(7), "3"),
    }
    namespace = b"cargparse\nNamespace\n)\x81" + pickled({"lr": 5e-4, "size": (1, 2)}) + b"b"
    optimizer = {"state": {0: {"exp_avg": tensor(a, "4")}}, "param_groups": [{"betas": (0.9, 1)}]}
    nested = {"model": state, "optimizer": optimizer, "epoch": 3, "args": namespace}
    return [state, nested, {"state_dict": state, "model": "cls_cvt", "perf": 0.5}]


def _paddle_contents(a: np.ndarray, b: np.ndarray) -> list[Any]:
    named = {"a": ("linear_0.w_0", a), "b": ("linear_0.b_0", b)}
    return [
        {"a": a, "t": np.asfortranarray(b), "StructuredToParameterName@@": {"a": "linear_0.w_0"}},
        {"state_dict": named, "epoch": 3},
    ]


# --- mutations ---

_LENGTHS = (0, 1, 2, 7, 8, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**48, 2**63, 2**64 - 1)
_SNIPPETS = (
    b"cos\nsystem\n(X\2\0\0\0idtR",
    b"cbuiltins\neval\n",
    b"\x8c\2os\x8c\6system\x93",
    b"(ios\nsystem\n",
    b"X\xff\xff\xff\x7f",
    b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x8e\xff\xff\xff\xff\0\0\0\0",
    b"\x96\xff\xff\xff\xff\1\0\0\0",
    b"\x8b\xff\xff\xff\x7f",
    b"r\xff\xff\xff\x7f",
    b"j\xff\xff\xff\x7f",
    b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x80\xff",
    b"\x82\1",
    b"Pstorage\n",
    b"L" + b"9" * 500 + b"L\n",
    b"\x85" * 2000,
    b"\x85" * 2000 + b"K\1s",
    b"(" * 2000,
    b"](" * 500,
    b"2\x86" * 60 + b"K\1s",
    *(bytes([code]) for code in b"()]}.012QRabdeloqrstu\x81\x85\x86\x87\x8f\x90\x91\x92\x93\x94"),
)
_WORDS = (
    (b"FloatStorage", b"DoubleStorage"),
    (b"FloatStorage", b"BFloat16Storage"),
    (b"_rebuild_tensor_v2", b"_rebuild_tensor_v3"),
    (b"OrderedDict", b"Counter"),
    (b"f4", b"O8"),
    (b"f4", b"V9"),
    (b"ndarray", b"matrix"),
    (b"_reconstruct", b"scalar"),
    (b"Float32", b"Float64"),
    (b"Float32", b"str"),
    (b"F32", b"F64"),
    (b"F32", b"F8_E4M3"),
    (b"[4, 3]", b"[9999999999, 9999999999]"),
    (b"[4, 3]", b"[-4, -3]"),
    (b"[4, 3]", b"[" * 5000),
    (b'"bits"', b'"a"'),
    (b'"np"', b"[" * 500 + b"]" * 500),
    (b"48", b"-48"),
    (b"48", b"9" * 5000),
    (b"48", b"4.8e1"),
    (b"a", b"\n"),
    (b"a", b"\xed\xa0\x80"),
)


def mutated(data: bytes, others: Sequence[bytes], dice: random.Random) -> bytes:
    """Data with one to four defects."""
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        data = _defect(data, dice.choice(others), dice)
    return data


def _defect(data: bytes, other: bytes, dice: random.Random) -> bytes:
    at, size = dice.randrange(len(data) + 1), dice.choice((1, 2, 4, 8, 30, 200))
    before, here, after = data[:at], data[at : at + size], data[at + size :]
    start = dice.randrange(len(other) + 1)
    foreign = other[start : start + size]
    width = min(size, 8)
    length = (dice.choice(_LENGTHS) & (1 << 8 * width) - 1).to_bytes(width, "little")
    old, new = dice.choice([pair for pair in _WORDS if pair[0] in data] or [(b"x", b"y")])
    return dice.choice(
        (
            before,
            before + after,
            before + bytes([dice.randrange(256)]) + data[at + 1 :],
            _flipped(data, dice),
            before + foreign + here + after,
            before + foreign + after,
            before + here * dice.choice((2, 3, 50)) + after,
            before + length + data[at + width :],
            before + dice.choice(_SNIPPETS) + here + after,
            data.replace(old, new, dice.choice((1, -1))),
        )
    )


def _flipped(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 8)) if data else 0):
        changed[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def mutation(kind: str, files: Sequence[bytes], seed: int, index: int) -> bytes:
    """The mutated file of a format with a number: half of them damaged at large, half inside of
    what a checksum or a length guards.
    """
    dice = random.Random(f"{kind} {seed} {index}")
    data = dice.choice(files)
    if kind == "torch" and index % 4:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {n.removeprefix("archive/"): archive.read(n) for n in archive.namelist()}
        name = dice.choice(["data.pkl"] * 6 + list(members))
        members[name] = mutated(members[name], list(members.values()), dice)
        packed = zipfile.ZIP_DEFLATED if dice.random() < 0.02 else zipfile.ZIP_STORED
        return torch_zip(members, packed)
    if kind == "safetensors" and index % 4:
        size = 8 + int.from_bytes(data[:8], "little")
        return safetensors_bytes(mutated(data[8:size], [data[8:size]], dice), data[size:])
    return mutated(data, files, dice)


# --- reading under limits ---


@dataclass
class Outcome:
    """What became of the files of a format."""

    counts: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[int, str]] = field(default_factory=list)


def judge(read: Callable[[Path], Any], path: Path) -> str:
    """Read a file: `read`, `refused`, or what is wrong with the way it was refused."""
    try:
        content = read(path)
    except CheckpointError as error:
        message = str(error)
        if isinstance(error.__context__, MemoryError):
            return "memory above the bound"
        if not message.startswith(f"{path}: ") or len(message) > 1000 + len(str(path)):
            return f"a message without the path, or too long: {message[:200]!r}"
        if not message.isprintable():
            return f"a message that is no line of text: {message[:200]!r}"
        return "refused"
    except MemoryError:
        return "memory above the bound"
    except BaseException as error:
        return f"{type(error).__name__} instead of CheckpointError: {str(error)[:200]!r}"
    weights = content[0] if isinstance(content, tuple) else content
    for name, array in weights.items():
        if type(name) is not str or not name.isprintable() or type(array) is not np.ndarray:
            return f"a weight {name!r} of {type(array).__name__}"
        array.copy()  # reaches beyond the memory that is its own, if anything does
    return "read"


def fuzz(
    kind: str, read: Callable[[Path], Any], datas: Callable[[int], bytes], count: int
) -> Outcome:
    """Read `count` files, `datas(index)` each, in child processes that die of what they must not
    do.
    """
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"weights.{SUFFIXES[kind]}"
        start = 0
        while start < count:
            batch = range(start, min(start + BATCH, count))
            verdicts, death = _in_child(read, path, datas, batch)
            for index, verdict in zip(batch, verdicts + [death] * bool(death), strict=False):
                outcome.counts[verdict if verdict in ("read", "refused") else "violation"] += 1
                if verdict not in ("read", "refused"):
                    outcome.violations.append((index, verdict))
            start += max(len(verdicts) + bool(death), 1)
    return outcome


def _in_child(
    read: Callable[[Path], Any], path: Path, datas: Callable[[int], bytes], batch: range
) -> tuple[list[str], str]:
    """The verdicts of a batch, and what the child died of on the next file, if it did."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(reading)
            for index in batch:
                path.write_bytes(datas(index))
                _limit(MEMORY)
                signal.setitimer(signal.ITIMER_REAL, SECONDS)  # its signal ends the process
                verdict = judge(read, path)
                signal.setitimer(signal.ITIMER_REAL, 0)
                os.write(writing, verdict.replace("\n", " ").encode("ascii", "replace") + b"\n")
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        verdicts = pipe.read().decode().splitlines()
    _, status = os.waitpid(child, 0)
    if not status:
        return verdicts, ""
    if not os.WIFSIGNALED(status):
        return verdicts, "the process ended"
    name = signal.Signals(os.WTERMSIG(status)).name
    return verdicts, "hang" if name == "SIGALRM" else f"crash by {name}"


def _limit(extra: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + extra, hard))
