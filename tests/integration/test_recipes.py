"""Every shipped recipe trains, as its own file says, with synthetic images in place of its data.

In the tests the networks are thin. At full size, by hand, from the project's folder:
`PYTHONPATH=. python tests/integration/test_recipes.py convit_tiny cvt_13_224`
"""

from __future__ import annotations

import math
import pickle
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from passl.engine import train as train_module
from passl.engine.check import check_config
from passl.engine.metrics import read_metrics
from passl.logging import get_logger, log_to_console
from passl.porting.zoo import find
from passl.utils.config import Config, get_config, shipped_configs

RECIPES = {
    path.stem: path
    for path in shipped_configs()
    if path.parent.name not in ("digits", "fashion", "segmentation")
}
BATCH, STEPS = 2, 2


class EnoughError(Exception):
    """Ends a run behind its first epoch. All of its epochs stay in the config, and so its
    schedule.
    """


def write_data(folder: Path) -> None:
    """Noise: four classes in folders, where a class file names all of them, and CIFAR's batches."""
    rng = np.random.default_rng(0)
    for part, count in (("train", BATCH * STEPS), ("val", BATCH)):
        for index in range(count):
            pixels = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
            (folder / part / f"{index:04}").mkdir(parents=True)
            Image.fromarray(pixels).save(folder / part / f"{index:04}" / "image.png")
    for classes in (37, 102, 1000):
        names = "\n".join(f"{label:04}" for label in range(classes))
        (folder / f"{classes}.txt").write_text(names)
    members = {
        "cifar-10-batches-py": ([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], ""),
        "cifar-100-python": (["train", "test"], "fine_"),
    }
    for name, (batches, kind) in members.items():
        (folder / name).mkdir()
        for batch in batches:
            # Five files of one image each, or one of four: two steps of two in either case.
            count = 1 if batch.startswith("data") else BATCH * STEPS
            data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
            content = {b"data": data, f"{kind}labels".encode(): list(range(count))}
            (folder / name / batch).write_bytes(pickle.dumps(content, protocol=2))


def on_synthetic_data(cfg: Config, data: Path) -> list[str]:
    """Overrides: other images, few of them at a time. The transforms stay."""
    overrides = ["log_config.interval=1"]
    for part in ("train", "val"):
        place = f"dataloader.{part}"
        overrides += [f"{place}.sampler.batch_size={BATCH}", f"{place}.loader.num_workers=0"]
        if cfg.dataloader[part].dataset.name == "ImageFolder":
            class_file = data / f"{cfg.model.head.num_classes}.txt"
            overrides += [
                f"{place}.dataset.dataroot={data / part}",
                f"{place}.dataset.class_file={class_file}",
            ]
        else:
            overrides += [f"{place}.dataset.dataroot={data}", f"{place}.dataset.download=false"]
    return overrides


def made_thin(cfg: Config) -> list[str]:
    """Overrides: the same network with fewer and narrower blocks."""
    heads = cfg.model.architecture.num_heads
    if isinstance(heads, int):
        width, depth = 2 * heads, 2
        embed, more = width, ["model.architecture.local_up_to_layer=1"]
    else:
        embed, depth, more = [2 * count for count in heads], [1, 1, 2], []
        width = embed[-1]
    overrides = {"embed_dim": embed, "depth": depth}
    more += [f"model.architecture.{key}={value}" for key, value in overrides.items()]
    return [*more, f"model.head.in_channels={width}"]


def first_epoch(cfg: Config) -> dict[str, np.ndarray]:
    """Check the config, train one epoch of two steps, evaluate, save.

    Returns:
        The weights at the start.
    """
    start: dict[str, np.ndarray] = {}
    step = train_module.train_step

    def watched(learner, images, targets, number, stop):
        if number == STEPS:
            raise EnoughError
        if number == 0:
            start.update({k: v.numpy().copy() for k, v in learner.model.state_dict().items()})
        return step(learner, images, targets, number, stop)

    check_config(cfg)
    with mock.patch.object(train_module, "train_step", watched), pytest.raises(EnoughError):
        train_module.train(cfg)
    return start


class Runs:
    """Runs of recipes, each made when it is asked for, and what it starts from before it."""

    def __init__(self, folder: Path, thin: bool = True):
        self.folder, self.thin = folder, thin
        self.starts: dict[str, dict[str, np.ndarray]] = {}
        write_data(folder / "data")

    def of(self, name: str) -> Path:
        """The folder of the recipe's run."""
        folder = self.folder / name
        if name not in self.starts:
            cfg = get_config(RECIPES[name])
            overrides = [f"output_dir={folder}", *on_synthetic_data(cfg, self.folder / "data")]
            overrides += made_thin(cfg) if self.thin else []
            if "pretrained" in cfg.model:
                overrides.append(f"model.pretrained={self.weights_for(name)}")
            if "distillation" in cfg:
                teacher = self.of(Path(cfg.distillation.teacher).stem)
                overrides.append(f"distillation.teacher={teacher / 'config.yaml'}")
                overrides.append(f"distillation.weights={teacher / 'last.safetensors'}")
            self.starts[name] = first_epoch(get_config(RECIPES[name], overrides))
        return folder

    def weights_for(self, name: str) -> Path:
        """In place of the zoo's weights: those of our own run of the same network."""
        variant = find(get_config(RECIPES[name]).model.pretrained).model
        return self.of(variant) / "last.safetensors"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("recipes"))


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_trains(runs, name):
    folder, cfg = runs.of(name), get_config(RECIPES[name])
    start, end = runs.starts[name], load_file(folder / "last.safetensors")
    rows = read_metrics(folder)
    assert [row["phase"] for row in rows] == ["train"] * STEPS + ["val"]
    # A network that knows nothing, and evenly spread guesses.
    expected = math.log(cfg.model.head.num_classes)
    assert [row["loss"] for row in rows] == pytest.approx([expected] * 3, abs=0.5)

    frozen = "freeze" in cfg
    for key, array in start.items():
        moved = not np.array_equal(array, end[key])
        if key.startswith("head."):
            assert moved, key
        else:
            assert not (frozen and moved), key
    if not frozen:
        assert any(
            not np.array_equal(array, end[key])
            for key, array in start.items()
            if key.startswith("backbone.") and "_mean" not in key and "_variance" not in key
        )


@pytest.mark.parametrize("name", [n for n, path in RECIPES.items() if "finetune" in path.parts])
def test_fine_tuning_starts_from_the_weights(runs, name):
    runs.of(name)
    start, given = runs.starts[name], load_file(runs.weights_for(name))
    fit = get_config(RECIPES[name]).model.get("fit", ())
    fitted = {"classes": "head.fc_cls.", "resolution": "backbone.pos_embed"}
    kept = [key for key in start if not any(key.startswith(fitted[what]) for what in fit)]
    assert len(kept) > len(start) - 3
    for key in kept:
        np.testing.assert_array_equal(start[key], given[key], key)


def main(names: list[str]) -> None:
    """Train these recipes at full size for two steps, and say how long it took."""
    log_to_console()
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder), thin=False)
        for name in names:
            begin = time.perf_counter()
            runs.of(name)
            seconds = time.perf_counter() - begin
            get_logger().info("%s: %d steps of %d in %.1f s", name, STEPS, BATCH, seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
