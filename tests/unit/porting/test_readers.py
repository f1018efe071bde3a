"""Weight files of other projects: their arrays are read exactly, defects are reported in one line,
and nothing in them is executed.
"""

from __future__ import annotations

import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from passl.errors import CheckpointError
from passl.io import plain_pickle
from passl.io.limits import widened
from passl.porting.readers.mindspore import read_mindspore
from passl.porting.readers.paddle import read_paddle
from passl.porting.readers.safetensors import open_safetensors
from passl.porting.readers.torch import read_torch
from tests.stress.fuzzing import (
    READERS,
    SUFFIXES,
    Tensor,
    mindspore_value,
    pickled,
    read_safetensors,
    safetensors_bytes,
    tensor,
    torch_members,
    torch_zip,
    valid_files,
    wire,
)

GOLDEN = Path(__file__).parents[2] / "golden"
A = np.arange(12, dtype=np.float32).reshape(3, 4)
BF16 = np.array([0x3F80, 0xC000, 0x7F80, 0x0001], np.uint16)  # 1, -2, inf, the smallest
BF16_VALUES = np.array([1, -2, np.inf, 2.0**-133], np.float32)
DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


@pytest.fixture
def refused(tmp_path):
    """Return the message with which a reader refuses a file, in one line and in little memory."""

    def refuse(kind: str, data: bytes, memory: int = 2**27) -> str:
        path = tmp_path / f"hostile.{SUFFIXES[kind]}"
        path.write_bytes(data)
        tracemalloc.start()
        try:
            with pytest.raises(CheckpointError) as caught:
                READERS[kind](path)
            assert tracemalloc.get_traced_memory()[1] < memory
        finally:
            tracemalloc.stop()
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert message.isprintable()
        return message.removeprefix(f"{path}: ")

    return refuse


@pytest.fixture
def write(tmp_path):
    def write(data: bytes, name: str = "weights") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def torch_file(content: object) -> bytes:
    return torch_zip(torch_members(content))


def torch_pickle(body: bytes, **members: bytes) -> bytes:
    """A PyTorch file whose pickle is these opcodes."""
    return torch_zip({"data.pkl": b"\x80\2" + body + b".", **members})


def paddle_array(
    shape: object = (2,),
    content: object = b"\0" * 8,
    dtype: str = "f4",
    order: str = "<",
    fields: object = None,
    kind: bytes = b"cnumpy\nndarray\n",
) -> bytes:
    """The opcodes of an array, each part of which may lie."""
    state = pickled((3, order, None, None, fields, -1, -1, 0))
    made = b"cnumpy\ndtype\n" + pickled((dtype, False, True)) + b"R" + state + b"b"
    blank = b"cnumpy.core.multiarray\n_reconstruct\n(" + kind + b"K\0\x85C\1btR"
    data = pickled(content)
    if isinstance(content, bytes):
        data = b"B" + struct.pack("<I", len(content)) + content
    return blank + b"(K\1" + pickled(shape) + made + b"\x89" + data + b"tb"


def paddle_pickle(array: bytes) -> bytes:
    return b"\x80\3}X\1\0\0\0w" + array + b"s."


# --- golden files ---


@pytest.mark.parametrize(
    ("name", "count", "shapes"),
    [
        ("convit_fb/weights.pth", 64, {"cls_token": (1, 1, 48), "head.weight": (10, 48)}),
        ("convit_fb_training_checkpoint/checkpoint.pth", 54, {"cls_token": (1, 1, 54)}),
        (
            "cvt_ms_rectangular/checkpoint.pth",
            153,
            {"stage0.patch_embed.proj.weight": (8, 3, 7, 7)},
        ),
        (
            "convit_mindcv/weights.ckpt",
            53,
            {"blocks.0.attn.q.weight": (48, 48), "norm.gamma": (48,), "classifier.weight": (6, 48)},
        ),
        (
            "cvt_passl/weights.pdparams",
            141,
            {"backbone.stage2.cls_token": (1, 1, 48), "head.fc_cls.weight": (48, 6)},
        ),
        (
            "cvt_paddleclas/weights.pdparams",
            141,
            {"stage0.blocks.0.attn.conv_proj_q.bn._mean": (16,), "head.weight": (48, 6)},
        ),
        ("convit_timm/model.safetensors", 49, {"blocks.0.attn.gating_param": (4,)}),
    ],
)
def test_golden_files(name, count, shapes):
    path = GOLDEN / name
    kind = next(kind for kind, suffix in SUFFIXES.items() if path.suffix == f".{suffix}")
    content = READERS[kind](path)
    weights = content[0] if kind == "safetensors" else content
    assert len(weights) == count
    assert {name: weights[name].shape for name in shapes} == shapes
    for name, array in weights.items():
        assert np.isfinite(array).all(), name
        assert array.dtype == (np.int64 if "num_batches" in name else np.float32), name
    assert any(np.abs(array).max() > 0.01 for array in weights.values())


