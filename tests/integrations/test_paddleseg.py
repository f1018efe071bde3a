"""Our backbones in PaddleSeg, with its heads and its trainer."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # of code that is older than its libraries
SMALL = {
    "ConViT": {
        "type": "ConViT",
        "variant": "convit_tiny",
        "img_size": 64,
        "patch_size": 4,
        "embed_dim": 64,
        "depth": 4,
        "num_heads": 4,
        "local_up_to_layer": 3,
        "drop_path_rate": 0.0,
    },
    "CvT": {
        "type": "CvT",
        "variant": "cvt_13_224",
        "embed_dim": [24, 48, 96],
        "depth": [1, 1, 2],
        "num_heads": [1, 2, 4],
        "drop_path_rate": 0.0,
    },
}
LEVELS = {"ConViT": [0, 1, 2, 3], "CvT": [0, 1, 2]}


def build(node: dict):
    """What PaddleSeg makes of a config node."""
    from paddleseg.cvlibs import SegBuilder

    return SegBuilder(None).build_component(node)


@pytest.mark.parametrize("size", [(64, 64), (50, 75)])
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("head", ["UPerNet", "FCN"])
def test_heads_run_on_images_of_any_size(paddleseg, head, name, size):
    indices = LEVELS[name] if head == "UPerNet" else [-1]
    node = {"type": head, "num_classes": 3, "channels": 16, "backbone_indices": indices}
    model = build({**node, "backbone": SMALL[name]})
    (logits,) = model(paddle.randn([2, 3, *size]))
    assert logits.shape == [2, 3, *size]
    logits.sum().backward()
    first = next(p for p in model.backbone.network.parameters() if p.ndim == 4)
    assert first.grad.abs().sum() > 0


@pytest.mark.parametrize("name", SMALL)
def test_maps_lie_where_the_pixels_are(paddleseg, name):
    """Maps cover the image alone: of an image with padding, those of the padding are cut off."""
    backbone = build(SMALL[name])
    backbone.eval()
    images = paddle.randn([1, 3, 50, 75])
    multiple = backbone.feature_strides[-1]
    padded = paddle.zeros([1, 3, *(-(-side // multiple) * multiple for side in (50, 75))])
    padded[:, :, :50, :75] = images
    assert backbone.feat_channels == backbone.feature_channels
    for ours, whole, stride in zip(
        backbone(images), backbone(padded), backbone.feature_strides, strict=True
    ):
        rows, columns = -(-50 // stride), -(-75 // stride)
        np.testing.assert_array_equal(ours, whole[:, :, :rows, :columns])


def test_export_with_a_fixed_size(paddleseg, tmp_path):
    """What PaddleSeg's export does; the size is not a multiple of the strides."""
    node = {"type": "UPerNet", "num_classes": 3, "channels": 8, "backbone_indices": [0, 1, 2, 3]}
    model = build(
        {
            **node,
            "backbone": {**SMALL["ConViT"], "embed_dim": 16, "depth": 2, "local_up_to_layer": 1},
        }
    )
    model.eval()
    spec = paddle.static.InputSpec([1, 3, 50, 75], "float32")
    paddle.jit.save(paddle.jit.to_static(model, [spec]), str(tmp_path / "model"))
    images = paddle.randn([1, 3, 50, 75])
    (ours,), exported = model(images), paddle.jit.load(str(tmp_path / "model"))
    np.testing.assert_allclose(exported(images), ours, rtol=0, atol=1e-5)


def test_wrong_options_come_through(paddleseg):
    with pytest.raises(RuntimeError, match="did you mean 'convit_tiny'"):
        build({"type": "ConViT", "variant": "convit_tyni"})


def test_loss_is_cross_entropy(paddleseg):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 4, 5)).astype("float32")
    labels = rng.integers(0, 3, (2, 4, 5))
    labels[0, 0, :3] = 255
    loss = build({"type": "PixelCrossEntropy"})
    (ours,) = loss(paddle.to_tensor(logits), paddle.to_tensor(labels)).tolist()
    exact = logits.astype("float64").transpose(0, 2, 3, 1)
    exact = exact - np.log(np.exp(exact).sum(-1, keepdims=True))
    kept = labels != 255
    expected = -np.take_along_axis(exact[kept], labels[kept][:, None], 1).mean()
    assert ours == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])
def test_pixels_are_counted_as_paddleseg_does(paddleseg, ignored):
    """In NumPy, with the definitions of PaddleSeg's `calculate_area`."""
    from paddleseg.utils import metrics

    rng = np.random.default_rng(0)
    pred, label = rng.integers(0, 3, (2, 2, 1, 8, 9))
    label[rng.random(label.shape) < ignored] = 255
    found = metrics.calculate_area(
        paddle.to_tensor(pred.astype("int32")), paddle.to_tensor(label), 3
    )
    kept = label != 255
    expected = [
        [int(((pred == c) & (label == c)).sum()) for c in range(3)],
        [int(((pred == c) & kept).sum()) for c in range(3)],
        [int((label == c).sum()) for c in range(3)],
    ]
    assert [counts.tolist() for counts in found] == expected


@pytest.mark.parametrize("name", SMALL)
def test_training(paddleseg, page_config, name):
    """The page's config with a small network and its trainer: objects apart from the background."""
    from paddleseg.core import evaluate, train
    from paddleseg.cvlibs import Config, SegBuilder
    from paddleseg.utils.utils import set_seed

    set_seed(0)
    small = {
        "batch_size": 16,
        "iters": 400,
        "lr_scheduler.learning_rate": 2e-3,
        "lr_scheduler.warmup_iters": 30,
        "model.channels": 32,
        "model.backbone_indices": LEVELS[name],
        "model.backbone": SMALL[name],
    }
    config = Config("seg.yml", opts=[f"{key}={value}" for key, value in small.items()])
    parts = SegBuilder(config)
    train(
        parts.model,
        parts.train_dataset,
        optimizer=parts.optimizer,
        save_dir="output",
        iters=config.iters,
        batch_size=config.batch_size,
        log_iters=10,
        losses=parts.loss,
    )
    miou = evaluate(parts.model, parts.val_dataset)[0]
    assert miou >= 0.8
