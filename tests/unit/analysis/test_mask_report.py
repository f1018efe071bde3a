"""check-data on segmentation data: every mask that does not fit, and the parts of the classes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from passl.analysis.data_report import is_clean, lines, report
from passl.analysis.survey import survey
from passl.data.build import build_dataset
from tests.images import noise


@pytest.fixture
def node(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    masks = {
        "a": np.full((4, 6), 1),
        "b": np.repeat([[0, 1, 255]], 4, 0).repeat(2, 1),
        "size": np.zeros((4, 5)),
        "label": np.full((4, 6), 7),
    }
    for seed, (name, mask) in enumerate(masks.items()):
        noise(6, 4, seed).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    folders = {name: str(tmp_path / name) for name in ("images", "masks")}
    return {"name": "MaskFolder", **folders, "image_suffix": ".png", "num_classes": 3}


@pytest.mark.parametrize("workers", [0, 1])
def test_report(node, workers):
    dataset = build_dataset(node)
    found = report({"train": (dataset, survey(dataset, workers, lambda _: None))})
    part = found["parts"]["train"]
    assert [bad["mask"].rpartition("/")[2] for bad in part["unreadable"]] == [
        "label.png",
        "size.png",
    ]
    assert part["classes"] == {"0": 1, "1": 2, "2": 0}  # images that have a class
    assert part["pixels"] == {"0": 8 / 48, "1": 32 / 48, "2": 0, "ignored": 8 / 48}
    assert part["empty_classes"] == ["2"]
    assert not is_clean(found)
    text = "\n".join(lines(found))
    assert "masks/size.png: is 5 x 4 pixels, but its image is 6 x 4" in text
    assert "masks/label.png: has label 7, but the data has 3 classes" in text
    assert "1 (66.7 %)" in text
