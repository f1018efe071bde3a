"""A sweep makes a run for each point, survives interruptions and failures, and refuses wrong input.

The runs are a small script in place of `passl train`; the last test trains.
"""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from passl.analysis import sweep as module
from passl.analysis.search_space import grid_points, parse_grid, parse_search
from passl.analysis.sweep import Sweep, run_sweep
from passl.engine import run_lock
from passl.errors import ConfigError, RunError, Stopped
from passl.utils.config import get_config

pytest.importorskip("optuna")

RUN = """
import json, os, signal, sys, time
from pathlib import Path
values = dict(pair.split("=", 1) for pair in sys.argv if "=" in pair)
folder = Path(json.loads(values["output_dir"]))
lr, seed = float(values["optimizer.lr"]), int(values.get("seed", 0))
calls = folder.parents[1] / "calls.jsonl"
with calls.open("a") as file:
    file.write(json.dumps([folder.name, sys.argv[1:]]) + "\\n")
mode = (folder.parents[1] / "mode").read_text().split()
if mode[0] == "fail" and seed == int(mode[1]):
    sys.exit(3)
folder.mkdir(exist_ok=True)
(folder / "config.yaml").write_text(f"epochs: 2\\nseed: {seed}\\noptimizer: {{lr: {lr}}}\\n")
def end(*_):
    sys.exit(75)
signal.signal(signal.SIGTERM, end)
if mode[0] == "stop" and seed == int(mode[1]):
    os.kill(os.getppid(), getattr(signal, mode[2]))
    time.sleep(30)
if mode[0] == "end" and seed == int(mode[1]):
    sys.exit(75)
score = "mAP" if "model.head.name=MultilabelHead" in sys.argv else "top1"
with (folder / "metrics.jsonl").open("w") as file:
    for epoch in (1, 2):
        row = {"phase": "val", "step": epoch, "epoch": epoch, score: 100 * lr + seed + epoch}
        print(json.dumps(row), file=file, flush=True)
        if mode[0] == "slow" and lr < 0.5:
            time.sleep(30)
"""


@pytest.fixture
def make(tmp_path, tiny_config, monkeypatch):
    """make("seed=0,1", mode=...) -> a sweep whose runs are the script."""
    script = tmp_path / "run.py"
    script.write_text(RUN)
    monkeypatch.setattr(module, "_PROGRAM", script)
    monkeypatch.setattr(module, "_POLL", 0.02)
    monkeypatch.setattr(module, "_LOOK", 0.02)
    config = tiny_config("CvT")

    def build(*values: str, mode: str = "normal", **options: object) -> Sweep:
        (tmp_path / "mode").write_text(mode)
        parse = parse_search if "trials" in options else parse_grid
        overrides = [f"output_dir={tmp_path / 'out'}"]
        found = [parse(value) for value in values]
        return Sweep(config=str(config), overrides=overrides, values=found, **options)

    return build


MULTILABEL = [
    "model.head.name=MultilabelHead",
    "loss={name: AsymmetricLoss}",
    *(
        f"dataloader.{part}.dataset={{name: DigitSets, split: {part}, count: 200, "
        "transforms: [{name: Normalize}]}"
        for part in ("train", "val")
    ),
]


def test_the_score_of_the_task_is_maximized(make):
    sweep = make("optimizer.lr=0.1,0.2")
    trials = run_sweep(replace(sweep, overrides=[*sweep.overrides, *MULTILABEL]))
    assert [trial["mAP"] for trial in trials] == pytest.approx([12, 22])
    assert "top1" not in trials[0]


def started(folder: Path) -> list[str]:
    """The runs that were started, in order."""
    path = folder / "calls.jsonl"
    return [json.loads(line)[0] for line in path.read_text().splitlines()] if path.exists() else []


GRID = ("optimizer.lr=0.1,0.2", "seed=0,1")
NAMES = [f"{i:04d}_lr={lr}_seed={seed}" for i, (lr, seed) in enumerate(
    [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)]
)]  # fmt: skip


