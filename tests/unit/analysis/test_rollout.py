"""Attention rollout: its rows sum to 1, and it follows attention from block to block."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from passl.analysis.attention import attention_maps
from passl.analysis.rollout import rollout, spread
from passl.errors import ConfigError
from tests.attention_nets import CONVIT, CVT, images_of, model_of
from tests.unit.analysis.planted import PATCH, image_with, planted_model


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize(
    ("architecture", "size", "stage"),
    [
        (CONVIT, (32, 48), None),
        ({**CONVIT, "local_up_to_layer": 3, "global_pool": "avg"}, (24, 40), None),
        (CVT, (35, 61), 0),
        (CVT, (35, 61), None),
        ({**CVT, "method": "linear"}, (32, 48), None),
    ],
)
def test_rows_sum_to_1(architecture, size, stage, fusion):
    model, image = model_of(architecture), images_of(1, *size)[0].numpy()
    found = rollout(model, image, fusion, stage)
    assert (found.matrix >= 0).all()
    np.testing.assert_allclose(found.matrix.sum(1), 1, rtol=1e-12)
    total = found.map_YX().sum()
    assert found.map_YX().shape == tuple(found.blocks[-1].query_grid)
    assert 0.2 < total <= 1 + 1e-12  # the class token keeps some of itself
    if not found.has_class_token:
        assert total == pytest.approx(1)


def test_convit_by_hand():
    """The class token joins behind two local blocks: the paper's recursion over the patches, and
    then over all tokens.
    """
    model, images = model_of(CONVIT), images_of(1, 32, 48)
    maps = [one.maps_BHNM[0].mean(0).astype(np.float64) for one in attention_maps(model, images)]
    patches = np.eye(24)
    for weights in maps[:2]:
        patches = (0.5 * weights + 0.5 * np.eye(24)) @ patches
    last = 0.5 * maps[2] + 0.5 * np.eye(25)
    wanted = np.concatenate([last[:, :1], last[:, 1:] @ patches], axis=1)
    np.testing.assert_allclose(rollout(model, images[0].numpy()).matrix, wanted, atol=1e-7)


@pytest.mark.parametrize(("name", "row", "column"), [("ConViT", 1, 4), ("CvT", 2, 4)])
def test_planted_head(name, row, column):
    """Half is the residual; of the rest, head 0's half goes to one key. A key of CvT stands for up
    to four tokens.
    """
    found = rollout(planted_model(name), image_with(row, column, 32, 48))
    share = found.map_YX()[row, column]
    keys = 25 if name == "ConViT" else 7
    tokens = 1 if name == "ConViT" else 4
    assert share == pytest.approx(0.5 * (0.5 + 0.5 / keys) / tokens, rel=1e-4)
    heat = found.lattice.upsampled(found.map_YX(), 32, 48)
    assert heat[row * PATCH + PATCH // 2, column * PATCH + PATCH // 2] > 0.9 * heat.max()


def test_spread():
    assert np.array_equal(spread((2, 1), (3, 2)) * 4, [[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 2, 2]])


def test_stages():
    model, image = model_of(CVT), images_of(1, 32, 32)[0].numpy()
    assert [block.name for block in rollout(model, image, stage=1).blocks] == ["stage1.blocks.0"]
    with pytest.raises(ConfigError, match="no stage 3; this network has 0 to 2"):
        rollout(model, image, stage=3)
    with pytest.raises(ConfigError, match="a ConViT has no stages"):
        rollout(model_of(CONVIT), image, stage=0)
    with pytest.raises(ConfigError, match="has no attention"):
        rollout(paddle.nn.Linear(2, 2), image)
