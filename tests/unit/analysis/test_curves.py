"""The curves are drawn from the metrics, whatever state the run is in."""

from __future__ import annotations

import pytest
from PIL import Image

from passl.analysis.curves import plot_runs, read_run
from passl.engine.metrics import MetricLog
from passl.errors import ConfigError


def test_curves_of_a_run(tmp_path):
    log = MetricLog(tmp_path)
    for epoch in (1, 2, 3):
        log.write("train", 10 * epoch, epoch=epoch, loss=1 / epoch, lr=0.1)
        log.write(
            "val", 10 * epoch, epoch=epoch, loss=2 / epoch, top1=30.0 * epoch, top5=33.0 * epoch
        )
    log.close()
    plot_runs([("a", read_run(tmp_path))], tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG"
        assert image.width > image.height


def test_no_run_and_no_epoch(tmp_path):
    with pytest.raises(ConfigError, match="holds no metrics.jsonl; name the output_dir"):
        read_run(tmp_path)
    log = MetricLog(tmp_path)
    log.write("train", 1, epoch=1, loss=1.0, lr=0.1)
    log.close()
    with pytest.raises(ConfigError, match="no run has finished an epoch"):
        plot_runs([("a", read_run(tmp_path))], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
