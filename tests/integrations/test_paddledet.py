"""Our backbones in PaddleDetection, with its neck, head and trainer."""

from __future__ import annotations

import paddle
import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # of code that is older than its libraries
SMALL = {
    "ConViT": {
        "variant": "convit_tiny",
        "pretrained": False,
        "img_size": 64,
        "patch_size": 4,
        "embed_dim": 64,
        "depth": 4,
        "num_heads": 4,
        "local_up_to_layer": 3,
        "drop_path_rate": 0.0,
        "strides": [8, 16, 32],
    },
    "CvT": {
        "variant": "cvt_13_224",
        "pretrained": False,
        "embed_dim": [24, 48, 96],
        "depth": [1, 1, 2],
        "num_heads": [1, 2, 4],
        "drop_path_rate": 0.0,
        "out_indices": [1, 2, 2],
        "strides": [8, 16, 32],
    },
}
EPOCHS = 3  # of 100 steps


@pytest.fixture
def small(paddledet, page_config):
    """The page's config, with a small network of that name."""
    from ppdet.core.workspace import load_config, merge_config

    def load(name: str):
        load_config("det.yml")
        width = {"feat_in": 64, "feat_out": 64, "num_convs": 1}
        rate = [
            {"name": "CosineDecay", "max_epochs": EPOCHS},
            {"name": "LinearWarmup", "start_factor": 0.01, "steps": 30},
        ]
        return merge_config(
            {
                "use_gpu": False,
                "use_xpu": False,
                "use_npu": False,
                "use_mlu": False,
                "epoch": EPOCHS,
                "snapshot_epoch": EPOCHS,
                "RetinaNet": {"backbone": name},
                name: SMALL[name],
                "FPN": {"out_channel": 64},
                "RetinaHead": {"conv_feat": {"name": "RetinaFeat", "norm_type": "gn", **width}},
                "TrainReader": {"batch_size": 16},
                "EvalReader": {"batch_size": 10},
                "LearningRate": {"base_lr": 2e-3, "schedulers": rate},
            }
        )

    return load


@pytest.mark.parametrize("name", SMALL)
def test_detectors_run_on_images_of_any_size(small, name):
    from ppdet.core.workspace import create

    small(name)
    model = create("RetinaNet")
    model.eval()
    specs = model.backbone.out_shape
    assert [spec.stride for spec in specs] == [8, 16, 32]
    images = paddle.randn([2, 3, 50, 75])
    found = model.backbone({"image": images})
    assert [m.shape for m in found] == [
        [2, spec.channels, 64 // spec.stride, 96 // spec.stride] for spec in specs
    ]
    ones = paddle.ones([2, 2])
    boxes = model({"image": images, "im_shape": ones * 64, "scale_factor": ones})
    assert boxes["bbox"].shape[1] == 6


@pytest.mark.parametrize("name", SMALL)
def test_training(small, name):
    """The page's config with a small network and its trainer: boxes of objects."""
    from ppdet.engine import Trainer, set_random_seed
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    set_random_seed(0)
    Trainer(small(name), mode="train").train(validate=True)
    truth = COCO("data/val.json")
    score = COCOeval(truth, truth.loadRes("bbox.json"), "bbox")  # the file of the last epoch
    score.evaluate()
    score.accumulate()
    score.summarize()
    assert score.stats[1] >= 0.5  # AP50
