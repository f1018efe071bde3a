"""Losses: logits and targets to one number.

`class_weights` make rare classes count as much as frequent ones: one weight for each class, or
`balanced` for n / (classes * count), from the n training samples. A batch has the weighted mean of
its samples' losses, so that only the weights' proportions matter. Training takes the mean weight of
the whole batch, of all processes and parts (`accumulate`): how it is dealt out changes nothing.
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
from passl.modeling.class_weights import BALANCED, balanced_weights
from passl.utils.schema import validated
from passl.utils.types import PositiveFloat, Probability, Rate


def _check_weights(weights: str | Sequence[float]) -> str | Sequence[float]:
    if not isinstance(weights, str):
        wrong = next((w for w in weights if not 0 <= w < math.inf), None)
        if wrong is not None:
            raise ValueError(f"{wrong:g} must be finite and not negative")
        if not any(weights):
            raise ValueError("its weights are all 0, so that no class would count")
    return weights


ClassWeights = Annotated[Literal["balanced"] | Sequence[float], AfterValidator(_check_weights)]
_LEAST = 1e-12
"""Of the weights of a batch's samples, so that a batch of classes without weight has loss 0."""


def smoothed_targets(targets, classes: int, label_smoothing: float):
    """Labels [B], or targets [B, classes] that mixup or CutMix has made of them, as smoothed
    targets [B, classes] float32: (1 - s) * target + s / classes (Szegedy et al., arXiv 1512.00567).

    Smoothing and mixing commute, so mixing does not smooth, and a target is smoothed once however
    it came about.
    """
    if targets.ndim == 1:
        targets = F.one_hot(targets, classes)
    return targets * (1 - label_smoothing) + label_smoothing / classes


class Weighted(nn.Layer):
    """A loss whose samples may have the weights of their classes.

    Args:
        class_weights: one for each class; null for none.
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
        """The weight of each sample, [B], of labels [B] or targets [B, classes]; null for none."""
        if self.class_weights is None:
            return None
        if targets.ndim == 1:
            return self.class_weights.gather(targets)
        return (targets * self.class_weights).sum(-1)  # a matrix product is in half precision (amp)

    def weighted_mean(self, losses_B, targets, mean_weight: Any):
        """The mean of losses that have their samples' weights in them already.

        Args:
            mean_weight: of the whole batch, of which these samples may be a part, a scalar tensor;
                null for theirs.
        """
        if mean_weight is None:
            return losses_B.mean() / self.sample_weights(targets).mean().clip(min=_LEAST)
        return losses_B.mean() / mean_weight.clip(min=_LEAST)


@LOSSES.register
class CrossEntropy(Weighted):
    """-sum(target * log_softmax(logits)), mean over the batch, for labels and soft targets alike.

    With class weights w it is PyTorch's `CrossEntropyLoss(weight=w)`: the classes' terms of the sum
    are weighted, those of label smoothing too, and all of the batch is divided by the weights of
    its samples, sum(target * w) before smoothing. (For labels, that is. Soft targets PyTorch
    divides by their number; here they are what labels are, so that a batch that mixup has left
    alone weighs as much as a mixed one.)

    Args:
        label_smoothing: how much of each target is spread over all classes, in [0, 1).
        class_weights: one for each class, `balanced`, or null for none.
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
    """Every class is a yes-or-no question of its own (ResNet strikes back, arXiv 2110.00476).

    Args:
        label_smoothing: as for CrossEntropy.
        target_threshold: targets above it are 1 and the others 0, after smoothing; null leaves them
            as they are. With mixed targets and a threshold below a half several classes are right.
        sum_classes: add up the classes' losses rather than average them; DeiT III's choice (arXiv
            2204.07118). The mean is 1 / classes of it, and asks for another learning rate.
        class_weights: one for each class, `balanced`, or null for none. A sample's loss, all
            questions together, has the weight of its class, sum(target * weights) before smoothing
            and threshold; the batch has the weighted mean. (PyTorch's `BCEWithLogitsLoss(weight=)`
            weights whole questions instead, which leaves rare classes where they are: each question
            is answered as without it.)
    """

    def __init__(
        self,
        *,
        label_smoothing: Rate = 0.0,
        target_threshold: Rate | None = None,
        sum_classes: bool = False,
        class_weights: ClassWeights | None = None,
    ):
        super().__init__(class_weights)
        self.label_smoothing = label_smoothing
        self.target_threshold, self.sum_classes = target_threshold, sum_classes

    def forward(self, logits_BK, targets, mean_weight: Any = None):
        """Logits [B, classes] and labels [B] or targets [B, classes] -> loss, a scalar."""
        targets_BK = smoothed_targets(targets, logits_BK.shape[-1], self.label_smoothing)
        if self.target_threshold is not None:
            targets_BK = (targets_BK > self.target_threshold).astype("float32")
        losses_BK = F.binary_cross_entropy_with_logits(
            logits_BK.astype("float32"), targets_BK, reduction="none"
        )
        if self.class_weights is None:
            return losses_BK.sum(-1).mean() if self.sum_classes else losses_BK.mean()
        losses_B = losses_BK.sum(-1) if self.sum_classes else losses_BK.mean(-1)
        return self.weighted_mean(self.sample_weights(targets) * losses_B, targets, mean_weight)


class Supervised:
    """What is minimised without a teacher: the loss of the model's logits.

    Args:
        loss: one of LOSSES.
    """

    def __init__(self, loss: nn.Layer):
        self.loss = loss

    def __call__(self, model: nn.Layer, images, targets, mean_weight: Any = None):
        """Images [B, 3, height, width] and targets, as the loss takes them -> loss, a scalar.

        Args:
            mean_weight: of the samples of the whole batch, a scalar tensor; null where the loss has
                no weights.
        """
        return _called(self.loss, model(images), targets, mean_weight)


@validated
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
        own = _called(self.loss, student_BK, targets, mean_weight)
        far = distance(student_BK.astype("float32"), teacher_BK)
        return (1 - self.alpha) * own + self.alpha * far

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
    if cfg.get("class_weights") == BALANCED and counts is not None:
        cfg = {**cfg, "class_weights": balanced_weights(counts)}
    return LOSSES.build(cfg)


def _called(loss: nn.Layer, logits_BK, targets, mean_weight: Any):
    """A loss of one's own need not know of weights. In float32, also under amp."""
    with paddle.amp.auto_cast(enable=False):
        logits_BK = logits_BK.astype("float32")
        return loss(logits_BK, targets, *([] if mean_weight is None else [mean_weight]))
