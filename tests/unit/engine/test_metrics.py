"""Metrics are written once for each step."""

from __future__ import annotations

import io
import json
import time

import numpy as np
import pytest
from paddle import nn
from PIL import Image
from visualdl import LogReader

from passl.data.loader import build_loader
from passl.engine.metrics import Meter, MetricLog, read_metrics
from passl.engine.run_folder import write_config
from passl.engine.step import step_seed
from passl.engine.visualdl import first_images, weight_histograms
from passl.io.terminal import Bar
from passl.logging import get_logger
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
    meter = Meter(log, epoch=1, epochs=3, first_step=10, steps=5, interval=2, run_bar=HIDDEN)
    for value, samples in ((1.0, 8), (3.0, 8), (5.0, 8), (7.0, 8), (9.0, 3)):
        meter.begin_reading()
        meter.batch_read()
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
    meter = Meter(
        log,
        epoch=2,
        epochs=3,
        first_step=15,
        steps=5,
        interval=3,
        run_bar=HIDDEN,
        done=2,
        pending=[1.0, 2.0],
    )
    for value in (None, 4.0, 6.0):
        meter.step_queued()
        assert meter.pending in ([1.0, 2.0], [], [4.0])
        meter.step_done(value, 0.1, 8)
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)[3:]] == [
        (18, 1.5),
        (20, 5.0),
    ]
    log.close()


def test_times_do_not_depend_on_when_losses_are_read(tmp_path, monkeypatch):
    """A batch takes a second to read, a step three; both losses are read at the end."""
    log, clock = MetricLog(tmp_path), iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    meter = Meter(log, epoch=0, epochs=1, first_step=0, steps=2, interval=1, run_bar=HIDDEN)
    for _ in range(2):
        meter.begin_reading()
        meter.batch_read()
        next(clock)
        next(clock)
        meter.step_queued()
    for _ in range(2):
        meter.step_done(1.0, 0.1, 8)
    log.close()
    rows = read_metrics(tmp_path)
    assert [row["batch_cost"] for row in rows] == [5, 5]
    assert [row["reader_cost"] for row in rows] == [1, 1]
    assert [row["ips"] for row in rows] == [8 / 5, 8 / 5]


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
