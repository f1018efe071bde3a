"""What a run writes down: `metrics.jsonl` (the truth), log lines or a progress bar, and
VisualDL.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from passl.utils.errors import RunError
from passl.utils.files import write_text
from passl.utils.logging import PROGRESS, get_logger

METRICS = "metrics.jsonl"
VISUALDL = "vdl"


class MetricLog:
    """One line of JSON for each logged interval and each evaluation, and the same as curves for
    VisualDL.

    Args:
        folder: of the run; null writes nothing (the other ranks).
        step: lines of later steps, which a resumed run makes anew, are dropped.
    """

    def __init__(self, folder: Path | None, step: int = 0):
        self._file, self._curves = None, None
        if folder is None:
            return
        path = folder / METRICS
        if path.exists():
            write_text(
                path,
                "".join(
                    f"{json.dumps(row)}\n" for row in read_metrics(folder) if row["step"] <= step
                ),
            )
        self._file = path.open("a", encoding="utf-8")
        self._curves = _visualdl(folder / VISUALDL)

    def write(self, phase: str, step: int, **values: float) -> None:
        """Write a row.

        Args:
            phase: `train` or `val`.
            step: steps made so far.
        """
        if self._file is None:
            return
        row = {
            "phase": phase,
            "step": step,
            **{key: _rounded(value) for key, value in values.items()},
        }
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._curves is not None:
            for key, value in values.items():
                self._curves.add_scalar(f"{phase}/{key}", float(value), step)

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            self._file.close()
        if self._curves is not None:
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


def _visualdl(folder: Path) -> Any:
    try:
        from visualdl import LogWriter

        return LogWriter(logdir=str(folder))
    except Exception as error:  # curves are a comfort: no fault of VisualDL's may stop a run
        get_logger().warning(
            "VisualDL cannot write to %s: %s. %s has every number", folder, error, METRICS
        )
        return None


class Meter:
    """Times the steps of an epoch, and says how it goes every `interval` steps: a bar on a
    terminal, else a log line.

    Args:
        metrics: where each interval is written to.
        epoch: from 0; epochs: of the run.
        first_step: of the run, before this epoch; steps: of an epoch.
        batch: samples of one step over all ranks.
        interval: steps between two reports.
        shown: whether this rank reports.
    """

    def __init__(
        self,
        metrics: MetricLog,
        epoch: int,
        epochs: int,
        first_step: int,
        steps: int,
        batch: int,
        interval: int,
        shown: bool,
    ):
        self.metrics, self.epoch, self.epochs, self.batch, self.interval = (
            metrics,
            epoch,
            epochs,
            batch,
            interval,
        )
        self.first_step, self.steps, self.shown = first_step, steps, shown
        hidden = not shown or not sys.stderr.isatty()
        self._bar = tqdm(
            total=steps,
            desc=f"epoch {epoch + 1}/{epochs}",
            leave=False,
            dynamic_ncols=True,
            disable=hidden,
        )
        self._done = 0
        self._last = self._mark = time.perf_counter()
        self._reading = 0.0
        self._losses: list[Any] = []

    def batch_read(self) -> None:
        """A batch has arrived."""
        self._reading += time.perf_counter() - self._last

    def step_made(self, loss: Any, lr: float) -> None:
        """The step with it is made.

        Args:
            loss: a scalar tensor. It is looked at only when there is something to report, since
                looking waits for the device.

        Raises:
            RunError: the loss is not finite.
        """
        self._losses.append(loss)
        self._done += 1
        self._bar.update()
        if self._done % self.interval == 0 or self._done == self.steps:
            self._report(lr)
        self._last = time.perf_counter()

    def _report(self, lr: float) -> None:
        losses = [loss.item() for loss in self._losses]
        step = self.first_step + self._done
        for offset, loss in enumerate(losses, start=1 - len(losses)):
            if not math.isfinite(loss):
                raise RunError(
                    f"the loss is {loss} at step {step + offset} (epoch {self.epoch + 1}, lr "
                    f"{lr:.3g}); the last checkpoint is kept. "
                    "A lower optimizer.lr, a longer warm-up or optimizer.grad_clip can help"
                )
        now = time.perf_counter()
        count = len(losses)
        batch_cost, reader_cost = (now - self._mark) / count, self._reading / count
        loss, ips = sum(losses) / count, self.batch / batch_cost
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
        self._losses, self._reading, self._mark = [], 0.0, now

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
