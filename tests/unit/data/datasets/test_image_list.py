"""ImageList and ImageFolder with a class file: labels that do not come from sorted folders."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from passl.data import DATASETS
from passl.data.datasets import image_list
from passl.data.datasets.class_file import read_class_file
from passl.data.datasets.image_folder import ImageFolder
from passl.data.datasets.image_list import ImageList
from passl.errors import ConfigError, RunError


@pytest.fixture
def images(tmp_path):
    """A folder with images of one colour each."""
    for name, colour in {
        "n01/a.png": (1, 0, 0),
        "n02/b c.png": (2, 0, 0),
        "d,1.png": (3, 0, 0),
    }.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), colour).save(path)
    return tmp_path / "data"


def write(path, text: str) -> str:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return str(path)


# -------------------------------------------------------------------------------------------------
# Class files
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat\ndog\n", ["cat", "dog"]),
        ("cat\r\ngolden retriever\r\n\r\n", ["cat", "golden retriever"]),
        ("\ufeffcat\ndog", ["cat", "dog"]),
        ("n02\ttench\nn01\tgoldfish, carp", ["n02", "n01"]),
        ("0 tench, Tinca tinca\n1 goldfish", ["tench, Tinca tinca", "goldfish"]),
        ("1 goldfish\n0\ttench\ta fish", ["tench", "goldfish"]),
        ("1 goldfish\n2 tench", ["1 goldfish", "2 tench"]),  # no labels: they begin at 0
        ("0 tench\ngoldfish", ["0 tench", "goldfish"]),
        ("n01440764 tench, Tinca tinca\nn01443537 goldfish", ["n01440764", "n01443537"]),
        ("n01440764 tench\nn0144 goldfish", ["n01440764 tench", "n0144 goldfish"]),
        ("1\n0", ["1", "0"]),
        ("Käse", ["Käse"]),
    ],
)
def test_class_file_formats(tmp_path, text, names):
    assert read_class_file(write(tmp_path / "classes.txt", text)) == names


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "has no line"),
        ("\n\n", "has no line"),
        ("cat\n\ndog", r"classes\.txt:2: an empty line"),
        ("cat\ndog\ncat", r"classes\.txt:3: class 'cat' is already in line 1"),
        ("1 b\n2 b\n0 b", r"classes\.txt:2: class 'b' is already in line 1"),
    ],
)
def test_wrong_class_file_is_an_error(tmp_path, text, rule):
    with pytest.raises(ConfigError, match=rule) as caught:
        read_class_file(write(tmp_path / "classes.txt", text))
    assert len(caught.value.problems) == 1


def test_missing_class_file_is_an_error(tmp_path):
    for path in (tmp_path / "gone.txt", tmp_path):
        with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: cannot be read"):
            read_class_file(str(path))


# -------------------------------------------------------------------------------------------------
# ImageFolder
# -------------------------------------------------------------------------------------------------
def test_folder_labels_follow_the_class_file(tmp_path):
    for name in ("zebra", "cat"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "data" / name / "a.png")
    classes = write(tmp_path / "classes.txt", "zebra\nape\ncat\ndog")
    arguments = {"dataroot": str(tmp_path / "data"), "class_file": classes}
    dataset = ImageFolder(**arguments)
    assert dataset.classes == ImageFolder.class_names(**arguments) == ["zebra", "ape", "cat", "dog"]
    assert {dataset.name(i).split("/")[-2]: dataset[i][1] for i in range(2)} == {
        "cat": 2,
        "zebra": 0,
    }
    assert dataset.valid_labels is None


def test_folder_missing_from_class_file_is_an_error(tmp_path):
    for name in "abcdefgh":
        (tmp_path / "data" / name).mkdir(parents=True)
    classes = write(tmp_path / "classes.txt", "b\nx")
    for call in (ImageFolder, ImageFolder.class_names):
        rule = r"class folder a, c, d, e, f and 2 more is not in .*classes\.txt"
        with pytest.raises(ConfigError, match=rule):
            call(dataroot=str(tmp_path / "data"), class_file=classes)


# -------------------------------------------------------------------------------------------------
# ImageList
# -------------------------------------------------------------------------------------------------
LIST = "n01/a.png 1\nn02/b c.png 0\nd,1.png 1\n"


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        (LIST, None),
        (LIST.replace("\n", "\r\n"), None),
        ("n01/a.png\t1\nn02/b c.png  \t 0\n d,1.png 1", None),
        (LIST, " "),
        ("n01/a.png,1\nn02/b c.png, 0\nd,1.png,1\n\n", ","),
        ("n01/a.png|::|1\nn02/b c.png|::|0\nd,1.png|::|1", "|::|"),
    ],
)
def test_list_formats(images, tmp_path, text, delimiter):
    arguments = {
        "dataroot": str(images),
        "list_file": write(tmp_path / "list.txt", text),
        "delimiter": delimiter,
    }
    dataset = ImageList(**arguments)
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.labels.dtype == np.int64
    assert [dataset[index][0].getpixel((0, 0))[0] for index in range(3)] == [1, 2, 3]
    assert [dataset[index][1] for index in range(3)] == [1, 0, 1]
    assert dataset.name(1) == str(images / "n02" / "b c.png")
    assert dataset.classes == ImageList.class_names(**arguments) == ["0", "1"]


def test_list_with_class_file(images, tmp_path):
    node = {
        "name": "ImageList",
        "dataroot": str(images),
        "list_file": write(tmp_path / "list.txt", LIST),
        "class_file": write(tmp_path / "classes.txt", "0 tench\n1 goldfish\n2 shark"),
    }
    dataset = DATASETS.build(node)
    del node["name"]
    assert dataset.classes == ImageList.class_names(**node) == ["tench", "goldfish", "shark"]
    assert len(dataset) == 3


def test_absolute_path_and_invalid_utf_8(images, tmp_path):
    strange = tmp_path / "data" / "\udcff.png"
    Image.new("RGB", (4, 4), (9, 0, 0)).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(strange)
    text = f"{images}/n01/a.png 0\n\udcff.png 1"
    dataset = ImageList(dataroot=str(images), list_file=write(tmp_path / "list.txt", text))
    assert [dataset[index][0].getpixel((0, 0))[0] for index in range(2)] == [1, 9]


@pytest.mark.parametrize("call", [ImageList, ImageList.class_names])
@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("a.png", "'a.png' is not PATH LABEL"),
        ("a.png cat", "label 'cat' is not a number of at least 0"),
        ("a.png -1", "label '-1' is not a number"),
        ("a.png 1.0", r"label '1\.0' is not a number"),
        ("a.png ²", "label '²' is not a number"),
        ("a.png 99999999999999999999", "label '9+' is not a number"),
        ("a.png 2", "label 2 is above the 2 classes, which are counted from 0"),
    ],
)
def test_wrong_line_is_an_error(images, tmp_path, call, line, rule):
    path = write(tmp_path / "list.txt", f"n01/a.png 1\n{line}\n")
    with pytest.raises(ConfigError, match=rf"^{re.escape(path)}:2: {rule}") as caught:
        call(
            dataroot=str(images),
            list_file=path,
            class_file=write(tmp_path / "classes.txt", "a\nb"),
        )
    assert len(caught.value.problems) == 1


def test_error_has_the_first_wrong_lines_and_a_count(images, tmp_path):
    path = write(tmp_path / "list.txt", "n01/a.png 1\n" + "a.png x\n" * 20 + "b.png 0")
    with pytest.raises(ConfigError) as caught:
        ImageList(dataroot=str(images), list_file=path)
    assert [problem.removeprefix(path).split(" ")[0] for problem in caught.value.problems] == [
        *(f":{line}:" for line in (2, 3, 4, 5, 6)),
        ":",
    ]
    assert caught.value.problems[-1] == f"{path}: 15 more lines are wrong"


@pytest.mark.parametrize("call", [ImageList, ImageList.class_names])
def test_implausible_label_is_an_error_without_much_memory(images, tmp_path, call):
    path = write(tmp_path / "list.txt", "n01/a.png 1\nn01/a.png 123456789\nn01/a.png 0\n")
    tracemalloc.start()
    with pytest.raises(ConfigError, match=rf"^{re.escape(path)}:2: label 123456789 .*class_file"):
        call(dataroot=str(images), list_file=path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    names = write(tmp_path / "classes.txt", "a\nb")
    with pytest.raises(ConfigError, match=":2: label 123456789 is above the 2 classes"):
        call(dataroot=str(images), list_file=path, class_file=names)


def test_labels_with_gaps(images, tmp_path):
    """A part of a dataset of 203,094 classes, such as Google Landmarks v2."""
    text = "n01/a.png 203093\nn02/b c.png 7\n"
    dataset = ImageList(dataroot=str(images), list_file=write(tmp_path / "list.txt", text))
    assert dataset.labels.tolist() == [203093, 7]
    assert len(dataset.classes) == 203094
    assert dataset.classes[203093] == "203093"


def test_limit_of_labels_depends_on_the_distinct_labels(images, tmp_path, monkeypatch):
    monkeypatch.setattr(image_list, "_MAX_CLASSES", 5)
    for largest, accepted in ((29, True), (30, False)):
        lines = [f"n01/a.png {label}\n" for label in (0, 1, 1, largest)]
        path = write(tmp_path / "list.txt", "".join(lines))
        if accepted:
            assert len(ImageList(dataroot=str(images), list_file=path).classes) == largest + 1
        else:
            with pytest.raises(ConfigError, match=rf"list\.txt:4: label {largest} "):
                ImageList(dataroot=str(images), list_file=path)


@pytest.mark.parametrize("text", ["", "\n", "n01/a.png 1\n\nn01/a.png 1"])
def test_empty_list_or_empty_line_is_an_error(images, tmp_path, text):
    with pytest.raises(ConfigError, match=r"list\.txt(: has no line|:2: an empty line)"):
        ImageList(dataroot=str(images), list_file=write(tmp_path / "list.txt", text))


@pytest.mark.parametrize("call", [ImageList, ImageList.class_names])
def test_missing_first_image_is_an_error(images, tmp_path, call):
    root = str(images / "n01")
    with pytest.raises(ConfigError, match=r"n01/n01/a\.png: the first image of .* does not exist"):
        call(dataroot=root, list_file=write(tmp_path / "list.txt", LIST))


def test_missing_later_image_is_an_error_when_read(images, tmp_path):
    (images / "d,1.png").unlink()
    dataset = ImageList(dataroot=str(images), list_file=write(tmp_path / "list.txt", LIST))
    with pytest.raises(RunError, match=r"d,1\.png: cannot be read as an image \(No such file"):
        dataset[2]


def test_empty_delimiter_is_an_error(images, tmp_path):
    node = {"dataroot": str(images), "list_file": write(tmp_path / "list.txt", LIST)}
    with pytest.raises(ConfigError, match="delimiter '' is empty"):
        DATASETS.build({"name": "ImageList", "delimiter": "", **node})
