"""`passl.create_model`: variants by name, with options of the backbone, and as feature maps."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import passl
from passl.errors import ConfigError

SMALL = {"depth": 2, "local_up_to_layer": 1, "embed_dim": 16, "num_heads": 4, "img_size": 32}


def test_options_of_the_backbone():
    model = passl.create_model("convit_tiny", num_classes=3, drop_path_rate=0.25, **SMALL)
    assert len(model.backbone.blocks) == 2
    assert model(paddle.zeros([1, 3, 32, 32])).shape == [1, 3]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"drop_path": 0.1}, "did you mean 'drop_path_rate'"),
        ({"num_clases": 3}, "did you mean 'num_classes'"),
        ({"drop_path_rate": 2}, "drop_path_rate"),
        ({"features_only": True, "out_indices": [2]}, "no feature map 2"),
        ({"out_indices": [0]}, "features_only=True"),
    ],
)
def test_wrong_options(wrong, message):
    with pytest.raises(ConfigError, match=message):
        passl.create_model("convit_tiny", **SMALL, **wrong)


def test_feature_maps_of_convit():
    maps = passl.create_model("convit_tiny", features_only=True, out_indices=[-1, 0], **SMALL)
    assert (maps.feature_channels, maps.feature_strides) == ([16, 16], [16, 16])
    maps.eval()
    images = paddle.randn([2, 3, 48, 32])
    last, first = maps(images)
    assert last.shape == first.shape == [2, 16, 3, 2]
    np.testing.assert_array_equal(last, maps.backbone.forward_features(images)[0])


def test_feature_maps_of_cvt_have_their_strides():
    maps = passl.create_model(
        "cvt_13_224",
        features_only=True,
        embed_dim=[8, 12, 16],
        depth=[1, 1, 1],
        num_heads=[1, 2, 4],
    )
    images = paddle.randn([1, 3, 64, 96])
    for found, channels, stride in zip(
        maps(images), maps.feature_channels, maps.feature_strides, strict=True
    ):
        assert found.shape == [1, channels, 64 // stride, 96 // stride]
    assert maps.feature_strides == [4, 8, 16]


def test_features_have_the_weights_of_a_file(tmp_path):
    from safetensors.numpy import save_file

    model = passl.create_model("convit_tiny", **SMALL)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    save_file(weights, tmp_path / "w.safetensors", {"passl_version": passl.__version__})
    maps = passl.create_model(
        "convit_tiny", tmp_path / "w.safetensors", features_only=True, **SMALL
    )
    for name, value in maps.backbone.state_dict().items():
        np.testing.assert_array_equal(value, weights[f"backbone.{name}"])


def test_features_of_weights_for_other_classes(tmp_path):
    from safetensors.numpy import save_file

    model = passl.create_model("convit_tiny", num_classes=5, **SMALL)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    save_file(weights, tmp_path / "w.safetensors", {"passl_version": passl.__version__})
    maps = passl.create_model(
        "convit_tiny", tmp_path / "w.safetensors", features_only=True, **SMALL
    )
    np.testing.assert_array_equal(maps.backbone.pos_embed, weights["backbone.pos_embed"])
