"""Predictions of classes as arrays, from which scores and tables are computed. Imports no paddle.

N samples, k best predictions of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from passl.distributed.ranks import Ranks

BEST = 5
"""Predictions that are kept of each sample."""


@dataclass(frozen=True)
class Predictions:
    """The best predictions for some samples.

    Args:
        indices: int64 [N], of the samples in the dataset.
        labels: int64 [N], the true classes.
        classes: int64 [N, k], the k predicted classes, best first; k is 5, or less if fewer classes
            are compared.
        probabilities: float32 [N, k], of these classes.
        losses: float32 [N], cross entropy.
        seconds: how long the predictions took, reading included.
        logits: float32 [N, K], of all K classes; null unless they are asked for.
    """

    indices: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    losses: np.ndarray
    seconds: float = 0.0
    logits: np.ndarray | None = None

    def correct(self, k: int) -> np.ndarray:
        """bool [N], whether the true class is among the k best predictions."""
        return (self.classes[:, :k] == self.labels[:, None]).any(-1)

    def counts(self, classes: int) -> np.ndarray:
        """int64 [3, classes]: of each class the samples, those among them that are predicted
        correctly, and all that are predicted to be of the class.
        """
        counted = (self.labels, self.labels[self.correct(1)], self.classes[:, 0])
        return np.stack([np.bincount(column, minlength=classes) for column in counted])

    def of_all(self, ranks: Ranks) -> Predictions:
        """The predictions of all ranks, in the dataset's order, each sample once; without logits,
        which may be too large for every rank.
        """
        names = ("indices", "labels", "classes", "probabilities", "losses")
        parts = ranks.gather({name: getattr(self, name) for name in names})
        found = {name: np.concatenate([part[name] for part in parts]) for name in names}
        rows = np.unique(found["indices"], return_index=True)[1]
        columns = {name: column[rows] for name, column in found.items()}
        return Predictions(**columns, seconds=self.seconds)

    def logits_of_all(self, ranks: Ranks) -> tuple[np.ndarray, np.ndarray]:
        """The logits and labels of all ranks, in the dataset's order, each sample once. Every rank
        must call this; the first gets them, and the others get their own.
        """
        assert self.logits is not None
        own = {"indices": self.indices, "logits": self.logits, "labels": self.labels}
        parts = ranks.gather(own, to_all=False) or [own]
        found = {name: np.concatenate([part[name] for part in parts]) for name in own}
        rows = np.unique(found["indices"], return_index=True)[1]
        return found["logits"][rows], found["labels"][rows]
