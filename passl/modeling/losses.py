"""Losses: logits and targets to a scalar.

`class_weights` make rare classes count as much as frequent ones: one weight for each class, or
`balanced` for n / (classes * count), from the n training samples. The loss of a batch is the
weighted mean of its samples' losses, so only the proportions of the weights matter. Training
divides by the mean weight of the whole batch, over all ranks and parts (`accumulate`), so the loss
does not depend on how the batch is split.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import paddle
from paddle import nn
from paddle.nn import functional as F
from pydantic import AfterValidator

from passl.modeling import LOSSES
from passl.utils.schema import validated
from passl.utils.types import NonNegativeFloat, PositiveFloat, Probability, Rate


def check_weights(weights: str | Sequence[float]) -> str | Sequence[float]:
    """Return the class weights of a config; raise ValueError if they are out of range."""
    if not isinstance(weights, str):
        wrong = next((w for w in weights if not 0 <= w < math.inf), None)
        if wrong is not None:
            raise ValueError(f"{wrong:g} must be finite and not negative")
        if not any(weights):
            raise ValueError("its weights are all 0, so that no class would count")
    return weights


ClassWeights = Annotated[Literal["balanced"] | Sequence[float], AfterValidator(check_weights)]
_LEAST = 1e-12
"""The least mean weight of a batch, so that a batch of classes without weight has loss 0; and the
least probability whose logarithm is taken.
"""


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """n / (classes * count) for each class: scikit-learn's `compute_class_weight("balanced")`.

    Args:
        counts: training samples of each class, n together. A class without samples has weight 0 and
            is not counted.
    """
    classes = sum(count > 0 for count in counts)
    return [sum(counts) / (classes * count) if count else 0.0 for count in counts]


def balanced_pos_weight(positives: Sequence[int], samples: int) -> list[float]:
    """Negative over positive training samples of each class; 1 for a class without one of them."""
    return [(samples - n) / n if 0 < n < samples else 1.0 for n in positives]


def smoothed_targets(targets, classes: int, label_smoothing: float):
    """Smoothed targets [B, classes] float32, (1 - s) * target + s / classes (Szegedy et al., arXiv
    1512.00567), of labels [B], or of targets [B, classes] from mixup or CutMix.

    Smoothing and mixing commute; mixing leaves smoothing to this function.
    """
    if targets.ndim == 1:
        targets = F.one_hot(targets, classes)
    return targets * (1 - label_smoothing) + label_smoothing / classes


class Weighted(nn.Layer):
    """A loss whose samples can be weighted by class.

    Args:
        class_weights: a weight for each class; null for no weights.
    """

    def __init__(self, class_weights: str | Sequence[float] | None):
        super().__init__()
        self.class_weights = None
        if isinstance(class_weights, str):
            raise ValueError(f"class_weights {class_weights!r} needs the training data's counts")
        if class_weights is not None:
            # The largest is 1, so that `_LEAST` is small.
            scaled = [weight / max(class_weights) for weight in class_weights]
            self.class_weights = paddle.to_tensor(scaled, "float32")

    def sample_weights(self, targets):
        """Labels [B] or targets [B, classes] -> weights [B] of the samples; null for no weights."""
        if self.class_weights is None:
            return None
        if targets.ndim == 1:
            return self.class_weights.gather(targets)
        # Not a matrix product, which mixed precision computes in half precision.
        return (targets * self.class_weights).sum(-1)

    def weighted_mean(self, losses_B, targets, mean_weight: Any):
        """The mean of weighted losses [B] over the mean weight.

        Args:
            mean_weight: of the whole batch, of which these samples may be a part, a scalar tensor;
                null for the mean weight of these samples.
        """
        if mean_weight is None:
            return losses_B.mean() / self.sample_weights(targets).mean().clip(min=_LEAST)
        return losses_B.mean() / mean_weight.clip(min=_LEAST)


@LOSSES.register
class CrossEntropy(Weighted):
    """-sum(target * log_softmax(logits)), mean over the batch, for labels and soft targets alike.

    With class weights w it is PyTorch's `CrossEntropyLoss(weight=w)`: each class's term of the sum
    is weighted, those of label smoothing too, and the batch is divided by the weights of its
    samples, sum(target * w) before smoothing. PyTorch divides soft targets by their number instead;
    here they count as labels do, so a batch has the same scale with and without mixup.

    Args:
        label_smoothing: part of each target that is spread over all classes.
        class_weights: a weight for each class, `balanced`, or null for no weights.
    """

    def __init__(
        self,
        *,
        label_smoothing: Rate = 0.0,
        class_weights: ClassWeights | None = None,
    ):
        super().__init__(class_weights)
        self.label_smoothing = label_smoothing

    def forward(self, logits_BK, targets, mean_weight: Any = None):
        """Logits [B, classes] and labels [B] or targets [B, classes] -> loss, a scalar."""
        targets_BK = smoothed_targets(targets, logits_BK.shape[-1], self.label_smoothing)
        logs_BK = F.log_softmax(logits_BK.astype("float32"), axis=-1)
        if self.class_weights is None:
            return -(targets_BK * logs_BK).sum(-1).mean()
        losses_B = -(targets_BK * self.class_weights * logs_BK).sum(-1)
        return self.weighted_mean(losses_B, targets, mean_weight)


@LOSSES.register
class BinaryCrossEntropy(Weighted):
    """Binary cross entropy of each class (ResNet strikes back, arXiv 2110.00476).

    Args:
        label_smoothing: as for CrossEntropy.
        target_threshold: after smoothing, targets above it become 1 and the others 0; null leaves
            them. With mixed targets and a threshold below 0.5, several classes become 1.
        sum_classes: sum over the classes rather than average, as DeiT III (arXiv 2204.07118). The
            sum is `classes` times the mean and needs another learning rate.
        class_weights: a weight for each class, `balanced`, or null for no weights. The weight of a
            sample, sum(target * weights) before smoothing and threshold, applies to all of its
            terms. PyTorch's `BCEWithLogitsLoss(weight=)` weights the terms of a class in all
            samples instead, which does not favour rare classes.
        pos_weight: weight of the positive term of each class, as of PyTorch's `BCEWithLogitsLoss`:
            one number, a number for each class, `balanced` for the negative over the positive
            training samples of the class, or null for 1.
    """

    tasks = ("classification", "multilabel")

    def __init__(
        self,
        *,
        label_smoothing: Rate = 0.0,
        target_threshold: Rate | None = None,
        sum_classes: bool = False,
        class_weights: ClassWeights | None = None,
        pos_weight: PositiveFloat | Sequence[PositiveFloat] | Literal["balanced"] | None = None,
    ):
        super().__init__(class_weights)
        if isinstance(pos_weight, str):
            raise ValueError(f"pos_weight {pos_weight!r} needs the training data's counts")
        self.pos_weight = None if pos_weight is None else paddle.to_tensor(pos_weight, "float32")
        self.label_smoothing = label_smoothing
        self.target_threshold, self.sum_classes = target_threshold, sum_classes

    def forward(self, logits_BK, targets, mean_weight: Any = None):
        """Logits [B, classes] and labels [B] or targets [B, classes] -> loss, a scalar."""
        targets_BK = smoothed_targets(targets, logits_BK.shape[-1], self.label_smoothing)
        if self.target_threshold is not None:
            targets_BK = (targets_BK > self.target_threshold).astype("float32")
        losses_BK = F.binary_cross_entropy_with_logits(
            logits_BK.astype("float32"), targets_BK, reduction="none", pos_weight=self.pos_weight
        )
        if self.class_weights is None:
            return losses_BK.sum(-1).mean() if self.sum_classes else losses_BK.mean()
        losses_B = losses_BK.sum(-1) if self.sum_classes else losses_BK.mean(-1)
        return self.weighted_mean(self.sample_weights(targets) * losses_B, targets, mean_weight)


@LOSSES.register
class AsymmetricLoss(nn.Layer):
    """The asymmetric loss of multi-label data (Ridnik et al., arXiv 2009.14119): with the
    probability p and p_m = max(p - clip, 0), -(1 - p)^gamma_pos * log(p) for a label of the sample,
    and -p_m^gamma_neg * log(1 - p_m) for another one. The gradient is that of the whole formula;
    the authors' code can leave out that of the powers.

    Args:
        gamma_neg, gamma_pos: focus on labels that are hard, by default as in the paper's
            experiments (0 for the positive ones; the authors' class has the default 1).
        clip: probability up to which an absent label has no loss.
        sum_classes: sum over the classes, as the authors' code, rather than average. (That also
            sums over the batch, which here is averaged.)
    """

    tasks = ("multilabel",)

    def __init__(
        self,
        *,
        gamma_neg: NonNegativeFloat = 4.0,
        gamma_pos: NonNegativeFloat = 0.0,
        clip: Rate = 0.05,
        sum_classes: bool = False,
    ):
        super().__init__()
        self.gamma_neg, self.gamma_pos, self.clip = gamma_neg, gamma_pos, clip
        self.sum_classes = sum_classes

    def forward(self, logits_BK, targets_BK):
        """Logits and targets [B, classes] -> loss, a scalar."""
        logits_BK = logits_BK.astype("float32")
        # Powers as exp(gamma * log), whose gradient is finite where the base is 0.
        log_p_BK, log_q_BK = F.log_sigmoid(logits_BK), F.log_sigmoid(-logits_BK)
        log_pm_BK, log_qm_BK = log_p_BK, log_q_BK
        if self.clip:
            p_BK = (log_p_BK.exp() - self.clip).clip(min=_LEAST)
            log_pm_BK, log_qm_BK = p_BK.log(), (-p_BK).log1p()
        losses_BK = -(
            targets_BK * (self.gamma_pos * log_q_BK).exp() * log_p_BK
            + (1 - targets_BK) * (self.gamma_neg * log_pm_BK).exp() * log_qm_BK
        )
        return losses_BK.sum(-1).mean() if self.sum_classes else losses_BK.mean()


class Supervised:
    """The objective without a teacher: the loss of the model's logits.

    Args:
        loss: one of LOSSES.
    """

    def __init__(self, loss: nn.Layer):
        self.loss = loss

    def __call__(self, model: nn.Layer, images, targets, mean_weight: Any = None):
        """Images [B, 3, height, width] and targets as the loss takes them -> loss, a scalar.

        Args:
            mean_weight: mean weight of the samples of the whole batch, a scalar tensor; null where
                the loss has no weights.
        """
        return _loss_of(self.loss, model(images), targets, mean_weight)


@validated
class Distilled:
    """The objective with a teacher, on the same images: (1 - alpha) * loss + alpha * distance from
    the teacher. The teacher is in evaluation mode and is not trained.

    Args:
        loss: one of LOSSES, on the true targets.
        teacher: a network, images to logits of the same classes.
        kind: `hard`: cross entropy with the teacher's prediction (Touvron et al., arXiv 2012.12877,
            section 3; the ConViT paper's distilled row, with alpha 0.5). `soft`:
            temperature^2 * KL(teacher || student) of the softened outputs, mean over the batch
            (Hinton et al., arXiv 1503.02531). DeiT's code also divides it by the number of classes,
            so its alpha weighs less.
        alpha: weight of the teacher.
        temperature: divisor of the logits, for `soft`.
    """

    def __init__(
        self,
        loss: nn.Layer,
        teacher: nn.Layer,
        /,
        *,
        kind: Literal["hard", "soft"] = "hard",
        alpha: Probability = 0.5,
        temperature: PositiveFloat = 3.0,
    ):
        teacher.eval()
        self.loss, self.teacher = loss, teacher
        self.kind, self.alpha, self.temperature = kind, alpha, temperature

    def __call__(self, model: nn.Layer, images, targets, mean_weight: Any = None):
        """As for Supervised."""
        student_BK = model(images)
        with paddle.no_grad():
            teacher_BK = self.teacher(images).astype("float32")
        distance = self._hard if self.kind == "hard" else self._soft
        true_loss = _loss_of(self.loss, student_BK, targets, mean_weight)
        teacher_loss = distance(student_BK.astype("float32"), teacher_BK)
        return (1 - self.alpha) * true_loss + self.alpha * teacher_loss

    def _hard(self, student_BK, teacher_BK):
        return F.cross_entropy(student_BK, teacher_BK.argmax(-1))

    def _soft(self, student_BK, teacher_BK):
        student_BK = F.log_softmax(student_BK / self.temperature, axis=-1)
        teacher_BK = F.log_softmax(teacher_BK / self.temperature, axis=-1)
        divergence_B = (teacher_BK.exp() * (teacher_BK - student_BK)).sum(-1)
        return self.temperature**2 * divergence_B.mean()


def build_loss(cfg: Mapping[str, Any], counts: Sequence[int] | None = None) -> nn.Layer:
    """The loss that a `loss` section describes.

    Args:
        counts: training samples of each class, for `class_weights: balanced`.

    Raises:
        ConfigError: the section is wrong.
    """
    if cfg.get("class_weights") == "balanced" and counts is not None:
        cfg = {**cfg, "class_weights": balanced_weights(counts)}
    return LOSSES.build(cfg)


def _loss_of(loss: nn.Layer, logits_BK, targets, mean_weight: Any):
    """The loss in float32, also under mixed precision. A user's loss may not take mean_weight."""
    with paddle.amp.auto_cast(enable=False):
        logits_BK = logits_BK.astype("float32")
        return loss(logits_BK, targets, *([] if mean_weight is None else [mean_weight]))
