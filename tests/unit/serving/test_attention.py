from __future__ import annotations

import base64
from dataclasses import replace
from io import BytesIO

import numpy as np
import paddle
import pytest
from PIL import Image

from passl.analysis.attention import attention_maps
from passl.deploy.exported import Description
from passl.serving.attention import attention_of
from tests.attention_nets import CONVIT, CVT, model_of
from tests.unit.serving.conftest import described


def of_size(size: int) -> Description:
    found = described("classification", ["a", "b", "c"])
    resize = {"name": "Resize", "size": [size, size]}
    return replace(found, transforms=[resize, found.transforms[1]], input=[3, size, size])


@pytest.mark.parametrize(
    ("architecture", "block", "query"),
    [
        (CONVIT, "blocks.2", "class"),
        (CVT, "stage2.blocks.1", "class"),
        ({**CVT, "with_cls_token": [False, False, False]}, "stage2.blocks.1", None),
    ],
    ids=["ConViT", "CvT", "CvT without class token"],
)
def test_attention_of_the_last_block(architecture, block, query):
    """The mean of the heads, for each image of a batch; the map is drawn over the image."""
    model = model_of(architecture)
    attend = attention_of(model, of_size(32))
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype("float32")
    (expected,) = attention_maps(model, paddle.to_tensor(images), [block], query)
    found = attend(images)
    for index, one in enumerate(found):
        assert (one["block"], one["query"]) == (
            block,
            "class token" if query else "mean of all patches",
        )
        mean = expected.to_patches_BHNYX[index].mean((0, 1))
        # Rounded to six digits; the sums of a batch and of one image are rounded in float32.
        np.testing.assert_allclose(one["weights"], mean, atol=2e-6)
        overlay = np.asarray(Image.open(BytesIO(base64.b64decode(one["overlay"]))))
        assert overlay.shape == (224, 224, 3)
        assert overlay.std() > 5


def test_a_network_without_attention(caplog):
    model = model_of(CONVIT)
    model.backbone = paddle.nn.Flatten()
    with caplog.at_level("INFO", "passl"):
        assert attention_of(model, of_size(32)) is None
    assert "Flatten" in caplog.text
