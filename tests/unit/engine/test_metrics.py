"""Metrics are written once for each step."""

from __future__ import annotations

import io
import json
import time

import numpy as np
import paddle
import pytest
from paddle import nn
from PIL import Image
from visualdl import LogReader

from passl.data.loader import build_loader
from passl.distributed.ranks import Ranks
from passl.engine.metrics import Meter, MetricLog, read_metrics
from passl.engine.run_folder import write_config
from passl.engine.step import step_seed
from passl.engine.visualdl import first_images, weight_histograms
from passl.io.terminal import Bar
from passl.logging import PROGRESS, get_logger
from passl.utils.config import get_config


def test_metrics_rows_and_curves(tmp_path):
    log, before = MetricLog(tmp_path), time.time()
    log.write("train", 5, loss=1.23456789, lr=1e-3)
    log.write("val", 10, epoch=1, top1=50.0)
    log.close()
    rows = read_metrics(tmp_path)
    times = [row.pop("time") for row in rows]
    assert before - 0.001 <= times[0] <= times[1] <= time.time() + 0.001
    assert rows == [
        {"phase": "train", "step": 5, "loss": 1.234568, "lr": 0.001},
        {"phase": "val", "step": 10, "epoch": 1, "top1": 50.0},
    ]
    (curves,) = (tmp_path / "vdl").iterdir()
    reader = LogReader(file_path=str(curves))
    assert reader.get_data("scalar", "train/loss")[0].value == pytest.approx(1.2345679)
    assert reader.get_data("scalar", "val/top1")[0].id == 10
    MetricLog(tmp_path, 10, 1).close()  # draws all rows again
    (curves,) = (tmp_path / "vdl").iterdir()
    assert b"val/top1" in curves.read_bytes()
    assert b"/time" not in curves.read_bytes()


def test_each_head_of_an_attention_is_a_curve(tmp_path):
    log = MetricLog(tmp_path)
    blocks = {"blocks.0": {"kind": "GPSA", "gate": [0.123456789, 0.5], "center_x": [None, 1.0]}}
    log.write("attention", 0, epoch=0, images=3, mode="paper", blocks=blocks)
    log.close()
    (row,) = read_metrics(tmp_path)
    assert row["blocks"]["blocks.0"]["gate"] == [0.1234568, 0.5]
    assert row["blocks"]["blocks.0"]["center_x"] == [None, 1.0]
    from visualdl import LogReader

    (curves,) = (tmp_path / "vdl").iterdir()
    reader = LogReader(file_path=str(curves))
    (point,) = reader.get_data("scalar", "attention gate/blocks.0 head 1")
    assert (point.id, point.value) == (0, 0.5)
    assert "center_x/blocks.0 head 0" not in str(reader.tags())
    MetricLog(tmp_path).close()  # starts anew, and will write the row of step 0 again
    assert read_metrics(tmp_path) == []


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


def test_a_damaged_line_is_left_out(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(get_logger(), "propagate", True)
    row = b'{"phase": "train", "step": %d}\n'
    lines = [row % 1, b"\xff\xfe damaged\n", b"[1]\n", row % 2, b'{"phase": "tr\xff']
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(lines))
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    assert [f"line {number}:" in caplog.text for number in (2, 3, 5)] == [True, True, False]


def test_other_ranks_write_nothing(tmp_path):
    log = MetricLog(None)
    log.write("train", 5, loss=1.0)
    log.close()
    assert not list(tmp_path.iterdir())


HIDDEN = Bar("run", shown=False)


