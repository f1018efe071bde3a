"""Which samples a rank sees in which order.

A sample is asked for by a key (epoch, position, index): its place in the epoch's order over all
ranks, and which sample it is. Whatever is random about it is drawn from a generator seeded with
(seed, epoch, position), so that neither the number of workers nor that of ranks, nor where a run
was resumed, changes what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from passl.data import rules
from passl.data.balance import balanced_order

Key = tuple[int, int, int]


class BatchSampler:
    """Batches of keys for one rank.

    Training (`shuffle`) deals the samples out evenly: every rank gets the same number of batches,
    by leaving out the rest of the last global batch (`drop_last`) or by dealing some samples twice.
    Evaluation deals each sample out exactly once.

    Args:
        length: samples of the dataset.
        seed: of the run.
        rank, world: which of how many processes this is.
        even: every rank gets the same number of batches, also without `shuffle`.
        shuffled: the dataset's own way to draw an order of its indices; null for any order.
        labels: int64 [length], the class of each sample, for `balanced`.
        batch_size: samples of one batch of one process.
        shuffle: a new order for each epoch.
        drop_last: leave out the last global batch if it is not full.
        repeats: repeated augmentation (Hoffer et al., arXiv 1901.09335): each sample stands that
            often in a row in the order, so that the ranks, or one batch, see it under several
            augmentations. An epoch keeps its length, and so sees 1 / repeats of the samples, as
            with DeiT's sampler.
        balanced: an epoch has equally many samples of each class, whatever the dataset has: of a
            large class another part in each epoch, of a small one each sample several times. An
            epoch keeps its length. Needs `shuffle`.

    Raises:
        ValueError: there is not even one batch, or options do not go together.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        even: bool = False,
        shuffled: Callable[[np.random.Generator], np.ndarray] | None = None,
        labels: np.ndarray | None = None,
        /,
        *,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        repeats: int = 1,
        balanced: bool = False,
    ):
        rules.sampler(batch_size=batch_size, shuffle=shuffle, repeats=repeats, balanced=balanced)
        if balanced and labels is None:
            raise ValueError("sampler.balanced needs the labels of the samples")
        if length < 1:
            raise ValueError("the dataset has 0 samples")
        if drop_last and length < world:
            raise ValueError(f"{world} processes are more than the {length} samples; use fewer")
        if drop_last and length < batch_size * world:
            raise ValueError(
                f"sampler.batch_size {batch_size} on {world} processes is more than the {length} "
                "samples, and drop_last leaves "
                f"out what does not fill a batch; use batch_size {max(1, length // world)} or less"
            )
        self.length, self.seed, self.rank, self.world = length, seed, rank, world
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        self.repeats, self.shuffled = repeats, shuffled
        self.balanced, self.labels = balanced, labels
        self.even = even or shuffle
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, and the batch of this rank to begin with."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        total = self._total()
        own = len(range(self.rank, total, self.world))
        return own // self.batch_size if self.drop_last else -(-own // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, order = self.epoch, self._order()
        positions = range(self.rank, self._total(), self.world)
        for batch in range(self.start, len(self)):
            chosen = positions[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [
                (epoch, position, int(order[position // self.repeats % len(order)]))
                for position in chosen
            ]

    def _order(self) -> np.ndarray:
        """The samples of the epoch, over all ranks."""
        if not self.shuffle:
            return np.arange(self.length)
        rng = np.random.default_rng((self.seed, self.epoch))
        order = self.shuffled(rng) if self.shuffled else rng.permutation(self.length)
        if self.balanced and self.labels is not None:
            places = -(-self.length // self.repeats)
            order = balanced_order(order, self.labels, places, rng)
        return order

    def _total(self) -> int:
        """Samples of an epoch over all ranks."""
        if self.drop_last:
            return self.length - self.length % (self.batch_size * self.world)
        # A rank with fewer batches than the others would leave them waiting for its gradients.
        return -(-self.length // self.world) * self.world if self.even else self.length
