"""Hostile pickles: nothing in them is executed, and time and memory are bounded."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path

import pytest

from passl.io import plain_pickle
from tests.stress.fuzzing import (
    torch_zip,
)
from tests.unit.porting.readers.samples import (
    torch_pickle,
)


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