def test_first_files_of_the_fuzzer_are_valid(write):
    for kind, files in valid_files().items():
        for data in files:
            assert READERS[kind](write(data, f"valid.{SUFFIXES[kind]}"))


# --- PyTorch ---


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_dtypes(write, dtype):
    array = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    (read,) = read_torch(write(torch_file({"w": tensor(array)}))).values()
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, array)


def test_torch_bfloat16(write):
    content = {
        "w": tensor(BF16),
        "scalar": Tensor(BF16, (), (), 1),
        "t": Tensor(BF16, (2, 2), (1, 2)),
    }
    weights = read_torch(write(torch_file(content)))
    np.testing.assert_array_equal(weights["w"], BF16_VALUES)
    np.testing.assert_array_equal(weights["scalar"], np.array(-2, np.float32))
    np.testing.assert_array_equal(weights["t"], BF16_VALUES.reshape(2, 2).T)
    assert {array.dtype.name for array in weights.values()} == {"float32"}
    assert weights["scalar"].shape == ()


def test_torch_views(write):
    content = {
        "whole": tensor(A, parameter=True),
        "tied": tensor(A),
        "transposed": Tensor(A.reshape(-1), (4, 3), (1, 4)),
        "column": Tensor(A.reshape(-1), (3,), (4,), 2),
        "scalar": Tensor(A.reshape(-1), (), (), 11),
        "expanded": Tensor(A.reshape(-1), (2, 4), (0, 1)),
        "empty": Tensor(A.reshape(-1), (0, 4), (4, 1)),
    }
    weights = read_torch(write(torch_file(content)))
    expected = {
        "whole": A,
        "tied": A,
        "transposed": A.T,
        "column": A[:, 2],
        "scalar": np.float32(11),
        "expanded": np.stack([A[0], A[0]]),
        "empty": np.empty((0, 4), np.float32),
    }
    assert weights.keys() == expected.keys()
    for name, array in expected.items():
        assert weights[name].shape == array.shape, name
        assert weights[name].flags.c_contiguous, name
        np.testing.assert_array_equal(weights[name], array, name)


@pytest.mark.parametrize("nest", ["state_dict", "model", "model_ema", "state_dict_ema"])
def test_torch_nests(write, nest):
    content = {"epoch": 3, nest: {"w": tensor(A)}, "args": None}
    np.testing.assert_array_equal(read_torch(write(torch_file(content)))["w"], A)


def test_torch_takes_the_first_nest(write):
    content = {
        "model_ema": {"w": tensor(2 * A, "1")},
        "model": {"state_dict": {"w": tensor(A)}},
        "other": {"w": tensor(3 * A, "2")},
    }
    np.testing.assert_array_equal(read_torch(write(torch_file(content)))["w"], 2 * A)
    del content["model_ema"]
    np.testing.assert_array_equal(read_torch(write(torch_file(content)))["w"], A)
    del content["model"]
    with pytest.raises(CheckpointError, match="holds no state dict; it may lie bare, or under"):
        read_torch(write(torch_file(content)))


def test_torch_objects_beside_the_weights_are_left_out(write):
    scalar = (
        b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n" + pickled(("f8", False, True)) + b"R"
    )
    beside = {
        "args": b"cargparse\nNamespace\n)\x81"
        + pickled({"output": "x", "betas": (0.9, 0.99)})
        + b"b",
        "size": b"ctorch\nSize\n" + pickled(((1, 2),)) + b"R",
        "device": b"ctorch\ndevice\n" + pickled(("cuda", 0)) + b"R",
        "set": b"c__builtin__\nset\n" + pickled(([1, 2],)) + b"R",
        "milestones": b"ccollections\nCounter\n" + pickled(({30: 1},)) + b"R",
        "path": b"cpathlib\nPosixPath\n" + pickled(("/", "tmp")) + b"R",
        "dtype": b"ctorch\nfloat32\n",
        "best": scalar
        + pickled((3, "<", None, None, None, -1, -1, 0))
        + b"bC\x080000\0\0\0\0\x86R",
        "optimizer": {"state": {0: {"step": 7, "exp_avg": tensor(A, "1")}}, "param_groups": [1.5]},
    }
    weights = read_torch(write(torch_file({"model": {"w": tensor(A)}, **beside})))
    assert list(weights) == ["w"]


