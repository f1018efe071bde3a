"""A sweep: a training run for each combination of values, or for sampled values, one after another.

Each run is a process `passl train ... --resume auto` with a folder of its own. Optuna chooses the
values, and its study in the sweep's folder records them, so that the same call continues a sweep
that was interrupted.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

import passl
from passl.analysis.compare import SWEEP, shortest
from passl.analysis.curves import read_run
from passl.analysis.search_space import (
    Point,
    Values,
    check_keys,
    grid_points,
    overrides_of,
    points_to_check,
)
from passl.data.build import task_of
from passl.distributed.launcher import ProcessGroup
from passl.engine.check import check_config
from passl.engine.run_lock import HOLDER, LOCK, RunLock
from passl.engine.signals import StopRequest
from passl.errors import EXIT_STOPPED, ConfigError, RunError, Stopped
from passl.evaluation.scores import TASKS
from passl.io.files import remove_unfinished, to_json, write_text
from passl.io.terminal import STDERR
from passl.logging import get_logger
from passl.utils.config import dotted, get_config, leaves, storable
from passl.utils.paths import escaped
from passl.utils.yaml import read, to_yaml

STUDY = "study.journal"
_POLL = 0.2
"""Seconds between two looks at a run."""
_LOOK = 2.0
"""Seconds between two looks at its metrics."""
_LONGEST = 80
"""Characters of the name of a run."""
_PROGRAM = Path(passl.__file__).with_name("__main__.py")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep tries.

    Args:
        config: the file, or the name of a shipped one.
        overrides: of every run; `output_dir` is the folder of the sweep.
        values: of each key.
        trials: runs to sample; null tries every combination of the values.
        sampler: `tpe` or `random`, for sampled values.
        seed: of the sampler.
        prune: whether a run ends after an epoch in which its selecting score is below the median of
            the finished runs in that epoch (from the sixth run on).
    """

    config: str
    overrides: Sequence[str]
    values: Sequence[Values]
    trials: int | None = None
    sampler: str = "tpe"
    seed: int = 0
    prune: bool = False

    def check(self) -> Path:
        """Check every point of a grid, or the choices and the ends of the ranges to sample from.

        Returns:
            The folder of the sweep.

        Raises:
            ConfigError: every problem.
        """
        if importlib.util.find_spec("optuna") is None:
            raise ConfigError("a sweep needs Optuna; install it: pip install optuna")
        check_keys(self.values)
        problems: dict[str, None] = {}
        for point in self.points if self.trials is None else points_to_check(self.values):
            try:
                check_config(get_config(self.config, [*self.overrides, *overrides_of(point)]))
            except ConfigError as error:
                problems |= dict.fromkeys(error.problems)
        if problems:
            raise ConfigError(*problems)
        return Path(get_config(self.config, self.overrides).output_dir)

    @property
    def score(self) -> str:
        """The score that is maximized."""
        node = get_config(self.config, self.overrides).dataloader.val.dataset
        return TASKS[task_of(node)].best

    @property
    def points(self) -> list[Point]:
        return grid_points(self.values)

    def definition(self) -> dict[str, Any]:
        """What must not change when the sweep is continued."""
        config = storable(get_config(self.config, self.overrides))
        del config["output_dir"]
        values = {each.key: str(each) for each in self.values}
        if self.trials is None:
            return {"grid": values, "config": config}
        sampler = {"sampler": self.sampler, "seed": self.seed}
        return {"search": values, **sampler, "config": config}

    def name(self, number: int, point: Point) -> str:
        """The name of a run's folder, such as `0003_lr=0.001_depth=2`."""
        short = shortest(point)
        parts = [f"{short[key]}={_short(text)}" for key, text in point.items()]
        return re.sub(r"[^\w.=+-]+", "-", f"{number:04d}_{'_'.join(parts)}")[:_LONGEST].rstrip("-.")


