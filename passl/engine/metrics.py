"""The numbers of a run: `metrics.jsonl`, which has all of them, VisualDL's curves, and log lines or
a progress bar.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from passl.distributed.ranks import Ranks
from passl.engine.exporter import Exporter
from passl.engine.run_files import METRICS
from passl.engine.throughput import RankTimes, Split
from passl.engine.visualdl import VisualDL
from passl.io.files import write_text
from passl.io.terminal import Bar, clock
from passl.logging import PROGRESS, get_logger


class MetricLog:
    """One line of JSON for each logged interval and each evaluation, also shown by VisualDL.

    Args:
        folder: of the run; null writes nothing (the other ranks).
        step: rows of later steps are dropped, because the resumed run writes them again; with 0,
            all are.
        epoch: evaluations after more than these epochs are dropped likewise.
        exporter: shows the rows to Prometheus too; null for none.

    Attributes:
        visualdl: shows the rows; null on the other ranks and after `close`.
    """

    def __init__(
        self,
        folder: Path | None,
        step: int = 0,
        epoch: int = 0,
        exporter: Exporter | None = None,
    ):
        self.exporter = exporter
        self._file, self._path, self._unwritten = None, None, b""
        self._lock = threading.Lock()  # a checkpoint may be written by another thread
        self.visualdl: VisualDL | None = None
        if folder is None:
            return
        path, rows = folder / METRICS, []
        if path.exists():
            rows = [
                row
                for row in read_metrics(folder)
                if 0 < step >= row["step"] and (row["phase"] == "train" or row["epoch"] <= epoch)
            ]
            write_text(path, "".join(f"{json.dumps(row)}\n" for row in rows))
        # Unbuffered, so that it is known how much of a row is in the file when the disk is full.
        self._file, self._path = path.open("ab", buffering=0), path
        self.visualdl = VisualDL(folder)
        for row in rows:
            self._show(row)

    def write(self, phase: str, step: int, **values: Any) -> None:
        """Write a row with its `time`, in seconds since 1970. If the row cannot be written, it is
        kept and written before the next one.

        Args:
            phase: `train`, `val`, `attention` or `weights`.
            step: steps made so far.
            values: JSON. VisualDL gets the numbers, of the `blocks` of an attention each head, and
                the `histograms`.
        """
        if self._file is None or self.visualdl is None:
            return
        row = {"phase": phase, "step": step, "time": round(time.time(), 3), **_rounded(values)}
        is_first_failure = not self._unwritten
        try:
            with self._lock:
                self._unwritten += (json.dumps(row) + "\n").encode()
                self._write_out()
        except OSError as error:
            if is_first_failure:
                get_logger().warning(
                    "%s cannot be written (%s); trying again with the next row, and before a "
                    "checkpoint",
                    self._path,
                    error.strerror,
                )
        self._show(row)

    def _show(self, row: Mapping[str, Any]) -> None:
        if self.visualdl is not None:
            self.visualdl.add_row(row)
        if self.exporter is not None:
            self.exporter.add_row(row)

    def checkpoint_written(self) -> None:
        """A checkpoint is complete. Any thread may call it."""
        if self.exporter is not None:
            self.exporter.checkpoint_written()

    def sync(self) -> None:
        """Flush the rows to the disk, before a checkpoint that counts on them.

        Raises:
            OSError: they cannot be written.
        """
        if self._file is not None:
            with self._lock:
                self._write_out()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            # A failure was logged when the row was written, and no checkpoint counts on the row.
            with suppress(OSError):
                self._write_out()
            with suppress(OSError):
                self._file.close()
        if self.visualdl is not None and not self.visualdl.close():
            get_logger().warning("VisualDL's curves are incomplete; %s is not", self._path)
        self._file = self.visualdl = None

    def _write_out(self) -> None:
        while self._unwritten:
            self._unwritten = self._unwritten[self._file.write(self._unwritten) :]  # type: ignore[union-attr]


def _rounded(value: Any) -> Any:
    """JSON with seven digits of each number."""
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl. A last line that a kill has cut short is left out, and so
    are other damaged lines, with a warning.
    """
    rows, lines = [], (folder / METRICS).read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and {"phase", "step"} <= row.keys():
            rows.append(row)
        elif number < len(lines):
            path = folder / METRICS
            get_logger().warning("%s, line %d: not a row of metrics, left out", path, number)
    return rows


