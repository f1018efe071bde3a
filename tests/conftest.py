"""Fixtures of all tests."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# One thread for NumPy, Paddle and the tools that tests start: the tests themselves run in parallel.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def root() -> Path:
    """The project's top folder."""
    return ROOT


@pytest.fixture(autouse=True)
def log_handlers():
    """A test's log handlers end with it; their streams do too."""
    logger = logging.getLogger("passl")
    before = list(logger.handlers)
    yield
    for handler in [handler for handler in logger.handlers if handler not in before]:
        logger.removeHandler(handler)


@pytest.fixture
def run_tool(tmp_path):
    """Run a tool as a user does, from the project's folder: run_tool("train.py", "-c", ...) ->
    CompletedProcess.
    """

    def run(
        tool: str, *args: object, expect: int = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, ROOT / "tools" / tool, *map(str, args)],
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == expect, (
            f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    return run


@pytest.fixture
def tiny_config(tmp_path):
    """A training config that takes seconds: write it with `tiny_config("ConViT", key=value)` and
    get its path.
    """

    def write(name: str = "ConViT", drop: float = 0.1, **root: object) -> Path:
        from passl.utils.yaml12 import to_yaml

        architectures = {
            "ConViT": {
                "img_size": 32,
                "patch_size": 8,
                "embed_dim": 16,
                "depth": 2,
                "num_heads": 4,
                "local_up_to_layer": 1,
            },
            "CvT": {"embed_dim": [8, 12, 16], "depth": [1, 1, 1], "num_heads": [1, 2, 4]},
        }
        normalize = {"name": "Normalize"}
        crop = {"name": "RandomResizedCrop", "size": 32}
        config = {
            "epochs": 2,
            "output_dir": str(tmp_path / "run"),
            "seed": 0,
            "model": {
                "architecture": {
                    "name": name,
                    "drop_rate": drop,
                    "drop_path_rate": drop,
                    **architectures[name],
                },
                "head": {"name": "ClsHead", "num_classes": 10, "in_channels": 16},
            },
            "dataloader": {
                "train": {
                    "dataset": {
                        "name": "Digits",
                        "split": "train",
                        "transforms": [crop, normalize],
                    },
                    "sampler": {"batch_size": 128, "shuffle": True, "drop_last": True},
                },
                "val": {
                    "dataset": {"name": "Digits", "split": "val", "transforms": [normalize]},
                    "sampler": {"batch_size": 128},
                },
            },
            "loss": {"name": "CrossEntropy", "label_smoothing": 0.1},
            "lr_scheduler": {"name": "Cosine", "warmup_epochs": 1},
            "optimizer": {
                "name": "AdamW",
                "lr": 2e-3,
                "grad_clip": {"name": "global_norm", "value": 1.0},
            },
            "log_config": {"interval": 2},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(to_yaml(config | root))
        return path

    return write
