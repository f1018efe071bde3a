"""Multi-label models from data to predictions, as a user runs the commands."""

from __future__ import annotations

import csv
import json
import re
import shutil

import numpy as np
import pytest

from passl.data.build import build_dataset
from passl.data.datasets.digits import DigitSets
from passl.data.loader import build_loader
from passl.deploy.predictor import Predictor
from passl.distributed.ranks import Ranks
from passl.engine.checkpoint import read_checkpoint
from passl.engine.learner import build_learner
from passl.engine.metrics import read_metrics
from passl.engine.progress import read_progress
from passl.errors import ConfigError
from passl.modeling import Model
from passl.utils.config import get_config
from passl.utils.yaml import read, to_yaml

SAMPLES = 24


@pytest.fixture
def data(tmp_path):
    """Images with a list of their labels, a class without a positive sample among them."""
    digits, folder = DigitSets(split="val", count=SAMPLES), tmp_path / "data"
    folder.mkdir()
    lines = []
    for index in range(SAMPLES):
        digits.load_image(index).save(folder / f"{index}.png")
        labels = [f"digit {k}" for k in np.flatnonzero(digits.labels[index]) if k != 3]
        lines.append(f"{index}.png\t{','.join(labels) or '-'}\n")
    (folder / "list.txt").write_text("".join(lines))
    (folder / "classes.txt").write_text("".join(f"digit {k}\n" for k in range(10)))
    return folder


@pytest.fixture
def config(tiny_config, data):
    """A config of that data, `config(key=value)` with other sections."""
    dataset = {
        "name": "MultilabelList",
        "dataroot": str(data),
        "list_file": str(data / "list.txt"),
        "class_file": str(data / "classes.txt"),
        "delimiter": "\t",
        "transforms": [{"name": "Normalize"}],
    }
    train = {"sampler": {"batch_size": 8, "shuffle": True, "drop_last": True}}

    def write(**root):
        path = tiny_config(loss={"name": "AsymmetricLoss"}, metrics=[])
        tree = read(path)[0]
        tree["model"]["head"] = {"name": "MultilabelHead"}
        tree["dataloader"] = {
            "train": {"dataset": dataset, **train, **root.pop("train", {})},
            "val": {"dataset": dataset, "sampler": {"batch_size": 7}},
        }
        path.write_text(to_yaml(tree | root))
        return path

    return write


def test_train_resume_evaluate_export_predict(config, data, run_tool, tmp_path):
    path, run = config(train={"mixup": {"mixup_alpha": 0.8}}), tmp_path / "run"
    run_tool("train.py", "-c", path, "-o", "epochs=1")
    run_tool("train.py", "-c", path, "-o", "epochs=3", "--resume", "auto")
    rows = [row for row in read_metrics(run) if row["phase"] == "val"]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    checkpoint = read_checkpoint(run / "last.safetensors")
    progress, _ = read_progress(checkpoint.path, checkpoint.metadata)
    assert progress.best_score == pytest.approx(max(row["mAP"] for row in rows), rel=1e-5)
    log = (run / "train.log").read_text()
    assert f"best mAP {progress.best_score:.2f} % in epoch {progress.best_epoch}" in log

    best, thresholds, table = run / "best.safetensors", tmp_path / "t.csv", tmp_path / "p.jsonl"
    options = ("-c", path, "--weights", best)
    run_tool("eval.py", *options, "--best-thresholds", thresholds)
    done = run_tool("eval.py", *options, "--thresholds", thresholds, "--predictions", table)
    scores = json.loads(done.stdout.splitlines()[-1])
    assert scores["average_precision"]["digit 3"] is None
    assert scores["mAP"] == pytest.approx(progress.best_score)
    found = {row["class"]: row["f1"] for row in csv.DictReader(thresholds.read_text().splitlines())}
    assert found.pop("digit 3") == ""
    for name, f1 in found.items():
        assert scores["f1"][name] == pytest.approx(float(f1), abs=1e-4)

    run_tool("export.py", "--weights", best, tmp_path / "out", "--thresholds", thresholds)
    files = [str(data / f"{index}.png") for index in range(SAMPLES)]
    lines = tmp_path / "out.jsonl"
    run_tool("predict.py", *files, "--model", tmp_path / "out", "--jsonl", lines)
    predicted = [json.loads(line)["best"] for line in lines.read_text().splitlines()]
    expected = [json.loads(line) for line in table.read_text().splitlines()]
    for ours, theirs in zip(predicted, expected, strict=True):
        assert {each["name"] for each in ours} == set(theirs["predicted"])
        for each in ours:
            assert each["probability"] == pytest.approx(
                theirs["probabilities"][each["name"]], abs=1e-5
            )
    predictor = Predictor(tmp_path / "out")
    labels = predictor.labels(files[:3])
    assert [[each.name for each in row] for row in labels] == [
        [each["name"] for each in row] for row in predicted[:3]
    ]
    assert [len(row) for row in predictor.top(files[:3], k=4)] == [4] * 3


