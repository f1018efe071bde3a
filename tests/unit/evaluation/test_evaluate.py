"""Tables, labels and images of an evaluation, on examples counted by hand."""

from __future__ import annotations

import csv
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from passl.errors import ConfigError
from passl.evaluation.confusion import (
    confusion_matrix,
    figure_of_confusion,
    most_confused,
    write_confusion,
)
from passl.evaluation.evaluate import MOST_DRAWN, Options
from passl.evaluation.labels import choose_valid_labels, read_real_labels, real_top1
from passl.evaluation.predictions import Predictions
from passl.evaluation.scores import TASKS
from passl.evaluation.tables import write_per_class, write_predictions
from passl.io.figures import save_figure

CLASSES = ["cat", "dog", 'it\'s, a "fox"']


def dataset(labels, classes=CLASSES, names="image_{}.png", valid_labels=None):
    return SimpleNamespace(
        labels=np.asarray(labels),
        classes=list(classes),
        name=lambda index: names.format(index),
        valid_labels=valid_labels,
    )


class Val:
    """Some images of ImageNet's validation set."""

    def __init__(self, numbers, classes=10, name="data/val/n01440764/ILSVRC2012_val_{:08d}.JPEG"):
        self.numbers, self.classes, self.pattern = numbers, [str(i) for i in range(classes)], name

    def __len__(self):
        return len(self.numbers)

    def name(self, index):
        return self.pattern.format(self.numbers[index])


@pytest.fixture
def found() -> Predictions:
    """Four images, predicted among three classes: right, second, wrong by two, right."""
    return Predictions(
        indices=np.array([0, 1, 2, 3]),
        labels=np.array([0, 0, 1, 1]),
        classes=np.array([[0, 1, 2], [1, 0, 2], [2, 0, 1], [1, 2, 0]]),
        probabilities=np.array(
            [[0.5, 0.3, 0.2], [0.6, 0.4, 0.0], [0.7, 0.2, 0.1], [0.9, 0.1, 1e-9]], np.float32
        ),
        losses=np.zeros(4, np.float32),
        seconds=1.0,
    )


