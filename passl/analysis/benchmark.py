"""How fast training steps are, on every rank, and what their time is spent on."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import paddle

from passl.analysis.trial import WARMUP, Trial
from passl.distributed import ranks as distributed
from passl.engine.step import Outcome
from passl.engine.throughput import Split, slowest
from passl.errors import RunError
from passl.io.terminal import Bar
from passl.logging import aligned
from passl.machine import peak_memory, processor, versions
from passl.optim.parameters import trainable
from passl.step_times import COMM, DEVICE, NAMES
from passl.utils.config import Config

_REDUCTIONS = 5
"""Reductions that are timed, after one that is not."""
_SHOWN = 16
"""Ranks in the table."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Measured steps.

    Args:
        about: what was measured where, as JSON.
        parts: names of the parts of a step.
        seconds: [ranks, steps, parts].
        samples: of all steps, over all ranks.
        peaks: largest memory of each rank's process, or of its GPU, in bytes; NaN if unknown.
        gradient_bytes: that are averaged in each step.
        reductions: seconds in which the ranks add up so many bytes, in one operation and with
            nothing beside it; empty for one rank.
    """

    about: Mapping[str, Any]
    parts: Sequence[str]
    seconds: np.ndarray
    samples: int
    peaks: Sequence[float]
    gradient_bytes: int
    reductions: Sequence[float]

    @property
    def split(self) -> Split:
        """That of the rank that the others wait for."""
        sums = self.seconds.sum(1)
        return slowest([dict(zip(self.parts, row.tolist(), strict=True)) for row in sums])

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON. Times of a step are in milliseconds; parts are means, which sum to
        `step_ms.mean`.
        """
        split, steps = self.split, self.seconds.shape[1]
        rate, world = self.samples / split.total, split.world
        found: dict[str, Any] = {
            **self.about,
            "samples_per_second": rate,
            "samples_per_second_per_rank": rate / world,
            "step_ms": _spread(1000 * self.seconds[split.rank].sum(1)),
            "parts_ms": self._milliseconds(self.seconds[split.rank].sum(0)),
            "bound_by": split.bound_by,
            "slowest_rank": split.rank,
            "imbalance_ms": 1000 * split.imbalance / steps,
            "gradient_bytes": self.gradient_bytes,
        }
        if self.reductions:
            median = float(np.median(self.reductions))
            sent = 2 * (world - 1) / world * self.gradient_bytes
            found["all_reduce_ms"] = _spread(1000 * np.asarray(self.reductions))
            found["bus_bytes_per_second"] = sent / median
        found["ranks"] = [
            {
                "rank": rank,
                "step_ms": 1000 * float(sums.sum()) / steps,
                "parts_ms": self._milliseconds(sums),
                "peak_bytes": None if np.isnan(peak) else int(peak),
            }
            for rank, (sums, peak) in enumerate(zip(self.seconds.sum(1), self.peaks, strict=True))
        ]
        return found

    def lines(self) -> list[str]:
        """The result as a table."""
        found, split = self.to_dict(), self.split
        step, rate = found["step_ms"], found["samples_per_second"]
        each = found["samples_per_second_per_rank"]
        lines = [
            f"{found['steps']} steps after {found['warmup']} to warm up, on {found['device']}: "
            f"{split.world} process(es), batches of {found['batch']}",
            "",
            f"step: median {step['median']:.1f} ms, 10th to 90th percentile {step['p10']:.1f} to "
            f"{step['p90']:.1f}, all {step['low']:.1f} to {step['high']:.1f}",
            f"throughput: {rate:,.1f} samples/s in all, {each:,.1f} samples/s a rank",
            split.text(),
        ]
        if "all_reduce_ms" in found:
            reduced = found["all_reduce_ms"]
            lines.append(
                f"adding up {self.gradient_bytes / 1e6:,.1f} MB, the size of the gradients, over "
                f"the ranks: {reduced['median']:.2f} ms ({reduced['low']:.2f} to "
                f"{reduced['high']:.2f}), bus bandwidth {found['bus_bytes_per_second'] / 1e9:.3g} "
                "GB/s"
            )
        return [*lines, "", *_table(found["ranks"])]

    def _milliseconds(self, sums: np.ndarray) -> dict[str, float]:
        """Milliseconds of a step by part, for seconds of all steps."""
        found = Split(dict(zip(self.parts, sums.tolist(), strict=True)), world=len(self.peaks))
        return {part: 1000 * s / self.seconds.shape[1] for part, s in found.shown().items()}


def _spread(values: np.ndarray) -> dict[str, float]:
    p10, median, p90 = np.percentile(values, (10, 50, 90)).tolist()
    low, high, mean = (float(f(values)) for f in (np.min, np.max, np.mean))
    return {"median": median, "mean": mean, "p10": p10, "p90": p90, "low": low, "high": high}


