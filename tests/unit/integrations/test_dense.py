"""ConViT and CvT as backbones of dense tasks: strides, padding, freezing, wrong options. The
frameworks themselves are in tests/integrations.
"""

from __future__ import annotations

import importlib
import sys

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F

import passl
from passl.errors import CheckpointError, ConfigError
from passl.integrations.dense import ConViT, CvT

SMALL_CONVIT = {"img_size": 32, "embed_dim": 16, "depth": 2, "num_heads": 4, "local_up_to_layer": 1}
SMALL_CVT = {"embed_dim": [8, 12, 16], "depth": [1, 1, 1], "num_heads": [1, 2, 4]}


def convit(**options) -> ConViT:
    return ConViT("convit_tiny", **SMALL_CONVIT, **options)


def cvt(**options) -> CvT:
    return CvT("cvt_13_224", **SMALL_CVT, **options)


@pytest.mark.parametrize(
    ("backbone", "channels", "strides"),
    [
        (convit(), [4, 8, 16, 16], [4, 8, 16, 32]),
        (convit(out_indices=[0, -1], strides=[8, 32]), [8, 16], [8, 32]),
        (convit(out_indices=None, strides=None), [16, 16], [16, 16]),
        (convit(patch_size=8), [8, 16, 16, 16], [4, 8, 16, 32]),
        (cvt(), [8, 12, 16], [4, 8, 16]),
        (cvt(out_indices=[0, 1, 2, 2], strides=[4, 8, 16, 32]), [8, 12, 16, 16], [4, 8, 16, 32]),
    ],
)
def test_channels_and_strides(backbone, channels, strides):
    assert (backbone.feature_channels, backbone.feature_strides) == (channels, strides)
    backbone.eval()
    maps = backbone(paddle.randn([2, 3, 96, 64]))
    assert [m.shape for m in maps] == [
        [2, c, 96 // s, 64 // s] for c, s in zip(channels, strides, strict=True)
    ]


@pytest.mark.parametrize("backbone", [convit(), cvt()])
def test_any_size_is_padded_at_the_right_and_bottom(backbone):
    backbone.eval()
    images = paddle.randn([1, 3, 41, 70])
    multiple = backbone.feature_strides[-1]
    size = [-(-side // multiple) * multiple for side in (41, 70)]
    padded = paddle.zeros([1, 3, *size])
    padded[:, :, :41, :70] = images
    for ours, expected in zip(backbone(images), backbone(padded), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Paddle's, of the call that fails
def test_export_needs_a_size(tmp_path):
    backbone = cvt()
    backbone.eval()
    spec = paddle.static.InputSpec([None, 3, None, None], "float32")
    with pytest.raises(ConfigError, match="export with a size"):
        paddle.jit.save(paddle.jit.to_static(backbone, [spec]), str(tmp_path / "model"))


def test_maps_are_the_networks_own_normalised():
    """Without another stride nothing but a norm changes the map of the network."""
    backbone = cvt(out_indices=[1])
    backbone.eval()
    images = paddle.randn([2, 3, 32, 32])
    (ours,), (raw,) = backbone(images), backbone.network.forward_features(images, [1])
    expected = F.layer_norm(raw.transpose([0, 2, 3, 1]), [12], epsilon=1e-6)
    np.testing.assert_array_equal(ours, expected.transpose([0, 3, 1, 2]))


def test_every_level_trains_the_network():
    backbone = convit()
    for level in range(4):
        backbone.clear_gradients()
        backbone(paddle.randn([1, 3, 32, 32]))[level].square().sum().backward()
        assert backbone.network.patch_embed.proj.weight.grad.abs().sum() > 0


def test_grey_images():
    assert convit(in_channels=1)(paddle.zeros([1, 1, 32, 32]))[0].shape == [1, 4, 8, 8]


def test_the_first_layers_are_frozen():
    backbone = cvt(freeze_at=1)
    frozen = {name for name, p in backbone.network.named_parameters() if p.stop_gradient}
    statistics = {n for n in frozen if n.endswith(("._mean", "._variance"))}
    trained = dict(backbone.network.named_parameters()).keys() - frozen
    assert {n.split(".")[0] for n in frozen - statistics} == {"stage0"}
    assert not any(n.startswith("stage0") for n in trained)
    before = {n: v.numpy().copy() for n, v in backbone.network.state_dict().items()}
    backbone.train()
    backbone(paddle.randn([2, 3, 32, 32]))
    after = backbone.network.state_dict()
    changed = {n for n in statistics if (before[n] != after[n].numpy()).any()}
    assert changed and not any(n.startswith("stage0") for n in changed)


def test_norms_can_be_frozen_alone():
    backbone = cvt(freeze_norm=True)
    before = {n: v.numpy().copy() for n, v in backbone.state_dict().items()}
    backbone.train()
    sum(m.square().sum() for m in backbone(paddle.randn([2, 3, 32, 32]))).backward()
    for name, value in backbone.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert backbone.network.stage0.patch_embed.proj.weight.grad is not None


@pytest.mark.parametrize("classes", [1000, 5])
def test_weights_of_a_classifier_are_loaded(tmp_path, classes):
    from safetensors.numpy import save_file

    model = passl.create_model("convit_tiny", num_classes=classes, **SMALL_CONVIT)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    path = str(tmp_path / "w.safetensors")
    save_file(weights, path, {"passl_version": passl.__version__})
    for name, value in convit(pretrained=path).network.state_dict().items():
        np.testing.assert_array_equal(value, weights[f"backbone.{name}"])
    with pytest.raises(CheckpointError, match="of another shape"):
        ConViT("convit_tiny", pretrained=path, **{**SMALL_CONVIT, "embed_dim": 32})


@pytest.mark.parametrize(
    ("build", "wrong", "message"),
    [
        (ConViT, {"variant": "convit_tyni"}, "did you mean 'convit_tiny'"),
        (ConViT, {"variant": "cvt_13_224"}, "'cvt_13_224' is a CvT"),
        (CvT, {"variant": "convit_tiny"}, "'convit_tiny' is a ConViT"),
        (convit, {"out_indices": [2]}, "no feature map 2; this network has 0 to 1"),
        (convit, {"out_indices": [0, 1]}, "2 out_indices for 4 strides"),
        (cvt, {"out_indices": "last"}, "out_indices: must be"),
        (convit, {"strides": [4.0]}, "strides: must be"),
        (convit, {"strides": [12]}, "stride 12"),
        (ConViT, {"strides": [1], **SMALL_CONVIT, "embed_dim": 12}, "channels divisible by 16"),
        (convit, {"drop_path": 0.1}, "did you mean 'drop_path_rate'"),
        (cvt, {"freeze_at": 5}, "freeze_at 5 must lie between -1 and 4"),
        (convit, {"pretrained": "convit_smal"}, "convit_smal"),
    ],
)
def test_wrong_options_are_one_line(build, wrong, message):
    with pytest.raises((ConfigError, CheckpointError), match=message) as error:
        build(**wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "package"), [("paddleseg", "paddleseg"), ("paddledet", "ppdet")])
def test_a_missing_framework_is_one_line(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"passl.integrations.{name}", raising=False)
    with pytest.raises(ImportError, match=f"{package}.*docs/integrations.md") as error:
        importlib.import_module(f"passl.integrations.{name}")
    assert "\n" not in str(error.value)
