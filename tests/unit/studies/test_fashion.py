"""The study on Fashion-MNIST: what its networks share, and its numbers against formulas."""

from __future__ import annotations

import gzip
import json
import os
import re
import runpy
import shutil
import signal
import struct
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from threading import Thread

import numpy as np
import paddle
import pytest
from PIL import Image

from passl.data.datasets.mnist import FashionMNIST
from passl.engine.check import check_config
from passl.engine.freezing import Freezing
from passl.engine.train import train
from passl.errors import RunError
from passl.io.files import sha256_of
from passl.modeling import Model
from passl.utils.config import get_config
from studies.fashion.initial import initial_weights
from studies.fashion.page import page
from studies.fashion.plan import CONFIG, NETWORKS, Plan, Row, Run
from studies.fashion.results import Results, best_rates
from studies.intervals import paired_difference
from studies.jobs import run_side_by_side

PLAN = Plan()


@pytest.fixture(scope="module")
def weights() -> dict[str, dict[str, np.ndarray]]:
    section = PLAN.config(49).to_dict()["model"]
    return {network: initial_weights(section, network, 3) for network in NETWORKS}


def network_of(name: str, weights) -> Model:
    """The network that a run builds, with its first weights."""
    run = Run(49, name, 0.1, 3, 1e-3)
    training = PLAN.training(run, CONFIG.parent)
    model = Model(get_config(CONFIG, training.options))
    assert weights[name].keys() == model.state_dict().keys()
    model.set_state_dict({key: paddle.to_tensor(array) for key, array in weights[name].items()})
    return model


def test_networks_of_a_pair_start_from_the_same_weights(weights):
    """But for what the study compares: positions, values that start as the identity, and gates."""
    for one, other in combinations(NETWORKS, 2):
        shared = weights[one].keys() & weights[other].keys()
        different = {
            key for key in shared if not np.array_equal(weights[one][key], weights[other][key])
        }
        kinds = {key.split("attn.")[-1] for key in different}
        assert kinds <= {"pos_proj.weight", "v.weight", "gating_param"}, (one, other)
        assert len(shared) > 30
    positions = weights["random"]["backbone.blocks.0.attn.pos_proj.weight"]
    assert 0 < np.abs(positions).max() < 0.1  # 0.02; Xavier's are up to 0.9
    assert not np.array_equal(
        initial_weights(PLAN.config(49).model, "random", 4)["backbone.pos_embed"],
        weights["random"]["backbone.pos_embed"],
    )


def test_plain_attention_is_the_random_network_without_positions(weights):
    """With a gate that is closed, both compute the same."""
    plain, gated = (network_of(name, weights).backbone for name in ("attention", "random"))
    x_BNC = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 49, 48), "float32"))
    for index in range(3):
        attn = gated.blocks[index].attn
        attn.gating_param.set_value(paddle.full_like(attn.gating_param, -200.0))
        expected = attn(x_BNC, (7, 7)).numpy()
        np.testing.assert_allclose(
            plain.blocks[index].attn(x_BNC, (7, 7)).numpy(), expected, atol=1e-6
        )


def test_convit_starts_as_its_own_class_does_and_frozen_gates_at_zero(weights):
    """Each head at the offset of its place in a kernel of 2 x 2, with gates of 1 or 0."""
    for name, gate in (("convit", 1.0), ("frozen", 0.0), ("random", 1.0)):
        attention = network_of(name, weights).backbone.blocks[2].attn
        assert attention.gating_param.numpy().tolist() == [gate] * 4
        is_local = np.array_equal(
            attention.pos_proj.weight.numpy(),
            [[-1, -1, 1, 1], [-1, 1, -1, 1], [-1, -1, -1, -1]],
        )
        assert is_local == (name != "random")
        assert np.array_equal(attention.v.weight.numpy(), np.eye(48)) == (name != "random")


def test_only_the_gates_are_frozen(weights):
    for name in NETWORKS:
        training = PLAN.training(Run(49, name, 0.1, 3, 1e-3), CONFIG.parent)
        model = network_of(name, weights)
        freezing = Freezing(model, **get_config(CONFIG, training.options).get("freeze", {}))
        freezing.apply(0)
        frozen = {key for key, tensor in model.named_parameters() if tensor.stop_gradient}
        gates = {f"backbone.blocks.{block}.attn.gating_param" for block in range(3)}
        assert frozen == (gates if name == "frozen" else set())


