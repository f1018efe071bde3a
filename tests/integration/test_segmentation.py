"""A segmentation from training to masks, as a user runs it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from passl.deploy.export import export
from passl.deploy.from_weights import load
from passl.deploy.predictor import Predictor
from passl.engine.check import check_config
from passl.engine.metrics import read_metrics
from passl.engine.train import train
from passl.errors import ConfigError
from passl.utils.config import get_config
from tests.images import noise

TINY = [
    "model.architecture.embed_dim=[8,8,8]",
    "model.architecture.num_heads=[1,1,1]",
    "model.head.fpn_channels=8",
    "model.head.channels=8",
    "dataloader.train.dataset.count=12",
    "dataloader.train.sampler.batch_size=4",
    "dataloader.val.dataset.count=5",
    "dataloader.val.sampler.batch_size=2",
    "lr_scheduler={name: Constant}",
    "log_config.interval=1",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two epochs with EMA, in two parts; the second continues the first."""
    folder = tmp_path_factory.mktemp("segmentation") / "run"
    more = [f"output_dir={folder}", "ema.decay=0.9", "accumulate=2", "recompute=true"]
    more += ["optimizer.layer_decay=0.9"]
    for epochs, resume in ((1, None), (2, "auto")):
        cfg = get_config("segmentation/digits_cvt", [*TINY, *more, f"epochs={epochs}"])
        check_config(cfg)
        train(cfg, resume)
    return folder


def test_scores_select_the_checkpoint(run):
    rows = [row for row in read_metrics(run) if row["phase"] == "val"]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"mIoU", "pixel_accuracy", "mean_accuracy", "loss"} <= rows[0].keys()


def test_evaluation(run, tmp_path, run_tool):
    files = {option: tmp_path / f"{option}.csv" for option in ("per-class", "confusion")}
    options = [part for option, path in files.items() for part in (f"--{option}", path)]
    weights = ["-c", run / "config.yaml", "--weights", run / "last.safetensors"]
    result = json.loads(run_tool("eval.py", *weights, *options).stdout.splitlines()[-1])
    last = [row for row in read_metrics(run) if row["phase"] == "val"][-1]
    assert result["mIoU"] == pytest.approx(last["mIoU"], rel=1e-6)  # of the averaged weights
    assert list(result["iou"]) == ["background", *map(str, range(10))]
    assert files["per-class"].read_text().startswith("class,pixels,iou,accuracy\nbackground,")
    assert files["confusion"].with_suffix(".png").is_file()
    done = run_tool("eval.py", *weights, "--tta", "flip", expect=2)
    assert "--tta: not for segmentation data" in done.stderr


@pytest.fixture(scope="module")
def exported(run):
    return export(*load(run / "last.safetensors"), run.parent / "exported")


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for name, size in (("a.png", (48, 48)), ("b.jpg", (70, 30))):
        noise(*size).save(tmp_path / "images" / name)
    return tmp_path / "images"


def test_masks_of_images(run, exported, images, tmp_path, run_tool):
    """By the exported folder and by the weights; a mask has the size of its image."""
    done = run_tool("predict.py", images, "--model", exported, "--masks", tmp_path / "m")
    assert f"{images}/a.png -> {tmp_path}/m/a.png" in done.stdout
    with Image.open(tmp_path / "m" / "b.png") as mask:
        assert (mask.mode, mask.size) == ("P", (70, 30))
        labels = np.asarray(mask)
        assert mask.getpalette()[:6] == [0, 0, 0, 128, 0, 0]  # PASCAL VOC's
    (found,) = Predictor(exported).masks([images / "b.jpg"])
    np.testing.assert_array_equal(found, labels)
    weights = ["--weights", run / "last.safetensors"]
    run_tool("predict.py", images, *weights, "--masks", tmp_path / "w")
    with Image.open(tmp_path / "w" / "b.png") as mask:
        # Logits are equal but for rounding.
        assert (np.asarray(mask) == labels).mean() > 0.99


WRONG = {
    "nowhere to write": ([], "name a folder by --masks FOLDER"),
    "a table": (["--masks", "{tmp}/m", "--csv", "{tmp}/x.csv"], "--csv: not for segmentation"),
    "a mask that exists": (["--masks", "{images}"], "a.png: exists already"),
    "a folder that cannot be made": (["--masks", "{tmp}/no/m"], "{tmp}/no"),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_wrong_calls(exported, images, tmp_path, run_tool, options, message):
    named = {"tmp": str(tmp_path), "images": str(images)}
    options = [option.format(**named) for option in options]
    done = run_tool("predict.py", images, "--model", exported, *options, expect=2)
    assert message.format(**named) in done.stderr
    assert sorted(path.name for path in images.iterdir()) == ["a.png", "b.jpg"]


def test_images_of_one_name(exported, images, tmp_path, run_tool):
    noise(9, 9).save(images / "a.jpg")
    masks = ["--masks", tmp_path / "m"]
    done = run_tool("predict.py", images, "--model", exported, *masks, expect=2)
    assert "have one name" in done.stderr
    assert not (tmp_path / "m").exists()


def test_an_image_that_cannot_be_read(exported, images, tmp_path, run_tool):
    (images / "b.jpg").write_bytes(b"no image")
    masks = ["--masks", tmp_path / "m"]
    done = run_tool("predict.py", images, "--model", exported, *masks, expect=1)
    assert (tmp_path / "m" / "a.png").is_file()
    assert "1 of 2 images cannot be read" in done.stderr


def test_python_calls_of_another_task(exported, images):
    predictor = Predictor(exported)
    for call in (predictor.predict, predictor.top, predictor.labels):
        with pytest.raises(ConfigError, match="segmentation"):
            call([images / "a.png"])


def test_two_ranks_make_the_steps_of_one(run_ranks, tmp_path):
    """The same batch, split over two ranks with different numbers of labelled pixels."""
    script = f"""
import numpy as np, paddle
from passl.engine.learner import build_learner
from passl.engine.step import train_step
from passl.modeling import Model
from passl.utils.config import get_config
cfg = get_config("segmentation/digits_cvt", {TINY!r} + ["model.head.num_classes=11",
    "model.head.drop_rate=0", "model.architecture.method=linear", "optimizer.name=SGD",
    "optimizer.lr=0.1"])
rng = np.random.default_rng(0)
images = rng.standard_normal((4, 3, 48, 48)).astype("float32")
masks = rng.integers(0, 11, (4, 48, 48)).astype("uint8")
masks[0, 5:] = 255
paddle.seed(1)
learner = build_learner(cfg, Model(cfg), ranks, global_batch=4, steps_per_epoch=4)
learner.begin_epoch(0)
rows = slice(ranks.rank, None, ranks.world)
batch = paddle.to_tensor(images[rows]), paddle.to_tensor(masks[rows])
for step in range(2):
    outcome = train_step(learner, *batch, step)
if ranks.is_first:
    np.savez(f"{tmp_path}/{{ranks.world}}.npz", loss=outcome.loss,
             **{{n: p.numpy() for n, p in learner.model.named_parameters()}})
"""
    for count in (1, 2):
        run_ranks(script, count)
    one, two = (np.load(tmp_path / f"{count}.npz") for count in (1, 2))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    for name in one.files:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-3, atol=1e-5, err_msg=name)
