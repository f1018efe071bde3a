"""Scores of multi-label predictions against scikit-learn, for any number of ranks."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from sklearn import metrics as sk

from passl.errors import ConfigError, RunError
from passl.evaluation.multilabel import (
    MULTILABEL,
    MultilabelPredictions,
    averaged,
    collect,
    score,
    write_best_thresholds,
)
from passl.evaluation.thresholds import best_thresholds, read_thresholds

CLASSES = ["cat", "dog", "fox", "owl", "yak"]


def predictions(samples: int = 40, seed: int = 0, positive: float = 0.3) -> MultilabelPredictions:
    """Logits with many ties; no sample has the last label, though it is predicted."""
    rng = np.random.default_rng(seed)
    labels = rng.random((samples, 5)) < positive
    labels[:, 4] = False
    logits = np.round(2 * rng.standard_normal((samples, 5)) + labels, 1).astype(np.float32)
    return MultilabelPredictions(np.arange(samples), labels, logits, seconds=1.0)


class Together:
    """Stands for ranks whose predictions are made already."""

    def __init__(self, parts: list[MultilabelPredictions]):
        self.parts, self.world = parts, len(parts)

    def wait(self) -> None: ...

    def gather(self, arrays):
        return [{name: getattr(part, name) for name in arrays} for part in self.parts]

    def sum(self, values):
        return [sum(part.seconds for part in self.parts) for _ in values]


def test_scores_are_scikit_learns():
    found = predictions()
    scores = score(found, 5)
    labels, probabilities = found.labels[:, :4], found.probabilities[:, :4]
    assert scores.mAP == pytest.approx(100 * sk.average_precision_score(labels, probabilities))
    predicted = found.probabilities > 0.5
    assert scores.micro_f1 == pytest.approx(
        100 * sk.f1_score(found.labels, predicted, average="micro")
    )
    assert scores.macro_f1 == pytest.approx(
        100 * sk.f1_score(labels, predicted[:, :4], average="macro")
    )
    own = [100 * sk.average_precision_score(labels[:, k], probabilities[:, k]) for k in range(4)]
    assert scores.per_class["average_precision"] == [*map(pytest.approx, own), None]
    assert scores.loss == pytest.approx(
        np.mean(
            [
                sk.log_loss(found.labels[:, k], found.probabilities[:, k], labels=[0, 1])
                for k in range(5)
            ]
        )
    )
    assert "1 of 5 have no positive sample" in scores.remarks()[0]


def test_extreme_logits_keep_their_order():
    """float32's sigmoid is 1 for all of these; the positive sample is the highest."""
    logits = np.array([[30.0], [25.0], [20.0]], np.float32)
    found = MultilabelPredictions(np.arange(3), np.array([[True], [False], [False]]), logits, 1.0)
    assert score(found, 1).mAP == 100


@pytest.mark.parametrize("splits", [(0,), (1,), (7, 7, 30)])
def test_scores_do_not_depend_on_the_ranks(splits):
    """Bit for bit; one rank may have no sample, and a sample that two have counts once."""
    whole, order = predictions(), np.random.default_rng(1).permutation(40)
    parts = [
        MultilabelPredictions(rows, whole.labels[rows], whole.logits[rows], 1.0)
        for rows in [*np.split(order, splits), order[:3]]
    ]
    one, many = score(whole, 5), score(parts[0], 5, Together(parts))
    assert {**many.to_dict(), "ips": 0} == {**one.to_dict(), "ips": 0}
    assert many.per_class == one.per_class


def test_data_without_a_label_or_a_finite_output():
    with pytest.raises(RunError, match="no sample of the validation data has a label"):
        score(predictions(positive=0), 5)
    found = predictions()
    found.logits[3, 2] = np.nan
    with pytest.raises(RunError, match="outputs are not finite"):
        score(found, 5)


