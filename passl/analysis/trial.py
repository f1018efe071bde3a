"""Training steps that nothing is kept of, to look at how they run."""

from __future__ import annotations

from collections.abc import Generator
from itertools import count
from typing import Any

import numpy as np

from passl.analysis.first_look import build_for_training
from passl.data.loader import Batch
from passl.data.transforms.mixup import build_mixup
from passl.distributed.ranks import Ranks
from passl.engine.step import Outcome, train_step
from passl.utils.config import Config

WARMUP = 3
"""Steps before those that are looked at: the first ones choose algorithms and reserve memory."""


class Trial:
    """The steps of a run that starts: its data, network, loss and optimizer. Nothing of a run is
    written, and the weights are thrown away.

    Args:
        cfg: checked by `engine.check.check_config`.
        ranks: that make the steps together.

    Raises:
        ConfigError: the run cannot start as configured.
        RunError: weights cannot be read.
    """

    def __init__(self, cfg: Config, ranks: Ranks):
        self.ranks = ranks
        self.learner, self.loader, _ = build_for_training(cfg, ranks)
        self._mixup = build_mixup(cfg.dataloader.train.get("mixup"), len(self.loader.classes))

    def batches(self) -> Generator[Batch, None, None]:
        """Batches of the training data, epoch after epoch."""
        for epoch in count():
            yield from self.loader.epoch(epoch, times=self.ranks.times)

    def mixed(self, batch: Batch, step: int) -> tuple[Any, Any]:
        """Images and targets after mixup."""
        rng = np.random.default_rng((self.learner.seed, self.ranks.rank, step))
        return self._mixup(batch.images, batch.labels, 0, rng)

    def update(self, images: Any, targets: Any, step: int) -> Outcome:
        """Make one update of the weights."""
        return train_step(self.learner, images, targets, step)
