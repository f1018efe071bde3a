"""One run for any number of processes: the same losses, weights and scores."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from passl.distributed.ranks import Ranks
from passl.engine.checkpoint import save_checkpoint
from passl.engine.learner import build_learner
from passl.engine.progress import Progress
from passl.engine.train import train
from passl.modeling import Model
from passl.optim.schedules import build_schedule
from passl.utils.config import get_config
from tests.numerics import VALUES

ROOT = Path(__file__).resolve().parents[2]
GLOBAL_BATCH = 120
TOLERANCE = VALUES
"""Of a loss. Of a weight too: it is GRADIENTS of the tenth that one moves, for momentum, unlike
AdamW, moves it in proportion to the gradient.
"""
LR = 0.1
FIRST = ("epochs=1", "rank_check_interval=2", "checkpoint.interval=7")


TRAIN = """
from passl.engine.train import train
from passl.utils.config import get_config

train(get_config({config!r}, {overrides!r}), {resume!r})
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Where the runs of this module are."""
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture
def runs(folders, fork_ranks):
    """`runs(config, name, ranks, *overrides, starter=..., resume=...)` trains a ConViT without
    anything random in the network, and gives the folder; a name is trained once. A starter is a
    command that starts several processes of `tools/train.py`; without one they are forked.
    """

    def run(
        config: Path,
        name: str,
        ranks: int,
        *overrides: str,
        starter: Sequence[str] = (),
        resume: Path | None = None,
    ):
        folder = folders / name
        if folder.exists():
            return folder
        options = [f"output_dir={folder}", "log_config={interval: 1, attention: {images: 7}}"]
        options += [f"dataloader.train.sampler.batch_size={GLOBAL_BATCH // ranks}", *overrides]
        resume = None if resume is None else str(resume)
        if starter:
            call = [*starter, "-c", config, "-o", *options]
            call += ["--resume", resume] if resume else []
            done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        elif ranks == 1:
            train(get_config(config, options), resume)
        else:
            script = TRAIN.format(config=str(config), overrides=options, resume=resume)
            done = fork_ranks(script, ranks)
            assert not any(code for code, _ in done), done
        return folder

    return run


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(ours: Path, theirs: Path, first_step: int = 0) -> None:
    """The same losses from a step on, the same scores, and the same state at the end."""
    found, expected = ([row for row in rows(f) if row["step"] > first_step] for f in (ours, theirs))
    assert [(row["phase"], row["step"]) for row in found] == [
        (row["phase"], row["step"]) for row in expected
    ]
    assert found
    for row, other in zip(found, expected, strict=True):
        if row["phase"] == "attention":
            assert row["images"] == other["images"] == 7
            assert row["blocks"].keys() == other["blocks"].keys()
            continue
        assert row["loss"] == pytest.approx(other["loss"], rel=TOLERANCE)
        for key in ("top1", "top5", "samples"):
            assert row.get(key) == other.get(key)
    arrays, others = (load_file(folder / "last.safetensors") for folder in (ours, theirs))
    assert arrays.keys() == others.keys()
    for key, array in others.items():
        np.testing.assert_allclose(arrays[key], array, atol=TOLERANCE, err_msg=key)


@pytest.fixture
def config(tiny_config):
    return tiny_config("ConViT", drop=0.0, optimizer={"name": "Momentum", "lr": LR})


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_is_one_run(runs, config, ranks):
    """3 ranks do not divide the 360 images of the evaluation in batches of 128."""
    alone, together = runs(config, "1", 1), runs(config, str(ranks), ranks)
    assert [row["samples"] for row in rows(together) if row["phase"] == "val"] == [360, 360]
    assert_same_run(together, alone)
    # The first rank measures attention alone: at the start, of the same weights.
    firsts = [rows(folder)[0] for folder in (alone, together)]
    assert [row.pop("time") and row["phase"] for row in firsts] == ["attention"] * 2
    assert firsts[0] == firsts[1]


def test_balanced_classes_are_one_run(runs, config):
    """A weighted mean is that of the whole batch, however it is dealt out to ranks and parts."""
    weights = "loss.class_weights=[1, 9, 1, 0, 2, 3, 0.1, 1, 5, 4]"
    options = ("epochs=1", "dataloader.train.sampler.balanced=true", weights)
    alone = runs(config, "balanced_1", 1, *options)
    parts = runs(config, "balanced_2", 2, *options, "accumulate=3")
    assert_same_run(parts, alone)


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_checkpoint_of_two_ranks_resumes_on_one_and_on_three(runs, config, ranks):
    """In the middle of an epoch: eleven steps are one, and seven are made. (They are all warm-up,
    which does not know how many epochs follow.)
    """
    first = runs(config, "first", 2, *FIRST) / "previous.safetensors"
    resumed = runs(config, f"resumed_{ranks}", ranks, resume=first)
    assert rows(resumed)[0]["step"] == 8
    assert_same_run(resumed, runs(config, "1", 1), first_step=7)
    log = (resumed / "train.log").read_text()
    assert f"resuming with {ranks} process(es) and a global batch of 120, it was 2 and 120" in log
    assert "an epoch has" not in log


def test_the_schedule_goes_on_at_its_place_with_fewer_ranks(runs, config):
    """From two ranks to one of the same `batch_size`, in the middle of an epoch."""
    options = ("epochs=1", "rank_check_interval=2", "checkpoint.interval=7")
    first = runs(config, "first", 2, *options) / "previous.safetensors"
    one = ("dataloader.train.sampler.batch_size=60", "epochs=3")
    resumed = rows(runs(config, "fewer", 1, *one, resume=first))
    section = get_config(config).lr_scheduler
    schedule = build_schedule(section, LR, 1437 // 60, 3)
    found = [(row["step"], row["lr"]) for row in resumed if row["phase"] == "train"]
    # Seven steps of 120 are 14 of 60; the run's own count goes on.
    expected = [(7 + n, schedule(14 + n - 1)) for n in range(1, 3 * 23 - 14 + 1)]
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert [lr for _, lr in found] == pytest.approx([lr for _, lr in expected], rel=1e-6)


def test_sharded_state_is_the_same_run_and_resumes_without(runs, config):
    """ZeRO stage 1, whose state is whole in the checkpoint, with and without sharding behind it."""
    alone = runs(config, "1", 1)
    launcher = [sys.executable, "tools/launch.py", "train.py", "--nproc_per_node", "2"]
    options = ("sharding.stage=1", "accumulate=2", "ema.decay=0.9")
    sharded = runs(config, "sharded", 2, *options, starter=launcher)
    arrays, expected = (load_file(folder / "last.safetensors") for folder in (sharded, alone))
    for key, array in expected.items():
        key_there = key if key.startswith(("optimizer/", "names/")) else f"trained/{key}"
        np.testing.assert_allclose(arrays[key_there], array, atol=TOLERANCE, err_msg=key)
    options = ("epochs=1", "sharding.stage=1", "checkpoint.interval=7")
    first = runs(config, "sharded_first", 2, *options) / "previous.safetensors"
    again = runs(config, "sharded_again", 2, "sharding.stage=1", resume=first)
    assert_same_run(again, alone, first_step=7)
    assert_same_run(runs(config, "unsharded", 1, resume=first), alone, first_step=7)


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun is not installed")
def test_sharding_under_mpirun(runs, config):
    options = ("epochs=1", "sharding.stage=1")
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2"]
    mpirun += [sys.executable, "tools/train.py"]
    sharded = runs(config, "mpirun", 2, *options, starter=mpirun)
    assert_same_run(sharded, runs(config, "first", 2, *FIRST))


DRIFTING = """
from passl.engine import train as module
from passl.utils.config import get_config

