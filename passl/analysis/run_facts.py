"""What the files of a run's folder tell about the run besides its scores."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passl.analysis.compare import RunSummary
from passl.engine.run_files import LOG, STARTS, WARNING, json_objects
from passl.engine.run_folder import NONFINITE
from passl.io.files import to_json
from passl.modeling.heads import HEADS
from passl.utils.config import dotted, get_config, leaves

_WARNINGS = 20
"""Different warnings of the log that are listed."""
_WAITING = 0.2
"""Part of the training time from which waiting for data is worth a remark."""
_RISE = 0.05
_AFTER = 3
"""Rise of the validation loss above its lowest value, and evaluations since that one, from which it
is remarked.
"""


def read_starts(folder: Path) -> list[dict[str, Any]]:
    """The lines of `starts.jsonl`, without damaged ones; empty for a run without the file."""
    try:
        return list(json_objects((folder / STARTS).read_bytes().splitlines()))
    except OSError:
        return []


# --------------------------------------------------------------------------------------------------
# Config
# --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Change:
    """A value of a run that its recipe does not have; null for a key that is not there.

    Args:
        key: dotted.
        before, after: in the recipe and in the run, as text.
    """

    key: str
    before: str | None
    after: str | None


def recorded_recipe(starts: Sequence[Mapping[str, Any]]) -> str | None:
    """The recipe that the first start has recorded; null if there is none."""
    return next((start["recipe"] for start in starts if start.get("recipe")), None)


def changes(settings: Mapping[str, Any], recipe: str) -> list[Change]:
    """The values of a run that differ from its recipe's, in the recipe's order, but for
    `output_dir` and what the run has derived from its data and network.

    Args:
        settings: of the run, by dotted keys.
        recipe: name or path of a config.

    Raises:
        ConfigError: the recipe cannot be read.
    """
    tree = get_config(recipe).to_dict()
    before = {dotted(keys): value for keys, value in leaves(tree)}
    head = tree.get("model", {}).get("head", {})
    derived = tuple(
        f"model.head.{option}." for option in (*HEADS.required, "strides") if option not in head
    )
    return [
        Change(key, _text(before, key), _text(settings, key))
        for key in dict.fromkeys([*before, *settings])
        if key != "output_dir" and not f"{key}.".startswith(derived)
        if _exact(before, key) != _exact(settings, key)
    ]


def _exact(values: Mapping[str, Any], key: str) -> str | None:
    return to_json(values[key]) if key in values else None


def _text(values: Mapping[str, Any], key: str) -> str | None:
    value = values.get(key)
    return value if isinstance(value, str) else _exact(values, key)


# --------------------------------------------------------------------------------------------------
# Time
# --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Timing:
    """How long a run took, from its metrics; null for what they do not have.

    Args:
        training: seconds of all steps.
        waiting: of these, seconds of waiting for data.
        evaluation: seconds of all evaluations.
        wall: seconds between the first and the last row of the metrics, breaks included.
        epochs: that are done.
    """

    training: float
    waiting: float
    evaluation: float
    wall: float | None
    epochs: int

    @property
    def waiting_part(self) -> float | None:
        """Part of the training time that is spent waiting for data."""
        return self.waiting / self.training if self.training else None


def timing(run: RunSummary) -> Timing:
    """Sum the times of the logged intervals and evaluations."""
    train, val = run.metrics.train, run.metrics.val
    before = [0, *(row["step"] for row in train)]
    steps = [row["step"] - start for row, start in zip(train, before, strict=False)]
    training, waiting = (
        sum(count * row.get(key, 0.0) for count, row in zip(steps, train, strict=True))
        for key in ("batch_cost", "reader_cost")
    )
    evaluation = sum(row["samples"] / row["ips"] for row in val if row.get("ips"))
    moments = [row["time"] for row in (*train, *val) if "time" in row]
    wall = max(moments) - min(moments) if moments else None
    return Timing(training, waiting, evaluation, wall, run.epochs_done)


# --------------------------------------------------------------------------------------------------
# Remarks
# --------------------------------------------------------------------------------------------------
def remarks(run: RunSummary, starts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What someone who reads a run's scores should know, as sentences."""
    return [
        *_of_starts(run, starts),
        *_of_losses(run.folder),
        *_of_time(timing(run)),
        *_of_validation(run),
        *_of_log(run.folder),
    ]


def _of_starts(run: RunSummary, starts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    epochs, done = run.settings.get("epochs"), run.epochs_done
    if isinstance(epochs, int) and done < epochs:
        yield f"The run has not finished: {done} of {epochs} epochs are done."
    resumed = [start for start in starts if start.get("resumed_from")]
    if resumed:
        after = [f"epoch {start.get('epoch')}, step {start.get('step')}" for start in resumed]
        yield f"The run was resumed {_times(len(resumed))}: after {'; '.join(after)}."
    for start in starts:
        if start.get("error"):
            yield f"A start failed: {start['error']}"


def _of_losses(folder: Path) -> Iterator[str]:
    form = re.compile(re.escape(NONFINITE).replace(r"\{\}", "([0-9]+)"))
    found = (form.fullmatch(path.name) for path in folder.iterdir())
    steps = sorted(int(match[1]) for match in found if match)
    if steps:
        listed = ", ".join(map(str, steps[:10])) + ", ..." * (len(steps) > 10)
        yield (
            f"The loss was not finite {_times(len(steps))}, at step {listed}; the images of the "
            f"batch are listed in {NONFINITE.format('STEP')} in the folder of the run."
        )


def _of_time(time: Timing) -> Iterator[str]:
    part = time.waiting_part
    if part is not None and part > _WAITING:
        yield (
            f"{100 * part:.0f} % of the training time was spent waiting for data; more workers "
            "(dataloader.train.loader.num_workers) or simpler transforms may speed it up."
        )


def _of_validation(run: RunSummary) -> Iterator[str]:
    """The usual sign of overfitting, as far as the metrics show it."""
    train, val = run.metrics.train, [row for row in run.metrics.val if "loss" in row]
    if len(val) <= _AFTER:
        return
    lowest = min(range(len(val)), key=lambda place: val[place]["loss"])
    least, last = val[lowest], val[-1]
    own = {
        epoch: [row["loss"] for row in train if row["epoch"] == epoch and "loss" in row]
        for epoch in (least["epoch"], last["epoch"])
    }
    if len(val) - 1 - lowest < _AFTER or not all(own.values()):
        return
    then, now = (statistics.fmean(own[row["epoch"]]) for row in (least, last))
    if last["loss"] > (1 + _RISE) * least["loss"] and now < then:
        yield (
            f"The validation loss was lowest in epoch {least['epoch']} ({least['loss']:.4f}) and "
            f"is {last['loss']:.4f} in epoch {last['epoch']}, while the training loss fell from "
            f"{then:.4f} to {now:.4f}: the network fits the training data at the expense of the "
            "validation loss since then (overfitting), whatever the other scores do."
        )


def _of_log(folder: Path) -> Iterator[str]:
    """Each different warning of `train.log`, which includes the images that could not be read."""
    try:
        with (folder / LOG).open(encoding="utf-8", errors="replace") as file:
            matches = (WARNING.match(line) for line in file)
            counts = Counter(match[2].rstrip() for match in matches if match)
    except OSError:
        return
    for text, count in list(counts.items())[:_WARNINGS]:
        yield f"Logged: {text}" + f" ({_times(count)})" * (count > 1)
    if len(counts) > _WARNINGS:
        yield f"The log has {len(counts) - _WARNINGS} more warnings: {folder / LOG}"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
