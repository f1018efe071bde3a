"""What passl 0.1 wrote stays usable: its checkpoints are evaluated and resumed, its exported
folders predict.

`version_0_1/` was made by version 0.1 (commit b16d9e4): a run of eight epochs, its checkpoint after
the seventh, and the folder that its last checkpoint was exported to. `metrics.jsonl` has the whole
run, so the scores that are expected here are those of version 0.1.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from passl.data.datasets.digits import Digits
from passl.deploy import Predictor
from passl.engine.metrics import read_metrics
from passl.engine.train import train
from passl.utils.config import get_config
from tests.numerics import GRADIENTS, VALUES

OLD = Path(__file__).with_name("version_0_1")
ONE_SAMPLE = 100 / 360  # in percent: two logits that are equal but for rounding can change places


def validation(epoch: int) -> dict:
    rows = read_metrics(OLD / "run")
    (row,) = (row for row in rows if row["phase"] == "val" and row["epoch"] == epoch)
    return row


def test_a_checkpoint_has_its_score(run_tool):
    run = OLD / "run"
    done = run_tool("eval.py", run / "config.yaml", "--weights", run / "last.safetensors")
    found, expected = json.loads(done.stdout.splitlines()[-1]), validation(7)
    assert found["samples"] == 360
    assert found["top1"] == pytest.approx(expected["top1"], abs=1.01 * ONE_SAMPLE)
    assert found["loss"] == pytest.approx(expected["loss"], rel=VALUES)


def test_a_run_is_resumed(tmp_path):
    """The last epoch is that of the unbroken run: rates are equal, losses but for rounding."""
    shutil.copytree(OLD / "run", tmp_path / "run")
    train(get_config(tmp_path / "run" / "config.yaml", [f"output_dir={tmp_path / 'run'}"]), "auto")
    found, expected = read_metrics(tmp_path / "run"), read_metrics(OLD / "run")
    assert [(row["phase"], row["step"]) for row in found] == [
        (row["phase"], row["step"]) for row in expected
    ]
    last = [rows for rows in zip(found, expected, strict=True) if rows[1]["epoch"] == 8]
    assert len(last) == 6
    for row, old in last:
        assert row["loss"] == pytest.approx(old["loss"], rel=GRADIENTS)
        assert row.get("lr", 0) == pytest.approx(old.get("lr", 0), rel=1e-6)  # as it is printed
        assert row["time"] > old["time"]


def test_an_exported_folder_predicts():
    digits = Digits(split="val")
    images = [digits.load_image(index) for index in range(len(digits))]
    probabilities = Predictor(OLD / "exported", threads=1).predict(images, batch_size=120)
    expected = validation(8)
    top1 = 100 * np.mean(probabilities.argmax(-1) == digits.labels)
    assert top1 == pytest.approx(expected["top1"], abs=1.01 * ONE_SAMPLE)
    right = probabilities[np.arange(len(digits)), digits.labels].astype(np.float64)
    assert -np.log(right).mean() == pytest.approx(expected["loss"], rel=VALUES)
