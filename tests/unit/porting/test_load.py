"""Weights are loaded strictly."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from passl.errors import CheckpointError, ConfigError
from passl.modeling import Model
from passl.modeling.backbones import build_backbone
from passl.porting import load_weights, read_file
from passl.porting.weight_file import OURS

GOLDEN = Path(__file__).parents[2] / "golden"
SMALL = {
    "name": "ConViT",
    "img_size": 48,
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 4,
    "num_heads": 4,
    "local_up_to_layer": 3,
}


def model(classes: int = 10, **options) -> Model:
    head = {"name": "ClsHead", "num_classes": classes, "in_channels": 48}
    return Model({"model": {"architecture": SMALL | options, "head": head}})


def test_backbone_alone_loads_official_names(tmp_path):
    file = read_file(GOLDEN / "convit_fb" / "weights.pth")
    assert file.source.name == "timm"
    weights = file.weights
    path = tmp_path / "backbone.safetensors"
    save_file(
        {
            name: np.ascontiguousarray(a)
            for name, a in weights.items()
            if not name.startswith("head.")
        },
        path,
    )
    backbone = build_backbone(SMALL)
    load_weights(backbone, path)
    np.testing.assert_array_equal(
        backbone.blocks[0].attn.v.weight.numpy(), weights["blocks.0.attn.v.weight"].T
    )
    np.testing.assert_array_equal(
        backbone.patch_embed.proj.weight.numpy(), weights["patch_embed.proj.weight"]
    )


def test_all_mismatches_are_reported_and_nothing_is_loaded():
    net = model(classes=7, qkv_bias=True)
    before = {name: tensor.numpy().copy() for name, tensor in net.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(net, GOLDEN / "convit_fb" / "weights.pth")
    message = str(caught.value)
    assert "weights.pth: weights of another network" in message
    assert "missing in the file (7): backbone.blocks.0.attn.qk.bias" in message
    assert (
        "of another shape (2): head.fc_cls.weight ([48, 10] in the file, [48, 7] in the model)"
        in message
    )
    for name, tensor in net.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name], name)


def segmentation_model() -> Model:
    head = {"name": "FPNHead", "num_classes": 3, "out_indices": [1, 3], "fpn_channels": 8}
    return Model({"model": {"architecture": SMALL, "head": {**head, "channels": 8}}})


def test_another_head_stays_as_initialised():
    net = segmentation_model()
    before = {name: tensor.numpy().copy() for name, tensor in net.head.state_dict().items()}
    file = read_file(GOLDEN / "convit_fb" / "weights.pth")
    plan = load_weights(net, file, fit=["head"])
    assert set(plan.dropped) >= {"head.weight", "head.bias"}
    np.testing.assert_array_equal(
        net.backbone.blocks[0].attn.v.weight.numpy(), file.weights["blocks.0.attn.v.weight"].T
    )
    for name, tensor in net.head.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name], name)


def test_another_head_needs_fit():
    with pytest.raises(CheckpointError, match=r"set model\.fit: \[head\]"):
        load_weights(segmentation_model(), GOLDEN / "convit_fb" / "weights.pth")


@pytest.mark.parametrize(
    ("classes", "options", "advice"),
    [
        (7, {}, r"set model\.fit: \[classes\]"),
        (10, {"in_chans": 1}, r"set model\.fit: \[channels\]"),
        (7, {"in_chans": 1, "img_size": 64}, r"\[classes, resolution, channels\]"),
    ],
)
def test_error_advises_fit(classes, options, advice):
    with pytest.raises(CheckpointError, match=f"to fine-tune from it, .*{advice}"):
        load_weights(model(classes=classes, **options), GOLDEN / "convit_fb" / "weights.pth")


def test_error_advises_no_fit_for_another_network():
    with pytest.raises(CheckpointError, match="belongs to the file$"):
        load_weights(model(classes=7, qkv_bias=True), GOLDEN / "convit_fb" / "weights.pth")


def test_unknown_weights_of_the_file_are_refused():
    with pytest.raises(
        CheckpointError, match=r"not in the model \(16\): blocks.2.attn.gating_param"
    ):
        load_weights(model(depth=3, local_up_to_layer=2), GOLDEN / "convit_fb" / "weights.pth")


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("dtype", ["uint16", "int8", "bool"])
def test_integers_are_refused(tmp_path, dtype, own):
    """bfloat16 saved as its bits and quantised weights would load as numbers far off."""
    file = read_file(GOLDEN / "convit_timm" / "model.safetensors")
    weights = {name: np.ascontiguousarray(array) for name, array in file.weights.items()}
    weights["head.bias"] = np.zeros(10, dtype)
    path = tmp_path / "weights.safetensors"
    save_file(weights, path, {OURS: "0"} if own else None)
    with pytest.raises(CheckpointError, match=rf"head.bias \({dtype}\); .*float32") as caught:
        read_file(path)
    assert "norm.weight" not in str(caught.value)


def test_bfloat16_of_paddle(tmp_path):
    """A network saved by Paddle in bfloat16 computes what its rounded weights do."""
    net = model()
    state = {name: value.astype("bfloat16") for name, value in net.state_dict().items()}
    paddle.save(state, str(tmp_path / "half.pdparams"))
    loaded = model()
    load_weights(loaded, tmp_path / "half.pdparams")
    for name, value in loaded.state_dict().items():
        expected = state[name].astype("float32").numpy()
        np.testing.assert_array_equal(value.numpy(), expected, name)


@pytest.mark.parametrize("name", ["nothing.pth", "nothing.safetensors"])
def test_missing_file(tmp_path, name):
    with pytest.raises(CheckpointError, match=f"{name}: there is no such weight file"):
        load_weights(model(), tmp_path / name)


def test_folder_and_unknown_format(tmp_path):
    with pytest.raises(CheckpointError, match="a folder, not a weight file"):
        load_weights(model(), tmp_path)
    (tmp_path / "weights.h5").write_bytes(b"x")
    with pytest.raises(
        CheckpointError,
        match=r"read from .safetensors, .pth, .pt, .bin, .ckpt, .pdparams, not from weights.h5",
    ):
        load_weights(model(), tmp_path / "weights.h5")


class Payload:
    """What a hostile file may carry."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_code_in_a_file_is_not_executed(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"model": Payload(marker)}))
    with pytest.raises(CheckpointError, match="refused: it asks for .* nothing was run"):
        load_weights(model(), path)
    assert not marker.exists()


