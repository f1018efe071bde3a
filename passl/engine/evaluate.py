"""Scores of a model on a data set."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from passl.data.loader import Loader
from passl.engine.distributed import Ranks
from passl.utils.errors import RunError


@dataclass(frozen=True)
class Scores:
    """What an evaluation found.

    Args:
        top1, top5: per cent of the samples whose class was the best guess, or among the five best.
        loss: mean cross entropy.
        samples: how many were scored, over all ranks.
        ips: images per second, over all ranks, reading included.
    """

    top1: float
    top5: float
    loss: float
    samples: int
    ips: float

    def to_dict(self) -> dict[str, float]:
        """As plain data."""
        return asdict(self)


@paddle.no_grad()
def evaluate(model: nn.Layer, loader: Loader, ranks: Ranks = Ranks()) -> Scores:  # noqa: B008 (frozen)
    """Score the model, in evaluation mode, on every sample exactly once. Its mode is restored.

    Counts are summed over the ranks, so that the scores do not depend on how many there are.
    """
    was_training = model.training
    model.eval()
    start = time.perf_counter()
    top1 = top5 = samples = 0
    loss = 0.0
    for images, labels in loader.epoch(0):
        logits = model(images)
        top1 += count_correct(logits, labels, 1)
        top5 += count_correct(logits, labels, 5)
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        samples += labels.shape[0]
    top1, top5, loss, samples = ranks.sum([top1, top5, loss, samples])
    if was_training:
        model.train()
    if not np.isfinite(loss):
        raise RunError(
            "the network's outputs are not finite; the weights are damaged, or training has "
            "diverged"
        )
    seconds = time.perf_counter() - start
    return Scores(
        100 * top1 / samples, 100 * top5 / samples, loss / samples, int(samples), samples / seconds
    )


def count_correct(logits_BK, labels_B, k: int) -> int:
    """How many labels are among the k best guesses; among all, where there are fewer than k
    classes.
    """
    best_Bk = logits_BK.topk(min(k, logits_BK.shape[-1]), axis=-1)[1]
    return int((best_Bk == labels_B.unsqueeze(-1)).sum().item())
