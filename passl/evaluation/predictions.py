"""Predictions as arrays: what scores and tables are made of. Imports no paddle.

K classes, k best guesses, N samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from passl.distributed.ranks import Ranks

BEST = 5
"""How many guesses are kept of each sample."""


@dataclass(frozen=True)
class Predictions:
    """The best guesses for some samples.

    Args:
        indices: int64 [N], which samples of the data set.
        labels: int64 [N], their classes.
        classes: int64 [N, k], the k best guesses, best first; k is 5, or less where there are less
            classes to choose from.
        probabilities: float32 [N, k], of these guesses.
        losses: float32 [N], cross entropy.
        seconds: what the predictions took, reading included.
    """

    indices: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    losses: np.ndarray
    seconds: float

    def correct(self, k: int) -> np.ndarray:
        """bool [N], whether the class is among the k best guesses."""
        return (self.classes[:, :k] == self.labels[:, None]).any(-1)

    def counts(self, classes: int) -> np.ndarray:
        """int64 [3, classes]: samples of each class, those whose best guess is it rightly, and all
        whose best guess is it.
        """
        guesses, right = self.classes[:, 0], self.correct(1)
        counted = (self.labels, self.labels[right], guesses)
        return np.stack([np.bincount(column, minlength=classes) for column in counted])

    def of_all(self, ranks: Ranks) -> Predictions:
        """The predictions of all ranks, in the data set's order, each sample once."""
        names = ("indices", "labels", "classes", "probabilities", "losses")
        parts = ranks.gather({name: getattr(self, name) for name in names})
        found = {name: np.concatenate([part[name] for part in parts]) for name in names}
        rows = np.unique(found["indices"], return_index=True)[1]
        columns = {name: column[rows] for name, column in found.items()}
        return Predictions(**columns, seconds=self.seconds)
