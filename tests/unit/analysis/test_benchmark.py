"""The speed of steps, by given times and of a tiny training that leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from passl.analysis.benchmark import Speed
from passl.distributed import launcher

PARTS = ("reader", "copy", "compute", "comm", "other")


def speed(seconds, **values) -> Speed:
    about = {"steps": len(seconds[0]), "warmup": 3, "device": "cpu", "batch": 8}
    given = {"peaks": [2**20] * len(seconds), "gradient_bytes": 4, "reductions": [], **values}
    samples = 8 * len(seconds) * len(seconds[0])
    return Speed(about=about, parts=PARTS, seconds=np.array(seconds), samples=samples, **given)


def test_the_slowest_rank_gives_the_speed_of_all():
    """Three steps of 1 s on two ranks; the second reads for half of it, and the first waits."""
    first = [[0.0, 0.1, 0.3, 0.6, 0.0]] * 3
    second = [[0.5, 0.1, 0.3, 0.1, 0.0], [0.4, 0.1, 0.3, 0.1, 0.0], [0.6, 0.1, 0.3, 0.1, 0.0]]
    reductions = {"gradient_bytes": 10**9, "reductions": [0.5, 0.25, 2.0]}
    measured = speed([first, second], **reductions, peaks=[2**20, float("nan")])
    found = measured.to_dict()
    assert (found["slowest_rank"], found["bound_by"]) == (1, "reader")
    assert found["samples_per_second"] == pytest.approx(48 / 3)
    assert found["samples_per_second_per_rank"] == pytest.approx(24 / 3)
    assert found["imbalance_ms"] == pytest.approx(250)
    step = {"median": 1000, "mean": 1000, "low": 900, "high": 1100, "p10": 920, "p90": 1080}
    assert found["step_ms"] == pytest.approx(step)
    assert sum(found["parts_ms"].values()) == pytest.approx(1000)
    assert found["ranks"][0]["parts_ms"]["comm"] == pytest.approx(600)
    # Two ranks send as many bytes as the gradients have, each to the other: 1 GB in 0.5 s.
    assert found["all_reduce_ms"]["median"] == 500
    assert found["bus_bytes_per_second"] == pytest.approx(2e9)
    assert found["ranks"][1]["peak_bytes"] is None
    json.dumps(found, allow_nan=False)
    lines = "\n".join(measured.lines())
    for text in ("median 1000.0 ms", "16.0 samples/s in all, 8.0 samples/s a rank"):
        assert text in lines
    for text in ("bound by waiting for data 50 %", "wait 25 % for rank 1", "2 GB/s"):
        assert text in lines
    rows = [line.split() for line in measured.lines()[-2:]]
    assert [row[0] for row in rows] == ["0", "1"] and rows[1][-1] == "-"


def test_of_many_ranks_the_slowest_are_listed():
    rows = [[[0.0, 0.0, 1.0 - r / 100, r / 100, 0.0]] for r in reversed(range(20))]
    lines = speed(rows).lines()
    assert [line.split()[0] for line in lines[-17:-1]] == [str(rank) for rank in range(19, 3, -1)]
    assert lines[-1].startswith("and 4 ranks")


@pytest.fixture
def tiny(tiny_config):
    return [tiny_config(), "-o", "dataloader.train.dataset.fraction=0.1"]


def test_a_benchmark_writes_nothing(call, tiny, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    before = sorted(tmp_path.rglob("*"))
    code, out, _ = call("train", *tiny, "--benchmark", 2, "--json")
    assert code == 0
    found = json.loads(out)
    assert sorted(tmp_path.rglob("*")) == before
    assert (found["steps"], found["world"], len(found["ranks"])) == (2, 1, 1)
    assert found["network"] == "ConViT" and "all_reduce_ms" not in found
    assert found["parts_ms"].keys() == {"reader", "copy", "compute", "other"}
    # One process: its parts are its time.
    assert sum(found["parts_ms"].values()) == pytest.approx(found["step_ms"]["mean"])
    assert found["samples_per_second"] == pytest.approx(
        found["batch"] / (found["step_ms"]["mean"] / 1000)
    )
    assert found["ranks"][0]["peak_bytes"] > 2**26


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--benchmark", "0"], "0 must be at least 1"),
        (["--json"], "--json is for --benchmark"),
        (["--benchmark", "2", "--resume", "auto"], "without --resume"),
        (["--benchmark", "2", "-o", "optimizer.lr=1e30", "lr_scheduler.warmup_epochs=0"], "loss"),
    ],
)
def test_refused(call, tiny, options, text):
    code, _, error = call("train", *tiny, *options)
    assert code in (1, 2) and text in error and "Traceback" not in error


def test_a_launched_benchmark_makes_no_folder(call, tiny, tmp_path, monkeypatch):
    jobs = []

    def launch(job, *_):
        jobs.append(job)
        return 0

    monkeypatch.setattr(launcher, "launch", launch)
    for options in (["--benchmark", "2"], []):
        code, _, _ = call("launch", "train", *tiny, *options, "--nproc_per_node", "2")
        assert code == 0
    assert not (tmp_path / "run").exists()
    run = Path(tmp_path / "run")
    assert run not in jobs[0].logs.parents and not jobs[0].logs.exists()
    assert jobs[1].logs == run / "launch"
    code, _, error = call(
        "launch", "train", *tiny, "--benchmark", "2", "--nproc_per_node", "2", "--restarts", "1"
    )
    assert code == 2 and "--restarts" in error
