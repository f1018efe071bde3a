"""`--crop` changes how an image is framed and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from passl.data.build import build_transforms
from passl.errors import ConfigError
from passl.evaluation.preset import with_crop
from passl.utils.config import get_config

NORMALIZE = {"name": "Normalize", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}


def resize(size, **more):
    return {"name": "Resize", "size": size, **more}


def crop(*size):
    return {"name": "CenterCrop", "size": list(size)}


@pytest.mark.parametrize(
    ("before", "squashed", "cropped"),
    [
        # CvT at 384 as published, and as in PASSL.
        ([resize([384, 384])], [resize([384, 384])], [resize(384), crop(384, 384)]),
        # A crop ratio of 0.875 stays one.
        (
            [resize(256, interpolation="bilinear"), {"name": "CenterCrop", "size": 224}],
            [resize([224, 224], interpolation="bilinear")],
            [resize(256, interpolation="bilinear"), crop(224, 224)],
        ),
        ([resize([96, 64])], [resize([96, 64])], [resize(96), crop(96, 64)]),
        ([crop(32, 32)], [resize([32, 32])], [resize(32), crop(32, 32)]),
    ],
)
def test_frames(before, squashed, cropped):
    assert with_crop([*before, NORMALIZE], "squash") == [*squashed, NORMALIZE]
    assert with_crop([*before, NORMALIZE], "resize") == [*cropped, NORMALIZE]


def test_what_the_frames_show():
    """An image twice as wide as high, with a column of each colour: squashed, all of them are in;
    cropped, the outer ones are not.
    """
    columns = np.repeat(np.array([0, 85, 170, 255], np.uint8), 100)
    image = Image.fromarray(np.stack([np.tile(columns, (200, 1))] * 3, -1))
    plain = {"name": "Normalize", "mean": [0, 0, 0], "std": [1, 1, 1]}

    def greys(rule: str) -> list[int]:
        array = image
        for transform in build_transforms(with_crop([resize([100, 100]), plain], rule)):
            array = transform(array, np.random.default_rng(0))
        assert array.shape == (3, 100, 100)
        return [round(255 * value) for value in array[0, 50, [12, 37, 62, 87]]]

    assert greys("squash") == [0, 85, 170, 255]
    assert greys("resize") == [85, 85, 170, 170]


def test_a_config_of_cvt():
    cfg = get_config("cvt/cvt_13_384.yaml")
    transforms = cfg.dataloader.val.dataset.transforms
    assert with_crop(transforms, "squash")[0]["size"] == [384, 384]
    names = [node["name"] for node in with_crop(transforms, "resize")]
    assert names == ["Resize", "CenterCrop", "Normalize"]


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([NORMALIZE], "takes its size from Resize or CenterCrop, and there is neither"),
        ([resize(32), {"name": "Posterize"}, NORMALIZE], "not Resize, Posterize, Normalize"),
    ],
)
def test_other_lists(transforms, message):
    with pytest.raises(ConfigError, match=message):
        with_crop(transforms, "squash")
