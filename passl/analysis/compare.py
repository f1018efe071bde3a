"""What differs between runs: settings, scores and throughput."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passl.analysis.curves import Metrics, read_run
from passl.engine.metrics import METRICS
from passl.engine.run_folder import CONFIG, CONFIG_OF_RESUME
from passl.errors import ConfigError
from passl.io.files import to_json
from passl.logging import aligned, columns_of, printable
from passl.utils.config import dotted, leaves
from passl.utils.yaml import read

SWEEP = "sweep.yaml"
"""In the folder of a sweep, which has the folders of its runs."""
_IGNORED = ("epochs", "output_dir", "log_config", "checkpoint", "timeouts", "rank_check_interval")
"""Sections that change neither the result of a run nor its speed; `epochs` is in the results."""
_LONGEST = 24
"""Characters of a value in a table of text."""


@dataclass(frozen=True)
class RunSummary:
    """A run as a row of the table.

    Args:
        name: the folder's, with as many of its parents as distinguish it from other runs.
        settings: every value of the resolved config, by its dotted key. A value that was changed
            when the run was resumed is a text, `BEFORE -> AFTER`.
    """

    name: str
    folder: Path
    settings: dict[str, Any]
    metrics: Metrics

    @property
    def epochs_done(self) -> int:
        """Epochs of which all steps are made."""
        train, val = (
            max((row["epoch"] for row in rows), default=0)
            for rows in (self.metrics.train, self.metrics.val)
        )
        return max(val, train - 1)

    @property
    def images_per_second(self) -> float | None:
        """The median throughput of the logged intervals."""
        values = [row["ips"] for row in self.metrics.train if "ips" in row]
        return statistics.median(values) if values else None

    def results(self) -> dict[str, Any]:
        """The values of the table beside the settings. The selecting score of the run's task, such
        as top1, is in per cent, that of the last evaluation as well. The losses are those of the
        last evaluation, and of the last logged interval.
        """
        best, key = self.metrics.best or {}, self.metrics.task.best
        return {
            "epochs_done": self.epochs_done,
            f"best_{key}": best.get(key),
            "best_epoch": best.get("epoch"),
            f"last_{key}": self._last("val", key),
            "last_loss": self._last("val", "loss"),
            "train_loss": self._last("train", "loss"),
            "images_per_second": self.images_per_second,
        }

    def _last(self, phase: str, key: str) -> float | None:
        rows = getattr(self.metrics, phase)
        return rows[-1].get(key) if rows else None


def named_runs(folders: Sequence[Path]) -> list[tuple[str, Path]]:
    """Name the runs in folders by the ends of their paths, as short as distinguishes them. The
    folder of a sweep stands for all its runs that have started to train.

    Raises:
        ConfigError: a run is named twice, or none of a sweep has started.
    """
    found, problems = _find_runs(folders)
    if problems:
        raise ConfigError(*problems)
    return list(zip(_names(found), found, strict=True))


def read_runs(folders: Sequence[Path]) -> list[RunSummary]:
    """Read the runs of `named_runs`.

    Raises:
        ConfigError: everything that is wrong with the folders.
    """
    found, problems = _find_runs(folders)
    runs = []
    for folder, name in zip(found, _names(found), strict=True):
        try:
            runs.append(RunSummary(name, folder, _settings(folder), read_run(folder)))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return runs


def _find_runs(folders: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The folders of runs, and what is wrong with those that are given."""
    found: list[Path] = []
    problems: list[str] = []
    for folder in folders:
        inside = _runs_of_sweep(folder)
        if inside == []:
            problems.append(f"{folder}: no run of this sweep has started to train yet")
        found += [folder] if inside is None else inside
    places = [folder.resolve() for folder in found]
    problems += [
        f"{folder}: is named twice; name each run once"
        for number, folder in enumerate(found)
        if places[number] in places[:number]
    ]
    return found, problems


def differing(runs: Sequence[RunSummary]) -> list[str]:
    """The keys whose values differ between the runs, in the order of the configs. `epochs` is none
    of them: the results name it.
    """
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [
        key
        for key in keys
        if key.partition(".")[0] not in _IGNORED and len({_exact(run, key) for run in runs}) > 1
    ]


def as_json(runs: Sequence[RunSummary]) -> dict[str, Any]:
    """The table as plain data: for each run its results, and the settings that differ."""
    keys = differing(runs)
    return {
        "runs": [
            {
                "name": run.name,
                "folder": str(run.folder),
                "settings": {key: run.settings[key] for key in keys if key in run.settings},
                "epochs": run.settings.get("epochs"),
                **run.results(),
            }
            for run in runs
        ]
    }


