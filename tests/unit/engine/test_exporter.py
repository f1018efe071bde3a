"""The numbers of a run for Prometheus."""

from __future__ import annotations

import math
import sys
from contextlib import closing
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from passl.distributed.ranks import Ranks
from passl.engine.exporter import Exporter, exported
from passl.engine.metrics import MetricLog
from passl.engine.progress import Progress
from passl.engine.saver import Saver
from passl.errors import ConfigError
from tests.learners import learner_of

TRAIN = {"epoch": 2, "lr": 0.125, "loss": 1.5, "batch_cost": 0.1, "reader_cost": 0.25, "ips": 64.0}


@pytest.fixture
def exporter():
    with closing(Exporter("127.0.0.1", 0)) as one:
        yield one


def shown(exporter: Exporter) -> dict[str, float]:
    with urlopen(f"http://127.0.0.1:{exporter.port}/metrics", timeout=60) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
    return {"".join([one.name, *one.labels.values()]): one.value for one in samples}


def test_rows_and_checkpoints_are_shown(exporter, tiny_config, tmp_path):
    before = shown(exporter)
    assert all(math.isnan(value) for value in before.values())
    assert {"passl_loss", "passl_step", "passl_last_checkpoint_timestamp_seconds"} <= before.keys()
    with closing(MetricLog(tmp_path, exporter=exporter)) as metrics:
        metrics.write("train", 7, **TRAIN)
        metrics.write("val", 7, epoch=2, top1=87.5, loss=0.75, ips=10.0, matrix=[1, 2])
        learner = learner_of(tiny_config("CvT"))
        Saver(tmp_path, learner, metrics, {}, ["a"]).save(Progress(step=7))
    found = shown(exporter)
    saved_at = found.pop("passl_last_checkpoint_timestamp_seconds")
    assert saved_at == pytest.approx((tmp_path / "last.safetensors").stat().st_mtime, abs=60)
    assert found == {
        "passl_epoch": 2,
        "passl_step": 7,
        "passl_learning_rate": 0.125,
        "passl_loss": 1.5,
        "passl_samples_per_second": 64,
        "passl_reader_seconds": 0.25,
        "passl_validationtop1": 87.5,
        "passl_validationloss": 0.75,
    }


def test_resumed_run_shows_its_last_rows(exporter, tmp_path):
    with closing(MetricLog(tmp_path)) as metrics:
        metrics.write("train", 7, epoch=1, loss=1.5)  # another version may have no more
    with closing(MetricLog(tmp_path, 7, 1, exporter)):
        found = shown(exporter)
    assert (found["passl_step"], found["passl_loss"]) == (7, 1.5)
    assert math.isnan(found["passl_learning_rate"])


def test_port_that_is_taken_is_an_error(exporter):
    with pytest.raises(ConfigError, match=rf"--metrics-port {exporter.port}: .*choose another"):
        Exporter("127.0.0.1", exporter.port)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match=r"prometheus_client.*pip install '\.\[metrics\]'"):
        Exporter("127.0.0.1", 0)


def test_only_the_first_rank_serves_and_only_if_asked():
    for address, ranks in ((None, Ranks()), (("127.0.0.1", 0), Ranks(1, 2))):
        with exported(address, ranks) as found:
            assert found is None