def run_sweep(sweep: Sweep) -> list[dict[str, Any]]:
    """Make the runs of a sweep that are not finished.

    Args:
        sweep: after `check`.

    Returns:
        For each trial its `number`, the `name` of its run, the `values`, its `state` (`complete`,
        `failed` or `pruned`) and the best score in per cent, null for a failed one, under the name
        of the score that selects checkpoints, such as `top1`.

    Raises:
        ConfigError: the folder is in use, or has something else.
        RunError: all runs have failed.
        Stopped: by SIGTERM or SIGINT, after the current run has saved its state.
    """
    folder = sweep.check()
    with StopRequest() as stop, _opened(folder, sweep):
        study = _open_study(folder, sweep)
        count = len(sweep.points) if sweep.trials is None else sweep.trials
        while len(_finished(study)) < count:
            stop.check()
            trial = _next_trial(study, sweep)
            point = {each.key: each.suggest(trial) for each in sweep.values}
            run = folder / sweep.name(trial.number, point)
            get_logger().info("run %d of %d: %s", len(_finished(study)) + 1, count, run)
            _make_run(study, trial, run, sweep, point, stop)
    found = [_summary(sweep, trial) for trial in _finished(study)]
    if all(one["state"] == "failed" for one in found):
        raise RunError(f"all {len(found)} runs of the sweep in {folder} have failed")
    return found


@contextmanager
def _opened(folder: Path, sweep: Sweep) -> Iterator[None]:
    """A context in which no other sweep may use the folder, and the definition is in it."""
    path, definition = folder / SWEEP, sweep.definition()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output_dir: {folder} cannot be made: {error.strerror}") from None
    lock = RunLock(folder, "by the same call")
    try:
        remove_unfinished(folder)
        if path.exists():
            _check_same(path, definition)
        elif others := sorted({item.name for item in folder.iterdir()} - {LOCK, HOLDER}):
            raise ConfigError(
                f"output_dir: {folder} has {others[0]} and is not the folder of a sweep; choose a "
                "new one by -o output_dir=..."
            )
        else:
            write_text(path, to_yaml(definition))
        yield
    finally:
        lock.release()


def _check_same(path: Path, definition: dict[str, Any]) -> None:
    before, now = dict(leaves(read(path)[0])), dict(leaves(definition))
    changed = [keys for keys in {**before, **now} if before.get(keys) != now.get(keys)]
    if changed:
        shown = "; ".join(
            f"{dotted(keys)} is {now.get(keys)!r} and was {before.get(keys)!r}"
            for keys in changed[:3]
        )
        raise ConfigError(
            f"{path}: this is another sweep: {shown}. Continue it as it was, or choose another "
            "folder by -o output_dir=..."
        )


# --------------------------------------------------------------------------------------------------
# The study
# --------------------------------------------------------------------------------------------------
def _open_study(folder: Path, sweep: Sweep) -> Any:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / STUDY
    _repair(path)
    study = optuna.create_study(
        study_name="sweep",
        direction="maximize",
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(path))),
        pruner=optuna.pruners.MedianPruner(),
        load_if_exists=True,
    )
    if sweep.trials is None:
        for point in sweep.points[len(study.trials) :]:  # a killed sweep may have queued some
            study.enqueue_trial(point)
    return study


def _repair(path: Path) -> None:
    """Remove what a killed sweep has left: the journal's lock, and a last line that is cut short,
    to which the next line would be appended.
    """
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    with suppress(FileNotFoundError), path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def _finished(study: Any) -> list[Any]:
    return [trial for trial in study.trials if trial.state.is_finished()]


def _next_trial(study: Any, sweep: Sweep) -> Any:
    """The trial that was interrupted, or a new one."""
    import optuna

    running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    number = running[0].number if running else len(study.trials)
    # A seed for each trial, so that a continued sweep samples what an uninterrupted one does.
    seed = int(np.random.SeedSequence([sweep.seed, number]).generate_state(1)[0])
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    study.sampler = samplers[sweep.sampler](seed=seed)
    return optuna.trial.Trial(study, running[0]._trial_id) if running else study.ask()


