"""PyTorch's files: their arrays are read exactly, and defects are reported in one line."""

from __future__ import annotations

import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from passl.errors import CheckpointError
from passl.porting.readers.torch import read_torch
from tests.stress.fuzzing import (
    Tensor,
    pickled,
    tensor,
    torch_members,
    torch_zip,
)
from tests.unit.porting.readers.samples import (
    BF16,
    BF16_VALUES,
    DTYPES,
    A,
    torch_file,
)


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
