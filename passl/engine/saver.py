"""When a run's state is saved, under which names, and what happens if it cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from passl.engine.checkpoint import gather_optimizer_state, save_checkpoint
from passl.engine.learner import Learner
from passl.engine.metrics import MetricLog
from passl.engine.progress import Progress
from passl.engine.run_folder import BEST, LAST, PREVIOUS
from passl.errors import RunError
from passl.logging import get_logger
from passl.utils.schema import validated
from passl.utils.types import PositiveInt


@validated
class Saver:
    """Keeps the last checkpoint of a run, the one before it, and the best.

    Args:
        folder: of the run.
        learner: what is saved. Every rank has a saver; the first one writes.
        metrics: flushed before.
        config: the resolved config, as plain data.
        classes: names of the labels.
        data: fingerprints of the parts of the data.
        interval: steps between two checkpoints within an epoch; null for none. There is always one
            at its end.
        on_error: `stop` ends a run whose state cannot be written; `continue` warns and goes on, and
            tries again with the next one.
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
        on_error: Literal["stop", "continue"] = "stop",
    ):
        self.folder, self.learner, self.metrics = folder, learner, metrics
        self.config, self.classes, self.data = config, classes, data
        self.interval, self.on_error = interval, on_error

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint within the epoch follows that many steps."""
        return self.interval is not None and step % self.interval == 0

    def save(self, progress: Progress, is_best: bool = False) -> bool:
        """Write the state; every rank calls it. Whenever the process is killed, the last checkpoint
        is whole, and the one before too.

        Returns:
            Whether it was written; false only with `on_error: continue`.

        Raises:
            RunError: the state cannot be written, or is not finite; earlier ones are as they were.
        """
        ranks = self.learner.ranks
        ranks.average_statistics(dict(self.learner.model.named_parameters()))
        ranks.average_statistics(self.learner.average.averages)
        # Only where it is spread over the ranks do the others have a part in it.
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
                        f"{message}. Make room, then go on by --resume auto; with "
                        "checkpoint.on_error: continue a run does not stop for this"
                    ) from None
                get_logger().warning("%s; going on", message)
        ranks.wait()
        return saved

    def _write(
        self, progress: Progress, optimizer_state: Mapping[str, np.ndarray], is_best: bool
    ) -> None:
        self.metrics.sync()
        # Before `last` knows that it is the best, the best is there: killed in between, the run is
        # resumed from an earlier state and comes to the same one again.
        first = [self.folder / BEST] if is_best else []
        save_checkpoint(
            self.folder / LAST,
            self.learner,
            progress,
            self.config,
            self.classes,
            first,
            optimizer_state,
            self.folder / PREVIOUS,
            self.data,
        )
