"""Fixtures of all tests."""

from __future__ import annotations

import logging
import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

import passl  # noqa: F401  (before Paddle, as in every tool)

ROOT = Path(__file__).resolve().parents[1]
# One thread for NumPy, Paddle and the tools that tests start: the tests themselves run in parallel.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Only the tests of indexes keep them.
os.environ["PASSL_INDEX"] = "0"


@pytest.fixture
def root() -> Path:
    """The project's top folder."""
    return ROOT


@pytest.fixture(autouse=True)
def as_before():
    """What a test does to the logger ends with the test; its streams do too."""
    logger = logging.getLogger("passl")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    _remove_handlers(logger, keep=handlers)
    logger.setLevel(level)
    logger.propagate = propagate


def _remove_handlers(logger: logging.Logger, keep: list[logging.Handler]) -> None:
    for handler in [handler for handler in logger.handlers if handler not in keep]:
        logger.removeHandler(handler)


@pytest.fixture
def run_tool(monkeypatch, capfd):
    """Run a command line in this process, from the project's folder or another: run_tool(
    "train.py", "-c", ...) -> CompletedProcess. `make demo` and
    tests/repo/test_package.py start processes.
    """

    def run(
        tool: str, *args: object, expect: int = 0, folder: Path = ROOT, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        path = (ROOT / "tools" / tool).resolve()
        argv = [str(path), *map(str, args)]
        logger = logging.getLogger("passl")
        handlers = list(logger.handlers)
        capfd.readouterr()
        with monkeypatch.context() as patch, mock.patch.dict(os.environ, environment):
            patch.setattr(sys, "argv", argv)
            patch.syspath_prepend(str(path.parent))
            patch.chdir(folder)
            try:
                runpy.run_path(str(path), run_name="__main__")
                code = 0
            except SystemExit as stopped:
                code = stopped.code or 0
                if isinstance(code, str):
                    sys.stderr.write(f"{code}\n")
                    code = 1
            finally:
                _remove_handlers(logger, keep=handlers)
        done = subprocess.CompletedProcess(argv, code, *capfd.readouterr())
        assert code == expect, f"exit code {code}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture
def tiny_config(tmp_path):
    """A training config that takes seconds: write it with `tiny_config("ConViT", key=value)` and
    get its path.
    """

    def write(name: str = "ConViT", drop: float = 0.1, **root: object) -> Path:
        from passl.utils.yaml import to_yaml

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