def rows(path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_scores_of_each_class(found, tmp_path):
    """Two of two and one of two; top-5 of three classes is always right; no image, no score."""
    path = tmp_path / "c.csv"
    write_per_class(path, found, CLASSES)
    assert rows(path) == [
        ["class", "samples", "top1", "top5"],
        ["cat", "2", "50.0000", "100.0000"],
        ["dog", "2", "50.0000", "100.0000"],
        ['it\'s, a "fox"', "0", "", ""],
    ]


def test_top5_of_a_class(tmp_path):
    """The label is the sixth prediction of one image, the fifth of the other."""
    predictions = np.array([[1, 2, 3, 4, 5], [1, 2, 3, 4, 0]])
    none = np.zeros((2, 5), np.float32)
    found = Predictions(np.arange(2), np.zeros(2, int), predictions, none, none[:, 0], 1.0)
    write_per_class(tmp_path / "c.csv", found, list("abcdef"))
    assert rows(tmp_path / "c.csv")[1] == ["a", "2", "0.0000", "50.0000"]


def test_confusion(found, tmp_path):
    matrix = confusion_matrix(found, 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    write_confusion(tmp_path / "m.csv", matrix, CLASSES)
    assert rows(tmp_path / "m.csv") == [
        ["true class", *CLASSES],
        ["cat", "1", "1", "0"],
        ["dog", "0", "1", "1"],
        [CLASSES[2], "0", "0", "0"],
    ]


@pytest.mark.parametrize("classes", [2, MOST_DRAWN])
def test_drawing_of_the_confusion_matrix(tmp_path, classes):
    """The diagonal is dark, the rest is light; names may have dollar signs."""
    names = [f"${index} of $" for index in range(classes)]
    save_figure(figure_of_confusion(np.eye(classes, dtype=int) * 3, names), tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB")).astype(int)
    dark_blue = np.abs(pixels - [8, 48, 107]).sum(-1) < 10  # the end of the scale of blues
    light = np.abs(pixels - [247, 251, 255]).sum(-1) < 4  # and its beginning
    parts = dark_blue.sum() / light.sum()
    assert parts == pytest.approx(1 / (classes - 1), rel=0.25)


def test_most_confused_classes():
    matrix = np.array([[5, 3, 0], [3, 90, 1], [0, 4, 0]])
    pairs = most_confused(matrix, 3)
    # By count; of equal counts the larger part of its class. The diagonal is not confused.
    assert [(pair.label, pair.predicted, pair.number) for pair in pairs] == [
        (2, 1, 4),
        (0, 1, 3),
        (1, 0, 3),
    ]
    assert [pair.fraction for pair in pairs] == [1, 3 / 8, 3 / 94]
    assert most_confused(np.eye(3, dtype=int), 5) == []


@pytest.mark.parametrize(("classes", "pairs", "drawn"), [(MOST_DRAWN + 1, None, 2), (3, 1, 1)])
def test_pairs_of_many_classes_are_drawn(classes, pairs, drawn):
    matrix = 9 * np.eye(classes, dtype=int)
    matrix[0, 1], matrix[2, 0] = 3, 7
    (axes,) = figure_of_confusion(matrix, ["猫", "$dog$", "c" * 40] * 17, pairs=pairs).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [f"{'c' * 19}… → 猫", "猫 → $dog$"][:drawn]
    assert [bar.get_width() for bar in axes.patches] == [7, 3][:drawn]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_predictions(found, tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    write_predictions(path, found, dataset([0, 0, 1, 1]))
    if suffix == ".csv":
        table = rows(path)
        assert table[0][:6] == ["name", "label", "label_name", "label_1", "name_1", "probability_1"]
        assert table[0][-1] == "probability_3"
        assert table[3][:6] == ["image_2.png", "1", "dog", "2", CLASSES[2], "0.7"]
        assert len(table) == 5
    else:
        samples = [json.loads(line) for line in path.read_text().splitlines()]
        assert samples[2] == {
            "name": "image_2.png",
            "label": 1,
            "label_name": "dog",
            "best": [
                {"label": 2, "name": CLASSES[2], "probability": 0.7},
                {"label": 0, "name": "cat", "probability": 0.2},
                {"label": 1, "name": "dog", "probability": 0.1},
            ],
        }
        assert [sample["name"] for sample in samples] == [f"image_{i}.png" for i in range(4)]


def test_names_that_are_not_utf8(found, tmp_path):
    """Of files and of class folders: tables have their bytes, JSON has escapes, plots too."""
    classes = ["cat", os.fsdecode(b"d\xf6g"), "fox"]
    data = dataset([0, 0, 1, 1], classes, os.fsdecode(b"\xff_{}.png"))
    write_predictions(tmp_path / "p.csv", found, data)
    text = (tmp_path / "p.csv").read_bytes()
    assert b"\n\xff_2.png,1,d\xf6g," in text
    write_predictions(tmp_path / "p.jsonl", found, data)
    lines = (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()
    sample = json.loads(lines[2])
    assert os.fsencode(sample["name"]) == b"\xff_2.png"
    assert os.fsencode(sample["label_name"]) == b"d\xf6g"
    write_per_class(tmp_path / "c.csv", found, classes)
    assert b"\nd\xf6g,2," in (tmp_path / "c.csv").read_bytes()
    save_figure(figure_of_confusion(np.eye(3, dtype=int), classes), tmp_path / "m.png")
    assert (tmp_path / "m.png").is_file()


# --------------------------------------------------------------------------------------------------
# Files that will be written
# --------------------------------------------------------------------------------------------------
def test_files_of_the_options(tmp_path):
    options = Options(
        per_class=tmp_path / "c.csv",
        confusion=tmp_path / "m.csv",
        predictions=tmp_path / "p.jsonl",
    )
    names = [path.name for path in options.files(50)]
    assert names == ["c.csv", "m.csv", "m.png", "p.jsonl"]
    assert [path.name for path in options.files(51)] == ["c.csv", "m.csv", "p.jsonl"]
    assert Options().files(10) == []


def test_files_that_cannot_be_written(tmp_path):
    (tmp_path / "m.png").touch()
    options = Options(
        per_class=tmp_path / "none" / "c.csv",
        confusion=tmp_path / "m.csv",
        predictions=tmp_path / "p.txt",
    )
    with pytest.raises(ConfigError) as caught:
        options.files(10)
    assert caught.value.problems == (
        f"--per-class {tmp_path / 'none' / 'c.csv'}: the folder {tmp_path / 'none'} does not "
        "exist; make it first",
        f"--confusion {tmp_path / 'm.png'}: is there already and is not overwritten; "
        "choose another name",
        f"--predictions {tmp_path / 'p.txt'}: must end in .csv or .jsonl",
    )
    twice = Options(per_class=tmp_path / "a.csv", predictions=tmp_path / "." / "a.csv")
    with pytest.raises(ConfigError, match="a.csv: is named twice"):
        twice.files(10)


def test_options_of_tasks(tmp_path):
    """Every task can be scored on corrupted images; calibration is of classes."""
    corrupted = Options(corruptions=tmp_path / "c.csv", severities=[1])
    calibrated = Options(calibration=tmp_path / "c.csv", temperature="fit")
    for name, task in TASKS.items():
        corrupted.check(name, task)
        if name == "classification":
            calibrated.check(name, task)
            continue
        with pytest.raises(ConfigError) as caught:
            calibrated.check(name, task)
        assert [problem.split(":")[0] for problem in caught.value.problems] == [
            "--calibration",
            "--temperature",
        ]


# --------------------------------------------------------------------------------------------------
# Labels
# --------------------------------------------------------------------------------------------------
def test_valid_labels(tmp_path):
    data = dataset([2, 0, 0], list("abcd"), valid_labels=[0, 2, 3])
    assert choose_valid_labels(None, data) == [0, 2, 3]
    assert choose_valid_labels(None, dataset([0])) is None
    assert choose_valid_labels("present", data) == [0, 2]
    path = tmp_path / "valid.txt"
    path.write_text("3\nc\n0\n")  # timm's numbers; names too
    assert choose_valid_labels(str(path), data) == [0, 2, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0\n1\n", r"leaves out 1 of the classes that the images have \(c\)"),
        ("0\n2\n4\n", "4 is not the number of a class"),
        ("0\n2\nx\n", "'x' is not a class"),
    ],
)
def test_wrong_valid_labels(tmp_path, text, message):
    path = tmp_path / "valid.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        choose_valid_labels(str(path), dataset([2, 0], list("abcd")))
    with pytest.raises(ConfigError, match="cannot be read"):
        choose_valid_labels(str(tmp_path / "none.txt"), dataset([0]))


def test_real_labels(tmp_path):
    """Images 4, 1, 3 and 2 of four. The third has no label and does not count: of the others, one
    prediction is the only label, one is the second of two, one is wrong.
    """
    path = tmp_path / "real.json"
    path.write_text("[[7], [1, 5], [], [0, 2]]")
    real = read_real_labels(str(path), Val([4, 1, 3, 2]))
    assert real == [[0, 2], [7], [], [1, 5]]
    score, count = real_top1(np.array([2, 7, 9, 6]), real)
    assert (score, count) == (pytest.approx(100 * 2 / 3), 3)
    assert real_top1(np.array([0, 6, 0, 5]), real) == (pytest.approx(100 * 2 / 3), 3)


@pytest.mark.parametrize(
    ("text", "data", "message"),
    [
        ("[[1]", Val([1]), "cannot be read as JSON"),
        ('{"a": [1]}', Val([1]), "is not a list with a list of labels for each image"),
        ("[[1], 2]", Val([1]), "is not a list with a list of labels"),
        ("[[true]]", Val([1]), "is not a list with a list of labels"),
        ("[[-1]]", Val([1]), "is not a list with a list of labels"),
        ("[[1], [10]]", Val([1]), "has label 10, but the data has 10 classes"),
        ("[[1]]", Val([2]), "ILSVRC2012_val_00000002.JPEG is none of its 1 images"),
        ("[[1]]", Val([0]), "ILSVRC2012_val_00000000.JPEG is none of its 1 images"),
        ("[[1]]", Val([1], name="Digits val {}"), "Digits val 1 is none of its 1 images"),
        ("[[], [1]]", Val([1]), "has no label for any image"),
    ],
)
def test_wrong_real_labels(tmp_path, text, data, message):
    path = tmp_path / "real.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_real_labels(str(path), data)
    assert str(path) in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        read_real_labels(str(tmp_path / "none.json"), data)
