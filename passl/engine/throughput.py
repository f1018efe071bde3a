"""How the steps of an interval split into parts, on every rank, and which part binds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import paddle

from passl.distributed.ranks import Ranks
from passl.engine.step import HostCopy
from passl.step_times import COMM, DEVICE, NAMES

_IDLE = 0.05
"""Least fraction of a step for which the host waits for a device that is never idle; less is
jitter.
"""


@dataclass(frozen=True)
class Split:
    """The time of steps, of the rank that the others wait for.

    Args:
        seconds: of each part. They sum to the time of the steps.
        rank: which rank it is: the one that waits the least for the others.
        imbalance: seconds that the ranks wait for it, on average.
        world: number of ranks.
    """

    seconds: Mapping[str, float]
    rank: int = 0
    imbalance: float = 0.0
    world: int = 1

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def bound_by(self) -> str:
        """The part that binds: with less of it, steps are faster. The host waits for a device only
        if the device has always something to do, so the device binds then.
        """
        if self.seconds.get(DEVICE, 0.0) >= _IDLE * self.total > 0:
            return DEVICE
        return max(self.seconds, key=lambda part: self.seconds[part])

    def row(self, steps: int, samples: int) -> dict[str, Any]:
        """The metrics of an interval: seconds of a step as `batch_cost` and the cost of each part,
        samples per second as `ips`, and which part binds.

        Args:
            steps: of the interval.
            samples: of these steps, over all ranks.
        """
        ips = samples / self.total
        found: dict[str, Any] = {"batch_cost": self.total / steps}
        found |= {f"{part}_cost": value / steps for part, value in self.shown().items()}
        found |= {"ips": ips, "bound_by": self.bound_by}
        if self.world > 1:
            found["ips_per_rank"] = ips / self.world
            found["imbalance_cost"] = self.imbalance / steps
            found["slowest_rank"] = self.rank
        return found

    def text(self) -> str:
        """What binds, and the parts in per cent."""
        whole, shown = self.total or 1.0, self.shown()
        percent = {part: f"{NAMES[part]} {100 * s / whole:.0f} %" for part, s in shown.items()}
        first = percent.pop(self.bound_by)
        others = ", ".join(percent.values())
        late = 100 * self.imbalance / whole
        waits = f"; the others wait {late:.0f} % for rank {self.rank}" if late >= 5 else ""
        return f"bound by {first} ({others}{waits})"

    def shown(self) -> dict[str, float]:
        """The parts of such a run: one process does not communicate."""
        return {part: s for part, s in self.seconds.items() if part != COMM or self.world > 1}


def slowest(splits: Sequence[Mapping[str, float]]) -> Split:
    """The split of the rank that the others wait for. Ranks meet in every step, and those that come
    early wait: on a CPU in the collective operations, on a device for these, which it is to run.

    Args:
        splits: of every rank, seconds by part.
    """
    wait = COMM if COMM in splits[0] else DEVICE
    waits = [split[wait] for split in splits]
    rank = waits.index(min(waits))
    imbalance = sum(waits) / len(waits) - waits[rank]
    return Split(splits[rank], rank, imbalance, len(splits))


class RankTimes:
    """Times of all ranks on their way to the host, like the outcome of a step: the host waits for
    the device when they are first read, and a step that is queued meanwhile hides that.

    Args:
        own: seconds by part of this rank. Every rank must have them at the same step.
    """

    def __init__(self, own: Mapping[str, float], ranks: Ranks):
        self._own, self._world, self._copy = own, ranks.world, None
        if ranks.world > 1:
            # Filled on the device: a copy of the host's numbers would wait for it.
            values = [paddle.full([1], value, "float64") for value in own.values()]
            others = [paddle.zeros([len(own)], "float64") for _ in range(ranks.world - 1)]
            parts: list[Any] = [*others[: ranks.rank], *values, *others[ranks.rank :]]
            table = paddle.concat(parts)
            self._copy = HostCopy(ranks.all_reduce(table), ranks.times)

    def split(self) -> Split:
        """That of the rank that the others wait for."""
        if self._copy is None:
            return Split(self._own)
        values, size = self._copy.values(), len(self._own)
        rows = [values[start : start + size] for start in range(0, len(values), size)]
        return slowest([dict(zip(self._own, row, strict=True)) for row in rows])
