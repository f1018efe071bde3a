"""Every registered backbone keeps the contract that the registry's docstring states."""

from __future__ import annotations

import copy

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from passl.modeling.backbones import BACKBONES, build_backbone
from tests.numerics import check_network

# One small network of each; a backbone that is registered but not here fails the first test. Rates
# above zero, so that training differs from evaluation.
SMALL = {
    "ConViT": {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 3,
        "num_heads": 4,
        "local_up_to_layer": 2,
        "drop_rate": 0.1,
        "drop_path_rate": 0.2,
    },
    "CvT": {
        "embed_dim": [8, 12, 16],
        "depth": [1, 1, 2],
        "num_heads": [1, 2, 4],
        "drop_rate": 0.1,
        "drop_path_rate": 0.2,
    },
}
NAMES = BACKBONES.names()


@pytest.fixture(params=NAMES)
def cfg(request):
    return {"name": request.param, **SMALL[request.param]}


@pytest.fixture
def backbone(cfg):
    paddle.seed(0)
    return build_backbone(cfg)


def images_of(batch: int, height: int = 32, width: int = 32):
    return paddle.to_tensor(
        np.random.default_rng(batch).standard_normal((batch, 3, height, width), np.float32)
    )


def test_every_backbone_is_tested():
    assert NAMES
    assert set(NAMES) == set(SMALL)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_features_of_any_batch(backbone, batch, mode):
    getattr(backbone, mode)()
    features = backbone(images_of(batch))
    assert features.shape == [batch, backbone.num_features]
    assert np.isfinite(features.numpy()).all()


def test_outputs_do_not_depend_on_the_batch(backbone):
    backbone.eval()
    images = images_of(3)
    one_by_one = paddle.concat([backbone(images[i : i + 1]) for i in range(3)])
    check_network(backbone(images), one_by_one)


def test_exported_with_any_batch(backbone, tmp_path):
    backbone.eval()
    before = {batch: backbone(images_of(batch)).numpy() for batch in (1, 2, 3)}
    spec = [InputSpec([-1, 3, 32, 32], "float32", "images")]
    paddle.jit.save(
        paddle.jit.to_static(backbone, spec, full_graph=True, backend=None), str(tmp_path / "net")
    )
    loaded = paddle.jit.load(str(tmp_path / "net"))
    loaded.eval()
    for batch, expected in before.items():
        check_network(loaded(images_of(batch)), expected)


@pytest.mark.parametrize("size", [(32, 64), (64, 32), (48, 80)])
def test_rectangular_images(backbone, size):
    backbone.eval()
    features = backbone(images_of(2, *size))
    assert features.shape == [2, backbone.num_features]
    last = backbone.forward_features(images_of(2, *size))[-1]
    assert last.shape == [
        2,
        backbone.num_features,
        size[0] // backbone.feature_strides[-1],
        size[1] // backbone.feature_strides[-1],
    ]


def test_channels_and_strides_of_each_feature_map(backbone):
    backbone.eval()
    height, width = 2 * backbone.feature_strides[-1], 3 * backbone.feature_strides[-1]
    assert backbone.feature_channels[-1] == backbone.num_features
    assert len(backbone.feature_channels) == len(backbone.feature_strides)
    for index, (channels, stride) in enumerate(
        zip(backbone.feature_channels, backbone.feature_strides, strict=True)
    ):
        (found,) = backbone.forward_features(images_of(1, height, width), [index])
        assert found.shape == [1, channels, height // stride, width // stride]
    with pytest.raises(ValueError, match=f"there is no .* {len(backbone.feature_strides)}"):
        backbone.forward_features(images_of(1), [len(backbone.feature_strides)])


def test_height_and_width_are_not_confused(backbone):
    """A change at one end of a wide image changes the map there."""
    backbone.eval()
    wide = images_of(1, 32, 96)
    changed = wide.clone()
    changed[:, :, :, -backbone.feature_strides[-1] :] += 5.0
    difference = (
        (backbone.forward_features(changed)[-1] - backbone.forward_features(wide)[-1])
        .abs()
        .sum([0, 1])
        .numpy()
    )
    assert difference[:, -1].mean() > 2 * difference[:, 0].mean()


def test_every_parameter_gets_a_gradient(backbone):
    backbone.train()
    weights = images_of(4)
    features = backbone(weights)
    (
        features
        * paddle.to_tensor(
            np.random.default_rng(0).standard_normal(features.shape).astype("float32")
        )
    ).sum().backward()
    trainable = {name: p for name, p in backbone.named_parameters() if not p.stop_gradient}
    assert trainable
    assert [name for name, p in trainable.items() if p.grad is None] == []


def test_state_dict_round_trip(cfg, backbone):
    backbone.eval()
    state = {name: tensor.numpy().copy() for name, tensor in backbone.state_dict().items()}
    other = build_backbone(cfg)
    other.eval()
    assert not np.allclose(other(images_of(1)).numpy(), backbone(images_of(1)).numpy())
    missing, unexpected = other.set_state_dict(state)
    assert (missing, unexpected) == ([], [])
    np.testing.assert_array_equal(other(images_of(1)).numpy(), backbone(images_of(1)).numpy())


def test_config_is_not_modified_and_builds_twice(cfg):
    before = copy.deepcopy(cfg)
    first, second = build_backbone(cfg), build_backbone(cfg)
    assert cfg == before
    ours, theirs = dict(first.named_parameters()), dict(second.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(ours[name] is not theirs[name] for name in ours)


def test_evaluation_is_deterministic_and_training_is_not(backbone):
    images = images_of(8)
    backbone.eval()
    np.testing.assert_array_equal(backbone(images).numpy(), backbone(images).numpy())
    backbone.train()
    assert not np.array_equal(backbone(images).numpy(), backbone(images).numpy())


def test_evaluation_changes_nothing(backbone):
    backbone.eval()
    before = {name: tensor.numpy().copy() for name, tensor in backbone.state_dict().items()}
    buffers = {name for name, _ in backbone.named_buffers()}
    backbone(images_of(2, 48, 32))
    assert {name for name, _ in backbone.named_buffers()} == buffers
    for name, tensor in backbone.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name], name)


def test_feature_maps_by_index(backbone):
    backbone.eval()
    images = images_of(2, 32, 64)
    last = backbone.forward_features(images, [-1])
    assert len(last) == 1
    first, again = backbone.forward_features(images, [0, -1])
    np.testing.assert_array_equal(again.numpy(), last[0].numpy())
    assert first.ndim == 4


def test_no_weight_decay_names_parameters_with_more_than_one_axis(backbone):
    spared = backbone.no_weight_decay()
    parameters = dict(backbone.named_parameters())
    assert spared <= parameters.keys()
    assert all(parameters[name].ndim > 1 for name in spared)
    assert any(name.endswith("cls_token") for name in spared)


def test_layers_are_counted_from_the_image(backbone):
    """Every index from 0 to num_layers is some parameter's, blocks are in the order of the network,
    and the final norm is the last.
    """
    index = {name: backbone.layer_index(name) for name, _ in backbone.named_parameters()}
    assert set(index.values()) == set(range(backbone.num_layers + 1))
    assert {name for name in index if index[name] == backbone.num_layers} == {
        "norm.weight",
        "norm.bias",
    }
    blocks = [index[name] for name in index if "blocks." in name]
    assert blocks == sorted(blocks)
    assert set(blocks) == set(range(1, backbone.num_layers))
    assert next(index[name] for name in index if "patch_embed" in name) == 0
