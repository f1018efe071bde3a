"""Predictions of a model on a dataset, and their scores, for training and evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import paddle
from paddle import nn

from passl.data.loader import Loader
from passl.distributed.ranks import Ranks
from passl.evaluation.attention import evaluating
from passl.evaluation.classification import CLASSIFICATION
from passl.evaluation.multilabel import MULTILABEL
from passl.evaluation.segmentation import SEGMENTATION
from passl.evaluation.task import Scores, Task
from passl.io.terminal import Bar

View = Callable[[Any], Any]
TASKS: Mapping[str, Task] = {
    "classification": CLASSIFICATION,
    "multilabel": MULTILABEL,
    "segmentation": SEGMENTATION,
}
"""By the `task` of a dataset."""


def as_it_is(images_B3HW):
    """Return the images unchanged."""
    return images_B3HW


def mirrored(images_B3HW):
    """Flip left and right."""
    return images_B3HW.flip(-1)


VIEWS: Mapping[str, tuple[View, ...]] = {"none": (as_it_is,), "flip": (as_it_is, mirrored)}
"""Test-time augmentations: the views of an image whose probabilities are averaged."""


def evaluate(model: nn.Layer, loader: Loader, ranks: Ranks = Ranks()) -> Scores:  # noqa: B008 (frozen)
    """Score the model, in evaluation mode, on every sample exactly once. Its mode is restored.

    If the dataset has `valid_labels`, only these classes are compared.

    Raises:
        RunError: the outputs are not finite.
    """
    found = predict(model, loader, loader.dataset.valid_labels)
    return TASKS[loader.dataset.task].score(found, len(loader.classes), ranks, {})


@paddle.no_grad()
def predict(
    model: nn.Layer,
    loader: Loader,
    valid_labels: Sequence[int] | None = None,
    views: Sequence[View] = VIEWS["none"],
    check: Callable[[], object] = lambda: None,
    shown: bool = False,
    **options: Any,
) -> Any:
    """Predict the samples of this rank, with the model in evaluation mode. Its mode is restored.

    Args:
        valid_labels: the classes that are compared; null for all.
        views: of each image.
        check: called for each batch and while one is late; what it raises ends the prediction.
        shown: whether this rank shows a progress bar on a terminal.
        options: of the task's `collect`.

    Returns:
        What `Task.collect` makes of the outputs.
    """
    start = time.perf_counter()

    def outputs() -> Iterator[Any]:
        for images, labels, indices in loader.epoch(0, check=check):
            check()
            yield [model(view(images)).astype("float32") for view in views], labels, indices
            bar.update()

    with evaluating(model), Bar("evaluation", len(loader), "batches", shown=shown) as bar:
        found = TASKS[loader.dataset.task].collect(
            outputs(), len(loader.classes), valid_labels, **options
        )
    return replace(found, seconds=time.perf_counter() - start)


def task_of_row(row: Mapping[str, Any]) -> Task | None:
    """The task that a row of metrics.jsonl has the selecting score of; null for none."""
    return next((task for task in TASKS.values() if task.best in row), None)