def as_rows(runs: Sequence[RunSummary]) -> tuple[list[str], list[list[Any]]]:
    """The table for a CSV file: its head, and a row for each run. Values that a run does not have
    are empty.
    """
    keys, columns = differing(runs), result_columns(runs)
    rows = []
    for run in runs:
        settings = [setting_text(run, key) for key in (*keys, "epochs")]
        results = run.results()
        rows.append([run.name, str(run.folder), *settings, *map(results.get, columns)])
    return ["run", "folder", *keys, "epochs", *columns], rows


def as_text(runs: Sequence[RunSummary], columns: int) -> str:
    """The table as aligned text. The runs are its rows, or its columns if it is narrower so and
    does not fit otherwise.

    Args:
        columns: characters of a line that fit.
    """
    keys, shown_columns = differing(runs), result_columns(runs)
    short = shortest(keys)
    titles = [title for title, _ in shown_columns.values()]
    rows = [["run", *(printable(short[key]) for key in keys), *titles]]
    for run in runs:
        shown = [_shown(run.settings[key]) if key in run.settings else "-" for key in keys]
        results = run.results()
        results["epochs_done"] = f"{run.epochs_done}/{run.settings.get('epochs', '-')}"
        forms = [(results.get(name), form) for name, (_, form) in shown_columns.items()]
        shown += ["-" if value is None else format(value, form) for value, form in forms]
        rows.append([printable(run.name), *shown])
    by_run = aligned(rows)
    if _widest(by_run) > columns:
        by_run = min(by_run, aligned(list(zip(*rows, strict=True))), key=_widest)
    return "\n".join(by_run)


def shortest(keys: Iterable[str]) -> dict[str, str]:
    """The end of each dotted key, as short as distinguishes it from the others: `optimizer.lr` is
    `lr` if no other key ends so. It does not begin with the index of a list.
    """
    ends = {key: _ends(key) for key in keys}
    return {
        key: next(
            end for end in own if sum(end in others for others in ends.values()) == 1 or end == key
        )
        for key, own in ends.items()
    }


def _ends(key: str) -> list[str]:
    parts = key.split(".")
    starts = [start for start in range(len(parts)) if not parts[start].isdecimal()]
    return [".".join(parts[start:]) for start in reversed(starts)]


def _runs_of_sweep(folder: Path) -> list[Path] | None:
    """The runs in the folder of a sweep; null if it is none."""
    if not (folder / SWEEP).is_file():
        return None
    return sorted(
        path
        for path in folder.iterdir()
        if (path / METRICS).is_file() and (path / CONFIG).is_file()
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """The ends of the paths, as short as distinguishes them."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts), default=0)):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(folder) for folder in folders]


def _settings(folder: Path) -> dict[str, Any]:
    """The values of the resolved config, with those that a resume has changed."""
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder}: holds no {CONFIG}; name the output_dir of a training run")
    form = re.compile(re.escape(CONFIG_OF_RESUME).replace(r"\{\}", "([0-9]+)"))
    found = [(form.fullmatch(path.name), path) for path in folder.iterdir()]
    later = sorted((int(match[1]), path) for match, path in found if match)
    configs = [
        {dotted(keys): value for keys, value in leaves(read(path)[0])}
        for path in (folder / CONFIG, *(path for _, path in later))
    ]
    settings = {}
    for key in dict.fromkeys(key for config in configs for key in config):
        texts = [to_json(config[key]) if key in config else "-" for config in configs]
        changes = [
            text for text, before in zip(texts, [None, *texts], strict=False) if text != before
        ]
        settings[key] = configs[0][key] if len(changes) == 1 else " -> ".join(changes)
    return settings


def _exact(run: RunSummary, key: str) -> str:
    """A setting as JSON, where 1, 1.0, true and "1" differ; empty if there is none."""
    return to_json(run.settings[key]) if key in run.settings else ""


def setting_text(run: RunSummary, key: str) -> str:
    """A setting as text, without the quotes of JSON; empty if there is none."""
    value = run.settings.get(key)
    return value if isinstance(value, str) else _exact(run, key)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = printable(value if isinstance(value, str) else to_json(value))
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[: half - 1]}…{text[-half:]}"


def result_columns(runs: Sequence[RunSummary]) -> dict[str, tuple[str, str]]:
    """The runs' results in a table to read: key -> title and format. Each task has a score."""
    tasks = [run.metrics.task for run in runs]
    scores = {task.best: task.shown[task.best] for task in tasks}
    return {
        "epochs_done": ("epochs", ""),
        **{f"best_{key}": (f"best {title}", ".2f") for key, title in scores.items()},
        "best_epoch": ("in epoch", "d"),
        **{f"last_{key}": (f"last {title}", ".2f") for key, title in scores.items()},
        "last_loss": ("last loss", ".4f"),
        "train_loss": ("training loss", ".4f"),
        "images_per_second": ("images/s", ".1f"),
    }


def _widest(lines: Sequence[str]) -> int:
    return max(map(columns_of, lines))
