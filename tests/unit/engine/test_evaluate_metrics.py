"""Scores are counts; metrics are written once for each step."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from passl.data.loader import build_loader
from passl.engine.distributed import Ranks
from passl.engine.evaluate import count_correct, evaluate
from passl.engine.metrics import Meter, MetricLog, read_metrics
from passl.engine.run_folder import find_checkpoint, make_run_folder, write_config
from passl.engine.step import step_seed
from passl.utils.config import get_config
from passl.utils.errors import ConfigError, RunError


def test_count_correct():
    logits = paddle.to_tensor([[0.1, 0.9, 0.5, 0.0], [0.9, 0.1, 0.5, 0.2], [0.0, 0.1, 0.2, 0.3]])
    labels = paddle.to_tensor([1, 2, 0])
    assert [count_correct(logits, labels, k) for k in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]


class Fixed(paddle.nn.Layer):
    """Guesses from the picture's mean, so that every sample has its own logits."""

    def forward(self, images):
        mean = images.mean([1, 2, 3]).unsqueeze(-1)
        return mean * paddle.arange(10, dtype="float32").unsqueeze(0)


@pytest.mark.parametrize("batch", [7, 64, 360, 1000])
def test_scores_do_not_depend_on_the_batch(tiny_config, batch):
    cfg = get_config(tiny_config(), [f"dataloader.val.sampler.batch_size={batch}"])
    loader = build_loader(cfg.dataloader.val, 0)
    model = Fixed()
    model.train()
    scores = evaluate(model, loader)
    assert model.training
    images, labels = zip(*loader.epoch(0), strict=True)
    logits = model(paddle.concat(images)).numpy().astype("float64")
    labels = paddle.concat(labels).numpy()
    order = np.argsort(-logits, -1)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert scores.samples == 360
    assert scores.top1 == pytest.approx(100 * (order[:, 0] == labels).mean())
    assert scores.top5 == pytest.approx(100 * (order[:, :5] == labels[:, None]).any(-1).mean())
    assert scores.loss == pytest.approx(-log_p[np.arange(360), labels].mean(), rel=1e-5)


def test_scores_are_counts_over_ranks(tiny_config):
    """Three ranks' own counts add up to those of one."""
    cfg = get_config(tiny_config(), ["dataloader.val.sampler.batch_size=50"])
    whole = evaluate(Fixed(), build_loader(cfg.dataloader.val, 0))
    parts = [evaluate(Fixed(), build_loader(cfg.dataloader.val, 0, rank, 3)) for rank in range(3)]
    assert sum(part.samples for part in parts) == 360
    assert sum(part.top1 * part.samples for part in parts) / 360 == pytest.approx(whole.top1)
    assert sum(part.loss * part.samples for part in parts) / 360 == pytest.approx(whole.loss)


def test_outputs_that_are_not_finite(tiny_config):
    model = Fixed()
    model.forward = lambda images: paddle.full([images.shape[0], 10], float("nan"))
    with pytest.raises(RunError, match="outputs are not finite"):
        evaluate(model, build_loader(get_config(tiny_config()).dataloader.val, 0))


def test_metrics_rows_and_curves(tmp_path):
    log = MetricLog(tmp_path)
    log.write("train", 5, loss=1.23456789, lr=1e-3)
    log.write("val", 10, epoch=1, top1=50.0)
    log.close()
    assert read_metrics(tmp_path) == [
        {"phase": "train", "step": 5, "loss": 1.234568, "lr": 0.001},
        {"phase": "val", "step": 10, "epoch": 1, "top1": 50.0},
    ]
    from visualdl import LogReader

    (curves,) = (tmp_path / "vdl").iterdir()
    reader = LogReader(file_path=str(curves))
    assert reader.get_data("scalar", "train/loss")[0].value == pytest.approx(1.2345679)
    assert reader.get_data("scalar", "val/top1")[0].id == 10


