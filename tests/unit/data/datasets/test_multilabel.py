"""Images with sets of labels, in list files and CSV files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from passl.data.build import build_dataset, class_names, task_of
from passl.data.datasets.fingerprint import fingerprint
from passl.data.loader import build_loader
from passl.errors import ConfigError

NORMALIZE = [{"name": "Normalize"}]


@pytest.fixture
def write(tmp_path):
    """write("a.txt", text) -> its path; two images are beside it."""
    for name in ("a b.png", "c.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)

    def make(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return make


@pytest.fixture
def listed(write, tmp_path):
    """The node of a list with this text, and of a class file with these lines, if there are any."""

    def node(text: str, classes: str = "", **options) -> dict:
        node = {"name": "MultilabelList", "dataroot": str(tmp_path), **options}
        node["list_file"] = write("list.txt", text)
        return {**node, "class_file": write("classes.txt", classes)} if classes else node

    return node


@pytest.fixture
def table(write, tmp_path):
    def node(text: str, **options) -> dict:
        node = {"name": "MultilabelCSV", "dataroot": str(tmp_path), **options}
        return {**node, "csv_file": write("t.csv", text)}

    return node


def sets(node) -> list[list[str]]:
    dataset = build_dataset(node)
    assert class_names(node) == dataset.classes
    assert dataset.labels.dtype == bool
    return [[dataset.classes[k] for k in np.flatnonzero(row)] for row in dataset.labels]


def test_names_numbers_and_empty_sets(listed):
    node = listed("a b.png cat,2\nc.png -\nc.png owl\n", "cat\ndog\nowl\n")
    assert sets(node) == [["cat", "owl"], [], ["owl"]]
    dataset = build_dataset(node)
    assert dataset.name(0).endswith("a b.png")
    assert task_of(node) == "multilabel"
    label = dataset[0][1]
    assert (label.dtype, label.tolist()) == (np.float32, [1, 0, 1])


def test_names_with_spaces_and_another_separator(listed):
    node = listed("a b.png\tbig cat|dog, old\nc.png\t-\n", "big cat\ndog, old\n", delimiter="\t")
    assert sets({**node, "separator": "|"}) == [["big cat", "dog, old"], []]
    with pytest.raises(ConfigError, match="has the separator ','"):
        build_dataset(node)


def test_numbers_without_a_class_file(listed):
    assert sets(listed("c.png 0,3\nc.png -\n")) == [["0", "3"], []]
    assert class_names(listed("c.png 0,3\n")) == ["0", "1", "2", "3"]


def test_paddleclas_lists_have_a_bit_for_each_class(listed):
    node = listed("a b.png\t0,1,1\nc.png\t0,0,0\n", delimiter="\t", binary=True)
    assert sets(node) == [["1", "2"], []]
    assert len(class_names(node)) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c.png cat,dgo", r"list.txt:2: 'dgo' is not a class of the class_file; did you mean .dog"),
        ("c.png 3", "list.txt:2: label 3 is above the 3 classes"),
        ("c.png -1", "list.txt:2: '-1' is not a class"),
        ("c.png", "list.txt:2: is not PATH LABELS; an image without labels has -"),
        ("c.png cat,", "list.txt:2: '' is not a class"),
    ],
)
def test_wrong_lines(listed, line, message):
    with pytest.raises(ConfigError, match=message):
        build_dataset(listed(f"c.png cat\n{line}\n", "cat\ndog\nowl\n"))


def test_all_wrong_lines_are_counted(listed):
    with pytest.raises(ConfigError, match="2 more lines are wrong"):
        build_dataset(listed("c.png x\n" * 7, "cat\n"))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("c.png cat\n", {}, ":1: label 'cat' is not a number.*class_file"),
        ("c.png 10000\n", {}, ":1: label 10000 is above the 10,000 classes"),
        ("c.png -\n", {}, "no image has a label"),
        ("c.png 0,1\nc.png 0\n", {"binary": True}, ":2: has 1 values, but there are 2 classes"),
        ("c.png 0,2\n", {"binary": True}, ":1: value 2 is '2'; it must be 0 or 1"),
        ("d.png 0\n", {}, ":1: image .*d.png does not exist"),
    ],
)
def test_wrong_lists_without_classes(listed, text, options, message):
    with pytest.raises(ConfigError, match=message):
        build_dataset(listed(text, **options))


def test_a_column_for_each_class(table):
    node = table("id,cat,dog\nc,1,0\na b,1.0,1\nc,0,0\n", image_suffix=".png")
    assert sets(node) == [["cat"], ["cat", "dog"], []]
    text = 'cat,id,"dog, old",note\n1,c.png,0,x\n0,c.png,1,y\n'
    node = table(text, image_column="id", class_columns=["dog, old", "cat"])
    assert sets(node) == [["cat"], ["dog, old"]]


def test_a_column_of_labels(table, write):
    classes = write("classes.txt", "clear\nhaze\nprimary\n")
    node = table("image,tags\nc.png,haze primary\nc.png,\nc.png,0\n", separator=" ")
    node |= {"label_column": "tags", "class_file": classes}
    assert sets(node) == [["haze", "primary"], [], ["clear"]]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("id,cat\nc.png,2\n", {}, "t.csv:2: cat is '2'; it must be 0 or 1"),
        ("id,cat\nc.png,1\nc.png,\n", {}, "t.csv:3: cat is ''; it must be 0 or 1"),
        ("id,cat\nc.png,1,1\n", {}, "t.csv:2: has 3 cells, but the header has 2"),
        ("id,cat,cat\nc.png,1,1\n", {}, "t.csv:1: column 'cat' is there twice"),
        (
            "id,cat\nc.png,1\n",
            {"image_column": "ID"},
            "t.csv:1: has no column .ID.; there are cat, id",
        ),
        ("id,cat\nc.png,1\n", {"label_column": "dog"}, "t.csv:1: has no column 'dog'"),
        ("id,cat\nc.png,4 5\n", {"label_column": "cat"}, "t.csv:2: label '4 5' is not a number"),
        ("id\nc.png\n", {}, "t.csv:1: has no column of a class"),
        ("id,cat\n", {}, "needs a header and at least one line"),
        ("id,cat\nd.png,1\n", {}, "t.csv:2: image .*d.png does not exist"),
        ("id,cat\nc.png,1\n", {"class_file": "x"}, "class_file is for label_column"),
        ("id,c\nc,1\n", {"label_column": "c", "class_columns": ["c"]}, "exclude each other"),
    ],
)
def test_wrong_tables(table, text, options, message):
    with pytest.raises(ConfigError, match=message):
        build_dataset(table(text, **options))


def test_batches_and_subsets(listed):
    node = listed("c.png cat\nc.png cat,dog\nc.png -\nc.png dog\n", "cat\ndog\n")
    section = {"dataset": {**node, "transforms": NORMALIZE}, "sampler": {"batch_size": 3}}
    first, second = build_loader(section, 0).epoch(0)
    assert first.labels.numpy().tolist() == [[1, 0], [1, 1], [0, 0]]
    assert second.labels.numpy().tolist() == [[0, 1]]
    part = build_dataset({**node, "fraction": 0.5})
    assert part.labels.shape == (2, 2)
    assert part.label(0).tolist() == part.labels[0].tolist()
    with pytest.raises(ConfigError, match="labels: .*multilabel"):
        build_dataset({**node, "labels": ["cat"]})


def test_fingerprints_differ_by_labels(listed):
    one = fingerprint(build_dataset(listed("c.png cat\n", "cat\ndog\n")))
    other = fingerprint(build_dataset(listed("c.png dog\n", "cat\ndog\n")))
    assert one["labels"] != other["labels"]
    assert {**one, "labels": 0} == {**other, "labels": 0}


def test_digit_sets():
    """Each image has the ink of as many digits as were drawn, and is always the same."""
    node = {"name": "DigitSets", "split": "val", "count": 40}
    dataset, again = build_dataset(node), build_dataset({**node, "count": 20})
    counts = dataset.labels.sum(1)
    assert counts.min() == 0
    assert counts.max() == 4
    for index in range(20):
        pixels = np.asarray(dataset[index][0])
        assert pixels.any() == bool(counts[index])
        np.testing.assert_array_equal(pixels, np.asarray(again[index][0]))
        np.testing.assert_array_equal(dataset.labels[index], again.labels[index])
