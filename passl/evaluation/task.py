"""The contract of a task's evaluation, which `scores.TASKS` lists by task, and what all share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from passl.data.datasets.base import ImageDataset
from passl.distributed.ranks import Ranks
from passl.errors import RunError

Output = tuple[Sequence[Any], Any, Any]
"""Of a batch: the logits of each view, float32; the labels; the samples' indices, [B]."""
Metric = Callable[[Any, int], float]
"""Takes the predictions of all ranks and the number of classes; see `passl.evaluation.METRICS`."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of an evaluation that every task has.

    Args:
        loss: mean over the samples, without weights or label smoothing.
        samples: number of samples, over all ranks.
        ips: images per second, over all ranks, reading included.
        per_class: score -> its value for each class; null for a class that has none.
        metrics: what the config's `metrics` found, by name.
    """

    loss: float
    samples: int
    ips: float
    per_class: Mapping[str, Sequence[float | None]]
    metrics: Mapping[str, float]

    def to_dict(self) -> dict[str, float]:
        """As plain data, without the scores of each class."""
        plain = asdict(self)
        del plain["per_class"]
        return plain | plain.pop("metrics")

    def remarks(self) -> list[str]:
        """Lines for the log of `passl eval`, beside the scores in `Task.shown`."""
        return []


@dataclass(frozen=True)
class Task:
    """How the models of a task are evaluated.

    Args:
        best: the score that selects the best checkpoint, an attribute of its `Scores` and a key of
            metrics.jsonl: in percent, the larger the better.
        shown: scores of log lines and curves, in percent: key -> title, `best` first.
        options: fields of `evaluate.Options` that the task supports, beside `tables`.
        tables: those that write a table -> what writes it, called with the path, the predictions
            of all ranks and the dataset.
        collect: called with an iterable of `Output`, the number of classes and the valid labels
            (null for all); returns the predictions for the samples of this rank, a dataclass with
            `seconds` and, for tables and metrics, `of_all(ranks)`. It may have options of its own.
        score: called with these, the number of classes, the ranks and the config's `metrics` by
            name; returns the `Scores` over all ranks, the same for any number of ranks. Raises a
            RunError if outputs are not finite or there is no sample.
    """

    best: str
    shown: Mapping[str, str]
    options: frozenset[str]
    tables: Mapping[str, Callable[[Path, Any, ImageDataset], None]]
    collect: Callable[..., Any]
    score: Callable[[Any, int, Ranks, Mapping[str, Metric]], Scores]


def check_totals(samples: float, loss: float) -> None:
    """Check the number of samples over all ranks and the sum of their losses.

    Raises:
        RunError: there is no sample, or the sum is not finite.
    """
    if not samples:
        raise RunError("no image of the validation data could be read")
    if not math.isfinite(loss):
        raise RunError(
            "the network's outputs are not finite; the weights are damaged, or training has "
            "diverged"
        )


def added_scores(
    metrics: Mapping[str, Metric], found: Any, classes: int, ranks: Ranks
) -> dict[str, float]:
    """The values of the config's metrics.

    Raises:
        RunError: one is not finite.
    """
    if not metrics:
        return {}
    whole = found.of_all(ranks)
    values = {name: float(metric(whole, classes)) for name, metric in metrics.items()}
    wrong = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise RunError(f"metrics: {wrong[0]}, which is not a finite number")
    return values
