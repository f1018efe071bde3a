"""Losses: logits and targets to one number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddle import nn
from paddle.nn import functional as F

from passl.modeling import LOSSES


class CrossEntropy(nn.Layer):
    """-sum(target * log_softmax(logits)), mean over the batch.

    Hard labels become smoothed one-hot targets; soft targets [B, classes] are taken as they are,
    since whoever mixed them has smoothed them.

    Args:
        label_smoothing: how much of each hard target is spread over all classes (Szegedy et al.
            2016), in [0, 1).
    """

    def __init__(self, *, label_smoothing: float = 0.0):
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing {label_smoothing} must be at least 0 and below 1")
        self.label_smoothing = label_smoothing

    def forward(self, logits_BK, targets):
        """Logits [B, classes] and labels [B] of integers, or targets [B, classes]; -> loss, a
        scalar.
        """
        if targets.ndim == 1:
            classes = logits_BK.shape[-1]
            on = F.one_hot(targets, classes)
            targets = on * (1 - self.label_smoothing) + self.label_smoothing / classes
        return -(targets * F.log_softmax(logits_BK, axis=-1)).sum(-1).mean()


def build_loss(cfg: Mapping[str, Any]) -> nn.Layer:
    """The loss that a `loss` section describes."""
    return LOSSES.build(cfg)