def test_no_label_is_above_the_threshold(config, data, run_tool, tmp_path):
    run_tool("train.py", "-c", config(), "-o", "epochs=1")
    weights, image = tmp_path / "run" / "last.safetensors", data / "0.png"
    done = run_tool("predict.py", image, "--weights", weights, "--thresholds", 1)
    assert "no label is above its threshold" in done.stdout
    done = run_tool("predict.py", image, "--weights", weights, "--top-k", 2)
    assert len(done.stdout.splitlines()) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.png\tdigit 3,digit 10\n", "list.txt:25: 'digit 10' is not a class"),
        ("1.png\t10\n", "list.txt:25: label 10 is above the 10 classes"),
    ],
)
def test_labels_outside_the_classes_are_reported_before_training(
    config, data, run_tool, tmp_path, line, message
):
    with (data / "list.txt").open("a") as file:
        file.write(line)
    done = run_tool("train.py", "-c", config(), expect=2)
    assert message in done.stderr
    assert "dataloader.train.dataset" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.head.name=ClsHead"], "model.head.name: ClsHead is for classification.*Multi"),
        (["loss.name=CrossEntropy"], "loss.name: CrossEntropy is for classification.*Asymmetric"),
        (["metrics=[{name: TopK}]"], "metrics.0.name: TopK is for classification"),
        (["dataloader.train.sampler.balanced=true"], "sampler.balanced: is for classification"),
        (["loss={name: BinaryCrossEntropy, label_smoothing: 0.1}"], "label_smoothing: is for"),
        (["loss={name: BinaryCrossEntropy, class_weights: balanced}"], "class_weights: is for"),
        (["distillation={teacher: digits/cvt, weights: w}"], "distillation: is for"),
        (["dataloader.val.dataset.labels=present"], "dataset.labels: is for classification"),
        (
            ["dataloader.val.dataset={name: Digits, split: val, transforms: [{name: Normalize}]}"],
            "Digits is for classification, but dataloader.train for multilabel",
        ),
    ],
)
def test_parts_of_another_task_are_refused(config, run_tool, options, message, tmp_path):
    done = run_tool("train.py", "-c", config(), "-o", *options, expect=2)
    assert re.search(message, done.stderr), done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "option", ["--confusion", "--valid-labels", "--real-labels", "--calibration"]
)
def test_options_of_classification_are_refused(config, run_tool, tmp_path, option):
    weights = tmp_path / "none.safetensors"
    done = run_tool(
        "eval.py", "-c", config(), "--weights", weights, option, tmp_path / "x.csv", expect=2
    )
    assert f"{option}: not for multilabel data" in done.stderr


def test_thresholds_are_for_multilabel_networks(run_tool, root, data):
    old = root / "tests" / "integration" / "version_0_1" / "exported"
    done = run_tool("predict.py", data / "0.png", "--model", old, "--thresholds", 0.5, expect=2)
    assert "--thresholds 0.5: is for multi-label networks" in done.stderr
    with pytest.raises(ConfigError, match="has no thresholds"):
        Predictor(old).labels([data / "0.png"])


def test_balanced_pos_weight_is_of_the_training_data(config):
    """Negative over positive samples; digit 3 has none, so it keeps weight 1."""
    cfg = get_config(
        config(loss={"name": "BinaryCrossEntropy", "pos_weight": "balanced"}),
    )
    loader = build_loader(cfg.dataloader.train, 0)
    model = Model(cfg, classes=loader.classes)
    learner = build_learner(cfg, model, Ranks(), 8, 3, loader.dataset)
    positives = build_dataset(cfg.dataloader.train.dataset).labels.sum(0)
    expected = [(SAMPLES - n) / n if n else 1 for n in positives]
    assert learner.objective.loss.pos_weight.numpy() == pytest.approx(expected)


RANKS = """
import json
from passl.data.loader import build_loader
from passl.evaluation.scores import TASKS, predict
from passl.modeling import Model
from passl.utils.config import get_config
import paddle

cfg = get_config({path!r}, ['dataloader.val.sampler.batch_size=1'])
loader = build_loader(cfg.dataloader.val, 0, ranks.rank, ranks.world)
paddle.seed(0)
model = Model(cfg, classes=loader.classes)
scores = TASKS["multilabel"].score(predict(model, loader), 10, ranks, {{}}).to_dict()
if ranks.is_first:
    del scores["ips"]
    open({out!r}, "w").write(json.dumps(scores))
"""


def test_scores_are_the_same_on_two_ranks(config, fork_ranks, tmp_path):
    """Bit for bit, with batches of one image: others would round differently."""
    found = []
    for world in (1, 2):
        out = tmp_path / f"{world}.json"
        start = "from passl.distributed.ranks import start\nwith start('cpu') as ranks:\n"
        script = RANKS.format(path=str(config()), out=str(out))
        script = start + "".join(f"    {line}\n" for line in script.splitlines())
        assert [code for code, _ in fork_ranks(script, world)] == [0] * world
        found.append(json.loads(out.read_text()))
    assert found[0]["samples"] == SAMPLES
    assert found[1] == found[0]


def test_dry_run_and_report_name_the_labels(config, data, run_tool, tmp_path):
    path = config()
    done = run_tool("train.py", "-c", path, "--dry-run")
    counts = DigitSets(split="val", count=SAMPLES).labels.sum(0)
    assert f"the fewest: digit 3 (0), digit {np.argsort(counts)[0]}" in done.stderr
    shutil.copy(data / "1.png", data / "2.png")
    report = tmp_path / "report.json"
    run_tool("check_data.py", "-c", path, "--part", "val", "--json", report)
    part = json.loads(report.read_text())["parts"]["val"]
    assert part["classes"]["digit 8"] == counts[8]
    labels = [line.split("\t")[1] for line in (data / "list.txt").read_text().splitlines()]
    twins = next(group for group in part["duplicates"] if group[0]["name"].endswith("/1.png"))
    assert [each["class"] for each in twins] == [", ".join(labels[i].split(",")) for i in (1, 2)]


def test_features_need_one_class_each(config, run_tool, tmp_path):
    done = run_tool(
        *("features.py", config(), "--weights", "none.pth", "--out", tmp_path / "f.npy"), expect=2
    )
    assert "is for multilabel, whose images do not have one class each" in done.stderr
