"""passl pack: its options, and what it prints."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from passl.data.build import build_dataset


def test_folder_is_packed_and_verified(call, tmp_path):
    for number in range(4):
        path = tmp_path / "data" / f"c{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 50, 3), number, np.uint8)).save(path)
    data, out = tmp_path / "data", tmp_path / "out"
    code, printed, err = call("pack", data, out, "--short-side", 20, "--workers", 0)
    assert (code, err) == (0, "")
    node = json.loads(printed.splitlines()[-1])
    dataset = build_dataset(node)
    assert [image.size for image, _ in (dataset[i] for i in range(4))] == [(25, 20)] * 4
    code, printed, _ = call("pack", "--verify", out)
    assert (code, "all shards are as" in printed) == (0, True)
    (out / "train-000000.tar").write_bytes(b"")
    assert call("pack", "--verify", out)[0] == 1
    code, _, err = call("pack", data, out, "--format", "png")
    assert (code, "name another folder" in err) == (2, True)
    assert call("pack", data)[0] == 2


def test_part_of_a_config_is_packed(call, tmp_path):
    options = ["--part", "val", "--format", "png", "--workers", 0, "--keep-order"]
    changes = ["-o", "dataloader.val.dataset.fraction=0.02"]
    code, printed, err = call("pack", "digits/convit", tmp_path / "out", *options, *changes)
    assert (code, err) == (0, "")
    node = json.loads(printed.splitlines()[-1])
    assert node["shards"].endswith("val-{000000..000000}.tar")
    assert len(build_dataset(node)) == 10