def test_a_resumed_run_writes_each_step_once(tmp_path):
    log = MetricLog(tmp_path)
    for step in (5, 10, 15):
        log.write("train", step, loss=1.0)
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "train", "st')  # a kill cut this line short
    log = MetricLog(tmp_path, step=10)
    log.write("train", 15, loss=2.0)
    log.close()
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [
        (5, 1.0),
        (10, 1.0),
        (15, 2.0),
    ]


def test_other_ranks_write_nothing(tmp_path):
    log = MetricLog(None)
    log.write("train", 5, loss=1.0)
    log.close()
    assert not list(tmp_path.iterdir())


def test_meter_reports_and_stops_at_a_loss_that_is_not_finite(tmp_path):
    log = MetricLog(tmp_path)
    meter = Meter(log, epoch=1, epochs=3, first_step=10, steps=5, batch=8, interval=2, shown=False)
    for value in (1.0, 3.0, 5.0, 7.0, 9.0):
        meter.batch_read()
        meter.step_made(paddle.to_tensor(value), 0.1)
    meter.close()
    rows = read_metrics(tmp_path)
    assert [(row["step"], row["epoch"], row["loss"]) for row in rows] == [
        (12, 2, 2.0),
        (14, 2, 6.0),
        (15, 2, 9.0),
    ]
    assert all(row["ips"] == pytest.approx(8 / row["batch_cost"], rel=1e-4) for row in rows)
    assert all(0 <= row["reader_cost"] <= row["batch_cost"] for row in rows)
    meter = Meter(log, epoch=0, epochs=1, first_step=0, steps=3, batch=8, interval=3, shown=False)
    meter.step_made(paddle.to_tensor(1.0), 0.1)
    meter.step_made(paddle.to_tensor(float("nan")), 0.1)
    with pytest.raises(RunError, match=r"the loss is nan at step 2 \(epoch 1, lr 0.1\)"):
        meter.step_made(paddle.to_tensor(2.0), 0.1)
    meter.close()
    log.close()


def test_a_run_is_never_written_over(tmp_path):
    folder = tmp_path / "a" / "run"
    assert find_checkpoint(folder, None) is None
    make_run_folder(folder, Ranks())
    write_config(folder, {"epochs": 1}, 0)
    with pytest.raises(ConfigError, match="holds a run already; go on with it by --resume auto"):
        find_checkpoint(folder, None)
    assert find_checkpoint(folder, "auto") is None  # killed before its first checkpoint
    last = folder / "last.safetensors"
    last.touch()
    assert find_checkpoint(folder, "auto") == last
    assert find_checkpoint(folder, str(last)) == last
    foreign = tmp_path / "foreign.safetensors"
    foreign.touch()
    with pytest.raises(ConfigError, match="holds a run already"):
        find_checkpoint(folder, str(foreign))
    assert find_checkpoint(tmp_path / "new", str(foreign)) == foreign
    with pytest.raises(ConfigError, match="--resume nowhere.safetensors: there is no such"):
        find_checkpoint(tmp_path / "b", "nowhere.safetensors")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made"):
        make_run_folder(tmp_path / "file" / "run", Ranks())


def test_the_config_of_a_resumed_run_stands_beside_the_first(tmp_path):
    write_config(tmp_path, {"epochs": 1}, 0)
    write_config(tmp_path, {"epochs": 1}, 1)
    write_config(tmp_path, {"epochs": 2}, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.from_epoch_2.yaml",
        "config.yaml",
    ]
    assert (tmp_path / "config.yaml").read_text() == "epochs: 1\n"


def test_seeds_of_steps_differ():
    seeds = {
        step_seed(seed, rank, step) for seed in (0, 1) for rank in (0, 1) for step in range(1000)
    }
    assert len(seeds) == 4000


def test_metrics_are_json(tmp_path):
    log = MetricLog(tmp_path)
    log.write("val", 1, top1=np.float32(1.5).item(), samples=3)
    log.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "phase": "val",
        "step": 1,
        "top1": 1.5,
        "samples": 3,
    }
