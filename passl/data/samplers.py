"""The order of the samples, and their distribution to ranks.

A key (epoch, position, index) asks for a sample: its position in the epoch's order over all ranks,
and its index in the dataset. Its random numbers come from a generator seeded with
(seed, epoch, position), so they do not depend on the number of workers or ranks, or on where a run
was resumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from passl.data.balance import balanced_order
from passl.data.datasets.base import ImageDataset
from passl.utils.schema import validated
from passl.utils.types import PositiveInt

Key = tuple[int, int, int]


@validated
class BatchSampler:
    """Batches of keys for one rank.

    In training (`shuffle`) every rank gets the same number of batches: the rest of the last global
    batch is left out (`drop_last`), or some samples are used twice. In evaluation each sample is
    used exactly once.

    Args:
        dataset: the samples.
        seed: of the run.
        rank, world: index of this process, and their number.
        even: give every rank the same number of batches also without `shuffle`.
        batch_size: samples in a batch of one process.
        shuffle: draw a new order for each epoch.
        drop_last: leave out the last global batch if it is not full.
        repeats: repeated augmentation (Hoffer et al., arXiv 1901.09335): each sample comes this
            many times in a row in the order, so that the ranks, or one batch, see it with several
            augmentations. As with DeiT's sampler, an epoch keeps its length and has 1 / repeats of
            the samples.
        balanced: draw equally many samples of each class: in each epoch another part of a large
            class, and every sample of a small class several times. An epoch keeps its length. Needs
            `shuffle`.
        samples: samples of an epoch over all processes; null for as many as the dataset has. A
            longer epoch passes through the dataset several times, each time in a new order; a
            shorter one has another random part in each epoch. Needs `shuffle`.

    Raises:
        ValueError: there is not one batch, or options do not go together.

    Example:
        sampler: {batch_size: 128, shuffle: true, drop_last: true}
    """

    def __init__(
        self,
        dataset: ImageDataset,
        seed: int,
        rank: int = 0,
        world: int = 1,
        even: bool = False,
        /,
        *,
        batch_size: PositiveInt,
        shuffle: bool = False,
        drop_last: bool = False,
        repeats: PositiveInt = 1,
        balanced: bool = False,
        samples: PositiveInt | None = None,
    ):
        if len(dataset) < 1:
            raise ValueError("the dataset has 0 samples")
        length = samples or len(dataset)
        if drop_last and length < world:
            raise ValueError(f"{world} processes are more than the {length} samples; use fewer")
        if drop_last and length < batch_size * world:
            raise ValueError(
                f"sampler.batch_size {batch_size} on {world} process(es) is more than the {length} "
                "samples, and drop_last leaves out an incomplete batch; use batch_size "
                f"{max(1, length // world)} or less"
            )
        self.dataset, self.seed, self.rank, self.world = dataset, seed, rank, world
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        self.repeats, self.balanced, self.samples = repeats, balanced, length
        self.even = even or shuffle
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Select the epoch, and the batch of this rank to start with."""
        self.epoch, self.start = epoch, start

    @staticmethod
    def check_options(
        *, shuffle: bool, repeats: int, balanced: bool, samples: int | None, **_: Any
    ) -> None:
        """Raise a ValueError for options that need `shuffle`."""
        if samples is not None and not shuffle:
            raise ValueError(
                f"sampler.samples {samples} needs shuffle, since every epoch would have the same "
                "samples in the same order; set shuffle: true beside it"
            )
        if repeats > 1 and not shuffle:
            raise ValueError(
                f"sampler.repeats {repeats} needs shuffle, since an epoch sees only 1 sample of "
                f"{repeats}, which would be the same ones each time"
            )
        if balanced and not shuffle:
            raise ValueError(
                "sampler.balanced draws an order for each epoch; set shuffle: true beside it"
            )

    def __len__(self) -> int:
        """Return the batches of a whole epoch."""
        own = len(range(self.rank, self._total(), self.world))
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
        """Return the samples of the epoch, over all ranks."""
        if not self.shuffle:
            return np.arange(len(self.dataset))
        rng = np.random.default_rng((self.seed, self.epoch))
        order = self.dataset.shuffled(rng)
        count = -(-self.samples // self.repeats)
        if self.balanced:
            return balanced_order(order, self.dataset.labels, count, rng)
        passes = [order]
        while sum(map(len, passes)) < count:
            passes.append(self.dataset.shuffled(rng))
        return np.concatenate(passes)

    def _total(self) -> int:
        """Return the samples of an epoch over all ranks."""
        length = self.samples
        if self.drop_last:
            return length - length % (self.batch_size * self.world)
        # With fewer batches than the others, a rank would leave them waiting for its gradients.
        return -(-length // self.world) * self.world if self.even else length