step = module.train_step

def drifting(learner, images, targets, number, stop):
    outcome = step(learner, images, targets, number, stop)
    if learner.ranks.rank == 1 and number == 3:
        weight = dict(learner.model.named_parameters())["backbone.blocks.1.mlp.fc1.weight"]
        weight.set_value(weight + 1e-3)
    return outcome

module.train_step = drifting
module.train(get_config({config!r}, {overrides!r}))
"""


APART = """
import os
from pathlib import Path
from passl.engine.train import train
from passl.utils.config import get_config

rank = os.environ["PADDLE_TRAINER_ID"]
os.chdir(Path({there!r}) / f"host{{rank}}")
overrides = ["output_dir=run", f"optimizer.lr=0.{{int(rank) * {lr} + 1}}"]
train(get_config({config!r}, overrides), "auto")
"""


@pytest.mark.parametrize(
    ("stored", "lr", "difference"),
    [
        ([1, 1], 1, "optimizer.lr is 0.2 instead of 0.1"),
        ([1, None], 0, "last.safetensors: there is no such checkpoint"),
        ([1, 2], 0, "SHA-256 of the checkpoint run/last.safetensors is"),
        ([None, 1], 0, "a checkpoint in run is True instead of False"),
    ],
    ids=["config", "no last", "another last", "last on rank 1 only"],
)
def test_ranks_that_differ_do_not_start(fork_ranks, tiny_config, tmp_path, stored, lr, difference):
    """Two ranks in two folders, as machines without a shared disk."""
    config = tiny_config()
    cfg = get_config(config)
    learner = build_learner(cfg, Model(cfg), Ranks(), global_batch=4, steps_per_epoch=5)
    for rank, step in enumerate(stored):
        folder = tmp_path / f"host{rank}" / "run"
        folder.mkdir(parents=True)
        if step is not None:
            progress = Progress(epoch=1, step=step)
            save_checkpoint(folder / "last.safetensors", learner, progress, cfg.to_dict(), [])
    before = [path.read_bytes() for path in sorted(tmp_path.rglob("last.safetensors"))]
    done = fork_ranks(APART.format(there=str(tmp_path), config=str(config), lr=lr))
    for code, output in done:
        assert code != 0
        error = output[output.rindex("ConfigError") :]
        assert "rank 1 on " in error
        assert difference in error
    assert [path.read_bytes() for path in sorted(tmp_path.rglob("last.safetensors"))] == before
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_ranks_with_different_weights_are_stopped(fork_ranks, config, tmp_path):
    """Step 4 spoils a weight of one rank, and the look after step 6 finds it."""
    overrides = [f"output_dir={tmp_path / 'run'}", "rank_check_interval=3"]
    overrides.append("dataloader.train.sampler.batch_size=60")
    done = fork_ranks(DRIFTING.format(config=str(config), overrides=overrides))
    for code, output in done:
        assert code == 1
        assert "RunError: the 2 processes no longer have the same weights after step 6" in output
        assert "backbone.blocks.1.mlp.fc1.weight differs" in output
