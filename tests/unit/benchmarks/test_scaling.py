"""The model of scaling, by closed forms, and the table of measurements, by given results."""

from __future__ import annotations

import json
import math
import sys

import pytest

from benchmarks import scaling
from benchmarks.scaling import Job, Links, all_reduce, expected_maximum, predict
from passl.errors import ConfigError

NO_LATENCY = {"within_latency": 0.0, "between_latency": 0.0, "base_latency": 0.0}


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_ring_sends_its_share_over_each_link(ranks):
    """2 (n - 1) / n of the bytes; without latency the ring beats the tree, which sends 2."""
    bandwidth, latency = all_reduce(1e9, ranks, Links(within=1e11, **NO_LATENCY))
    assert bandwidth == pytest.approx(2 * (ranks - 1) / ranks * 1e9 / 1e11)
    assert latency == 0


def test_one_rank_communicates_nothing():
    assert all_reduce(1e9, 1, Links()) == (0, 0)


def test_the_slower_link_bounds_several_nodes():
    links = Links(per_node=8, within=2e11, between=2e10, **NO_LATENCY)
    assert all_reduce(1e9, 16, links)[0] == pytest.approx(2 * 15 / 16 * 1e9 / 2e10)
    assert all_reduce(1e9, 8, links)[0] == pytest.approx(2 * 7 / 8 * 1e9 / 2e11)


def test_latency_of_ring_and_tree():
    """Of 8 nodes with 4 GPUs: a ring makes 62 steps, 14 of them between nodes; a tree has three
    levels of nodes, up and down. A message without bytes takes the tree.
    """
    links = Links(per_node=4, within_latency=1.0, between_latency=100.0, base_latency=0.5)
    bandwidth, latency = all_reduce(0, 32, links)
    assert (bandwidth, latency) == (0, 0.5 + 2 * 3 * 1.0 + 2 * 3 * 100.0)
    # Two nodes of two: a tree takes 2 + 200, a ring 4 + 200; then 1/4 of the bytes decides.
    two = Links(per_node=2, within=1.0, between=1.0, within_latency=1.0, between_latency=100.0)
    small, large = all_reduce(1.0, 4, two), all_reduce(100.0, 4, two)
    assert sum(small) == pytest.approx(2.0 + 2 + 200, abs=1e-4)
    assert sum(large) == pytest.approx(150.0 + 4 + 200, abs=1e-4)


def test_the_largest_of_many_normal_numbers():
    assert expected_maximum(1) == 0
    assert expected_maximum(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-4)
    assert expected_maximum(3) == pytest.approx(1.5 / math.sqrt(math.pi), abs=1e-4)
    # Harter, Biometrika 48 (1961), table 1
    assert expected_maximum(100) == pytest.approx(2.50759, abs=1e-4)


def job(**values) -> Job:
    return Job(**{"step": 0.3, "gradient_bytes": 100.0, "batch": 64, "last_bucket": 1.0, **values})


LINKS = Links(per_node=2, within=1000.0, between=1000.0, **NO_LATENCY)


def test_without_overlap_a_step_waits_for_all_reductions():
    found = predict(job(overlap=0.0), 2, LINKS)
    assert found.reduction == found.exposed == pytest.approx(0.1)
    assert found.seconds == pytest.approx(0.4)
    assert found.images == pytest.approx(2 * 64 / 0.4)
    assert (found.efficiency, found.bound_by) == (pytest.approx(0.75), "bandwidth")


def test_the_backward_pass_hides_all_but_the_last_reduction():
    hidden = predict(job(backward=0.5), 2, LINKS)
    assert hidden.exposed == pytest.approx(0.001)  # a byte of 100
    assert hidden.bound_by == "computing"
    # 0.1 s of reductions, 0.5 * 0.4 * 0.3 s of backward pass beside which they run.
    part = predict(job(backward=0.5, overlap=0.4), 2, LINKS)
    assert part.exposed == pytest.approx(0.1 - 0.06)


def test_one_gpu_is_the_measure():
    found = predict(job(spread=0.1), 1, LINKS)
    assert (found.seconds, found.efficiency, found.waiting) == (0.3, 1.0, 0.0)


