"""Digits from the weights of a network for Fashion-MNIST, as docs/recipes.md does it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from passl.data.build import build_transforms
from passl.data.datasets.mnist import MNIST
from passl.data.transforms.sizes import fixed_size
from passl.modeling import Model
from passl.porting.weight_file import OURS
from passl.utils.config import get_config

BASE = Path(__file__).parents[2] / "configs" / "_base_" / "digits_from_fashion.yaml"
NETWORK = """\
model:
  architecture:
    name: ConViT
    img_size: 28
    in_chans: 1
    patch_size: 7
    embed_dim: 16
    depth: 2
    num_heads: 4
    local_up_to_layer: 1
  head: {name: ClsHead, num_classes: 10}
"""


@pytest.mark.parametrize("name", ["convit", "cvt"])
def test_networks_and_images_are_those_of_fashion(name):
    fashion, digits = get_config(f"fashion/{name}"), get_config(f"fashion/{name}_to_digits")
    assert digits.model.architecture == fashion.model.architecture
    assert digits.model.head == fashion.model.head
    for part in ("train", "val"):
        ours, theirs = (cfg.dataloader[part].dataset for cfg in (digits, fashion))
        assert (ours.name, theirs.name, ours.mode) == ("Digits", "FashionMNIST", theirs.mode)
        assert ours.transforms[-1] == next(t for t in theirs.transforms if t.name == "Normalize")
        assert fixed_size(build_transforms(ours.transforms), ours.mode) == MNIST.image_size


@pytest.mark.parametrize("start", ["fashion.safetensors", "null"])
def test_training_from_fashion_and_from_scratch(run_tool, tmp_path, start):
    """With ten images: the backbone starts from the weights, the head does not."""
    (tmp_path / "network.yaml").write_text(NETWORK)
    paddle.seed(3)
    model = Model(get_config(tmp_path / "network.yaml"))
    given = {name: value.numpy() for name, value in model.state_dict().items()}
    weights = tmp_path / "fashion.safetensors"
    save_file(given, weights, {OURS: "test"})
    config = tmp_path / "digits.yaml"
    config.write_text(f"_base_: [network.yaml, {BASE}]\nmodel: {{pretrained: {weights}}}\n")
    path = start if start == "null" else weights
    done = run_tool(
        *("train.py", "-c", config, "-o", f"model.pretrained={path}"),
        *("dataloader.train.dataset.fraction=0.01", "dataloader.train.sampler.samples=32"),
        # No step changes the weights.
        *("epochs=1", "lr_scheduler={name: Cosine, min_lr: 0.0}", "optimizer.lr=1e-30"),
        *("optimizer.weight_decay=0", f"output_dir={tmp_path / 'run'}"),
    )
    assert "10 training and 360 validation images" in done.stderr
    trained = load_file(tmp_path / "run" / "last.safetensors")
    same = {name for name, array in given.items() if np.array_equal(array, trained[name])}
    drawn = {"backbone.pos_embed", "backbone.patch_embed.proj.weight", "head.fc_cls.weight"}
    assert drawn - same == (drawn if start == "null" else {"head.fc_cls.weight"})
