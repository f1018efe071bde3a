"""Predictions of a model on a dataset, and their scores, for training and evaluation.

Shapes in names: B images of a batch, K classes, k best predictions.
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
Metric = Callable[[Predictions, int], float]
_RULED_OUT = -1e30  # finite, so that no infinity meets another; its probability is exactly 0


def as_it_is(images_B3HW):
    """Return the images unchanged."""
    return images_B3HW


def mirrored(images_B3HW):
    """Flip left and right."""
    return images_B3HW.flip(-1)


VIEWS: Mapping[str, tuple[View, ...]] = {"none": (as_it_is,), "flip": (as_it_is, mirrored)}
"""Test-time augmentations: the views of an image whose softmax is averaged."""


@dataclass(frozen=True)
class Scores:
    """The scores of an evaluation.

    Args:
        top1, top5: percentage of samples whose class is the best prediction, or among the five
            best.
        loss: mean cross entropy.
        balanced_accuracy: mean recall of the classes, in percent.
        macro_f1: mean F1 score of the classes, in percent. Classes without a sample count in
            neither mean (as in scikit-learn's `balanced_accuracy_score`, and `f1_score` with the
            other classes as `labels`).
        samples: number of samples, over all ranks.
        ips: images per second, over all ranks, reading included.
        recall: of each class in percent; null for a class without a sample.
        metrics: what the config's `metrics` found, by name.
    """

    top1: float
    top5: float
    loss: float
    balanced_accuracy: float
    macro_f1: float
    samples: int
    ips: float
    recall: tuple[float | None, ...]
    metrics: Mapping[str, float]

    def to_dict(self) -> dict[str, float]:
        """As plain data, without the classes' recalls."""
        plain = asdict(self)
        del plain["recall"]
        return plain | plain.pop("metrics")


def evaluate(model: nn.Layer, loader: Loader, ranks: Ranks = Ranks()) -> Scores:  # noqa: B008 (frozen)
    """Score the model, in evaluation mode, on every sample exactly once. Its mode is restored.

    If the dataset has `valid_labels`, only these classes are compared.

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
    """Predict the samples of this rank, with the model in evaluation mode. Its mode is restored.

    Args:
        valid_labels: the classes that are compared; null for all.
        views: whose softmax is averaged.
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
    indices, labels, classes, best, losses = map(np.concatenate, zip(*rows, strict=True))
    return Predictions(indices, labels, classes, best, losses, time.perf_counter() - start)


def score(
    found: Predictions,
    classes: int,
    ranks: Ranks = Ranks(),  # noqa: B008 (frozen)
    metrics: Mapping[str, Metric] | None = None,
) -> Scores:
    """Compute the scores over all ranks. Counts are summed, so the scores do not depend on the
    number of ranks.

    Args:
        classes: how many the data has.
        metrics: further ones, see `passl.evaluation.METRICS`.

    Raises:
        RunError: the outputs or a metric are not finite, or no image could be read.
    """
    ranks.wait()  # ranks finish at different times
    own = (found.correct(1).sum(), found.correct(BEST).sum(), found.losses.sum(dtype=np.float64))
    counts = found.counts(classes).ravel().tolist()
    totals = ranks.sum([*map(float, own), len(found.labels), found.seconds, *counts])
    top1, top5, loss, samples, seconds = totals[:5]
    if not samples:
        raise RunError("no image of the validation data could be read")
    if not math.isfinite(loss):
        raise RunError(
            "the network's outputs are not finite; the weights are damaged, or training has "
            "diverged"
        )
    of_class, right, predicted = np.reshape(totals[5:], (3, classes))
    there = of_class > 0
    recall = 100 * right[there] / of_class[there]
    f1 = 200 * right[there] / (of_class[there] + predicted[there])
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
        metrics=_of_metrics(metrics, found, classes, ranks) if metrics else {},
    )


def _of_metrics(
    metrics: Mapping[str, Metric], found: Predictions, classes: int, ranks: Ranks
) -> dict[str, float]:
    whole = found.of_all(ranks)
    values = {name: float(metric(whole, classes)) for name, metric in metrics.items()}
    wrong = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise RunError(f"metrics: {wrong[0]}, which is not a finite number")
    return values


def averaged(logits_BK: Sequence[Any]):
    """Combine logits of several views: the softmax of the result is the mean of theirs.

    As VGG (arXiv 1409.1556, section 3.2) and GoogLeNet (arXiv 1409.4842, section 7) do for the
    views of an image.
    """
    if len(logits_BK) == 1:
        return logits_BK[0]  # not its log-softmax, whose rounding could make two classes equal
    logs = paddle.stack([F.log_softmax(logits, axis=-1) for logits in logits_BK])
    return logs.logsumexp(0) - math.log(len(logits_BK))


def _nothing(k: int) -> tuple[np.ndarray, ...]:
    """Empty columns of `Predictions`."""
    whole, real = np.zeros(0, np.int64), np.zeros(0, np.float32)
    return whole, whole, whole.reshape(0, k), real.reshape(0, k), real


def _barred(valid_labels: Sequence[int] | None, classes: int):
    """What to add to logits [B, K] so that only these classes are compared."""
    if valid_labels is None:
        return paddle.zeros([1])
    barred = np.full(classes, _RULED_OUT, np.float32)
    barred[list(valid_labels)] = 0
    return paddle.to_tensor(barred)