def test_every_combination_is_run_once(make, tmp_path):
    trials = run_sweep(make(*GRID))
    assert [trial["name"] for trial in trials] == NAMES
    assert [trial["top1"] for trial in trials] == pytest.approx([12, 13, 22, 23])
    assert trials[3]["values"] == {"optimizer.lr": 0.2, "seed": 1}
    assert {trial["state"] for trial in trials} == {"complete"}
    assert run_sweep(make(*GRID)) == trials  # nothing is repeated
    assert started(tmp_path) == NAMES
    arguments = json.loads((tmp_path / "calls.jsonl").read_text().splitlines()[0])[1]
    assert arguments[0] == "train"
    assert arguments[-2:] == ["--resume", "auto"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_stopped_sweep_continues_with_the_same_run(make, tmp_path, name):
    with pytest.raises(Stopped, match=name):
        run_sweep(make("optimizer.lr=0.1", "seed=0,1,2", mode=f"stop 1 {name}"))
    # As after a kill in the middle of a line.
    with (tmp_path / "out" / module.STUDY).open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    (tmp_path / "out" / f"{module.STUDY}.lock").symlink_to(module.STUDY)
    trials = run_sweep(make("optimizer.lr=0.1", "seed=0,1,2"))
    names = [f"{i:04d}_lr=0.1_seed={i}" for i in range(3)]
    assert [trial["name"] for trial in trials] == names
    assert started(tmp_path) == [names[0], names[1], names[1], names[2]]


def test_signal_to_the_run_stops_the_sweep(make, tmp_path):
    with pytest.raises(Stopped):
        run_sweep(make("optimizer.lr=0.1", "seed=0,1,2", mode="end 1"))
    assert len(started(tmp_path)) == 2


def test_failed_run_is_recorded_and_not_repeated(make, tmp_path):
    trials = run_sweep(make(*GRID, mode="fail 0"))
    states = ["failed", "complete", "failed", "complete"]
    assert [trial["state"] for trial in trials] == states
    assert [trial["top1"] is None for trial in trials] == [True, False, True, False]
    assert run_sweep(make(*GRID)) == trials
    assert len(started(tmp_path)) == 4


def test_all_runs_fail(make):
    with pytest.raises(RunError, match="all 2 runs"):
        run_sweep(make("optimizer.lr=0.1,0.2", mode="fail 0"))


@pytest.mark.parametrize(("sampler", "count"), [("tpe", 12), ("random", 4)])
def test_interrupted_search_samples_the_same_values(make, tmp_path, sampler, count):
    values = ("optimizer.lr=loguniform(1e-4,1e-2)", "epochs=int(1,9)", "seed=choice(0,1)")
    options = {"sampler": sampler, "seed": 5}
    short = run_sweep(make(*values, trials=3, **options))
    longer = run_sweep(make(*values, trials=count, **options))
    assert longer[:3] == short
    (tmp_path / "out").rename(tmp_path / "continued")
    assert run_sweep(make(*values, trials=count, **options)) == longer
    (tmp_path / "out").rename(tmp_path / "again")
    other = run_sweep(make(*values, trials=3, sampler=sampler, seed=6))
    assert [trial["values"] for trial in other] != [trial["values"] for trial in short]
    for trial in longer:
        found = trial["values"]
        assert 1e-4 <= found["optimizer.lr"] <= 1e-2
        assert found["epochs"] in range(1, 10)
        assert found["seed"] in (0, 1)
    assert len({trial["values"]["optimizer.lr"] for trial in longer}) == count


def test_run_below_the_median_is_pruned(make):
    lrs = "optimizer.lr=0.9,0.8,0.7,0.6,0.5,0.1,0.95"
    trials = run_sweep(make(lrs, mode="slow", prune=True))
    assert [trial["state"] for trial in trials] == [*["complete"] * 5, "pruned", "complete"]
    assert trials[5]["top1"] == pytest.approx(11)


def test_wrong_points_are_found_before_the_first_run(make, tmp_path):
    with pytest.raises(ConfigError) as caught:
        run_sweep(make("optimizer.lr=0.1,-1", "seed=0,x", "optimizer.betta=1"))
    assert len(caught.value.problems) == 3
    assert "betta" in str(caught.value)
    with pytest.raises(ConfigError, match=r"lr.* not -1"):
        run_sweep(make("optimizer.lr=uniform(-1,1)", trials=2))
    with pytest.raises(ConfigError, match="output_dir cannot be tried"):
        run_sweep(make("output_dir=a,b"))
    with pytest.raises(ConfigError, match="seed: is given twice"):
        run_sweep(make("seed=1", "seed=2"))
    assert started(tmp_path) == []
    assert not (tmp_path / "out").exists()


def test_folder_of_something_else(make, tmp_path):
    run_sweep(make("optimizer.lr=0.1", "seed=0"))
    with pytest.raises(ConfigError, match=r"grid.seed is 'choice\(1\)' and was 'choice\(0\)'"):
        run_sweep(make("optimizer.lr=0.1", "seed=1"))
    (tmp_path / "out" / "sweep.yaml").unlink()
    with pytest.raises(ConfigError, match="is not the folder of a sweep"):
        run_sweep(make("optimizer.lr=0.1", "seed=0"))
    assert len(started(tmp_path)) == 1


def test_two_sweeps_in_one_folder(make, tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "_PATIENCE", 0.1)
    (tmp_path / "out").mkdir()
    lock = run_lock.RunLock(tmp_path / "out")
    with pytest.raises(ConfigError, match="is in use by .* continue by the same call"):
        run_sweep(make("seed=0,1"))
    lock.release()
    assert started(tmp_path) == []


def test_run_whose_folder_is_in_use_is_waited_for(make, tmp_path):
    """The run of a killed sweep saves its state before it ends."""
    with pytest.raises(Stopped):
        run_sweep(make("optimizer.lr=0.1", "seed=0,1", mode="end 1"))
    lock = FileLock(tmp_path / "out" / "0001_lr=0.1_seed=1" / run_lock.LOCK, thread_local=False)
    lock.acquire()
    waiting = threading.Timer(0.3, lock.release)
    waiting.start()
    trials = run_sweep(make("optimizer.lr=0.1", "seed=0,1"))
    waiting.join()
    assert [trial["state"] for trial in trials] == ["complete", "complete"]


def test_optuna_is_missing(make, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install optuna"):
        run_sweep(make("seed=0,1"))


def test_options_of_the_values():
    assert parse_grid("a.b=1e-3, null, [1, 2], 'x,y', {c: 1}").texts == (
        *("0.001", "null", "[1, 2]", '"x,y"', '{"c": 1}'),
    )
    assert parse_search("a=logint(1, 8)").texts == ("1", "8")
    assert parse_search("a=choice(true,b)").texts == ("true", '"b"')
    points = grid_points([parse_grid("a=1,2"), parse_grid("b=x,y")])
    assert [tuple(p.values()) for p in points] == [
        *(("1", '"x"'), ("1", '"y"'), ("2", '"x"'), ("2", '"y"')),
    ]
    many = "x=" + ",".join(map(str, range(40)))
    with pytest.raises(ConfigError, match="1600 combinations"):
        grid_points([parse_grid(many), parse_grid(many)])


@pytest.mark.parametrize(
    ("parse", "option", "rule"),
    [
        (parse_grid, "a", "write KEY=V1,V2"),
        (parse_grid, "a=", "write KEY=V1,V2"),
        (parse_grid, "a=1,1", "1 is given twice"),
        (parse_grid, "a=[1", "not YAML"),
        (parse_search, "a=1,2", "write KEY=uniform"),
        (parse_search, "a=normal(0,1)", "write KEY=uniform"),
        (parse_search, "a=uniform(1)", "two numbers"),
        (parse_search, "a=uniform(true,2)", "two numbers"),
        (parse_search, "a=uniform(0,.inf)", "two numbers"),
        (parse_search, "a=int(0,1.5)", "two integers"),
        (parse_search, "a=uniform(2,1)", "LOW < HIGH"),
        (parse_search, "a=loguniform(0,1)", "0 < LOW"),
        (parse_search, "a=choice()", "at least one"),
    ],
)
def test_wrong_values(parse, option, rule):
    with pytest.raises(ConfigError, match=rule):
        parse(option)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ((), "neither is given"),
        (("--grid", "seed=1", "--search", "seed=int(1,2)"), "both are given"),
        (("--search", "seed=int(1,2)"), "--trials is missing"),
        (("--search", "seed=int(1,2)", "--trials", "0"), "--trials: 0 must be at least 1"),
        (("--grid", "seed=1", "--trials", "2"), "--trials is for --search"),
    ],
)
def test_wrong_options(run_tool, options, rule):
    assert rule in run_tool("sweep.py", "digits/cvt", *options, expect=2).stderr


