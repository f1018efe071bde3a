"""The results of the study: read from its runs, and stored as one JSON file, which the page and its
figures are made from.
"""

from __future__ import annotations

import datetime
import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from passl.engine.run_folder import KEPT
from passl.machine import commit_of, processor, versions
from studies.fashion.plan import NETWORKS, Plan, Run, initial_file
from studies.jobs import ROOT

_GATE = "backbone.blocks.{}.attn.gating_param"


@dataclass(frozen=True)
class Results:
    """What is finished of the study.

    Args:
        about: date, machine and versions.
        planned: number of runs that the study has.
        runs: fields of each run, with `top1` in per cent and `ips`, images per second in training.
        gates: for some runs, with their `tokens` and `fraction`, `steps` and the `values` of the
            gates at each of them, after the sigmoid: [moments, local blocks, heads].
    """

    about: Mapping[str, Any]
    planned: int
    runs: Sequence[Mapping[str, Any]]
    gates: Sequence[Mapping[str, Any]]

    def tuned(self, tokens: int, network: str) -> dict[float, float]:
        """Top-1 on the held-out images for each learning rate."""
        return {
            run["lr"]: run["top1"]
            for run in self.runs
            if run["is_tuning"] and (run["tokens"], run["network"]) == (tokens, network)
        }

    def scores(self, tokens: int, network: str, fraction: float) -> dict[int, float]:
        """Top-1 on the test images for each seed."""
        wanted = tokens, network, fraction
        return {
            run["seed"]: run["top1"]
            for run in self.runs
            if not run["is_tuning"] and (run["tokens"], run["network"], run["fraction"]) == wanted
        }

    def pairs(
        self, tokens: int, ours: str, theirs: str, fraction: float
    ) -> tuple[list[float], list[float]]:
        """Top-1 of two networks, for the seeds that both have finished."""
        one, other = (self.scores(tokens, name, fraction) for name in (ours, theirs))
        seeds = sorted(one.keys() & other.keys())
        return [one[seed] for seed in seeds], [other[seed] for seed in seeds]

    def throughput(self, tokens: int, network: str) -> float | None:
        """Images per second in training: the median of the runs."""
        found = [
            run["ips"] for run in self.runs if (run["tokens"], run["network"]) == (tokens, network)
        ]
        return statistics.median(found) if found else None


def best_rates(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str], float]:
    """The learning rate of each number of tokens and network whose tuning is finished: the one with
    the highest top-1, of equal ones the lowest.
    """
    best = {}
    for tokens, network in itertools.product(plan.rows, NETWORKS):
        tuned = {
            row["lr"]: row["top1"]
            for row in rows
            if row["is_tuning"] and (row["tokens"], row["network"]) == (tokens, network)
        }
        if tuned.keys() >= set(plan.rates):
            best[tokens, network] = max(sorted(tuned), key=tuned.__getitem__)
    return best


def collect(plan: Plan, folder: Path) -> Results:
    """Read what is finished.

    Raises:
        ConfigError: a run has other settings than the plan's.
    """
    rows = list(finished(plan, plan.tuning(), folder))
    rates = best_rates(plan, rows)
    rows += finished(plan, plan.runs(rates), folder)
    return Results(
        about={
            "date": datetime.date.today().isoformat(),
            "processor": processor(),
            "commit": commit_of(ROOT)["commit"],
            **versions(["paddlepaddle", "numpy"]),
        },
        planned=plan.size,
        runs=rows,
        gates=[
            _gates(plan, run, folder)
            for run in plan.runs(rates)
            if plan.reads_gates(run) and plan.training(run, folder).result() is not None
        ],
    )


def finished(plan: Plan, runs: Iterable[Run], folder: Path) -> Iterator[dict[str, Any]]:
    """The fields, top-1 and images per second of each run that is finished."""
    for run in runs:
        training = plan.training(run, folder)
        last = training.result()
        if last is not None:
            rates = [row["ips"] for row in training.rows("train")]
            ips = round(statistics.median(rates), 1)
            yield {**run._asdict(), "top1": last["top1"], "ips": ips}


def _gates(plan: Plan, run: Run, folder: Path) -> dict[str, Any]:
    """The gates of a run's local blocks from its start on, from the checkpoints that it kept."""
    blocks = range(plan.config(run.tokens).model.architecture.local_up_to_layer)
    kept = (folder / run.name).glob(KEPT.format("*"))
    files = {0: initial_file(run, folder)}
    files |= {int(path.stem.removeprefix("step_")): path for path in kept}
    values = []
    for step in sorted(files):
        with safe_open(files[step], "np") as file:
            gates = [file.get_tensor(_GATE.format(block)) for block in blocks]
        gates_LH = np.stack(gates).astype(np.float64)
        values.append((1 / (1 + np.exp(-gates_LH))).round(4).tolist())
    return {**run._asdict(), "steps": sorted(files), "values": values}