def test_torch_ordered_dict_with_attributes(write):
    """state_dict() hangs `_metadata` to its OrderedDict."""
    body = b"ccollections\nOrderedDict\n)R" + pickled({"w": tensor(A)})[1:]
    body += pickled({"_metadata": {"": {"version": 1}}}) + b"b"
    members = torch_members({"w": tensor(A)}) | {"data.pkl": b"\x80\2" + body + b"."}
    np.testing.assert_array_equal(read_torch(write(torch_zip(members)))["w"], A)


def test_torch_files_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    values = {
        "bf16": torch.randn(3, 4).bfloat16(),
        "t": torch.randn(3, 4).T,
        "step": torch.tensor(3),
        "p": torch.nn.Parameter(torch.randn(2)),
    }
    torch.save(OrderedDict(values), tmp_path / "weights.pth")
    for name, array in read_torch(tmp_path / "weights.pth").items():
        expected = values[name].detach()
        expected = expected.float() if expected.dtype == torch.bfloat16 else expected
        np.testing.assert_array_equal(array, expected.numpy(), name)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"byteorder": b"big"}, "its byte order is b'big', not little; load it in PyTorch"),
        ({"constants.pkl": b"x"}, "a TorchScript program; load it in PyTorch and save its state_d"),
        ({"x/data.pkl": b"x"}, "a zip, but not a PyTorch file: it has 2 data.pkl instead of one"),
        ({"data/0": b"\0" * 12}, "storage 0 has 3 values instead of 12"),
        ({"data/0": b"\0" * 49}, "buffer size must be a multiple of element size"),
        ({"data.pkl": b"\x80\2}."}, "holds no state dict; it may lie bare, or under state_dict or"),
    ],
)
def test_torch_members(refused, members, message):
    assert message in refused("torch", torch_zip(torch_members({"w": tensor(A)}) | members))


def test_torch_without_a_storage(refused):
    members = torch_members({"w": tensor(A)})
    del members["data/0"]
    assert "There is no item named 'archive/data/0'" in refused("torch", torch_zip(members))


def test_torch_before_1_6(refused):
    data = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19." * 9
    assert "saved by PyTorch before 1.6 or in its old format; load it in PyT" in refused(
        "torch", data
    )


def test_torch_zip_bombs(refused):
    members = torch_members({"w": tensor(np.zeros(2**24, np.float32))})  # 64 MB in 64 kB
    message = refused("torch", torch_zip(members, zipfile.ZIP_DEFLATED), memory=2**22)
    assert "'archive/data.pkl' in it is compressed, which torch.save never does" in message


def test_torch_members_that_overlap(refused):
    """A directory may name the same bytes again and again."""
    data = torch_zip({"data.pkl": b"x" * 5000})
    at = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    entry, count = data[at:end], 50
    names = [entry.replace(b"data.pkl", b"%08d" % i) for i in range(count)]
    tail = bytearray(data[end:])
    tail[8:12] = struct.pack("<HH", count, count)
    tail[12:16] = struct.pack("<I", count * len(entry))
    message = refused("torch", data[:at] + b"".join(names) + bytes(tail))
    assert "the members of the zip are larger than the file" in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": (5, 5)}, "a tensor of (5, 5) reaches beyond its 12 values"),
        ({"offset": -1}, "a tensor of (3, 4) reaches beyond its 12 values"),
        ({"stride": (-4, 1)}, "a tensor of (3, 4) reaches beyond its 12 values"),
        ({"stride": (4, 2**47)}, "a tensor of (3, 4) reaches beyond its 12 values"),
        ({"size": (-3, 4)}, "a size or stride is negative, absurd or no number"),
        ({"size": (2**63, 4)}, "a size or stride is negative, absurd or no number"),
        ({"size": (3.0, 4)}, "a size or stride is negative, absurd or no number"),
        ({"size": (3,)}, "a tensor of 1 dimensions with 2 strides"),
        ({"size": (1,) * 33, "stride": (1,) * 33}, "a shape is a tuple of at most 32 numbers"),
        ({"size": (2**40, 4), "stride": (0, 1)}, "its arrays take more than 8 times the file"),
        ({"count": 13}, "storage 0 has 12 values instead of 13"),
        ({"key": "../0"}, "damaged: "),
    ],
)
def test_torch_wrong_tensors(refused, fields, message):
    lying = Tensor(**{"storage": A.reshape(-1), "size": (3, 4), "stride": (4, 1)} | fields)
    members = torch_members({"w": tensor(A)}) | {
        "data.pkl": torch_members({"w": lying})["data.pkl"]
    }
    assert message in refused("torch", torch_zip(members))


