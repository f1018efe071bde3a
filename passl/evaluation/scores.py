"""Predictions of a model on a data set, and their scores. Training and `tools/eval.py` share the
loop.

B pictures of a batch, K classes, k best guesses, N pictures of all batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from passl.data.loader import Loader
from passl.distributed.ranks import Ranks
from passl.errors import RunError
from passl.evaluation.predictions import BEST, Predictions

View = Callable[[Any], Any]
_RULED_OUT = -1e30  # finite, so that no infinity meets another; its probability is exactly 0


def as_it_is(images_B3HW):
    """The pictures themselves."""
    return images_B3HW


def mirrored(images_B3HW):
    """Left and right exchanged."""
    return images_B3HW.flip(-1)


VIEWS: Mapping[str, tuple[View, ...]] = {"none": (as_it_is,), "flip": (as_it_is, mirrored)}
"""Test-time augmentations: under which views of a picture its prediction is made."""


@dataclass(frozen=True)
class Scores:
    """What an evaluation found.

    Args:
        top1, top5: per cent of the samples whose class was the best guess, or among the five best.
        loss: mean cross entropy.
        balanced_accuracy: mean of the classes' recalls, in per cent.
        macro_f1: mean of the classes' F1 scores, in per cent. Classes without a sample count in
            neither mean (scikit-learn's `balanced_accuracy_score`, and `f1_score` with `labels` of
            those that have one).
        samples: how many were scored, over all ranks.
        ips: images per second, over all ranks, reading included.
        recall: of each class, per cent of its samples whose best guess it was; null without any.
    """

    top1: float
    top5: float
    loss: float
    balanced_accuracy: float
    macro_f1: float
    samples: int
    ips: float
    recall: tuple[float | None, ...]

    def to_dict(self) -> dict[str, float]:
        """As plain data, without the classes' recalls."""
        return {key: value for key, value in asdict(self).items() if key != "recall"}


def evaluate(model: nn.Layer, loader: Loader, ranks: Ranks = Ranks()) -> Scores:  # noqa: B008 (frozen)
    """Score the model, in evaluation mode, on every sample exactly once. Its mode is restored.

    Only the classes that the data set names as `valid_labels`, where it does, are compared.

    Raises:
        RunError: the outputs are not finite.
    """
    found = predict(model, loader, loader.dataset.valid_labels)
    return score(found, len(loader.classes), ranks)


@paddle.no_grad()
def predict(
    model: nn.Layer,
    loader: Loader,
    valid_labels: Sequence[int] | None = None,
    views: Sequence[View] = VIEWS["none"],
) -> Predictions:
    """This rank's predictions, by the model in evaluation mode. Its mode is restored.

    Args:
        valid_labels: the only classes that are compared; null for all.
        views: a prediction is the mean of the softmax over them.
    """
    was_training = model.training
    model.eval()
    start = time.perf_counter()
    k = min(BEST, len(loader.classes) if valid_labels is None else len(valid_labels))
    barred = _barred(valid_labels, len(loader.classes))
    rows = [_nothing(k)]  # a rank may have no sample
    for images, labels, indices in loader.epoch(0):
        logits_BK = averaged([model(view(images)).astype("float32") + barred for view in views])
        best_Bk, classes_Bk = logits_BK.topk(k, axis=-1)
        total_B1 = logits_BK.logsumexp(-1, keepdim=True)
        probabilities_Bk = (best_Bk - total_B1).exp()
        losses_B = (total_B1 - logits_BK.take_along_axis(labels.unsqueeze(-1), -1)).squeeze(-1)
        found = (indices, labels, classes_Bk, probabilities_Bk, losses_B)
        rows.append(tuple(tensor.numpy() for tensor in found))
    if was_training:
        model.train()
    columns = map(np.concatenate, zip(*rows, strict=True))
    return Predictions(*columns, seconds=time.perf_counter() - start)


def score(found: Predictions, classes: int, ranks: Ranks = Ranks()) -> Scores:  # noqa: B008 (frozen)
    """The scores over all ranks, from the predictions of each. Counts are summed, so that the
    scores do not depend on how many ranks there are.

    Args:
        classes: how many the data has.

    Raises:
        RunError: the outputs are not finite, or no picture could be read.
    """
    ranks.wait()  # one may have read slower pictures than the others
    own = (found.correct(1).sum(), found.correct(BEST).sum(), found.losses.sum(dtype=np.float64))
    counts = found.counts(classes).ravel().tolist()
    totals = ranks.sum([*map(float, own), len(found.labels), found.seconds, *counts])
    top1, top5, loss, samples, seconds = totals[:5]
    if not samples:
        raise RunError("no picture of the validation data could be read")
    if not math.isfinite(loss):
        raise RunError(
            "the network's outputs are not finite; the weights are damaged, or training has "
            "diverged"
        )
    of_class, right, guessed = np.reshape(totals[5:], (3, classes))
    there = of_class > 0
    recall = 100 * right[there] / of_class[there]
    f1 = 200 * right[there] / (of_class[there] + guessed[there])
    recalls = iter(recall.tolist())
    return Scores(
        100 * top1 / samples,
        100 * top5 / samples,
        loss / samples,
        balanced_accuracy=float(recall.mean()),
        macro_f1=float(f1.mean()),
        samples=int(samples),
        ips=samples * ranks.world / seconds,
        recall=tuple(next(recalls) if has else None for has in there),
    )


def averaged(logits_BK: Sequence[Any]):
    """One [B, K] whose softmax is the mean of the softmax of each.

    VGG (arXiv 1409.1556, section 3.2) and GoogLeNet (arXiv 1409.4842, section 7) join the views of
    a picture so.
    """
    if len(logits_BK) == 1:
        return logits_BK[0]  # not its log-softmax, whose rounding could make two guesses equal
    logs = paddle.stack([F.log_softmax(logits, axis=-1) for logits in logits_BK])
    return logs.logsumexp(0) - math.log(len(logits_BK))


def _nothing(k: int) -> tuple[np.ndarray, ...]:
    """Indices, labels, classes, probabilities and losses of no sample."""
    whole, real = np.zeros(0, np.int64), np.zeros(0, np.float32)
    return whole, whole, whole.reshape(0, k), real.reshape(0, k), real


def _barred(valid_labels: Sequence[int] | None, classes: int):
    """What is added to logits [B, K] so that only these classes are compared."""
    if valid_labels is None:
        return paddle.zeros([1])
    barred = np.full(classes, _RULED_OUT, np.float32)
    barred[list(valid_labels)] = 0
    return paddle.to_tensor(barred)
