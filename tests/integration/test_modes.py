"""Grey images and images with opacity from the folder to the prediction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passl.deploy import Predictor
from passl.deploy.batch import find_images, predict_files
from passl.deploy.export import export
from passl.deploy.from_weights import load
from passl.distributed import ranks as distributed
from passl.engine.check import check_config
from passl.engine.train import train
from passl.evaluation.evaluate import Options, evaluate_weights
from passl.utils.config import Config, get_config


def write_images(folder: Path, mode: str) -> None:
    """Two classes: bright squares and dark ones; in RGBA they differ by their opacity alone."""
    rng = np.random.default_rng(0)
    for name, level in (("bright", 200), ("dark", 60)):
        for index in range(12):
            noise = rng.integers(0, 40, (40, 48), dtype=np.uint8)
            if mode == "L":
                image = Image.fromarray(noise + np.uint8(level))
            else:
                colours = Image.fromarray(np.repeat(noise[..., None], 3, axis=2))
                image = colours.convert("RGBA")
                image.putalpha(level)
            (folder / name).mkdir(parents=True, exist_ok=True)
            image.save(folder / name / f"{index:02}.png")


def config(path: Path, data: Path, mode: str, channels: int) -> Config:
    """Augmentation of every kind, mixup included."""
    both = f"name: ImageFolder, dataroot: '{data}', mode: {mode}"
    augment = (
        "[{name: RandomResizedCrop, size: 32}, {name: RandAugment, policy: rand-m9-mstd0.5-inc1}, "
        "{name: ColorJitter, brightness: 0.4, saturation: 0.4, hue: 0.1, p: 0.5}, "
        "{name: Normalize}, {name: RandomErasing, p: 0.25, mode: pixel}]"
    )
    return get_config(
        path,
        [
            f"dataloader.train.dataset={{{both}, transforms: {augment}}}",
            f"dataloader.val.dataset={{{both}, transforms: [{{name: Resize, size: [32, 32]}}, "
            "{name: Normalize}]}",
            f"model.architecture.in_chans={channels}",
            "model.head.num_classes=2",
            "dataloader.train.sampler.batch_size=8",
            "dataloader.train.mixup={mixup_alpha: 0.8}",
            "epochs=1",
            "lr_scheduler.warmup_epochs=0",
        ],
    )


@pytest.mark.parametrize(
    ("name", "mode", "channels"), [("ConViT", "L", 1), ("CvT", "RGBA", 4), ("CvT", "L", 1)]
)
def test_from_the_folder_to_the_prediction(tiny_config, tmp_path, name, mode, channels):
    write_images(tmp_path / "data", mode)
    cfg = config(tiny_config(name), tmp_path / "data", mode, channels)
    check_config(cfg)
    assert train(cfg).epoch == 1
    weights = Path(cfg.output_dir) / "best.safetensors"

    table = tmp_path / "predictions.jsonl"
    ranks = distributed.start("cpu")
    found = evaluate_weights(cfg, weights, Options(predictions=table), ranks)
    assert found["samples"] == 24
    rows = [json.loads(line) for line in table.read_text().splitlines()]

    model, description = load(weights)
    assert (description.mode, description.input) == (mode, [channels, 32, 32])
    predictor = Predictor(export(model, description, tmp_path / "out"), threads=1)
    files = find_images([str(tmp_path / "data")])
    assert len(rows) == len(files) == 24
    for row, predicted in zip(rows, predict_files(predictor, files, 2, 16), strict=True):
        assert row["name"] == predicted.name
        expected = {best["name"]: best["probability"] for best in row["best"]}
        # Logits agree to 2e-5 of the largest, see `export`.
        assert {best.name: best.probability for best in predicted.best} == pytest.approx(
            expected, rel=0, abs=1e-4
        )
