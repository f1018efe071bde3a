"""The evaluation of segmentation: each pixel has one label.

Shapes in names: B images of a batch, K classes, Y rows and X columns of pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from paddle.nn import functional as F

from passl.data.datasets.base import ImageDataset
from passl.distributed.ranks import Ranks
from passl.errors import RunError
from passl.evaluation.confusion import write_confusion
from passl.evaluation.tables import percentages, write_csv
from passl.evaluation.task import Metric, Output, Scores, Task, added_scores, check_totals
from passl.io.masks import IGNORED
from passl.modeling.layers import resized


@dataclass(frozen=True)
class PixelCounts:
    """The predictions for some images, counted.

    Args:
        matrix: int64 [K, K], pixels by true class (row) and predicted class (column). Ignored
            pixels are not counted.
        loss: sum of the pixels' cross entropies.
        samples: number of images.
        seconds: how long the predictions took, reading included.
    """

    matrix: np.ndarray
    loss: float
    samples: int
    seconds: float = 0.0

    def per_class(self) -> dict[str, list[Any]]:
        """The labelled pixels of each class, and its IoU and recall in percent; null without such
        pixels.
        """
        right, of_class = np.diagonal(self.matrix), self.matrix.sum(1)
        union = np.where(of_class > 0, of_class + self.matrix.sum(0) - right, 0)
        return {
            "pixels": of_class.tolist(),
            "iou": percentages(right, union),
            "accuracy": percentages(right, of_class),
        }

    def of_all(self, ranks: Ranks) -> PixelCounts:
        """The counts over all ranks."""
        own = [self.loss, self.samples, *self.matrix.ravel().tolist()]
        loss, samples, *counts = ranks.sum([float(value) for value in own])
        matrix = np.array(counts).astype(np.int64).reshape(self.matrix.shape)  # exact up to 2^53
        return PixelCounts(matrix, loss, int(samples), self.seconds)


@dataclass(frozen=True, kw_only=True)
class SegmentationScores(Scores):
    """The scores of a segmentation; the loss is the cross entropy, mean over the labelled pixels.

    Args:
        mIoU: mean over the classes of the intersection over union, TP / (TP + FP + FN) of pixels,
            in percent. Classes without a labelled pixel do not count, but a pixel that is predicted
            to be of one still counts against its true class.
        pixel_accuracy: percentage of pixels that are predicted correctly.
        mean_accuracy: mean recall of these classes, in percent.
    """

    mIoU: float
    pixel_accuracy: float
    mean_accuracy: float

    def remarks(self) -> list[str]:
        ious = self.per_class["iou"]
        there = sum(iou is not None for iou in ious)
        if there == len(ious):
            return []
        return [f"mIoU: mean over {there} of {len(ious)} classes; the others have no pixel"]


def collect(
    outputs: Iterable[Output], classes: int, valid_labels: Sequence[int] | None = None
) -> PixelCounts:
    """The counts of this rank.

    Args:
        outputs: logits [B, K, Y, X] of one view, resized to masks of another size, and masks.
    """
    matrix, loss, samples = np.zeros((classes, classes), np.int64), 0.0, 0
    for (logits_BKYX,), masks, _ in outputs:
        if logits_BKYX.shape[2:] != masks.shape[1:]:
            logits_BKYX = resized(logits_BKYX, masks.shape[1:])
        labels_BYX = masks.astype("int64")
        losses = F.cross_entropy(
            logits_BKYX, labels_BYX, ignore_index=IGNORED, reduction="none", axis=1
        )
        loss += float(losses.numpy().sum(dtype=np.float64))
        samples += len(masks)
        labels = labels_BYX.numpy()
        labelled = labels != IGNORED
        places = labels[labelled] * classes + logits_BKYX.argmax(1).numpy()[labelled]
        matrix += np.bincount(places, minlength=classes**2).reshape(classes, classes)
    return PixelCounts(matrix, loss, samples)


def score(
    found: PixelCounts, classes: int, ranks: Ranks, metrics: Mapping[str, Metric]
) -> SegmentationScores:
    """Sum the counts over the ranks, so that the scores do not depend on their number."""
    ranks.wait()  # ranks finish at different times
    (seconds,) = ranks.sum([found.seconds])
    whole = found.of_all(ranks)
    check_totals(whole.samples, whole.loss)
    pixels = int(whole.matrix.sum())
    if not pixels:
        raise RunError("no pixel of the validation data has a label: all are ignored")
    of_class = whole.per_class()
    ious, recalls = (
        [value for value in of_class[key] if value is not None] for key in ("iou", "accuracy")
    )
    return SegmentationScores(
        mIoU=float(np.mean(ious)),
        pixel_accuracy=100 * float(np.trace(whole.matrix)) / pixels,
        mean_accuracy=float(np.mean(recalls)),
        loss=whole.loss / pixels,
        samples=whole.samples,
        ips=whole.samples * ranks.world / seconds,
        per_class={"iou": of_class["iou"], "accuracy": of_class["accuracy"]},
        metrics=added_scores(metrics, found, classes, ranks),
    )


def _write_per_class(path: Path, found: PixelCounts, dataset: ImageDataset) -> None:
    """Write the labelled pixels of each class, and its IoU and recall in percent; nothing for a
    class without such pixels.
    """
    columns = found.per_class()
    rows = [
        [name, pixels, *("" if value is None else f"{value:.4f}" for value in values)]
        for name, pixels, *values in zip(dataset.classes, *columns.values(), strict=True)
    ]
    write_csv(path, ["class", *columns], rows)


def _write_confusion(path: Path, found: PixelCounts, dataset: ImageDataset) -> None:
    write_confusion(path, found.matrix, dataset.classes, "pixels")


SEGMENTATION = Task(
    best="mIoU",
    shown={"mIoU": "mIoU", "pixel_accuracy": "pixel accuracy", "mean_accuracy": "mean accuracy"},
    options=frozenset(),
    tables={"per_class": _write_per_class, "confusion": _write_confusion},
    collect=collect,
    score=score,
)
