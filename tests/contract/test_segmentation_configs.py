"""The configs of segmentation: what their files say is what runs."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from passl.data.build import build_transforms
from passl.engine.check import check_config
from passl.errors import ConfigError
from passl.modeling import Model
from passl.optim.optimizers import scaled_lr
from passl.optim.schedules import build_schedule
from passl.utils.config import get_config
from tests.images import noise

ADE20K = ["convit_tiny_ade20k", "cvt_13_ade20k"]
IMAGES, BATCH = 20_210, 32


@pytest.mark.parametrize("name", ADE20K)
def test_schedule_of_pvt(name):
    """40,000 steps of 32 images at 2e-4, decaying to 0 with power 0.9."""
    cfg = get_config(f"segmentation/{name}")
    steps = IMAGES // BATCH
    assert abs(cfg.epochs * steps - 40_000) < steps
    assert scaled_lr(cfg.optimizer, BATCH) == 2e-4
    assert cfg.optimizer.weight_decay == 1e-4
    schedule = build_schedule(cfg.lr_scheduler, 2e-4, steps, cfg.epochs)
    last = steps * cfg.epochs
    for step in (0, last // 2, last - 1):
        assert schedule(step) == pytest.approx(2e-4 * (1 - step / last) ** 0.9, rel=1e-2, abs=1e-8)


@pytest.mark.parametrize("name", ADE20K)
def test_images_of_pvt(name):
    cfg = get_config(f"segmentation/{name}")
    train, val = (build_transforms(cfg.dataloader[p].dataset.transforms) for p in ("train", "val"))
    rng, image = np.random.default_rng(0), noise(300, 200)
    for transform in train:
        image = transform(image, rng)
    assert image.shape == (3, 512, 512)
    sides = [train[0](noise(80, 60), rng).height for _ in range(200)]
    assert 256 <= min(sides) < 280 and 1000 < max(sides) <= 1024
    image = noise(300, 200)
    for transform in val:
        image = transform(image, rng)
    assert image.shape == (3, 512, 768)


@pytest.mark.parametrize("name", ADE20K)
def test_networks(name):
    cfg = get_config(f"segmentation/{name}")
    with paddle.LazyGuard():  # the weights are not drawn
        model = Model(
            get_config(
                f"segmentation/{name}",
                ["model.architecture.locality_strength=null"] * (name[2] == "n"),
            )
        )
    strides = {"convit_tiny_ade20k": [16] * 4, "cvt_13_ade20k": [4, 8, 16]}[name]
    assert model.derived["strides"] == strides
    assert model.num_classes == 150
    assert cfg.model.fit[0] == "head"


@pytest.mark.parametrize("part", ["train", "val"])
def test_digits_need_no_data(part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = get_config("segmentation/digits_cvt")
    check_config(cfg)
    assert cfg.dataloader[part].dataset.name == "DigitScenes"


BAD = {
    "a head of another task": (
        ["model.head={name: ClsHead}"],
        "ClsHead is for classification, but the data is for segmentation; choose FPNHead",
    ),
    "a loss of another task": (["loss={name: CrossEntropy}"], "choose PixelCrossEntropy"),
    "mixup": (["dataloader.train.mixup={mixup_alpha: 0.2}"], "mixup: is for classification"),
    "a transform without masks": (
        ["dataloader.train.dataset.transforms.0={name: RandAugment, policy: rand-m9}"],
        "transforms.0: RandAugment cannot be applied to masks",
    ),
    "a crop in evaluation": (
        ["dataloader.val.dataset.transforms=[{name: CenterCrop, size: 32}, {name: Normalize}]"],
        "val.dataset.transforms.0: CenterCrop changes what is in view",
    ),
    "maps that make no pyramid": (["model.head.out_indices=[0, 2]"], "must double from map to map"),
    "a map that is not there": (["model.head.out_indices=[7]"], "there is no feature map 7"),
    "labels of a subset": (["dataloader.val.dataset.labels=[background]"], "labels: is for class"),
    "balanced weights": (["loss.class_weights=balanced"], "loss.class_weights: must be"),
    "weights of other classes": (["loss.class_weights=[1, 2]"], "2 numbers are not one for each"),
    "distillation": (
        ["distillation={teacher: digits/cvt, weights: x.safetensors}"],
        "distillation: is for classification",
    ),
}


@pytest.mark.parametrize(("overrides", "message"), BAD.values(), ids=BAD)
def test_what_does_not_fit(overrides, message):
    cfg = get_config("segmentation/digits_cvt", overrides)
    with pytest.raises(ConfigError) as caught:
        check_config(cfg)
    assert message in str(caught.value)