def test_the_slowest_gpu():
    found = predict(job(spread=0.5, backward=0.5), 2, LINKS)
    assert found.waiting == pytest.approx(0.15 / math.sqrt(math.pi), abs=1e-4)
    assert found.bound_by == "slowest GPU"


def test_data_binds_where_it_takes_longer():
    """Two GPUs of a node need 427 images/s; all four 853."""
    assert predict(job(node_rate=1000.0), 4, LINKS).bound_by != "processors"
    slow = predict(job(node_rate=200.0), 4, LINKS)
    assert (slow.images, slow.bound_by) == (pytest.approx(400.0), "processors")
    stored = predict(job(storage_rate=300.0), 4, LINKS)
    assert (stored.images, stored.bound_by) == (pytest.approx(300.0), "storage")


def test_a_fixed_global_batch_makes_steps_small():
    fast = Links(per_node=8, within=1e12, between=1e12, **NO_LATENCY)
    found = predict(job(), 8, fast, global_batch=64)
    assert found.seconds == pytest.approx(0.3 / 8, rel=1e-3)
    assert found.efficiency == pytest.approx(1.0, rel=1e-3)
    floored = predict(job(floor=0.15), 8, fast, global_batch=64)
    assert floored.images == pytest.approx(64 / 0.15, rel=1e-3)
    assert (floored.bound_by, floored.efficiency) == ("small batch", pytest.approx(0.25, rel=1e-3))


@pytest.mark.parametrize("ranks", [(12, None), (64, 32)])
def test_what_the_model_refuses(ranks):
    with pytest.raises(ConfigError):
        predict(job(), ranks[0], Links(per_node=8), ranks[1])


def result(rate: float, ranks: int, reduction: float) -> dict[str, object]:
    found = {"network": "N", "batch": 8, "device": "cpu", "processor": "P"}
    found |= {"samples_per_second": rate * ranks, "samples_per_second_per_rank": rate}
    found |= {"step_ms": {"mean": 8000 / rate, "median": 1}, "parts_ms": {"compute": 9.0}}
    found |= {"gradient_bytes": 10**6, "world": ranks}
    if ranks > 1:
        found["all_reduce_ms"] = {"median": reduction}
    return found


def test_measured_efficiency(monkeypatch, capsys):
    """One process makes 100 samples/s, steps of 80 ms; each of two 80, with 20 ms of reductions."""
    rates = iter([100, 70, 110, 80, 90, 85])
    monkeypatch.setattr(scaling, "benchmark", lambda c, o, n, s: result(next(rates), n, 20.0))
    monkeypatch.setattr(sys, "argv", ["scaling.py", "measure", "some/config", "--ranks", "1", "2"])
    scaling.main()
    one, two = capsys.readouterr().out.splitlines()[-2:]
    assert one.startswith("| 1 | 100.0 | 100.0 | 100 % (100 to 100) | 80.0 |")
    assert two.startswith("| 2 | 160.0 | 80.0 | 80 % (70 to 94) | 100.0 |")
    assert two.endswith("| 20.0 | 80 % |")


def test_predictions_from_a_benchmark(monkeypatch, capsys, tmp_path):
    path = tmp_path / "one.json"
    path.write_text(json.dumps(result(100.0, 1, 0.0)))
    options = ["--benchmark", str(path), "--ranks", "1", "8", "--overlap", "0", "--within", "0.1"]
    monkeypatch.setattr(sys, "argv", ["scaling.py", "predict", *options])
    scaling.main()
    one, eight = (line.split(" | ") for line in capsys.readouterr().out.splitlines()[-2:])
    assert one[:4] == ["| 1", "80.0", "100", "100 %"]
    # 1 MB over 8 GPUs at 100 MB/s: 17.5 ms, and the latency of a ring, 64 microseconds.
    assert eight[4] == "17.6" and eight[1] == "97.6"
    two = tmp_path / "two.json"
    two.write_text(json.dumps(result(100.0, 2, 1.0)))
    files = [["--benchmark", str(file)] for file in (tmp_path / "none.json", two)]
    for wrong in (*files, ["--step-ms", "3"]):
        monkeypatch.setattr(sys, "argv", ["scaling.py", "predict", *wrong])
        with pytest.raises(ConfigError):
            scaling.main()