def test_every_run_is_valid_and_has_a_folder_of_its_own(tmp_path, monkeypatch):
    """No test image is used for tuning; pairs share the seed of part, order and weights."""
    rates = {(tokens, network): 1e-3 for tokens in PLAN.rows for network in NETWORKS}
    runs = [*PLAN.tuning(), *PLAN.runs(rates)]
    assert len(runs) == PLAN.size == 2 * 4 * 3 + 4 * 5 * (3 + 3)
    assert len({run.name for run in runs}) == len(runs)
    for run in runs[::7]:
        cfg = get_config(CONFIG, PLAN.training(run, tmp_path).options)
        check_config(cfg)
        data = cfg.dataloader
        split = data.train.dataset.split, data.val.dataset.split
        assert split == (("train_part", "holdout") if run.is_tuning else ("train", "test"))
        assert cfg.seed == data.train.dataset.fraction_seed == run.seed
        assert data.train.sampler.samples == 600 * data.train.sampler.batch_size
    tuned = {(run.tokens, run.seed) for run in PLAN.tuning()}
    assert tuned.isdisjoint((run.tokens, run.seed) for run in PLAN.runs(rates))


# -------------------------------------------------------------------------------------------------
# From the runs to the page
# -------------------------------------------------------------------------------------------------
@pytest.fixture
def small_study(tmp_path, monkeypatch) -> list[str]:
    """Arguments of a study of six runs of three steps, on 40 images, trained in this process."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 20)):
        for kind, values in (
            ("images-idx3", rng.integers(0, 256, (count, 28, 28), np.uint8)),
            ("labels-idx1", np.arange(count, dtype=np.uint8) % 10),
        ):
            head = struct.pack(f">2xBB{values.ndim}I", 8, values.ndim, *values.shape)
            path = tmp_path / f"{part}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(head + values.tobytes()))
    hashes = {path.name: (sha256_of(path),) for path in tmp_path.glob("*.gz")}
    monkeypatch.setattr(FashionMNIST, "files", hashes)
    monkeypatch.setattr(FashionMNIST, "part", 30)
    for network in ("random", "frozen"):
        monkeypatch.delitem(NETWORKS, network)
    plan = partial(Plan, {49: Row(2, 4)}, (1.0,), (1e-3,), 1.0, 3)
    monkeypatch.setattr("studies.fashion.plan.Plan", plan)
    monkeypatch.setattr("studies.jobs.run_side_by_side", train_here)
    data = [f"dataloader.{part}.dataset.dataroot={tmp_path}" for part in ("train", "val")]
    small = ["embed_dim=8", "depth=2", "local_up_to_layer=1"]
    return [
        *("--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "docs")),
        *("--results", str(tmp_path / "results.json"), "-o", *data),
        *("dataloader.train.sampler.batch_size=10", "dataloader.train.sampler.samples=30"),
        *(f"model.architecture.{option}" for option in small),
        *("model.head.in_channels=8", "log_config.interval=1", "checkpoint.interval=1"),
    ]


TRAINED: list[str] = []


def train_here(commands, count, logs) -> None:
    for name, (_, _, _, config, _, *overrides, _, resume) in commands.items():
        TRAINED.append(name)
        train(get_config(config, overrides), resume)


def run_study(arguments: list[str], monkeypatch, expect: int = 0) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    TRAINED.clear()
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(CONFIG.parents[2]))
        try:
            runpy.run_path(str(CONFIG.with_name("run.py")), run_name="__main__")
            code = 0
        except SystemExit as error:
            code = error.code
    assert code == expect


def test_study_from_the_first_run_to_the_page(small_study, tmp_path, monkeypatch, capfd):
    run_study([*small_study, "--report"], monkeypatch)
    page = tmp_path / "docs" / "study_fashion.md"
    assert "0 of 6 runs" in page.read_text()
    run_study(small_study, monkeypatch)
    assert [
        *("49_convit_tune_0.001", "49_attention_tune_0.001"),
        *("49_convit_1_0", "49_attention_1_0", "49_convit_1_1", "49_attention_1_1"),
    ] == TRAINED
    text, results = page.read_text(), json.loads((tmp_path / "results.json").read_text())
    assert "All 6 runs are finished" in text
    scores = {
        (run["network"], run["seed"]): run["top1"]
        for run in results["runs"]
        if not run["is_tuning"]
    }
    gap = [scores["convit", seed] - scores["attention", seed] for seed in range(2)]
    assert f"| 100% | {np.mean(gap):+.1f} (" in text
    (gates,) = results["gates"]
    assert gates["steps"] == [0, 1, 2, 3]
    assert gates["values"][0] == [[0.7311] * 4]  # the sigmoid of 1
    assert gates["values"][-1] != gates["values"][0]
    for name in re.findall(r"\]\((images/.+?)\)", text):
        with Image.open(page.parent / name) as image:
            assert min(image.size) > 150

    run_study(small_study, monkeypatch)
    assert TRAINED == []
    shutil.rmtree(tmp_path / "runs" / "49_attention_1_1")
    run_study([*small_study, "--report"], monkeypatch)
    assert "5 of 6 runs" in page.read_text()
    assert "(one run)" in page.read_text()
    run_study([*small_study, "optimizer.weight_decay=0.1"], monkeypatch, expect=2)
    assert "optimizer.weight_decay 0.05, the study now 0.1" in capfd.readouterr().err


def rows_of(scores: dict[str, list[float]]) -> Results:
    runs = [
        {**Run(49, network, 0.1, seed, 1e-3)._asdict(), "top1": top1, "ips": 100.0}
        for network, values in scores.items()
        for seed, top1 in enumerate(values)
    ]
    about = {"processor": "one", "paddlepaddle": "3", "date": "today"}
    return Results(about, 192, runs, [])


def test_intervals_and_words_of_the_page():
    """Differences 2, 2, 1, 3, 2: mean 2, deviation sqrt(1 / 2); t of 4 degrees is 2.776."""
    found = rows_of(
        {
            "convit": [90.0, 92.0, 91.0, 93.0, 94.0],
            "attention": [88.0, 90.0, 90.0, 90.0, 92.0],
            "random": [90.5, 91.5, 91.0, 93.5, 93.5],
            "frozen": [95.0, 97.0, 96.5, 98.0, 98.5],
        }
    )
    mean, half = paired_difference(*found.pairs(49, "convit", "attention", 0.1))
    assert mean == 2
    assert half == pytest.approx(2.776 * np.sqrt(0.5 / 5), rel=1e-6)
    text = page(found, PLAN)
    assert "| 10% | 92.0 ± 1.6 | 90.0 ± 1.4 |" in text
    assert "| 10% | +2.0 (+1.1 to +2.9) |" in text
    assert "plain attention: ConViT is better at 10%." in text
    assert "random positions: the interval holds 0 at 10%." in text
    assert "gates frozen: ConViT is worse at 10%." in text
    assert "20 of 192 runs are finished" in text


def test_pairs_are_of_the_same_seed():
    found = rows_of({"convit": [1.0, 2.0, 3.0], "attention": [1.0, 2.0]})
    found.runs[0]["seed"] = 7
    assert found.pairs(49, "convit", "attention", 0.1) == ([2.0], [2.0])


def test_best_rate_needs_all_candidates_and_flags_the_end_of_the_range():
    runs = [
        {**Run(49, network, 0.1, 5, lr, is_tuning=True)._asdict(), "top1": top1, "ips": 1.0}
        for network, scores in (("convit", [60, 70, 70]), ("random", [1, 2, 3]))
        for lr, top1 in zip(PLAN.rates, scores, strict=True)
    ]
    found = replace(rows_of({}), runs=[*runs, {**runs[0], "network": "frozen"}])
    assert best_rates(PLAN, found.runs) == {(49, "convit"): 2e-3, (49, "random"): 4e-3}
    text = page(found, PLAN)
    assert "| 49 | ConViT | 60.0 | **70.0** | 70.0 | 1 |" in text
    assert "tried for: random positions at 49 tokens." in text


def process(code: int = 0, until: Path | None = None, seconds: float = 0) -> list[str]:
    """Prints its threads, and ends with that code once a file has content; asked to stop, with
    75.
    """
    text = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        f"print(os.environ['OMP_NUM_THREADS'], flush=True); time.sleep({seconds})\n"
        f"while {str(until or '')!r} and not os.stat({str(until)!r}).st_size: time.sleep(0.05)\n"
        f"sys.exit({code})"
    )
    return [sys.executable, "-c", text]


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [(3, RunError, "bad has failed"), (75, SystemExit, "same call continues")],
)
def test_processes_run_side_by_side_until_one_fails(tmp_path, capfd, code, error, said):
    """The one that runs is asked to stop, the one that waits does not start."""
    (tmp_path / "long.txt").touch()
    commands = {
        "good": process(),
        "bad": process(code, until=tmp_path / "long.txt"),
        "long": process(seconds=60),
        "late": process(),
    }
    with pytest.raises(error) as caught:
        run_side_by_side(commands, 2, tmp_path)
    assert (tmp_path / "good.txt").read_text() == (tmp_path / "long.txt").read_text() == "1\n"
    assert not (tmp_path / "late.txt").exists()
    out, err = capfd.readouterr()
    assert "1 of 4" in out
    assert said in err + str(caught.value)


def test_signal_stops_all_processes(tmp_path):
    """They have ended when Stopped is raised; no other has started."""

    def send() -> None:
        logs = [tmp_path / "one.txt", tmp_path / "two.txt"]
        while not all(log.exists() and log.stat().st_size for log in logs):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    commands = {name: process(seconds=60) for name in ("one", "two", "three")}
    Thread(target=send, daemon=True).start()
    with pytest.raises(SystemExit, match="75"):
        run_side_by_side(commands, 2, tmp_path)
    assert not (tmp_path / "three.txt").exists()
