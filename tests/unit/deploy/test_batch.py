from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from passl.deploy.batch import find_images, predict_files
from passl.deploy.exported import Description
from passl.deploy.predictor import Classifier
from passl.errors import ConfigError


@pytest.fixture
def images(tmp_path):
    for index, name in enumerate(("b.png", "a.JPG", "sub/c.png")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (index * 100, 0, 0)).save(path, "PNG")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_files_folders_and_lists(images):
    names = [str(images / name) for name in ("a.JPG", "b.png", "sub/c.png")]
    assert find_images([str(images)]) == names
    listed = images / "list.txt"
    listed.write_text(f"{names[2]}\n{names[0]}\n")
    assert find_images([names[1], f"@{listed}"]) == [names[1], names[2], names[0]]


def test_links_are_followed_once_as_in_training(images, tmp_path, caplog):
    elsewhere = tmp_path.parent / f"{tmp_path.name}_elsewhere"
    elsewhere.mkdir()
    Image.new("RGB", (4, 4)).save(elsewhere / "d.png")
    os.symlink(elsewhere, images / "linked")
    os.symlink(images, images / "sub" / "circle")
    os.symlink(images / "gone.png", images / "gone.png")
    names = [str(images / name) for name in ("a.JPG", "b.png", "linked/d.png", "sub/c.png")]
    assert find_images([str(images)]) == names
    assert f"the first is {images}/gone.png" in caplog.text


def test_missing_files_are_reported_together(images, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as error:
        find_images([str(tmp_path / "empty"), str(tmp_path / "no.jpg")])
    first, second = error.value.problems
    assert "empty: the folder has no image" in first
    assert "no.jpg: there is no such image or folder" in second
    with pytest.raises(ConfigError, match="no image is named"):
        find_images([])


def test_a_bad_image_is_left_out_of_its_batch(images):
    described = Description(
        model={},
        transforms=[{"name": "Normalize", "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}],
        input=[3, 4, 4],
        classes=["dark", "red"],
        numerics={},
        parameters=0,
        weights="",
        exif_turn=False,
    )
    sizes = []

    def engine(images):
        sizes.append(len(images))
        red = images[:, 0].mean((1, 2))
        return np.stack([0.3 - red, red - 0.3], 1)

    (images / "bad.png").write_text("damaged")
    files = [str(images / name) for name in ("a.JPG", "bad.png", "b.png", "sub/c.png")]
    found = list(predict_files(Classifier(engine, described), files, 1, 2))
    assert [row.name for row in found] == files
    assert [[g.name for g in row.best] for row in found] == [["red"], [], ["dark"], ["red"]]
    assert [row.error is None for row in found] == [True, False, True, True]
    assert sizes == [1, 2]
    assert found[1].to_dict()["error"].startswith(files[1])
    assert set(found[0].to_dict()) == {"name", "best"}
