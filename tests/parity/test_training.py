"""The first steps of a training run against timm's module under PyTorch: the same weights, batches,
optimizer and schedule (`make test-parity`).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from passl.data.loader import build_loader
from passl.engine.metrics import read_metrics
from passl.engine.train import train
from passl.evaluation.scores import evaluate
from passl.modeling import Model
from passl.utils.config import get_config
from studies.fashion.initial import write_initial_weights

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
CONFIG = Path(__file__).resolve().parents[2] / "studies" / "timm_training" / "convit.yaml"
STEPS = 50


def small_config(tmp_path) -> list[str]:
    """Overrides: digits of 28 x 28 pixels, and weights in `initial.safetensors`."""
    crop, norm = "{name: RandomCrop, size: 28}", "{name: Normalize, mean: [0.5], std: [0.5]}"
    part = "dataloader.{}.dataset={{name: Digits, split: {}, mode: L, transforms: [{}]}}"
    return [
        f"output_dir={tmp_path / 'run'}",
        f"model.pretrained={tmp_path / 'initial.safetensors'}",
        part.format("train", "train", f"{crop}, {norm}"),
        part.format("val", "val", f"{{name: CenterCrop, size: 28}}, {norm}"),
        "dataloader.train.sampler.batch_size=16",
        f"dataloader.train.sampler.samples={16 * STEPS}",
        "epochs=1",
    ]


def test_first_losses_of_a_run(tmp_path):
    """49 tokens, 50 steps through the warmup and the beginning of the cosine. The loss is about 2;
    from 1e-5 on it would show a term that one side lacks, where both differ by rounding alone.
    """
    from studies.timm_training.theirs import Training

    cfg = get_config(CONFIG, small_config(tmp_path))
    weights = tmp_path / "initial.safetensors"
    write_initial_weights(weights, cfg.model, "convit", 0)
    theirs = Training(cfg, weights)
    expected = list(theirs.epoch(0))
    train(cfg)
    ours = [row for row in read_metrics(tmp_path / "run") if row["phase"] == "train"]
    assert len(ours) == len(expected) == STEPS
    losses, rates = np.transpose(expected)
    np.testing.assert_allclose([row["lr"] for row in ours], rates, rtol=1e-6)
    assert max(rates) == pytest.approx(1e-3, rel=0.3)
    assert losses[-10:].mean() < losses[:10].mean() - 0.05  # it learns
    np.testing.assert_allclose([row["loss"] for row in ours], losses, rtol=0, atol=1e-5)


def test_interrupted_run_of_timm_continues(tmp_path, monkeypatch):
    """After its last epoch, to the same end; its top-1 is what passl computes from its weights."""
    from studies.timm_training import theirs

    small = ["epochs=2", "dataloader.train.sampler.samples=64"]
    cfg = get_config(CONFIG, [*small_config(tmp_path), *small])
    weights = tmp_path / "initial.safetensors"
    write_initial_weights(weights, cfg.model, "convit", 0)
    theirs.train(cfg, tmp_path / "whole.json")

    epoch = theirs.Training.epoch

    def failing(self, number):
        if number == 1:
            raise KeyboardInterrupt
        return epoch(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(theirs.Training, "epoch", failing)
        with pytest.raises(KeyboardInterrupt):
            theirs.train(cfg, tmp_path / "part.json")
    assert not (tmp_path / "part.json").exists()
    theirs.train(cfg, tmp_path / "part.json")
    whole, part = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("whole", "part"))
    assert len(whole["losses"]) == 8
    assert {**whole, "ips": 0} == {**part, "ips": 0}

    training = theirs.Training(cfg, weights)
    loader = build_loader(cfg.dataloader.val, 0)
    ours = evaluate(Model(cfg, weights), loader).top1
    assert training.top1(loader) == pytest.approx(ours, abs=0.3)  # one of 360, by rounding
