"""Metrics are written once for each step."""

from __future__ import annotations

import json

import pytest

from passl.engine.checkpoint import Progress, save_checkpoint
from passl.engine.distributed import Ranks
from passl.engine.learner import build_learner
from passl.engine.metrics import Meter, MetricLog, read_metrics
from passl.engine.run_folder import find_checkpoint, make_run_folder, write_config
from passl.engine.step import step_seed
from passl.modeling import Model
from passl.utils.config import get_config
from passl.utils.errors import ConfigError


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


def test_meter_reports(tmp_path):
    log = MetricLog(tmp_path)
    meter = Meter(log, epoch=1, epochs=3, first_step=10, steps=5, batch=8, interval=2, shown=False)
    for value in (1.0, 3.0, 5.0, 7.0, 9.0):
        meter.batch_read()
        meter.step_made(value, 0.1)
    meter.close()
    rows = read_metrics(tmp_path)
    assert [(row["step"], row["epoch"], row["loss"]) for row in rows] == [
        (12, 2, 2.0),
        (14, 2, 6.0),
        (15, 2, 9.0),
    ]
    assert all(row["ips"] == pytest.approx(8 / row["batch_cost"], rel=1e-4) for row in rows)
    assert all(0 <= row["reader_cost"] <= row["batch_cost"] for row in rows)
    # Resumed in the middle of an interval, with a step that was passed over.
    meter = Meter(
        log,
        2,
        3,
        first_step=15,
        steps=5,
        batch=8,
        interval=3,
        shown=False,
        done=2,
        pending=[1.0, 2.0],
    )
    for value in (None, 4.0):
        meter.step_made(value, 0.1)
    assert meter.pending == [4.0]
    meter.step_made(6.0, 0.1)
    meter.close()
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)[3:]] == [
        (18, 1.5),
        (20, 5.0),
    ]
    log.close()


def test_a_run_is_never_written_over(tiny_config, tmp_path):
    folder = tmp_path / "a" / "run"
    assert find_checkpoint(folder, None) is None
    make_run_folder(folder, Ranks())
    write_config(folder, {"epochs": 1}, 0)
    with pytest.raises(ConfigError, match="holds a run already; go on with it by --resume auto"):
        find_checkpoint(folder, None)
    assert find_checkpoint(folder, "auto") is None  # killed before its first checkpoint
    cfg = get_config(tiny_config())
    learner = build_learner(cfg, Model(cfg), Ranks(), global_batch=4, steps_per_epoch=5)
    last, foreign = folder / "last.safetensors", tmp_path / "foreign.safetensors"
    for path in (last, foreign):
        save_checkpoint(path, learner, Progress(), {}, [])
    assert find_checkpoint(folder, "auto") == last
    assert find_checkpoint(folder, str(last)) == last
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
    log.write("val", 1, top1=1.5, samples=3)
    log.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "phase": "val",
        "step": 1,
        "top1": 1.5,
        "samples": 3,
    }
