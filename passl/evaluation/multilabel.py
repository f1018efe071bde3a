"""The evaluation of multi-label models: each sample has any number of labels.

Shapes in names: B images of a batch, N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.nn import functional as F

from passl.data.datasets.base import ImageDataset
from passl.distributed.ranks import Ranks
from passl.errors import RunError
from passl.evaluation.tables import percentages, write_csv, write_json_lines
from passl.evaluation.task import Metric, Output, Scores, Task, added_scores, check_totals
from passl.evaluation.thresholds import COLUMNS, DEFAULT, best_thresholds, curve

BETWEEN = "|"
"""Between the labels of a cell of a table."""


@dataclass(frozen=True)
class MultilabelPredictions:
    """The outputs for some samples.

    Args:
        indices: int64 [N], of the samples in the dataset.
        labels: bool [N, K], whether a sample has the label.
        logits: float32 [N, K].
        seconds: how long the predictions took, reading included.
        thresholds: [K], of the probability above which a label is predicted; null for 0.5.
    """

    indices: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    seconds: float = 0.0
    thresholds: Sequence[float] | None = None

    @property
    def probabilities(self) -> np.ndarray:
        """float64 [N, K], by the sigmoid, which float32 would round to 1 for large logits."""
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-self.logits.astype(np.float64)))

    @property
    def predicted(self) -> np.ndarray:
        """bool [N, K], whether the label is predicted."""
        return self.probabilities > (DEFAULT if self.thresholds is None else self.thresholds)

    def of_all(self, ranks: Ranks) -> MultilabelPredictions:
        """The predictions of all ranks, in the dataset's order, each sample once."""
        own = {"indices": self.indices, "labels": self.labels, "logits": self.logits}
        parts = ranks.gather(own)
        found = {name: np.concatenate([part[name] for part in parts]) for name in own}
        rows = np.unique(found["indices"], return_index=True)[1]
        indices, labels, logits = (found[name][rows] for name in own)
        return replace(self, indices=indices, labels=labels, logits=logits)


@dataclass(frozen=True, kw_only=True)
class MultilabelScores(Scores):
    """The scores of a multi-label model; the loss is the binary cross entropy, mean over classes.

    Args:
        mAP: mean of the classes' average precision, in percent (scikit-learn's
            `average_precision_score`).
        micro_f1: F1 score of all labels of all samples together, in percent.
        macro_f1: mean F1 score of the classes, in percent. Classes without a positive sample count
            in neither mean.
    """

    mAP: float  # noqa: N815 (its name)
    micro_f1: float
    macro_f1: float

    def remarks(self) -> list[str]:
        scores = self.per_class["average_precision"]
        there = sum(score is not None for score in scores)
        without = f"; {len(scores) - there} of {len(scores)} have no positive sample"
        return [f"mAP and macro F1: means over {there} classes{without * (there < len(scores))}"]


def collect(
    outputs: Iterable[Output], classes: int, valid_labels: Sequence[int] | None = None
) -> MultilabelPredictions:
    """The predictions for the samples of this rank.

    Args:
        outputs: logits [B, K] of each view, whose sigmoid is averaged, and labels [B, K].
        valid_labels: null.
    """
    none = np.zeros((0, classes))  # a rank may have no sample
    rows = [(np.zeros(0, np.int64), none.astype(bool), none.astype(np.float32))]
    for views_BK, labels, indices in outputs:
        logits_BK = averaged(views_BK)
        rows.append((indices.numpy(), labels.numpy() > 0.5, logits_BK.numpy()))
    indices, labels, logits = map(np.concatenate, zip(*rows, strict=True))
    return MultilabelPredictions(indices, labels, logits)


def averaged(logits_BK: Sequence[Any]):
    """Combine logits of several views: the sigmoid of the result is the mean of theirs."""
    if len(logits_BK) == 1:
        return logits_BK[0]
    stacked = paddle.stack(list(logits_BK))
    return F.log_sigmoid(stacked).logsumexp(0) - F.log_sigmoid(-stacked).logsumexp(0)


def score(
    found: MultilabelPredictions,
    classes: int,
    ranks: Ranks = Ranks(),  # noqa: B008 (frozen)
    metrics: Mapping[str, Metric] = {},  # noqa: B006 (not changed)
) -> MultilabelScores:
    """Compute the scores from the predictions of all ranks, since an average precision is no sum
    over samples.
    """
    ranks.wait()  # ranks finish at different times
    whole = found.of_all(ranks)
    (seconds,) = ranks.sum([found.seconds])
    logits, labels = whole.logits.astype(np.float64), whole.labels
    with np.errstate(invalid="ignore"):  # of outputs that are not finite
        losses_NK = np.logaddexp(0, logits) - logits * labels
    check_totals(len(labels), float(losses_NK.sum()))
    precisions = average_precisions(whole)
    right, predicted, positive = counts(whole)
    there = positive > 0
    if not there.any():
        raise RunError("no sample of the validation data has a label, so there is no mAP")
    f1 = 200 * right / np.maximum(predicted + positive, 1)
    return MultilabelScores(
        mAP=float(np.mean([p for p in precisions if p is not None])),
        micro_f1=float(200 * right.sum() / (predicted.sum() + positive.sum())),
        macro_f1=float(f1[there].mean()),
        loss=float(losses_NK.mean()),
        samples=len(labels),
        ips=len(labels) * ranks.world / seconds,
        per_class={
            "average_precision": precisions,
            "f1": [float(value) if has else None for value, has in zip(f1, there, strict=True)],
        },
        metrics=added_scores(metrics, whole, classes, Ranks()),
    )


