"""A learner of a tiny config, and a batch for it."""

from __future__ import annotations

import numpy as np
import paddle

from passl.distributed.ranks import Ranks
from passl.engine.learner import Learner, build_learner
from passl.modeling import Model
from passl.utils.config import get_config


def learner_of(path, *overrides: str) -> Learner:
    cfg = get_config(path, overrides)
    paddle.seed(0)
    learner = build_learner(cfg, Model(cfg), Ranks(), global_batch=4, steps_per_epoch=5)
    learner.begin_epoch(0)
    return learner


def batch(size: int = 4):
    """Images [size, 3, 32, 32] and labels of ten classes."""
    rng = np.random.default_rng(3)
    images = rng.standard_normal((size, 3, 32, 32)).astype("float32")
    return paddle.to_tensor(images), paddle.to_tensor(rng.integers(10, size=size))