def test_pretrained_by_path():
    head = {"name": "ClsHead", "num_classes": 10, "in_channels": 48}
    cfg = {"model": {"architecture": SMALL, "head": head}}
    net = Model(cfg, pretrained=GOLDEN / "convit_fb" / "weights.pth")
    weights = read_file(GOLDEN / "convit_fb" / "weights.pth").weights
    np.testing.assert_array_equal(net.head.fc_cls.weight.numpy(), weights["head.weight"].T)


def test_pretrained_by_an_unknown_name():
    head = {"name": "ClsHead", "num_classes": 10, "in_channels": 48}
    cfg = {"model": {"architecture": SMALL, "head": head}}
    with pytest.raises(ConfigError, match="pretrained: true needs a config of a published variant"):
        Model(cfg, pretrained=True)
    with pytest.raises(ConfigError, match="no weights 'convit_tinny'; did you mean 'convit_tiny'"):
        Model(cfg, pretrained="convit_tinny")
    with pytest.raises(CheckpointError, match="nowhere.pth: there is no such weight file"):
        Model(cfg, pretrained="nowhere.pth")


def test_numerics_of_the_config_are_kept(caplog):
    """MindCV's weights need two options; the config has priority, and a warning is logged."""
    import logging

    case = GOLDEN / "convit_mindcv"
    architecture = {
        **{"name": "ConViT", "img_size": 112, "patch_size": 8, "embed_dim": 48, "depth": 3},
        **{"num_heads": 4, "local_up_to_layer": 2, "act": "gelu"},
    }
    head = {"name": "ClsHead", "num_classes": 6, "in_channels": 48}
    cfg = {"model": {"architecture": architecture, "head": head}}
    logging.getLogger("passl").propagate = True
    with caplog.at_level(logging.INFO, logger="passl"):
        net = Model(cfg, pretrained=case / "weights.ckpt")
    assert net.backbone.norm._epsilon == 1e-7
    assert "want act gelu_tanh, and the model has gelu: its logits will differ" in caplog.text
    assert "set norm_eps 1e-07, which these weights want" in caplog.text
    assert architecture["act"] == "gelu"
    assert "norm_eps" not in architecture