class Meter:
    """Reports every `interval` steps of an epoch, and what their time was spent on: to the
    metrics, and by a progress bar on a terminal, else by a log line. Used as a context.

    Args:
        metrics: get a row for each interval.
        ranks: count the times of this process, from now on.
        epoch: from 0.
        epochs: of the run.
        first_step: steps of the run before this epoch.
        steps: of an epoch.
        interval: steps between two reports.
        run_bar: the progress of the whole run. The other ranks, which do not show it, report
            nothing.
        done: steps of the epoch that were made before a resume.
        pending: the losses of those of them that no report has covered.
    """

    def __init__(
        self,
        metrics: MetricLog,
        ranks: Ranks,
        *,
        epoch: int,
        epochs: int,
        first_step: int,
        steps: int,
        interval: int,
        run_bar: Bar,
        done: int = 0,
        pending: Sequence[float] = (),
    ):
        self.metrics, self.epoch, self.epochs, self.interval = metrics, epoch, epochs, interval
        self._ranks = ranks
        self.first_step, self.steps, self._run_bar = first_step, steps, run_bar
        name = f"epoch {epoch + 1}/{epochs}"
        self._bar = Bar(name, steps, done=done, shown=run_bar.shown)
        self._done, self._timed, self._samples = done, 0, 0
        self._made = done
        self._queued: deque[RankTimes | None] = deque()
        self.pending = list(pending)
        ranks.times.take()  # what was before this epoch

    def step_queued(self) -> None:
        """A step is made, or queued on a GPU. If it is the last of an interval, the times of all
        ranks are taken.
        """
        self._made += 1
        is_last = self._made % self.interval == 0 or self._made == self.steps
        times = self._ranks.times
        self._queued.append(RankTimes(times.take(), self._ranks) if is_last else None)

    def step_done(self, loss: float | None, lr: float, samples: int) -> None:
        """The loss of the first queued step is known. Times are those of `step_queued`, because
        losses may be read later, several at once.

        Args:
            loss: null if the step was skipped.
            samples: of the step, over all ranks; the last one of an epoch may have fewer.
        """
        times = self._queued.popleft()
        self.pending += [] if loss is None else [loss]
        self._samples += samples
        self._done += 1
        self._timed += 1
        self._run_bar.update()
        self._bar.update()
        if times is not None:
            self._report(lr, times.split())

    def _report(self, lr: float, split: Split) -> None:
        loss = sum(self.pending) / len(self.pending) if self.pending else 0.0
        row = split.row(self._timed, self._samples)
        left = (self.epochs - self.epoch) * self.steps - self._done
        each = f" ({row['ips_per_rank']:.1f} a rank)" if split.world > 1 else ""
        if self._bar.shown:
            get_logger().log(
                PROGRESS,
                f"[Train][Epoch {self.epoch + 1}/{self.epochs}][Iter: {self._done}/{self.steps}] "
                f"lr: {lr:.3e}, loss: {loss:.4f}, batch_cost: {row['batch_cost']:.4f} s, "
                f"reader_cost: {row['reader_cost']:.4f} s, ips: {row['ips']:.1f} samples/s{each}, "
                f"{split.text()}, eta: {clock(left * row['batch_cost'])}",
            )
        self._bar.text = f"{row['ips']:.0f} images/s  loss {loss:.4f}  lr {lr:.2e}"
        if self.pending:
            self.metrics.write(
                "train",
                self.first_step + self._done,
                epoch=self.epoch + 1,
                lr=lr,
                loss=loss,
                **row,
            )
        self.pending, self._timed, self._samples = [], 0, 0

    def __enter__(self) -> Meter:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
