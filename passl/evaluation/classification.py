"""The evaluation of classification: each sample has one label.

Shapes in names: B images of a batch, K classes, k best predictions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle.nn import functional as F

from passl.distributed.ranks import Ranks
from passl.evaluation.confusion import confusion_matrix, write_confusion
from passl.evaluation.predictions import BEST, Predictions
from passl.evaluation.tables import write_per_class, write_predictions
from passl.evaluation.task import Metric, Output, Scores, Task, added_scores, check_totals

_RULED_OUT = -1e30  # finite, so that no infinity meets another; its probability is exactly 0


@dataclass(frozen=True, kw_only=True)
class ClassificationScores(Scores):
    """The scores of a classification; the loss is the cross entropy.

    Args:
        top1, top5: percentage of samples whose class is the best prediction, or among the five
            best.
        balanced_accuracy: mean recall of the classes, in percent.
        macro_f1: mean F1 score of the classes, in percent. Classes without a sample count in
            neither mean (as in scikit-learn's `balanced_accuracy_score`, and `f1_score` with the
            other classes as `labels`).
    """

    top1: float
    top5: float
    balanced_accuracy: float
    macro_f1: float

    def remarks(self) -> list[str]:
        recalls = self.per_class["recall"]
        there = sum(recall is not None for recall in recalls)
        without = f"; {len(recalls) - there} of {len(recalls)} have no image"
        return [
            f"balanced accuracy {self.balanced_accuracy:.2f} %, macro F1 {self.macro_f1:.2f} %: "
            f"means over {there} classes{without * (there < len(recalls))}"
        ]


def collect(
    outputs: Iterable[Output],
    classes: int,
    valid_labels: Sequence[int] | None = None,
    keep_logits: bool = False,
) -> Predictions:
    """The predictions for the samples of this rank.

    Args:
        outputs: logits [B, K] of each view, whose softmax is averaged, and labels [B].
        valid_labels: the classes that are compared; null for all.
        keep_logits: return the logits too, those of classes that are not compared being very low.
    """
    k = min(BEST, classes if valid_labels is None else len(valid_labels))
    barred = _barred(valid_labels, classes)
    rows = [_nothing(k)]  # a rank may have no sample
    kept = [np.zeros((0, classes), np.float32)]
    for views_BK, labels, indices in outputs:
        logits_BK = averaged([logits_BK + barred for logits_BK in views_BK])
        best_Bk, classes_Bk = logits_BK.topk(k, axis=-1)
        total_B1 = logits_BK.logsumexp(-1, keepdim=True)
        probabilities_Bk = (best_Bk - total_B1).exp()
        losses_B = (total_B1 - logits_BK.take_along_axis(labels.unsqueeze(-1), -1)).squeeze(-1)
        found = (indices, labels, classes_Bk, probabilities_Bk, losses_B)
        rows.append(tuple(tensor.numpy() for tensor in found))
        if keep_logits:
            kept.append(logits_BK.numpy())
    indices, labels, best, probabilities, losses = map(np.concatenate, zip(*rows, strict=True))
    logits = np.concatenate(kept) if keep_logits else None
    return Predictions(indices, labels, best, probabilities, losses, logits=logits)


def score(
    found: Predictions,
    classes: int,
    ranks: Ranks = Ranks(),  # noqa: B008 (frozen)
    metrics: Mapping[str, Metric] = {},  # noqa: B006 (not changed)
) -> ClassificationScores:
    """Sum counts over the ranks, so that the scores do not depend on their number."""
    ranks.wait()  # ranks finish at different times
    own = (found.correct(1).sum(), found.correct(BEST).sum(), found.losses.sum(dtype=np.float64))
    counts = found.counts(classes).ravel().tolist()
    totals = ranks.sum([*map(float, own), len(found.labels), found.seconds, *counts])
    top1, top5, loss, samples, seconds = totals[:5]
    check_totals(samples, loss)
    of_class, right, predicted = np.reshape(totals[5:], (3, classes))
    there = of_class > 0
    recall = 100 * right[there] / of_class[there]
    f1 = 200 * right[there] / (of_class[there] + predicted[there])
    recalls = iter(recall.tolist())
    return ClassificationScores(
        top1=100 * top1 / samples,
        top5=100 * top5 / samples,
        loss=loss / samples,
        balanced_accuracy=float(recall.mean()),
        macro_f1=float(f1.mean()),
        samples=int(samples),
        ips=samples * ranks.world / seconds,
        per_class={"recall": [next(recalls) if has else None for has in there]},
        metrics=added_scores(metrics, found, classes, ranks),
    )


CLASSIFICATION = Task(
    best="top1",
    shown={"top1": "top-1", "top5": "top-5"},
    options=frozenset(("tta", "valid_labels", "real_labels", "calibration", "temperature")),
    tables={
        "per_class": lambda path, found, data: write_per_class(path, found, data.classes),
        "confusion": lambda path, found, data: write_confusion(
            path, confusion_matrix(found, len(data.classes)), data.classes
        ),
        "predictions": write_predictions,
    },
    collect=collect,
    score=score,
)


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
