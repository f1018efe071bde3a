"""Weights are read without running anything, and loaded strictly."""

from __future__ import annotations

import io
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


def torch_zip(path: Path, pickled: bytes, root: str = "archive") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{root}/data.pkl", pickled)
    return path


def test_a_backbone_alone_takes_official_names(tmp_path):
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


def test_everything_that_does_not_fit_is_said_and_nothing_is_loaded():
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


@pytest.mark.parametrize(
    ("classes", "options", "advice"),
    [
        (7, {}, r"set model\.fit: \[classes\]"),
        (10, {"in_chans": 1}, r"set model\.fit: \[channels\]"),
        (7, {"in_chans": 1, "img_size": 64}, r"\[classes, resolution, channels\]"),
    ],
)
def test_what_fits_when_asked_is_advised(classes, options, advice):
    with pytest.raises(CheckpointError, match=f"to fine-tune from it, .*{advice}"):
        load_weights(model(classes=classes, **options), GOLDEN / "convit_fb" / "weights.pth")


def test_no_fit_is_advised_for_another_network():
    with pytest.raises(CheckpointError, match="belongs to the file$"):
        load_weights(model(classes=7, qkv_bias=True), GOLDEN / "convit_fb" / "weights.pth")


def test_what_the_file_has_too_much():
    with pytest.raises(
        CheckpointError, match=r"not in the model \(16\): blocks.2.attn.gating_param"
    ):
        load_weights(model(depth=3, local_up_to_layer=2), GOLDEN / "convit_fb" / "weights.pth")


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("dtype", ["uint16", "int8", "bool"])
def test_integers_are_no_weights(tmp_path, dtype, own):
    """bfloat16 saved as its bits and quantised weights would load as numbers far off."""
    file = read_file(GOLDEN / "convit_timm" / "model.safetensors")
    weights = {name: np.ascontiguousarray(array) for name, array in file.weights.items()}
    weights["head.bias"] = np.zeros(10, dtype)
    path = tmp_path / "weights.safetensors"
    save_file(weights, path, {OURS: "0"} if own else None)
    with pytest.raises(CheckpointError, match=rf"head.bias \({dtype}\); .*float32") as caught:
        read_file(path)
    assert "norm.weight" not in str(caught.value)


def test_bfloat16_of_paddle_is_loaded(tmp_path):
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
def test_a_missing_file(tmp_path, name):
    with pytest.raises(CheckpointError, match=f"{name}: there is no such weight file"):
        load_weights(model(), tmp_path / name)


def test_a_folder_and_an_unknown_format(tmp_path):
    with pytest.raises(CheckpointError, match="a folder, not a weight file"):
        load_weights(model(), tmp_path)
    (tmp_path / "weights.h5").write_bytes(b"x")
    with pytest.raises(
        CheckpointError,
        match=r"read from .safetensors, .pth, .pt, .bin, .ckpt, .pdparams, not from weights.h5",
    ):
        load_weights(model(), tmp_path / "weights.h5")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02\x8a\x0a old torch", b"PK\x03\x04 torn", b"\xff" * 4000]
)
def test_damaged_files(tmp_path, suffix, content):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"weights{suffix}: "):
        load_weights(model(), path)


@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_truncated_files(tmp_path, part):
    for source in ("convit_fb/weights.pth", "convit_timm/model.safetensors"):
        data = (GOLDEN / source).read_bytes()
        path = tmp_path / Path(source).name
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(CheckpointError, match=path.name):
            load_weights(model(), path)


class Payload:
    """What a hostile file may carry."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("nest", [lambda x: x, lambda x: {"model": x}, lambda x: {"a": [x, 1]}])
def test_a_file_that_carries_code_runs_nothing(tmp_path, nest):
    marker = tmp_path / "ran"
    path = torch_zip(tmp_path / "weights.pth", pickle.dumps(nest(Payload(marker))))
    with pytest.raises(CheckpointError, match="refused: it asks for .* nothing was run"):
        read_file(path)
    assert not marker.exists()


def test_a_tensor_that_reaches_beyond_its_storage(tmp_path):
    """Crafted strides and offsets would read foreign memory."""

    for offset, size, stride in (
        (0, (5,), (1,)),
        (3, (2,), (1,)),
        (0, (2, 2), (3, 1)),
        (-1, (1,), (1,)),
        (0, (2,), (-1,)),
    ):
        buffer = io.BytesIO()
        # The protocol's calls are written by hand: GLOBAL torch._utils._rebuild_tensor_v2, then its
        # arguments.
        buffer.write(b"\x80\x02}(X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(")
        buffer.write(
            b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
        )
        for value in (offset, size, stride):
            buffer.write(pickle.dumps(value, protocol=2)[2:-1])
        buffer.write(b"tRu.")
        path = tmp_path / "weights.pth"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", buffer.getvalue())
            archive.writestr("archive/data/0", np.arange(4, dtype="float32").tobytes())
        with pytest.raises(CheckpointError, match="reaches beyond its 4 values"):
            read_file(path)


def test_no_state_dict_in_it(tmp_path):
    path = torch_zip(
        tmp_path / "weights.pth", pickle.dumps({"epoch": 3, "args": "none"}, protocol=2)
    )
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_file(path)


def test_pretrained_by_path():
    head = {"name": "ClsHead", "num_classes": 10, "in_channels": 48}
    cfg = {"model": {"architecture": SMALL, "head": head}}
    net = Model(cfg, pretrained=GOLDEN / "convit_fb" / "weights.pth")
    weights = read_file(GOLDEN / "convit_fb" / "weights.pth").weights
    np.testing.assert_array_equal(net.head.fc_cls.weight.numpy(), weights["head.weight"].T)


def test_pretrained_by_a_name_that_is_none():
    head = {"name": "ClsHead", "num_classes": 10, "in_channels": 48}
    cfg = {"model": {"architecture": SMALL, "head": head}}
    with pytest.raises(ConfigError, match="pretrained: true needs a config of a published variant"):
        Model(cfg, pretrained=True)
    with pytest.raises(ConfigError, match="no weights 'convit_tinny'; did you mean 'convit_tiny'"):
        Model(cfg, pretrained="convit_tinny")
    with pytest.raises(CheckpointError, match="nowhere.pth: there is no such weight file"):
        Model(cfg, pretrained="nowhere.pth")


def test_numerics_that_the_config_says_stay(caplog):
    """MindCV's weights want two switches; a config that says otherwise is right, and a warning is "
    "due."""
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
