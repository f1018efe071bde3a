"""What every reader does."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from passl.errors import CheckpointError
from passl.io.limits import widened
from tests.stress.fuzzing import (
    READERS,
    SUFFIXES,
    mindspore_value,
    safetensors_bytes,
    tensor,
    valid_files,
)
from tests.unit.porting.readers.samples import (
    BF16,
    BF16_VALUES,
    A,
    torch_file,
)

GOLDEN = Path(__file__).parents[3] / "golden"


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


@pytest.mark.parametrize("name", ["", "a\nb", "a\0", "\u2028", "x" * 1001, 7])
def test_names_are_lines_of_text(refused, name):
    message = "the name of a weight is a line of text, not "
    assert message in refused("torch", torch_file({name: tensor(A)}))
    assert message in refused("paddle", pickle.dumps({name: A}, 4))
    if isinstance(name, str):
        assert message in refused("mindspore", mindspore_value(name, [12], "Float32", A.tobytes()))
        entry = {"dtype": "F32", "shape": [12], "data_offsets": [0, 48]}
        assert message in refused("safetensors", safetensors_bytes({name: entry}, A.tobytes()))


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
