"""A checkpoint holds the whole state, under names that another process understands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from passl.engine.checkpoint import Progress, load_checkpoint, save_checkpoint
from passl.modeling import Model
from passl.optim.optimizers import build_optimizer
from passl.porting import load_weights
from passl.utils.config import get_config
from passl.utils.errors import CheckpointError


def fresh(cfg):
    model = Model(cfg)
    return model, build_optimizer(cfg.optimizer, model)


def step(model, optimizer, seed: int):
    images = paddle.to_tensor(
        np.random.default_rng(seed).standard_normal((4, 3, 32, 32)).astype("float32")
    )
    optimizer.set_lr(1e-2)
    loss = (model(images) ** 2).mean()
    loss.backward()
    optimizer.step()
    optimizer.clear_grad(set_to_zero=False)
    return loss.item()


@pytest.mark.parametrize("name", ["ConViT", "CvT"])
def test_another_model_goes_on_exactly(tiny_config, tmp_path, name):
    """The second model is built after others, so that Paddle's generated names differ."""
    cfg = get_config(tiny_config(name, drop=0.0))
    model, optimizer = fresh(cfg)
    for i in range(2):
        step(model, optimizer, i)
    path = tmp_path / "c.safetensors"
    progress = Progress(epoch=1, step=2, best_top1=12.5, best_epoch=1)
    save_checkpoint(path, model, optimizer, progress, cfg.to_dict(), ["a", "b"])
    straight = [step(model, optimizer, i) for i in (2, 3)]

    fresh(cfg)  # a decoy takes the next names
    other, other_optimizer = fresh(cfg)
    found, config = load_checkpoint(path, other, other_optimizer)
    assert (found, config) == (progress, cfg.to_dict())
    assert [step(other, other_optimizer, i) for i in (2, 3)] == straight
    for key, tensor in model.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[key].numpy(), tensor.numpy(), key)


def test_a_checkpoint_is_a_weight_file_too(tiny_config, tmp_path):
    cfg = get_config(tiny_config())
    model, optimizer = fresh(cfg)
    step(model, optimizer, 0)
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, model, optimizer, Progress(), cfg.to_dict(), [])
    other = Model(cfg)
    load_weights(other, path)
    for key, tensor in model.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[key].numpy(), tensor.numpy(), key)
    stored = load_file(path)
    assert "optimizer/head.fc_cls.weight/moment1_0" in stored
    assert not [key for key in stored if "linear_" in key]  # no generated name


def test_a_checkpoint_of_another_network(tiny_config, tmp_path):
    cfg = get_config(tiny_config("ConViT"))
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, *fresh(cfg), Progress(), cfg.to_dict(), [])
    with pytest.raises(
        CheckpointError, match="c.safetensors: weights of another network: missing in the file"
    ):
        load_checkpoint(path, *fresh(get_config(tiny_config("CvT"))))


def test_damaged_missing_and_foreign(tiny_config, tmp_path):
    cfg = get_config(tiny_config())
    model, optimizer = fresh(cfg)
    path = tmp_path / "c.safetensors"
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        load_checkpoint(path, model, optimizer)
    save_checkpoint(path, model, optimizer, Progress(), cfg.to_dict(), [])
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(path, model, optimizer)
    save_file({name: tensor.numpy() for name, tensor in model.state_dict().items()}, path)
    with pytest.raises(CheckpointError, match="weights without the state of a run"):
        load_checkpoint(path, model, optimizer)


def test_a_failed_save_leaves_the_old_checkpoint(tiny_config, tmp_path, monkeypatch):
    cfg = get_config(tiny_config())
    model, optimizer = fresh(cfg)
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, model, optimizer, Progress(epoch=1), cfg.to_dict(), [])
    before = path.read_bytes()

    def full_disk(arrays, temporary, metadata):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("passl.engine.checkpoint.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, model, optimizer, Progress(epoch=2), cfg.to_dict(), [])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if file.suffix != ".yaml"] == ["c.safetensors"]


def test_a_checkpoint_keeps_the_numerics_of_what_it_was_fine_tuned_from(tiny_config, tmp_path):
    """MindCV's weights want a tanh GELU; who evaluates the fine-tuned network must get it too."""
    golden = Path(__file__).parents[2] / "golden" / "convit_mindcv"
    cfg = get_config(tiny_config("ConViT", drop=0.0)).to_dict()
    cfg["model"]["architecture"] |= {"img_size": 112, "embed_dim": 48, "depth": 3}
    cfg["model"]["architecture"]["local_up_to_layer"] = 2
    cfg["model"]["head"] |= {"in_channels": 48, "num_classes": 6}
    model = Model(cfg, pretrained=golden / "weights.ckpt")
    optimizer = build_optimizer(cfg["optimizer"], model)
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, model, optimizer, Progress(), cfg, [])
    again = Model(cfg, pretrained=path)
    assert again.backbone.norm._epsilon == 1e-7
    images = paddle.ones([1, 3, 112, 112])
    again.eval()
    model.eval()
    np.testing.assert_array_equal(again(images).numpy(), model(images).numpy())
