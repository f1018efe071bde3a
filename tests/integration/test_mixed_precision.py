"""A run in bfloat16 from its first step to the exported network."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from passl.data.loader import build_loader
from passl.deploy import Predictor
from passl.engine import train as train_module
from passl.engine.metrics import read_metrics
from passl.evaluation.scores import evaluate
from passl.modeling import Model, autocast
from passl.utils.config import get_config
from tests.integration.test_training import Killed, run, same_run
from tests.numerics import check_network

OPTIONS = (
    "dataloader.train.dataset.fraction=0.1",
    "dataloader.train.sampler.batch_size=16",  # eight steps are an epoch
    "dataloader.val.dataset.fraction=0.2",
    "checkpoint={interval: 3}",
    "ema={decay: 0.9}",
)


@pytest.mark.parametrize(
    ("name", "level", "more"),
    [("ConViT", "O1", "recompute=true"), ("CvT", "O2", "accumulate=2")],
)
def test_train_kill_resume_evaluate_export(
    tiny_config, tmp_path, monkeypatch, run_tool, name, level, more
):
    path, seen = tiny_config(name), []
    options = (*OPTIONS, f"amp={{level: {level}, dtype: bfloat16}}", more)
    predict, step = train_module.predict, train_module.train_step

    def predicting(model, *arguments, **options):
        seen.append(autocast.is_on())
        return predict(model, *arguments, **options)

    monkeypatch.setattr(train_module, "predict", predicting)
    run(path, tmp_path / "straight", *options)
    assert seen == [True] * 2  # validation computes like training

    def killing(learner, images, targets, number, stop):
        if number == 13:  # in the second epoch, after the checkpoint of step 12
            raise Killed
        return step(learner, images, targets, number, stop)

    folder = tmp_path / "killed"
    monkeypatch.setattr(train_module, "train_step", killing)
    with pytest.raises(Killed):
        run(path, folder, *options)
    monkeypatch.setattr(train_module, "train_step", step)
    run(path, folder, *options, resume="auto")
    same_run(folder, tmp_path / "straight")

    # What was scored in bfloat16 scores nearly the same in float32: a loss errs at most twice as
    # far as logits, and these, below 2, by 3 % (tests/unit/engine/test_precision.py).
    config = get_config(path, OPTIONS)
    best = Model(config, folder / "best.safetensors")
    rows = [row for row in read_metrics(folder) if row["phase"] == "val"]
    row = max(rows, key=lambda row: row["top1"])
    scores = evaluate(best, build_loader(config.dataloader.val, 0))
    assert scores.loss == pytest.approx(row["loss"], abs=2 * 2 * 0.03)

    run_tool("export.py", "--weights", folder / "best.safetensors", tmp_path / "out")
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype("float32")
    best.eval()
    logits = best(paddle.to_tensor(images)).numpy()
    check_network(Predictor(tmp_path / "out").run(images), logits)
    weights = load_file(folder / "last.safetensors")["trained/head.fc_cls.weight"]
    assert (weights.view(np.uint32) & 0xFFFF).any()  # more than bfloat16's bits