def test_meter_reports(tmp_path):
    log = MetricLog(tmp_path)
    place = {"epochs": 3, "steps": 5, "run_bar": HIDDEN}
    meter = Meter(log, Ranks(), epoch=1, first_step=10, interval=2, **place)
    for value, samples in ((1.0, 8), (3.0, 8), (5.0, 8), (7.0, 8), (9.0, 3)):
        meter.step_queued()
        meter.step_done(value, 0.1, samples)
    rows = read_metrics(tmp_path)
    assert [(row["step"], row["epoch"], row["loss"]) for row in rows] == [
        (12, 2, 2.0),
        (14, 2, 6.0),
        (15, 2, 9.0),
    ]
    # Rows have seven digits; the last step has the rest of the samples.
    for row, samples in zip(rows, (8, 8, 3), strict=True):
        assert row["ips"] == pytest.approx(samples / row["batch_cost"], rel=1e-5)
    assert all(0 <= row["reader_cost"] <= row["batch_cost"] for row in rows)
    # Resumed in the middle of an interval, with a step that was skipped.
    resumed = {"first_step": 15, "done": 2, "pending": [1.0, 2.0]}
    meter = Meter(log, Ranks(), epoch=2, interval=3, **place, **resumed)
    for value in (None, 4.0, 6.0):
        meter.step_queued()
        assert meter.pending in ([1.0, 2.0], [], [4.0])
        meter.step_done(value, 0.1, 8)
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)[3:]] == [
        (18, 1.5),
        (20, 5.0),
    ]
    log.close()