def test_views_are_averaged_as_probabilities():
    """Also of certain and opposite views, where a probability rounds to 1."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(scale=4, size=(2, 6, 5)).astype(np.float32)
    first[0, 0], second[0, 0] = 60, -60
    mean = (1 / (1 + np.exp(-first.astype(float))) + 1 / (1 + np.exp(-second.astype(float)))) / 2
    found = averaged([paddle.to_tensor(first), paddle.to_tensor(second)])
    np.testing.assert_allclose(found.numpy(), np.log(mean / (1 - mean)), rtol=1e-5, atol=1e-5)
    batch = (
        [paddle.to_tensor(first), paddle.to_tensor(second)],
        paddle.ones([6, 5]),
        paddle.arange(6),
    )
    np.testing.assert_allclose(collect([batch], 5).probabilities, mean, rtol=1e-5)


def test_best_thresholds_have_the_highest_f1():
    """Of every threshold that separates probabilities differently."""
    found = predictions(25)
    thresholds = best_thresholds(found.labels, found.probabilities)
    for k in range(4):
        labels, probabilities = found.labels[:, k], found.probabilities[:, k]
        every = [sk.f1_score(labels, probabilities > t) for t in [0.0, *probabilities]]
        assert sk.f1_score(labels, probabilities > thresholds[k]) == pytest.approx(max(every))
    assert thresholds[4] == 0.5


def test_file_of_the_best_thresholds(tmp_path):
    """It can be read again, and its scores are those with these thresholds."""
    found, path = predictions(), tmp_path / "t.csv"
    write_best_thresholds(path, found, SimpleNamespace(classes=CLASSES))
    thresholds = read_thresholds(str(path), CLASSES)
    assert thresholds == best_thresholds(found.labels, found.probabilities)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    chosen = MultilabelPredictions(found.indices, found.labels, found.logits, 1.0, thresholds)
    f1 = score(chosen, 5).per_class["f1"]
    assert [float(row["f1"]) for row in rows[:4]] == pytest.approx(f1[:4], abs=1e-4)
    assert rows[4]["f1"] == ""


def test_threshold_of_one_number():
    assert read_thresholds("0.25", ["a", "b"]) == [0.25, 0.25]
    assert read_thresholds(None, ["a", "b"]) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,value\ncat,0.5\n", "columns class and threshold"),
        ("class,threshold\ncat,0.5\ndog,high\n", ":3: threshold 'high' is not a number"),
        ("class,threshold\ncat,0.5\ndog,1.5\n", ":3: threshold 1.5: .* from 0 to 1"),
        ("class,threshold\ncat,0.5\n", "one line for each of the 2 classes.*dog"),
        ("class,threshold\ncat,0.5\ndog,0.5\ncat,0.4\n", "it has 3"),
        ("class,threshold\ncat,0.5\nfox,0.5\n", "dog and fox|dog, fox"),
    ],
)
def test_wrong_files_of_thresholds(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_thresholds(str(path), ["cat", "dog"])


@pytest.mark.parametrize("option", ["1.5", "-0.1", "nan", "none.csv"])
def test_wrong_thresholds(option):
    with pytest.raises(ConfigError, match="--thresholds " + option):
        read_thresholds(option, ["cat"])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_tables(tmp_path, suffix):
    labels = np.array([[True, True], [False, False], [True, False]])
    logits = np.float32([[2, 1], [-1, -1], [-1, 3]])
    found = MultilabelPredictions(np.arange(3), labels, logits, 1.0)
    data = SimpleNamespace(classes=["cat", "dog"], name=lambda index: f"{index}.png")
    path = tmp_path / f"p{suffix}"
    MULTILABEL.tables["predictions"](path, found, data)
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [row["labels"] for row in rows] == [["cat", "dog"], [], ["cat"]]
        assert [row["predicted"] for row in rows] == [["cat", "dog"], [], ["dog"]]
        assert rows[0]["probabilities"] == {"cat": 0.880797, "dog": 0.731059}
    else:
        rows = list(csv.DictReader(path.read_text().splitlines()))
        assert [row["labels"] for row in rows] == ["cat|dog", "", "cat"]
        assert rows[2]["name"] == "2.png"
        assert rows[2]["dog"] == "0.952574"
    MULTILABEL.tables["per_class"](tmp_path / "c.csv", found, data)
    rows = list(csv.reader((tmp_path / "c.csv").read_text().splitlines()))
    assert rows[0][:2] == ["class", "samples"]
    # cat: ranked true, (true, false) tied; dog: false, true.
    average = 100 * (0.5 * 1 + 0.5 * 2 / 3)
    assert rows[1] == ["cat", "2", f"{average:.4f}", "100.0000", "50.0000", "66.6667", "0.5"]
    assert rows[2] == ["dog", "1", "50.0000", "50.0000", "100.0000", "66.6667", "0.5"]
