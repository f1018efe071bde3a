"""Runs are compared by their settings, scores, throughput and curves."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from passl.analysis.compare import as_json, as_rows, as_text, read_runs, shortest
from passl.analysis.curves import plot_runs
from passl.engine.metrics import MetricLog
from passl.utils.yaml import to_yaml


@pytest.fixture
def make_run(tmp_path):
    """make_run("a", {config}, scores) writes the folder of a run."""

    def make(name: str, config: dict, top1=(30.0, 60.0, 50.0), speed=(10.0, 30.0, 20.0)):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        config = {"epochs": 5, "output_dir": str(folder), **config}
        (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
        log = MetricLog(folder)
        log.close()
        for epoch, score in enumerate(top1, 1):
            rows = [
                {"phase": "train", "loss": 2 / epoch, "lr": 0.1, "ips": speed[epoch - 1]},
                {"phase": "val", "loss": 3 / epoch, "top1": score, "top5": 90.0},
            ]
            with (folder / "metrics.jsonl").open("a") as file:
                for row in rows:
                    file.write(json.dumps({**row, "epoch": epoch, "step": 10 * epoch}) + "\n")
        return folder

    return make


def test_results_of_a_run(make_run):
    (row,) = as_json(read_runs([make_run("a", {})]))["runs"]
    assert (row["name"], row["settings"], row["epochs"]) == ("a", {}, 5)
    results = {key: row[key] for key in ("best_top1", "best_epoch", "last_top1", "epochs_done")}
    assert results == {"best_top1": 60, "best_epoch": 2, "last_top1": 50, "epochs_done": 3}
    assert (row["last_loss"], row["train_loss"], row["images_per_second"]) == (1, 2 / 3, 20)


def test_runs_of_other_tasks_have_their_own_score(make_run, tmp_path):
    """The best checkpoint is selected by mAP; beside a classification each has its column."""
    folder = make_run("labels", {})
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text().replace('"top1"', '"mAP"').replace('"top5"', '"micro_f1"'))
    runs = read_runs([folder, make_run("a", {})])
    row, other = as_json(runs)["runs"]
    assert (row["best_mAP"], row["best_epoch"], row["last_mAP"]) == (60, 2, 50)
    assert "best_top1" not in row
    assert "best_mAP" not in other
    titles, *values = (line.split("  ") for line in as_text(runs, 200).splitlines())
    shown = [title.strip() for title in titles if title]
    assert shown[2:4] == ["best mAP", "best top-1"]
    assert [cell.strip() for cell in values[1] if cell][2:4] == ["-", "60.00"]
    head, *rows = as_rows(runs)[0], *as_rows(runs)[1]
    assert [row[head.index("best_mAP")] for row in rows] == [60, None]
    plot_runs([(run.name, run.metrics) for run in runs], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").is_file()


def test_only_settings_that_differ_are_shown(make_run):
    shared = {"seed": 0, "log_config": {"interval": 2}}
    runs = read_runs(
        [
            make_run("a", {**shared, "optimizer": {"lr": 0.1, "name": "SGD"}}),
            make_run("b", {**shared, "optimizer": {"lr": 0.2, "name": "SGD"}, "accumulate": 2}),
            make_run("c", {"seed": 0, "log_config": {"interval": 3}, "optimizer": {"lr": 0.1}}),
        ]
    )
    settings = [row["settings"] for row in as_json(runs)["runs"]]
    assert settings == [
        {"optimizer.lr": 0.1, "optimizer.name": "SGD"},
        {"optimizer.lr": 0.2, "optimizer.name": "SGD", "accumulate": 2},
        {"optimizer.lr": 0.1},
    ]
    head, *rows = (line.split() for line in as_text(runs, 200).splitlines())
    assert head[:4] == ["run", "lr", "name", "accumulate"]
    assert rows[2][:5] == ["c", "0.1", "-", "-", "3/5"]
    # Too wide for the terminal: the runs are columns.
    assert as_text(runs, 60).splitlines()[0].split() == ["run", "a", "b", "c"]


def test_values_of_another_type_differ(make_run):
    runs = read_runs([make_run(name, {"x": x}) for name, x in (("a", 1), ("b", True), ("c", "1"))])
    assert [row["settings"]["x"] for row in as_json(runs)["runs"]] == [1, True, "1"]
    assert "x" not in as_text(read_runs([run.folder for run in runs[:1]]), 200).split()


def test_setting_that_a_resume_has_changed(make_run):
    folder = make_run("a", {"seed": 1})
    for epoch, seed in ((10, 3), (2, 2)):
        text = to_yaml({"epochs": 5, "output_dir": "a", "seed": seed})
        (folder / f"config.from_epoch_{epoch}.yaml").write_text(text)
    rows = as_json(read_runs([folder, make_run("b", {"seed": 1})]))["runs"]
    assert [row["settings"]["seed"] for row in rows] == ["1 -> 2 -> 3", 1]


def test_names_of_runs_and_keys(make_run):
    runs = [make_run(name, {}) for name in ("x/a", "y/a", "y/b")]
    assert [run.name for run in read_runs(runs)] == ["x/a", "y/a", "y/b"]
    assert [run.name for run in read_runs(runs[1:])] == ["a", "b"]
    keys = ["optimizer.lr", "a.train.size", "a.val.size", "a.0.name", "b.0.name", "lr"]
    assert list(shortest(keys).values()) == [
        *("optimizer.lr", "train.size", "val.size", "a.0.name", "b.0.name", "lr")
    ]


def test_run_without_a_finished_epoch(make_run, run_tool, tmp_path):
    folder = make_run("new", {}, top1=())
    (row,) = as_json(read_runs([folder]))["runs"]
    assert (row["epochs_done"], row["best_top1"], row["images_per_second"]) == (0, None, None)
    out = tmp_path / "curves.png"
    done = run_tool("compare.py", folder, "--out", out, expect=2)
    assert "no run has finished an epoch" in done.stderr
    done = run_tool("compare.py", folder, make_run("a", {}), "--out", out)
    assert "has not finished an epoch" in done.stderr
    assert out.is_file()


def test_files_of_the_command(make_run, run_tool, tmp_path):
    """Twelve runs with names in several scripts; each has a line of its own."""
    runs = [make_run(f"学习率_$x^{{{i}}}", {"seed": i}, top1=(i, i + 9, i)) for i in range(12)]
    runs = [str(run).replace("$", "$$") for run in runs]  # as a command line has it
    out, table = tmp_path / "curves.png", tmp_path / "runs.csv"
    done = run_tool("compare.py", *runs, "--out", out, "--csv", table)
    assert len(done.stdout.splitlines()) == 13
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [row["seed"] for row in rows] == [str(i) for i in range(12)]
    assert [float(row["best_top1"]) for row in rows] == [i + 9 for i in range(12)]
    with Image.open(out) as image:
        assert image.format == "PNG"
        colors = {tuple(color) for color in np.asarray(image.convert("RGB")).reshape(-1, 3)}
    for color in ("0072B2", "D55E00", "009E73", "CC79A7", "56B4E9", "E69F00"):
        assert tuple(bytes.fromhex(color)) in colors
    printed = json.loads(run_tool("compare.py", *runs, "--json").stdout)
    assert [row["settings"] for row in printed["runs"]] == [{"seed": i} for i in range(12)]
    for option, path in (("--out", out), ("--csv", table)):
        done = run_tool("compare.py", *runs[:2], option, path, expect=2)
        assert f"{option} {path}: is there already" in done.stderr
    for name in ("curves", "curves.txt", "curves.jpg"):
        done = run_tool("compare.py", *runs[:2], "--out", tmp_path / name, expect=2)
        assert "must end in .png or .svg" in done.stderr
        assert not (tmp_path / name).exists()


def test_folders_that_are_no_runs(make_run, run_tool, tmp_path):
    run = make_run("a", {})
    (make_run("b", {}) / "config.yaml").unlink()
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.yaml").touch()
    wrong = [tmp_path / name for name in ("no_such", "b", "sweep")]
    done = run_tool("compare.py", run, run, *wrong, expect=2)
    for text in ("no_such: holds no", "b: holds no config.yaml", "no run of this sweep", "twice"):
        assert text in done.stderr
    assert done.stdout == ""
