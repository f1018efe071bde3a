"""Losses: logits and targets to one number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import paddle
from paddle import nn
from paddle.nn import functional as F

from passl.modeling import LOSSES


def smoothed_targets(targets, classes: int, label_smoothing: float):
    """Labels [B], or targets [B, classes] that mixup or CutMix has made of them, as smoothed
    targets [B, classes] float32: (1 - s) * target + s / classes (Szegedy et al., arXiv 1512.00567).

    Smoothing and mixing commute, so mixing does not smooth, and a target is smoothed once however
    it came about.
    """
    if targets.ndim == 1:
        targets = F.one_hot(targets, classes)
    return targets * (1 - label_smoothing) + label_smoothing / classes


class CrossEntropy(nn.Layer):
    """-sum(target * log_softmax(logits)), mean over the batch, for labels and soft targets alike.

    Args:
        label_smoothing: how much of each target is spread over all classes, in [0, 1).
    """

    def __init__(self, *, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = _checked(label_smoothing)

    def forward(self, logits_BK, targets):
        """Logits [B, classes] and labels [B] or targets [B, classes] -> loss, a scalar."""
        targets_BK = smoothed_targets(targets, logits_BK.shape[-1], self.label_smoothing)
        return -(targets_BK * F.log_softmax(logits_BK.astype("float32"), axis=-1)).sum(-1).mean()


class BinaryCrossEntropy(nn.Layer):
    """Every class is a yes-or-no question of its own (ResNet strikes back, arXiv 2110.00476).

    Args:
        label_smoothing: as for CrossEntropy.
        target_threshold: targets above it are 1 and the others 0, after smoothing; null leaves them
            as they are. With mixed targets and a threshold below a half several classes are right.
        sum_classes: add up the classes' losses rather than average them; DeiT III's choice (arXiv
            2204.07118). The mean is 1 / classes of it, and asks for another learning rate.
    """

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        target_threshold: float | None = None,
        sum_classes: bool = False,
    ):
        super().__init__()
        if target_threshold is not None and not 0 <= target_threshold < 1:
            raise ValueError(f"target_threshold {target_threshold} must be at least 0 and below 1")
        self.label_smoothing = _checked(label_smoothing)
        self.target_threshold, self.sum_classes = target_threshold, sum_classes

    def forward(self, logits_BK, targets):
        """Logits [B, classes] and labels [B] or targets [B, classes] -> loss, a scalar."""
        targets_BK = smoothed_targets(targets, logits_BK.shape[-1], self.label_smoothing)
        if self.target_threshold is not None:
            targets_BK = (targets_BK > self.target_threshold).astype("float32")
        losses_BK = F.binary_cross_entropy_with_logits(
            logits_BK.astype("float32"), targets_BK, reduction="none"
        )
        return losses_BK.sum(-1).mean() if self.sum_classes else losses_BK.mean()


class Supervised:
    """What is minimised without a teacher: the loss of the model's logits.

    Args:
        loss: one of LOSSES.
    """

    def __init__(self, loss: nn.Layer):
        self.loss = loss

    def __call__(self, model: nn.Layer, images, targets):
        """Images [B, 3, height, width] and targets, as the loss takes them -> loss, a scalar."""
        return self.loss(model(images), targets)


class Distilled:
    """What is minimised with a teacher, who sees the same images: (1 - alpha) * loss + alpha *
    distance from the teacher. The teacher is in evaluation mode and learns nothing.

    Args:
        loss: one of LOSSES, on the true targets.
        teacher: a network, images to logits of the same classes.
        kind: `hard`: cross entropy with the teacher's best guess (Touvron et al., arXiv
            2012.12877, 3; the ConViT paper's distilled row, with alpha 0.5). `soft`:
            temperature^2 * KL(teacher || student) of the softened outputs, mean over the batch
            (Hinton et al., arXiv 1503.02531). DeiT's code divides that by the classes too, so its
            alpha means less.
        alpha: how much the teacher counts, in [0, 1].
        temperature: what logits are divided by, for `soft`.
    """

    def __init__(
        self,
        loss: nn.Layer,
        teacher: nn.Layer,
        /,
        *,
        kind: Literal["hard", "soft"] = "hard",
        alpha: float = 0.5,
        temperature: float = 3.0,
    ):
        if kind not in ("hard", "soft"):
            raise ValueError(f"distillation.kind {kind!r} is neither hard nor soft")
        if not 0 <= alpha <= 1 or temperature <= 0:
            raise ValueError(
                f"distillation.alpha {alpha} must lie between 0 and 1, and "
                f"distillation.temperature {temperature} above 0"
            )
        teacher.eval()
        self.loss, self.teacher = loss, teacher
        self.kind, self.alpha, self.temperature = kind, alpha, temperature

    def __call__(self, model: nn.Layer, images, targets):
        """As for Supervised."""
        student_BK = model(images)
        with paddle.no_grad():
            teacher_BK = self.teacher(images).astype("float32")
        distance = self._hard if self.kind == "hard" else self._soft
        return (1 - self.alpha) * self.loss(student_BK, targets) + self.alpha * distance(
            student_BK.astype("float32"), teacher_BK
        )

    def _hard(self, student_BK, teacher_BK):
        return F.cross_entropy(student_BK, teacher_BK.argmax(-1))

    def _soft(self, student_BK, teacher_BK):
        student_BK = F.log_softmax(student_BK / self.temperature, axis=-1)
        teacher_BK = F.log_softmax(teacher_BK / self.temperature, axis=-1)
        divergence_B = (teacher_BK.exp() * (teacher_BK - student_BK)).sum(-1)
        return self.temperature**2 * divergence_B.mean()


def build_loss(cfg: Mapping[str, Any]) -> nn.Layer:
    """The loss that a `loss` section describes."""
    return LOSSES.build(cfg)


def _checked(label_smoothing: float) -> float:
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing {label_smoothing} must be at least 0 and below 1")
    return label_smoothing
