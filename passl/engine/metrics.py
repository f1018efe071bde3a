"""What a run writes down: `metrics.jsonl` (the truth), log lines or a progress bar, and
VisualDL.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from passl.io.files import write_text
from passl.logging import PROGRESS, get_logger

METRICS = "metrics.jsonl"
VISUALDL = "vdl"


class MetricLog:
    """One line of JSON for each logged interval and each evaluation, and the same as curves for
    VisualDL.

    Args:
        folder: of the run; null writes nothing (the other ranks).
        step: lines of later steps, which a resumed run makes anew, are dropped,
        epoch: and so are evaluations after more than these epochs.
    """

    def __init__(self, folder: Path | None, step: int = 0, epoch: int = 0):
        self._file, self._path, self._unwritten = None, None, b""
        self._curves = Curves(None)
        if folder is None:
            return
        path, rows = folder / METRICS, []
        if path.exists():
            rows = [
                row
                for row in read_metrics(folder)
                if row["step"] <= step and (row["phase"] == "train" or row["epoch"] <= epoch)
            ]
            write_text(path, "".join(f"{json.dumps(row)}\n" for row in rows))
        # Unbuffered, so that it is known what of a row is in the file when the disk is full.
        self._file, self._path = path.open("ab", buffering=0), path
        # VisualDL cannot take back what it has drawn; the rows have it all.
        shutil.rmtree(folder / VISUALDL, ignore_errors=True)
        self._curves = Curves(folder / VISUALDL)
        for row in rows:
            values = {k: v for k, v in row.items() if k not in ("phase", "step", "time")}
            self._curves.draw(row["phase"], row["step"], values)

    def write(self, phase: str, step: int, **values: float) -> None:
        """Write a row, with its `time` in seconds since 1970. One that cannot be written is kept,
        and comes with the next one.

        Args:
            phase: `train` or `val`.
            step: steps made so far.
        """
        if self._file is None:
            return
        row = {
            "phase": phase,
            "step": step,
            "time": round(time.time(), 3),
            **{key: _rounded(value) for key, value in values.items()},
        }
        known = bool(self._unwritten)
        self._unwritten += (json.dumps(row) + "\n").encode()
        try:
            self._write_out()
        except OSError as error:
            if not known:
                get_logger().warning(
                    "%s cannot be written (%s); trying again with the next row, and before a "
                    "checkpoint",
                    self._path,
                    error.strerror,
                )
        self._curves.draw(phase, step, values)

    def sync(self) -> None:
        """Flush the rows to the disk: a checkpoint that follows must not know more than they.

        Raises:
            OSError: they cannot be written.
        """
        if self._file is not None:
            self._write_out()
            os.fsync(self._file.fileno())

    def _write_out(self) -> None:
        while self._unwritten:
            self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            with suppress(OSError):  # said before, and no checkpoint knows of these rows
                self._write_out()
            with suppress(OSError):
                self._file.close()
        self._curves.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl. A last line that a kill cut short is left out."""
    rows = []
    for line in (folder / METRICS).read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _rounded(value: float) -> float:
    return float(f"{value:.7g}") if isinstance(value, float) else value