def test_trained_sweep(run_tool, tiny_config, tmp_path, monkeypatch):
    """Two runs of `passl train`, and the table that `passl compare` prints."""
    monkeypatch.setenv("COLUMNS", "200")  # in a narrow terminal the runs are columns
    out = tmp_path / "$out 学"
    given = str(out).replace("$", "$$")
    config = tiny_config("CvT", epochs=1, lr_scheduler={"name": "Cosine", "warmup_epochs": 0})
    call = ("sweep.py", config, "-o", f"output_dir={given}")
    call += ("dataloader.train.dataset.fraction=0.1", "dataloader.train.sampler.batch_size=64")
    # A narrow terminal would get the runs as columns.
    done = run_tool(*call, "--grid", "optimizer.lr=1e-3,2e-3", COLUMNS="200")
    *table, last = done.stdout.splitlines()
    result = json.loads(last)
    assert [line.split()[:2] for line in table] == [
        *(["run", "lr"], ["0000_lr=0.001", "0.001"], ["0001_lr=0.002", "0.002"]),
    ]
    for trial in result["trials"]:
        cfg = get_config(out / trial["name"] / "config.yaml")
        assert cfg.optimizer.lr == trial["values"]["optimizer.lr"]
        assert (out / trial["name"] / "best.safetensors").is_file()
    assert result["best"]["top1"] == max(trial["top1"] for trial in result["trials"])
    compared = json.loads(run_tool("compare.py", given, "--json").stdout)["runs"]
    assert [run["best_top1"] for run in compared] == [trial["top1"] for trial in result["trials"]]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
