"""Paddle's files: their arrays are read exactly, and defects are reported in one line."""

from __future__ import annotations

import pickle
import struct
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest

from passl.porting.readers.paddle import read_paddle
from tests.stress.fuzzing import (
    pickled,
)
from tests.unit.porting.readers.samples import (
    DTYPES,
    A,
    paddle_array,
    paddle_pickle,
)


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