class Curves:
    """Values as VisualDL's curves. They are a comfort: what goes wrong is said once and ends them,
    not the run.

    VisualDL's own LogWriter writes in a thread that a full disk ends, and then waits for it for
    ever. So its records are written here, each at once.

    Args:
        folder: it is made; null draws nothing.
    """

    def __init__(self, folder: Path | None):
        self._folder, self._stream, self._record = folder, None, None
        if folder is None:
            return
        try:
            from visualdl.component.base_component import meta_data, scalar
            from visualdl.writer.record_writer import RecordWriter

            folder.mkdir(parents=True, exist_ok=True)
            self._record = scalar
            # The name is what VisualDL knows its files by.
            self._stream = (folder / f"vdlrecords.{time.time():010.0f}.log").open("wb")
            self._writer = RecordWriter(self._stream)
            self._writer.write(meta_data(walltime=_milliseconds()).SerializeToString())
            self._stream.flush()
        except Exception as error:
            self._give_up(error)

    def draw(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curve of each value."""
        if self._stream is None:
            return
        try:
            for key, value in values.items():
                record = self._record(f"{phase}/{key}", float(value), step, _milliseconds())
                self._writer.write(record.SerializeToString())
            self._stream.flush()
        except Exception as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()
            self._stream = None

    def _give_up(self, error: Exception) -> None:
        get_logger().warning(
            "VisualDL cannot write to %s: %s. %s has every number", self._folder, error, METRICS
        )
        self.close()


def _milliseconds() -> int:
    return round(time.time() * 1000)


class Meter:
    """Times the steps of an epoch, and says how it goes every `interval` steps: a bar on a
    terminal, else a log line.

    Args:
        metrics: where each interval is written to.
        epoch: from 0; epochs: of the run.
        first_step: of the run, before this epoch; steps: of an epoch.
        interval: steps between two reports.
        shown: whether this rank reports.
        done: steps of the epoch that were made before, by the run that this one resumes.
        pending: losses of those of them that no report has covered.
    """

    def __init__(
        self,
        metrics: MetricLog,
        epoch: int,
        epochs: int,
        first_step: int,
        steps: int,
        interval: int,
        shown: bool,
        done: int = 0,
        pending: Sequence[float] = (),
    ):
        self.metrics, self.epoch, self.epochs, self.interval = metrics, epoch, epochs, interval
        self.first_step, self.steps, self.shown = first_step, steps, shown
        hidden = not shown or not sys.stderr.isatty()
        self._bar = tqdm(
            total=steps,
            initial=done,
            desc=f"epoch {epoch + 1}/{epochs}",
            leave=False,
            dynamic_ncols=True,
            disable=hidden,
        )
        self._done, self._timed, self._samples = done, 0, 0
        self._last = self._mark = time.perf_counter()
        self._reading = 0.0
        self.pending = list(pending)

    def batch_read(self) -> None:
        """A batch has arrived."""
        self._reading += time.perf_counter() - self._last

    def step_made(self, loss: float | None, lr: float, samples: int) -> None:
        """The step with it is made.

        Args:
            loss: null if the step was passed over.
            samples: of the step, over all ranks; the last one of an epoch may have less.
        """
        self.pending += [] if loss is None else [loss]
        self._samples += samples
        self._done += 1
        self._timed += 1
        self._bar.update()
        if self._done % self.interval == 0 or self._done == self.steps:
            self._report(lr)
        self._last = time.perf_counter()

    def _report(self, lr: float) -> None:
        step = self.first_step + self._done
        now = time.perf_counter()
        batch_cost, reader_cost = (now - self._mark) / self._timed, self._reading / self._timed
        loss = sum(self.pending) / len(self.pending) if self.pending else 0.0
        ips = self._samples / (now - self._mark)
        left = (self.epochs - self.epoch) * self.steps - self._done
        line = (
            f"[Train][Epoch {self.epoch + 1}/{self.epochs}][Iter: {self._done}/{self.steps}] lr: "
            f"{lr:.3e}, loss: {loss:.4f}, "
            f"batch_cost: {batch_cost:.4f} s, reader_cost: {reader_cost:.4f} s, ips: {ips:.1f} "
            f"samples/s, eta: {_clock(left * batch_cost)}"
        )
        if self.shown:
            get_logger().log(PROGRESS, line)
        self._bar.set_postfix(loss=f"{loss:.4f}", ips=f"{ips:.0f}", lr=f"{lr:.2e}")
        if self.pending:
            self.metrics.write(
                "train",
                step,
                epoch=self.epoch + 1,
                lr=lr,
                loss=loss,
                batch_cost=batch_cost,
                reader_cost=reader_cost,
                ips=ips,
            )
        self.pending, self._timed, self._samples, self._reading = [], 0, 0, 0.0
        self._mark = now

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