class Clock:
    """Time passes only where `sleep` says so."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class TwoRanks(Ranks):
    """The first of two ranks. The other one reads for as long as this one and 2 s more, in which
    this one waits for it.
    """

    def all_reduce(self, table):
        own = table.numpy()[:5]
        own[[0, 3]] += [2.0, -2.0]
        return table + paddle.to_tensor([0.0] * 5 + own.tolist(), "float64")


def steps_of(meter: Meter, clock: Clock, ranks: Ranks, count: int) -> None:
    """Make steps of 10 s each, and read their losses at the end."""

    def batches():
        for _ in range(count):
            clock.sleep(1.0)
            with ranks.times.copying():
                clock.sleep(0.5)
            yield "batch"
        clock.sleep(0.25)

    clock.sleep(77.0)  # before the epoch
    ranks.times.take()
    for _ in ranks.times.reading(batches()):
        with ranks.times.computing():
            clock.sleep(3.0)
            with ranks.times.communicating():
                clock.sleep(2.5)
            clock.sleep(2.0)
        meter.step_queued()
        clock.sleep(1.0)  # a checkpoint, which the next step's time contains
    for _ in range(count):
        meter.step_done(1.0, 0.1, 8)


@pytest.mark.parametrize("world", [1, 2])
def test_the_parts_of_a_step_sum_to_its_time(tmp_path, monkeypatch, world):
    log, clock = MetricLog(tmp_path), Clock(monkeypatch)
    ranks = Ranks() if world == 1 else TwoRanks(0, 2)
    place = {"epoch": 0, "epochs": 1, "first_step": 0, "steps": 3, "run_bar": HIDDEN}
    meter = Meter(log, ranks, interval=2, **place)
    steps_of(meter, clock, ranks, 3)
    log.close()
    first, last = read_metrics(tmp_path)
    shared = {"copy_cost": 0.5, "compute_cost": 5.0, "other_cost": 1.0, "batch_cost": 10.0}
    if world == 1:  # it does not communicate; what is called so here counts for no other part
        assert {k: last[k] for k in shared} == shared
        assert (last["reader_cost"], last["bound_by"], last["ips"]) == (1.0, "compute", 0.8)
        assert "comm_cost" not in last and "slowest_rank" not in last
        assert (first["batch_cost"], first["other_cost"]) == (9.5, 0.5)  # no checkpoint before it
        return
    # Two steps, then one: the other rank's 2 s are those of the interval.
    assert {k: last[k] for k in shared} == shared
    costs = {key: value for key, value in last.items() if key.endswith("_cost")}
    assert sum(costs.values()) - costs["batch_cost"] - costs["imbalance_cost"] == 10.0
    assert (last["reader_cost"], last["comm_cost"], last["imbalance_cost"]) == (3.0, 0.5, 1.0)
    assert (last["slowest_rank"], last["bound_by"]) == (1, "compute")
    assert (last["ips"], last["ips_per_rank"]) == (0.8, 0.4)
    (curves,) = (tmp_path / "vdl").iterdir()
    reader = LogReader(file_path=str(curves))
    points = reader.get_data("scalar", "train/comm_cost")
    assert [(point.id, point.value) for point in points] == [(2, 1.5), (3, 0.5)]


def test_the_log_says_what_binds(monkeypatch, caplog):
    monkeypatch.setattr(get_logger(), "propagate", True)
    caplog.set_level(PROGRESS, logger=get_logger().name)
    clock, ranks = Clock(monkeypatch), TwoRanks(0, 2)
    place = {"epoch": 0, "epochs": 1, "first_step": 0, "steps": 1, "run_bar": Bar("run")}
    steps_of(Meter(MetricLog(None), ranks, interval=1, **place), clock, ranks, 1)
    assert "ips: 0.9 samples/s (0.4 a rank), bound by computing 56 % (" in caplog.text
    assert "waiting for data 33 %" in caplog.text
    assert "the others wait 11 % for rank 1" in caplog.text


def test_config_of_a_resumed_run_is_stored_beside_the_first(tmp_path):
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
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    del row["time"]
    assert row == {
        "phase": "val",
        "step": 1,
        "top1": 1.5,
        "samples": 3,
    }


def test_visualdl_has_what_each_tab_shows(tmp_path, tiny_config):
    """Scalars, histograms, images and hyperparameters, each once after a resume too."""
    cfg = get_config(tiny_config(seed=2**40), ["model.architecture.drop_rate=0.25"])
    loader = build_loader(cfg.dataloader.train, 0, even=True)
    model = nn.Linear(2, 3)
    model.weight.set_value(np.array([[0, 1, 2], [3, 3, 3]], "float32"))
    for step in (0, 10):
        log = MetricLog(tmp_path, step, step)
        log.visualdl.add_hyperparameters(cfg, ["top1"])
        log.visualdl.add_images(first_images(loader, 3))
        for later in (10, 20)[step // 10 :]:
            log.write("val", later, epoch=1, top1=50.0)
            log.write("weights", later, epoch=1, histograms=weight_histograms(model))
        log.close()
    (path,) = (tmp_path / "vdl").iterdir()
    reader = LogReader(file_path=str(path))
    assert [point.id for point in reader.get_data("scalar", "val/top1")] == [10, 20]
    assert reader.get_tags()["scalar"] == ["val/epoch", "val/top1"]
    found = reader.get_data("histogram", "weights/weight")
    assert [point.id for point in found] == [10, 20]
    counts, edges = list(found[0].histogram.hist), found[0].histogram.bin_edges
    assert (edges[0], edges[-1], len(counts)) == (0, 3, 30)
    assert (counts[0], counts[10], counts[20], counts[29]) == (1, 1, 1, 3)
    # The images are those that the first step gets, in uint8.
    batch = next(loader.epoch(0))
    tags = reader.get_tags()["image"]
    labels = [loader.classes[label] for label in batch.labels.tolist()]
    assert tags == [f"augmented/{i} {label}" for i, label in enumerate(labels[:3], 1)]
    for tag, array in zip(tags, batch.images.numpy(), strict=False):
        (point,) = reader.get_data("image", tag)
        pixels = np.asarray(Image.open(io.BytesIO(point.image.encoded_image_string)))
        mean, std = loader.samples.transforms[-1].mean_and_std(3)
        wanted = 255 * (array * std + mean).transpose(1, 2, 0)
        assert np.abs(pixels - wanted).max() <= 0.5 + 1e-3
    (hparams,) = reader.get_data("hyper_parameters", "hparam")
    values = {h.name: getattr(h, h.WhichOneof("type")) for h in hparams.hparam.hparamInfos}
    assert values["architecture/drop_rate"] == 0.25
    assert values["optimizer/name"] == "AdamW" and values["sampler/batch_size"] == 128
    assert values["seed"] == 2**40  # more than VisualDL's integers hold
    assert values["sampler/shuffle"] == "True"
    assert not [name for name in values if name.startswith(("output_dir", "dataset"))]
    assert not [name for name in values if "." in name]  # the table would show nothing
    assert [metric.name for metric in hparams.hparam.metricInfos] == ["val/top1"]


def test_images_that_cannot_be_read_do_not_stop_a_run(tiny_config, caplog, monkeypatch):
    monkeypatch.setattr(get_logger(), "propagate", True)
    loader = build_loader(get_config(tiny_config()).dataloader.train, 0, even=True)
    monkeypatch.setattr(type(loader.dataset), "__getitem__", lambda *_: 1 / 0)
    assert first_images(loader, 3) == []
    assert "VisualDL gets no images" in caplog.text
    assert first_images(loader, 0) == []
