"""Which checkpoints a run keeps, and when it writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from passl.engine.checkpoint import save_checkpoint
from passl.engine.learner import Learner
from passl.engine.metrics import MetricLog
from passl.engine.optimizer_state import gather_optimizer_state
from passl.engine.progress import Progress
from passl.engine.run_folder import BEST, KEPT, LAST, PREVIOUS, RECENT, recent_checkpoints
from passl.errors import RunError
from passl.logging import get_logger
from passl.utils.schema import validated
from passl.utils.types import PositiveInt


@validated
class Saver:
    """Keeps the last checkpoint of a run, the previous one, the best, and some on the way.

    Args:
        folder: of the run.
        learner: whose state is saved. Every rank has a saver; the first one writes.
        metrics: flushed before each checkpoint.
        config: the resolved config, as plain data.
        classes: names of the labels.
        data: fingerprints of the parts of the data.
        interval: steps between two checkpoints within an epoch; null for none. There is always one
            at its end.
        keep_interval: steps between two checkpoints that are kept, as `step_N.safetensors`; null
            for none.
        keep_epochs: epochs between two checkpoints that are kept likewise, each at the end of an
            epoch.
        keep_last: how many of the newest checkpoints also stay, as `recent_N.safetensors` after
            step N. Older files of that name are removed.
        on_error: `stop` ends a run whose state cannot be written; `continue` warns and tries again
            with the next checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        learner: Learner,
        metrics: MetricLog,
        config: Mapping[str, Any],
        classes: list[str],
        data: Mapping[str, Mapping[str, Any]] | None = None,
        /,
        *,
        interval: PositiveInt | None = None,
        keep_interval: PositiveInt | None = None,
        keep_epochs: PositiveInt | None = None,
        keep_last: PositiveInt | None = None,
        on_error: Literal["stop", "continue"] = "stop",
    ):
        self.folder, self.learner, self.metrics = folder, learner, metrics
        self.config, self.classes, self.data = config, classes, data
        self.interval, self.keep_interval, self.on_error = interval, keep_interval, on_error
        self.keep_epochs, self.keep_last = keep_epochs, keep_last

    def is_due(self, step: int) -> bool:
        """Whether to save after that step, within the epoch."""
        return any(each and step % each == 0 for each in (self.interval, self.keep_interval))

    def save(self, progress: Progress, is_best: bool = False) -> bool:
        """Write the state; every rank calls it. The last and the previous checkpoint are complete,
        whenever the process is killed.

        Returns:
            Whether it was written; false only with `on_error: continue`.

        Raises:
            RunError: the state cannot be written, or is not finite. Earlier ones are kept.
        """
        ranks = self.learner.ranks
        ranks.average_statistics(dict(self.learner.model.named_parameters()))
        ranks.average_statistics(self.learner.average.averages)
        takes_part = ranks.is_first or self.learner.is_sharded
        state = gather_optimizer_state(self.learner) if takes_part else {}
        saved = True
        if ranks.is_first:
            try:
                self._write(progress, state, is_best)
            except OSError as error:
                saved = False
                message = (
                    f"{self.folder / LAST}: the state after step {progress.step} cannot be "
                    f"written ({error.strerror or error}); earlier ones are intact"
                )
                if self.on_error == "stop":
                    raise RunError(
                        f"{message}. Make room, then continue by --resume auto; with "
                        "checkpoint.on_error: continue a run does not stop for this"
                    ) from None
                get_logger().warning("%s; the run continues", message)
        ranks.wait()
        return saved

    def _write(
        self, progress: Progress, optimizer_state: Mapping[str, np.ndarray], is_best: bool
    ) -> None:
        self.metrics.sync()
        others = [self.folder / BEST] if is_best else []
        if self._is_kept(progress):
            others.append(self.folder / KEPT.format(progress.step))
        if self.keep_last is not None:
            others.append(self.folder / RECENT.format(progress.step))
        # `best` is written before `last` counts on it: a run killed in between is resumed from an
        # earlier state and comes to the same best again.
        save_checkpoint(
            self.folder / LAST,
            self.learner,
            progress,
            self.config,
            self.classes,
            first=others,
            optimizer_state=optimizer_state,
            previous=self.folder / PREVIOUS,
            data=self.data,
        )
        self._remove_old(progress.step)

    def _is_kept(self, progress: Progress) -> bool:
        """Whether the checkpoint stays for good."""
        step, epoch = progress.step, progress.epoch
        if self.keep_interval is not None and step > 0 and step % self.keep_interval == 0:
            return True
        is_end_of_epoch = epoch > 0 and progress.samples == 0
        return self.keep_epochs is not None and is_end_of_epoch and epoch % self.keep_epochs == 0

    def _remove_old(self, step: int) -> None:
        """Remove the recent checkpoints before the `keep_last` newest. Later ones than this step,
        of a run that was resumed from before them, stay until it reaches them.
        """
        if self.keep_last is None:
            return
        past = [path for number, path in recent_checkpoints(self.folder).items() if number <= step]
        for path in past[self.keep_last :]:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # costs space only
                get_logger().warning("%s cannot be removed: %s", path, error.strerror)