def _table(ranks: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each rank; of many, for those that wait the least for the others."""
    parts = list(ranks[0]["parts_ms"])
    wait = next((part for part in (COMM, DEVICE) if part in parts), parts[0])
    order = sorted(ranks, key=lambda row: row["parts_ms"][wait]) if len(ranks) > _SHOWN else ranks
    rows = [
        (
            str(row["rank"]),
            *(f"{ms:.1f} ms" for ms in (row["step_ms"], *row["parts_ms"].values())),
            "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:,.0f} MiB",
        )
        for row in order[:_SHOWN]
    ]
    left = len(ranks) - len(rows)
    rest = [f"and {left} ranks that wait longer for the others; --json has all"] * (left > 0)
    head = ("rank", "step", *(NAMES[part] for part in parts), "peak memory")
    return [*aligned([head, *rows]), *rest]


def benchmark(cfg: Config, steps: int) -> Speed | None:
    """Time training steps. Data, network, loss and optimizer are those of a run that starts;
    nothing is written, and the weights are thrown away. As in a run, the outcome of a step is read
    when the next one is queued.

    Args:
        cfg: checked by `engine.check.check_config`.
        steps: to time, after some others.

    Returns:
        The result on the first rank; null on the others.

    Raises:
        ConfigError: the run cannot start as configured.
        RunError: weights or an image cannot be read.
    """
    with distributed.start(cfg.get("device", "auto"), cfg.get("timeouts")) as ranks:
        trial = Trial(cfg, ranks)
        # What workers have read ahead says nothing of their speed.
        warmup = WARMUP + trial.loader.read_ahead
        seconds, samples = _timed(trial, warmup, steps)
        sizes = [parameter.size for _, parameter in trainable(trial.learner.model)]
        reductions = _reductions(trial, sum(sizes))
        own = {"seconds": seconds, "peak": np.array(_peak()), "samples": np.array(samples)}
        ranks.wait()
        rows = ranks.gather(own, to_all=False)
        if not ranks.is_first:
            return None
        about = {
            "config": str(cfg.file),
            "network": cfg.model.architecture.name,
            "amp": cfg.to_dict().get("amp", {}),
            "device": paddle.get_device(),
            "processor": processor(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "versions": versions(["paddlepaddle", "paddlepaddle-gpu", "numpy"]),
            "world": ranks.world,
            "batch": trial.loader.sampler.batch_size,
            "steps": steps,
            "warmup": warmup,
        }
        return Speed(
            about=about,
            parts=ranks.times.parts,
            seconds=np.stack([row["seconds"] for row in rows]),
            samples=sum(int(row["samples"]) for row in rows),
            peaks=[float(row["peak"]) for row in rows],
            gradient_bytes=4 * sum(sizes),  # float32, also with amp
            reductions=reductions,
        )


def _timed(trial: Trial, warmup: int, steps: int) -> tuple[np.ndarray, int]:
    """Make the steps.

    Returns:
        Seconds [steps, parts] of those after the warmup, and their samples on this rank.
    """
    times, before, samples, found = trial.ranks.times, None, 0, []
    with Bar("benchmark", warmup + steps, shown=trial.ranks.is_first) as bar:
        # The first of both ends the loop, so that no batch is read in vain.
        for step, batch in zip(range(warmup + steps), times.reading(trial.batches()), strict=False):
            with times.computing():
                images, targets = trial.mixed(batch, step)
                outcome = trial.update(images, targets, step)
            if before is not None:
                _check_finite(before, step)
            before = outcome
            row = times.take()
            if step >= warmup:
                found.append(list(row.values()))
                samples += len(batch.indices)
            bar.update()
        _check_finite(outcome, warmup + steps)
    return np.array(found), samples


def _check_finite(outcome: Outcome, step: int) -> None:
    """Read the outcome of a step, as a run does.

    Raises:
        RunError: its loss is not finite.
    """
    if not outcome.is_finite:
        raise RunError(
            f"the loss is {outcome.loss} at step {step}, and such numbers may have another speed; "
            "a lower optimizer.lr or a longer warmup can help"
        )


def _reductions(trial: Trial, numbers: int) -> list[float]:
    """Seconds in which the ranks add up so many float32 numbers."""
    ranks, found = trial.ranks, []
    if ranks.world == 1:
        return []
    table = paddle.zeros([numbers])
    for _ in range(1 + _REDUCTIONS):
        ranks.sum([0.0])  # all begin at the same time
        start = perf_counter()
        ranks.all_reduce(table)
        if ranks.times.is_queued:
            paddle.device.synchronize()
        found.append(perf_counter() - start)
    return found[1:]


def _peak() -> float:
    """The largest memory so far, of this process or its GPU, in bytes; NaN if unknown."""
    if paddle.get_device().startswith("gpu"):
        return float(paddle.device.cuda.max_memory_reserved())
    peak = peak_memory()
    return math.nan if peak is None else float(peak)
