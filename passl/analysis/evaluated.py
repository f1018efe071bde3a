"""A network and its predictions for the validation data of a config, for figures and reports."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from passl.accelerate import accelerate
from passl.analysis.figures import Shown, as_shown
from passl.data.loader import Loader, build_loader
from passl.distributed.ranks import Ranks
from passl.engine.check import check_config
from passl.evaluation.confusion import confusion_matrix
from passl.evaluation.multilabel import counts
from passl.evaluation.scores import TASKS, predict
from passl.evaluation.tables import percentages
from passl.evaluation.task import Scores
from passl.modeling import Model
from passl.porting.classes import readable
from passl.utils.config import Config


@dataclass(frozen=True)
class Evaluated:
    """An evaluation of one process.

    Args:
        model: in evaluation mode.
        loader: of the validation data.
        found: the predictions, as the task collects them.
    """

    model: Model
    loader: Loader
    found: Any
    scores: Scores

    @property
    def task(self) -> str:
        """The data's task, a key of `TASKS`."""
        return self.loader.dataset.task

    @property
    def classes(self) -> list[str]:
        """The names of the classes, those of ImageNet's folders as words."""
        return readable(self.loader.classes)

    @cached_property
    def confusion(self) -> np.ndarray | None:
        """Samples, or pixels of segmentation, by true class (row) and predicted class (column):
        int64 [classes, classes]. Null for multi-label data, whose classes do not exclude each
        other.
        """
        if self.task == "segmentation":
            return self.found.matrix
        if self.task == "multilabel":
            return None
        return confusion_matrix(self.found, len(self.loader.classes))

    def shown(self, index: int) -> Shown:
        """A sample of the data as the network gets it, by its number in the dataset."""
        dataset = self.loader.dataset
        image, label = dataset[index]
        number = int(label) if self.task == "classification" else None
        title = dataset.name(index) if number is None else self.classes[number]
        return as_shown(title, image, self.loader.samples.transforms, number)

    def per_class(self) -> list[dict[str, Any]]:
        """Of each class its name, its samples (of segmentation its labelled pixels), and scores in
        percent, null where they do not exist.
        """
        matrix = self.confusion
        if matrix is None:
            right, predicted, of_class = counts(self.found)
        else:
            right, predicted, of_class = np.diagonal(matrix), matrix.sum(0), matrix.sum(1)
        union = predicted + of_class - right
        unit = "pixels" if self.task == "segmentation" else "samples"
        columns: dict[str, Any] = {"class": self.classes, unit: of_class.tolist()}
        if self.task == "multilabel":
            columns["average precision"] = self.scores.per_class["average_precision"]
        if self.task == "segmentation":
            columns["IoU"] = percentages(right, np.where(of_class > 0, union, 0))
        columns["recall"] = percentages(right, of_class)
        columns["precision"] = percentages(right, predicted)
        columns["F1"] = percentages(2 * right, np.where(of_class > 0, predicted + of_class, 0))
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def evaluate_config(cfg: Config, weights: str | Path) -> Evaluated:
    """Score weights on the validation data of a config, as `passl eval` does.

    Raises:
        ConfigError: the config is wrong, or its validation data is missing.
        RunError: the weights or an image cannot be read.
    """
    check_config(cfg, for_training=False)
    loader = build_loader(cfg.dataloader.val, cfg.get("seed", 0))
    model = accelerate(Model(cfg, weights, classes=loader.classes))
    model.eval()
    found = predict(model, loader, loader.dataset.valid_labels)
    scores = TASKS[loader.dataset.task].score(found, len(loader.classes), Ranks(), {})
    return Evaluated(model, loader, found, scores)