def counts(found: MultilabelPredictions) -> np.ndarray:
    """int64 [3, K]: of each class the true positives, the predictions and the positive samples."""
    predicted = found.predicted
    return np.stack([each.sum(0) for each in (predicted & found.labels, predicted, found.labels)])


def average_precision(labels_N: np.ndarray, scores_N: np.ndarray) -> float | None:
    """Sum over the distinct scores, from the highest, of precision times the increase of recall, in
    percent: scikit-learn's `average_precision_score`. Null without a positive sample.
    """
    if not labels_N.any():
        return None
    _, true_positives, predicted = curve(labels_N, scores_N)
    gains = np.diff(true_positives, prepend=0) * (true_positives / predicted)
    return float(100 * gains.sum() / labels_N.sum())


def average_precisions(found: MultilabelPredictions) -> list[float | None]:
    """The average precision of each class."""
    columns = zip(found.labels.T, found.probabilities.T, strict=True)
    return [average_precision(labels_N, scores_N) for labels_N, scores_N in columns]


# --------------------------------------------------------------------------------------------------
# Tables
# --------------------------------------------------------------------------------------------------
def write_per_class(path: Path, found: MultilabelPredictions, dataset: ImageDataset) -> None:
    """Write the scores of each class, in percent; those that do not exist are empty."""
    thresholds = found.thresholds or [DEFAULT] * len(dataset.classes)
    right, predicted, positive = counts(found)
    scores = zip(
        average_precisions(found),
        percentages(right, predicted),
        percentages(right, positive),
        percentages(2 * right, np.where(positive > 0, predicted + positive, 0)),
        strict=True,
    )
    rows = []
    for name, samples, values, threshold in zip(
        dataset.classes, positive.tolist(), scores, thresholds, strict=True
    ):
        shown = ["" if value is None else f"{value:.4f}" for value in values]
        rows.append([name, samples, *shown, threshold])
    head = ["class", "samples", "average_precision", "precision", "recall", "f1", "threshold"]
    write_csv(path, head, rows)


def write_predictions(path: Path, found: MultilabelPredictions, dataset: ImageDataset) -> None:
    """Write a line per sample, in the dataset's order: its name, its labels, the predicted labels,
    and the probability of each class.

    Args:
        path: `.jsonl`, or `.csv`, where labels are separated by `|`.
    """
    names = np.array(dataset.classes, dtype=object)
    columns = zip(found.indices, found.labels, found.predicted, found.probabilities, strict=True)
    samples = [
        {
            "name": dataset.name(int(index)),
            "labels": names[labels].tolist(),
            "predicted": names[predicted].tolist(),
            "probabilities": dict(
                zip(dataset.classes, (round(float(p), 6) for p in probabilities), strict=True)
            ),
        }
        for index, labels, predicted, probabilities in columns
    ]
    if path.suffix == ".jsonl":
        write_json_lines(path, samples)
        return
    rows = [
        [s["name"], BETWEEN.join(s["labels"]), BETWEEN.join(s["predicted"])]
        + list(s["probabilities"].values())
        for s in samples
    ]
    write_csv(path, ["name", "labels", "predicted", *dataset.classes], rows)


def write_best_thresholds(path: Path, found: MultilabelPredictions, dataset: ImageDataset) -> None:
    """Write the threshold of each class with the highest F1 score, and that score in percent."""
    best = best_thresholds(found.labels, found.probabilities)
    right, predicted, positive = counts(replace(found, thresholds=best))
    f1 = 200 * right / np.maximum(predicted + positive, 1)
    rows = [
        [name, repr(threshold), f"{value:.4f}" if has else ""]
        for name, threshold, value, has in zip(dataset.classes, best, f1, positive, strict=True)
    ]
    write_csv(path, [*COLUMNS, "f1"], rows)


MULTILABEL = Task(
    best="mAP",
    shown={"mAP": "mAP", "micro_f1": "micro F1", "macro_f1": "macro F1"},
    options=frozenset(("tta", "thresholds")),
    tables={
        "per_class": write_per_class,
        "predictions": write_predictions,
        "best_thresholds": write_best_thresholds,
    },
    collect=collect,
    score=score,
)