def _summary(sweep: Sweep, trial: Any) -> dict[str, Any]:
    state = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name, "failed")
    point = {each.key: trial.params[each.key] for each in sweep.values}
    texts = {
        key: value if isinstance(value, str) else to_json(value) for key, value in point.items()
    }
    scores = trial.intermediate_values.values()
    return {
        "number": trial.number,
        "name": sweep.name(trial.number, texts),
        "values": {key: json.loads(text) for key, text in texts.items()},
        "state": state,
        sweep.score: max(scores, default=None) if state != "failed" else None,
    }


# --------------------------------------------------------------------------------------------------
# A run
# --------------------------------------------------------------------------------------------------
def _make_run(
    study: Any, trial: Any, folder: Path, sweep: Sweep, point: Point, stop: StopRequest
) -> None:
    """Make or continue the run of a trial, and record how it ended.

    Raises:
        Stopped: the run has saved its state; the trial stays unfinished.
    """
    import optuna

    _wait_until_free(folder, stop)
    output_dir = f"output_dir={to_json(escaped(str(folder)))}"
    command = [sys.executable, "-u", str(_PROGRAM), "train", sweep.config]
    command += ["-o", *sweep.overrides, *overrides_of(point), output_dir, "--resume", "auto"]
    is_asked, is_pruned, last_look = False, False, time.monotonic()
    process = ProcessGroup(command, stdout=STDERR)
    try:
        while process.poll() is None:
            time.sleep(_POLL)
            is_due = sweep.prune and time.monotonic() > last_look + _LOOK
            if stop.name is None and not is_asked and is_due:
                last_look = time.monotonic()
                is_pruned = _report(study, trial, folder, sweep.score) and trial.should_prune()
            if (stop.name is not None or is_pruned) and not is_asked:
                is_asked = True
                process.terminate()
    finally:
        process.kill_group()
    code = process.returncode
    if code and stop.name is not None:
        raise Stopped(stop.name)
    if code == EXIT_STOPPED and not is_pruned:
        raise Stopped(f"a signal to the run in {folder}")
    _report(study, trial, folder, sweep.score)
    state, best = optuna.trial.TrialState, None
    if code == 0:
        best = read_run(folder).best
    if best is not None:
        study.tell(trial, best[sweep.score])
        get_logger().info("%s: best %s %.2f %%", folder.name, sweep.score, best[sweep.score])
    elif is_pruned:
        study.tell(trial, state=state.PRUNED)
        get_logger().info("%s: pruned, its %s is below the median", folder.name, sweep.score)
    else:
        trial.set_user_attr("exit_code", code)
        study.tell(trial, state=state.FAIL)
        get_logger().warning("%s: failed with exit code %d; the sweep goes on", folder, code)


def _wait_until_free(folder: Path, stop: StopRequest) -> None:
    """Wait for the end of a process that uses the folder: the run of a sweep that was killed saves
    its state before it ends.
    """
    is_logged = False
    while folder.is_dir():
        stop.check()
        lock = FileLock(folder / LOCK, timeout=1, mode=folder.stat().st_mode & 0o666)
        try:
            with lock:
                return
        except Timeout:
            if not is_logged:
                get_logger().info("%s: is in use; waiting for the end of that run", folder)
            is_logged = True
        except (OSError, NotImplementedError):  # no locks: the run itself warns of that
            return


def _report(study: Any, trial: Any, folder: Path, score: str) -> bool:
    """Report the evaluations of a run to Optuna.

    Returns:
        Whether there is a new one.
    """
    with suppress(ConfigError):
        known = study.trials[trial.number].intermediate_values
        rows = [row for row in read_run(folder).val if score in row and row["epoch"] not in known]
        for row in rows:
            trial.report(row[score], row["epoch"])
        return bool(rows)
    return False


def _short(text: str) -> str:
    value = json.loads(text)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