# --- code ---


class Payload:
    """What a hostile file may carry."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "nest", [lambda x: x, lambda x: {"w": x}, lambda x: {"args": [(x,)]}, lambda x: {"a": {1: x}}]
)
@pytest.mark.parametrize("kind", ["torch", "paddle"])
def test_code_is_named_and_not_executed(refused, tmp_path, kind, nest, protocol):
    data = pickle.dumps(nest(Payload(tmp_path / "ran")), protocol)
    message = refused(kind, torch_zip({"data.pkl": data}) if kind == "torch" else data)
    assert message.startswith(f"refused: it asks for {os.mkdir.__module__}.mkdir, which weights")
    assert "nothing was run" in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (b"cos\nsystem\n", "os.system"),
        (b"\x8c\2os\x8c\6system\x93", "os.system"),
        (b"(cos\nsystem\nX\2\0\0\0ido", "os.system"),
        (b"(cos\nsystem\nX\2\0\0\0idtQ", "os.system"),
        (b"cbuiltins\neval\n", "builtins.eval"),
        (b"cnumpy\nload\n", "numpy.load"),
        (b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n", "_rebuild_tensor_v2.__globals__"),
        (b"cmymodels\nConViT\n)\x81", "mymodels.ConViT"),  # torch.save(network)
        (b"\x8c\1\n\x8c\1\n\x93", r"'\n.\n'"),
    ],
)
@pytest.mark.parametrize("kind", ["torch", "paddle"])
def test_every_way_to_import_code_is_refused(refused, kind, body, asked):
    data = torch_pickle(body) if kind == "torch" else b"\x80\4" + body + b"."
    message = refused(kind, data)
    assert f"{asked}, which weights do not need; nothing was run" in message
    assert "save its state_dict() alone" in message


# --- pickles that take time or memory ---


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"X\xff\xff\xff\x7f", "expected 2147483647 bytes in a unicodestring4, but only 1 remain"),
        (b"\x8d" + b"\xff" * 7 + b"\x7f", "bytes in a unicodestring8"),
        (b"\x8e" + b"\xff" * 7 + b"\x7f", "bytes in a bytes8"),
        (b"\x96\xff\xff\xff\xff\xff\0\0\0", "bytes in a bytearray8"),
        (b"\x8b\xff\xff\xff\x7f", "not enough data in stream to read long4"),
        (b"N\x94j\xff\xff\xff\x7f", "KeyError 2147483647"),
        (b"}r\xff\xff\xff\x7f", "holds no state dict"),  # a memo of 2**31 places
        (b"\x80\x7f", "its pickle uses PROTO 127"),
        (b"\x82\1", "its pickle uses EXT1 1"),
        (b"(ios\nsystem\n", "its pickle uses INST os system"),
        (b"}" + b")" + b"\x85" * 3000 + b"Ns", "a key is a text or a small number, not a tuple"),
        (b"})" + b"2\x86" * 99 + b"Ns", "a key is a text or a small number, not a tuple"),
        (b"}\x8a\x0a" + b"\1" * 10 + b"Ns", "a key is a text or a small number, not a int"),
        (b"]" * 3000 + b"a" * 2999, "holds no state dict"),
        (b"}q\0X\5\0\0\0modelh\0s", "holds no state dict"),  # a dict in itself
        (b"K\1}b", "its pickle sets the state of something that has none"),
        (b"K\1)R", "its pickle calls something that is no function"),
        (b"ccollections\nOrderedDict\nK\1R", "its pickle calls something that is no function"),
        (b"Pstorage\n", "its pickle uses PERSID storage, which weights do not need"),
        (b"P\1\x7f\n", "its pickle uses PERSID ??, which weights do not need"),
        (b"I\1\x1b[2J\n", "invalid literal for int()"),
        (b"N\x85Q", "damaged"),
        (b"00", "pop from empty list"),
        (b"t", "pop from empty list"),
        (b"}X\1\0\0\0\nctorch._utils\n_rebuild_parameter\nN\x85Rs", "holds no state dict"),
    ],
)
@pytest.mark.parametrize("kind", ["torch", "paddle"])
def test_pickles_that_take_time_or_memory(refused, kind, body, message):
    if kind == "paddle" and b"_rebuild" in body:
        body, message = body.replace(b"torch._utils", b"os"), "refused: it asks for os._rebuild_p"
    data = torch_pickle(body) if kind == "torch" else b"\x80\4" + body + b"."
    assert message in refused(kind, data)


@pytest.mark.parametrize("kind", ["torch", "paddle"])
def test_pickles_with_too_many_steps(refused, monkeypatch, kind):
    monkeypatch.setattr(plain_pickle, "_STEPS", 1000)
    body = b"N" * 1001
    data = torch_pickle(body) if kind == "torch" else b"\x80\4" + body + b"."
    assert "its pickle takes more than 1000 steps" in refused(kind, data)


def test_one_list_passed_to_many_dicts(refused, monkeypatch):
    """OrderedDict(pairs) of one list, again and again, would be quadratic in the file."""
    monkeypatch.setattr(plain_pickle, "_STEPS", 50_000)
    body = b"(" + b"](K\1K\2e" * 100 + b"lq\0" + b"ccollections\nOrderedDict\nh\0\x85R" * 900
    assert "more than 50000 steps" in refused("torch", torch_pickle(body))


def test_one_text_encoded_many_times(refused):
    text = b"X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\0"
    body = text + b"c_codecs\nencode\nh\0X\6\0\0\0latin1\x86R" * 1000
    assert "its arrays take more than 8 times the file" in refused(
        "paddle", b"\x80\2" + body + b"."
    )


@pytest.mark.parametrize("name", ["", "a\nb", "a\0", "\u2028", "x" * 1001, 7])
def test_names_are_lines_of_text(refused, name):
    message = "the name of a weight is a line of text, not "
    assert message in refused("torch", torch_file({name: tensor(A)}))
    assert message in refused("paddle", pickle.dumps({name: A}, 4))
    if isinstance(name, str):
        assert message in refused("mindspore", mindspore_value(name, [12], "Float32", A.tobytes()))
        entry = {"dtype": "F32", "shape": [12], "data_offsets": [0, 48]}
        assert message in refused("safetensors", safetensors_bytes({name: entry}, A.tobytes()))


# --- MindSpore ---

_MINDSPORE = {
    "Float64": "float64",
    "Float32": "float32",
    "Float16": "float16",
    "Int64": "int64",
    "Int32": "int32",
    "Int16": "int16",
    "Int8": "int8",
    "UInt8": "uint8",
    "Bool": "bool",
}


@pytest.mark.parametrize(("kind", "dtype"), _MINDSPORE.items())
@pytest.mark.parametrize("packed", [False, True])
def test_mindspore_types(write, kind, dtype, packed):
    array = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    path = write(mindspore_value("w", (2, 3), kind, array.tobytes(), packed))
    (read,) = read_mindspore(path).values()
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, array)


def test_mindspore_shapes_and_texts(write):
    data = (
        mindspore_value("bf16", [4], "BFloat16", BF16.tobytes())
        + mindspore_value("scalar", [0], "Float32", A[0, 1].tobytes())
        + mindspore_value("empty", [0], "Float32", b"")
        + mindspore_value("version", [0], "str", b"v\0\0\0")
        + mindspore_value("matrix", [3, 4], "Float32", A.tobytes())
        + wire(9, b"a field of a later version")
    )
    weights = read_mindspore(write(data))
    assert list(weights) == ["bf16", "scalar", "empty", "matrix"]
    np.testing.assert_array_equal(weights["bf16"], BF16_VALUES)
    assert weights["scalar"].shape == () and weights["scalar"] == 1
    assert weights["empty"].shape == (0,)
    np.testing.assert_array_equal(weights["matrix"], A)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes([0xD8, 0x5E, 0x3A, 0x7F]) + b"x" * 99, "encrypted; load it in MindSpore with its"),
        (
            mindspore_value("w", [1], "Int8", b"x") + b"crc_num" + bytes(10),
            "ends in a checksum; load it in MindSpore and save it without crc_check",
        ),
        (mindspore_value("w", [3], "Float32", bytes(8)), "'w' is (3,) Float32, and has 8 bytes"),
        (mindspore_value("w", [0], "Float32", bytes(8)), "'w' is (0,) Float32, and has 8 bytes"),
        (mindspore_value("w", [2**63, 2], "Float32", b""), "negative, absurd or no number"),
        (mindspore_value("w", [2**64 - 1], "Int8", b"x"), "negative, absurd or no number"),
        (mindspore_value("w", [1] * 33, "Int8", b"x"), "a shape is a tuple of at most 32 n"),
        (mindspore_value("w", [1] * 999, "Int8", b"x", True), "a shape is a tuple of at most 32"),
        (mindspore_value("w", [1], "Int4", b"x"), "'w' is of type 'Int4'; weights are Float64, "),
        (mindspore_value("w", [1], "Int8", b"x") * 2, "two parameters are named 'w'"),
        (
            b"".join(mindspore_value(name, [1], "Int8", b"x") for name in "aba"),
            "two parameters are named 'a'",
        ),
        (wire(1, wire(1, b"w") + wire(3, b"")), "it holds a MapTensor"),
        (wire(1, wire(1, b"w")), "'w' has no tensor"),
        (wire(1, wire(1, b"w") + wire(2, wire(1, 1))), "or one without type or content"),
        (wire(1, 7), "holds no parameters"),
        (wire(1, wire(1, b"") + wire(2, wire(2, b"Int8") + wire(3, b""))), "a line of text"),
        (wire(9, b"x"), "holds no parameters"),
        (b"\x0a\xff\xff\xff\xff\x7f", "Error parsing message"),
        (b"\xff" * 11, "Error parsing message"),
        (b"\x0b", "Error parsing message"),
        (wire(1, wire(1, b"\xff") + wire(2, wire(2, b"Int8") + wire(3, b""))), "damaged"),
    ],
)
def test_mindspore_wrong_files(refused, data, message):
    assert message in refused("mindspore", data)


# --- Paddle ---


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_paddle_dtypes(write, dtype, protocol):
    array = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    content = {"w": array, "t": array.T, "named": ("linear_0.w_0", array), "scalar": array[1, 2]}
    weights = read_paddle(write(pickle.dumps(content, protocol)))
    assert list(weights) == list(content)
    for name, expected in (("w", array), ("t", array.T), ("named", array), ("scalar", array[1, 2])):
        assert weights[name].dtype == dtype, name
        np.testing.assert_array_equal(weights[name], expected, name)
        assert weights[name].flags.c_contiguous


def test_paddle_structure(write):
    content = OrderedDict(
        {
            "a": A,
            "StructuredToParameterName@@": {"a": "linear_0.w_0"},
        }
    )
    for nested in (content, {"state_dict": content}, {"epoch": 1, "model": content}):
        weights = read_paddle(write(pickle.dumps(nested, 2)))
        assert list(weights) == ["a"]
        np.testing.assert_array_equal(weights["a"], A)


def test_paddle_files_of_paddle(tmp_path):
    paddle = pytest.importorskip("paddle")
    layer = paddle.nn.Sequential(paddle.nn.Linear(3, 4), paddle.nn.BatchNorm1D(4))
    for protocol in (2, 4):
        path = tmp_path / f"{protocol}.pdparams"
        paddle.save(layer.state_dict(), str(path), protocol=protocol)
        weights = read_paddle(path)
        expected = {name: value.numpy() for name, value in layer.state_dict().items()}
        assert weights.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(weights[name], array, name)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_paddle_bfloat16_of_paddle(tmp_path, protocol):
    """Layers and bare tensors, as paddle.save writes them, and as numpy arrays of them."""
    paddle = pytest.importorskip("paddle")
    paddle.seed(0)
    layer = paddle.nn.Sequential(paddle.nn.Linear(3, 4), paddle.nn.BatchNorm1D(4))
    layer[0].to(dtype="bfloat16")
    state = layer.state_dict()
    state["scalar"] = paddle.to_tensor(-2.5, "bfloat16")
    files = {
        "layer": state,
        "tensors": dict(state),
        "nested": {"epoch": 1, "model": state},
        "arrays": {name: value.numpy() for name, value in state.items()},
    }
    for name, content in files.items():
        path = tmp_path / f"{name}.pdparams"
        paddle.save(content, str(path), protocol=protocol)
        weights = read_paddle(path)
        assert weights.keys() == state.keys()
        for key, value in state.items():
            expected = value.astype("float32").numpy()
            assert (weights[key].dtype, weights[key].shape) == (np.float32, expected.shape)
            np.testing.assert_array_equal(weights[key], expected, f"{name} {key}")


def test_paddle_bfloat16_under_many_names(refused, write):
    """What one array takes does not grow with its names, and widening counts."""
    array = np.full(2**18, 0x3F80, np.uint16)
    many = {f"w{i}": array for i in range(1000)}
    tracemalloc.start()
    weights = read_paddle(write(pickle.dumps(many, 4)))
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert len(weights) == 1000
    content = b"B" + struct.pack("<I", 2**16) + bytes(2**16)
    whole = paddle_array(shape=(2**15,), content=bytes(2**16), dtype="u2")
    first, again = whole.replace(content, content + b"q\1"), whole.replace(content, b"h\1")
    # Five arrays of the same bytes: 5 times the file as uint16, 10 times as float32.
    entries = b"".join(b"X\1\0\0\0" + b"%d" % i + again + b"s" for i in range(4))
    message = refused("paddle", b"\x80\3}X\1\0\0\0w" + first + b"s" + entries + b".")
    assert "its arrays take more than 8 times the file" in message


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (paddle_array(shape=(3,)), "an array of (3,) float32 that has 8 bytes"),
        (paddle_array(shape=(2**47, 2**47)), "an array of (140737488355328, 140737488355328)"),
        (paddle_array(shape=(-2,)), "a size or stride is negative"),
        (paddle_array(shape=[2**70]), "a size or stride is negative"),
        (paddle_array(dtype="O8"), "an array of dtype 'O8'; weights are f2, f4"),
        (paddle_array(dtype="V8"), "an array of dtype 'V8'"),
        (paddle_array(dtype="f4,i4"), "an array of dtype 'f4,i4'"),
        (paddle_array(order=">"), "an array in big-endian"),
        (paddle_array(fields={"x": 1}), "a structured array"),
        (paddle_array(content=[1, 2]), "an array of (2,) float32 that has list"),
        (paddle_array(kind=b"cnumpy\nmatrix\n"), "refused: it asks for numpy.matrix"),
        (paddle_array(kind=b"cnumpy\ndtype\n"), "an array of another class than numpy.ndarray"),
        (paddle_array()[:-1] + b"0", "holds no state dict"),  # never filled
        (b"cbuiltins\ntuple\n]\x85R", "a tuple made of something else"),
        (b"c_codecs\nencode\n" + pickled(("x", "rot13")) + b"R", "bytes are written as latin-1"),
        (b"cnumpy.core.multiarray\nscalar\nNC\0\x86R", "an array without a dtype"),
        (b"cnumpy\ndtype\n)R", "TypeError"),
    ],
)
def test_paddle_wrong_arrays(refused, write, array, message):
    np.testing.assert_array_equal(read_paddle(write(paddle_pickle(paddle_array())))["w"], [0, 0])
    assert message in refused("paddle", paddle_pickle(array))


# --- safetensors ---


def test_safetensors_of_the_library(tmp_path):
    arrays = {dtype: np.array([[0, 1, 2]]).astype(dtype) for dtype in (*DTYPES, "uint16", "uint32")}
    arrays |= {"scalar": np.array(3.5), "empty": np.zeros((0, 3), np.float32)}
    save_file(arrays, tmp_path / "weights.safetensors", {"format": "np", "note": "ä"})
    weights, metadata = read_safetensors(tmp_path / "weights.safetensors")
    assert metadata == {"format": "np", "note": "ä"}
    assert weights.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (weights[name].dtype, weights[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(weights[name], array, name)


def test_safetensors_bfloat16(write):
    entry = {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}
    weights, metadata = read_safetensors(write(safetensors_bytes({"w": entry}, BF16.tobytes())))
    assert (weights["w"].dtype, metadata) == (np.float32, {})
    np.testing.assert_array_equal(weights["w"], BF16_VALUES.reshape(2, 2))


def test_safetensors_bfloat16_of_paddle(tmp_path):
    paddle = pytest.importorskip("paddle")
    paddle.seed(0)
    state = paddle.nn.Linear(3, 4).to(dtype="bfloat16").state_dict()
    path = tmp_path / "weights.safetensors"
    paddle.save(state, str(path), safetensors=True)
    weights, _ = read_safetensors(path)
    assert weights.keys() == state.keys()
    for name, value in state.items():
        assert weights[name].dtype == np.float32
        np.testing.assert_array_equal(weights[name], value.astype("float32").numpy(), name)


def _entry(**fields: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [12], "data_offsets": [0, 48]} | fields


@pytest.mark.parametrize(
    "header",
    [
        {"w": _entry(shape=[13])},
        {"w": _entry(shape=[-12])},
        {"w": _entry(shape=[2**62, 2**62])},
        {"w": _entry(shape=[True] * 12)},
        {"w": _entry(shape="ab")},
        {"w": _entry(dtype=[])},
        {"w": _entry(dtype="F16")},
        {"w": _entry(data_offsets=[0, 99])},
        {"w": _entry(data_offsets=[4, 48])},
        {"w": _entry(data_offsets=[48, 0])},
        {"w": _entry(data_offsets=[0, 40], shape=[10])},
        {"w": _entry(), "v": _entry()},
        {"w": None},
        {"w": _entry(), "__metadata__": {"a": 1}},
        b"[]",
        b"[" * 100_000,
        b'{"w": ' + b"9" * 5000 + b"}",
        b'{"w\xff": 1}',
    ],
)
def test_safetensors_wrong_header(refused, header):
    message = refused("safetensors", safetensors_bytes(header, A.tobytes()))
    assert message.startswith("not a readable .safetensors file: ")
    assert message.endswith("; fetch it again")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F8_E4M3", "shape": [48]}, "'w' is of dtype 'F8_E4M3'; weights are F64, F32"),
        ({"shape": [1] * 32 + [12]}, "a shape is a tuple of at most 32 numbers"),
    ],
)
def test_safetensors_unsupported_by_numpy(refused, entry, message):
    header = {"w": _entry(**entry)}
    assert message in refused("safetensors", safetensors_bytes(header, A.tobytes()))


def test_safetensors_empty_array_that_is_too_large(refused):
    header = {"w": _entry(shape=[0, 2**47, 2**15], data_offsets=[0, 0])}
    assert "too big" in refused("safetensors", safetensors_bytes(header))


@pytest.mark.parametrize("size", [2**64 - 1, 2**63, 2**24, 1000, 9])
def test_safetensors_wrong_header_size(refused, size):
    refused("safetensors", struct.pack("<Q", size) + b"{}")


def test_safetensors_of_a_replaced_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"w": A}, path)
    stored, _ = open_safetensors(path)
    save_file({"w": A + 1, "v": A}, tmp_path / "other.safetensors")
    os.replace(tmp_path / "other.safetensors", path)
    np.testing.assert_array_equal(np.asarray(stored["w"]), A)


def test_safetensors_of_a_truncated_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"w": A}, path)
    stored, _ = open_safetensors(path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: has become shorter"):
        np.asarray(stored["w"])


# --- any format ---


@pytest.mark.parametrize("kind", READERS)
def test_missing_empty_and_foreign_files(tmp_path, refused, kind):
    with pytest.raises(CheckpointError, match="nothing: there is no such weight file"):
        READERS[kind](tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="is a folder, not a weight file"):
        READERS[kind](tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="pipe: is not a regular file"):
        READERS[kind](tmp_path / "pipe")
    assert refused(kind, b"").startswith("an empty file")
    for other, files in valid_files().items():
        if other != kind:
            refused(kind, files[0])
    for data in (
        b"\0",
        b"\xff" * 4000,
        b"<!doctype html><html>404</html>",
        b"version https://git-lfs",
    ):
        refused(kind, data)


@pytest.mark.parametrize("kind", READERS)
def test_truncated_files(refused, kind):
    """A file that ends early is refused, except a MindSpore file that ends after a parameter."""
    data = valid_files()[kind][0]
    for size in range(1, len(data) - 1, 3):
        if kind == "mindspore" and size in _ends(data):
            continue
        refused(kind, data[:size])


def _ends(data: bytes) -> set[int]:
    """Where the values of a MindSpore file of short ones end."""
    ends, at = set(), 0
    while at < len(data):
        at += 2 + data[at + 1]
        ends.add(at)
    return ends


def test_widened_keeps_shapes():
    for shape in ((4,), (2, 2), (1, 4, 1)):
        np.testing.assert_array_equal(widened(BF16.reshape(shape)), BF16_VALUES.reshape(shape))
    assert widened(np.array(0x3F80, np.uint16)).shape == ()
