"""Weights of runs become a file of the package, with a model card."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

import passl
from passl.io.files import sha256_of
from passl.modeling import Model
from passl.porting.weight_file import OURS, pack_classes, read_file
from passl.utils.config import get_config
from passl.utils.yaml import parse, to_yaml
from studies.fashion_recipes import publish

SEEDS = (3, 4)


@pytest.fixture
def runs(tmp_path, monkeypatch) -> list[Path]:
    """Two finished runs of the recipe digits/cvt, as far as they are read."""
    folders = []
    for seed in SEEDS:
        folder = tmp_path / f"run_{seed}"
        folder.mkdir()
        config = get_config("digits/cvt", [f"seed={seed}"]).to_dict()
        paddle.seed(seed)
        state = Model(config).state_dict()
        arrays = {name: np.array(tensor.numpy()) for name, tensor in state.items()}
        arrays |= pack_classes([str(digit) for digit in range(10)])
        metadata = {OURS: passl.__version__, "config": json.dumps(config)}
        save_file(arrays, folder / "last.safetensors", metadata)
        (folder / "config.yaml").write_text(to_yaml(config))
        row = {"phase": "val", "step": 1, "epoch": config["epochs"], "top1": 90.0 + seed}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        start = {"passl": "0.1.0", "commit": "abc", "changed": False, "world_size": 2}
        (folder / "starts.jsonl").write_text(json.dumps(start) + "\n")
        folders.append(folder)
    monkeypatch.setattr(publish, "PACKAGED", tmp_path / "weights")
    return folders


def call(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["publish.py", *map(str, arguments)])
    publish.main()


def test_file_card_and_entry(runs, tmp_path, monkeypatch, capsys):
    call(monkeypatch, "digits_cvt", *runs)
    path = tmp_path / "weights" / "digits_cvt.safetensors"
    ours, theirs = read_file(path).weights, read_file(runs[0] / "last.safetensors").weights
    for name, weight in theirs.items():
        np.testing.assert_array_equal(ours[name], weight.astype(np.float16))
    card = path.with_suffix(".md").read_text()
    for score in (": 93.00 %", ": 94.00 %", "mean of 2: 93.50 %"):
        assert score in card
    assert sha256_of(path) in card
    # The matrix counts the 360 images of the validation data.
    cells = [line.strip("| ").split(" | ") for line in card.splitlines()]
    rows = [row for row in cells if len(row) == 11 and row[0].isdigit()]
    assert sum(int(cell) for row in rows for cell in row[1:]) == 360
    entry, _ = parse("weights:\n" + capsys.readouterr().out, "entry")
    entry = entry["weights"]["digits_cvt.fashion_mnist"]
    right = sum(int(row[1 + label]) for label, row in enumerate(rows))
    assert entry["top1"] == round(100 * right / 360, 2)
    assert (entry["sha256"], entry["size"]) == (sha256_of(path), path.stat().st_size)
    assert (entry["config"], entry["source"]) == ("digits/cvt", "own")


@pytest.mark.parametrize(
    ("file", "before", "after", "message"),
    [
        ("config.yaml", "lr: 0.002", "lr: 0.003", "optimizer is not that of the recipe"),
        ("config.yaml", "split: val", "split: train", "val data is not that of the recipe"),
        ("metrics.jsonl", '"epoch": 20', '"epoch": 19', "is not finished"),
    ],
)
def test_other_or_unfinished_run(runs, tmp_path, monkeypatch, file, before, after, message):
    text = (runs[1] / file).read_text()
    assert before in text
    (runs[1] / file).write_text(text.replace(before, after))
    with pytest.raises(SystemExit, match=message):
        call(monkeypatch, "digits_cvt", *runs)
    assert not (tmp_path / "weights").exists()
