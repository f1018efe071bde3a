"""Which checkpoints a run keeps, and when it writes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from passl.engine.checkpoint import State, copy_state, write_state
from passl.engine.learner import Learner
from passl.engine.metrics import MetricLog
from passl.engine.optimizer_state import gather_optimizer_state
from passl.engine.progress import Progress
from passl.engine.remote_folder import RemoteFolder
from passl.engine.run_folder import BEST, KEPT, LAST, PREVIOUS, RECENT, outdated, recent_checkpoints
from passl.errors import RunError, Stopped
from passl.logging import get_logger
from passl.utils.schema import validated
from passl.utils.types import PositiveInt


@validated
class Saver:
    """Keeps the last checkpoint of a run, the previous one, the best, and some on the way. Used as
    a context, at whose end the state is written that was being written.

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
        asynchronous: copy the state and write it while training goes on, which waits for the copy
            only. The copy stays in memory until it is written; there is never more than one.
        url: of a folder in object storage, such as s3://bucket/run, that gets each checkpoint too;
            see `remote_folder`. Null for none.
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
        asynchronous: bool = False,
        url: str | None = None,
        on_error: Literal["stop", "continue"] = "stop",
    ):
        self.folder, self.learner, self.metrics = folder, learner, metrics
        self.config, self.classes, self.data = config, classes, data
        self.interval, self.keep_interval, self.on_error = interval, keep_interval, on_error
        self.keep_epochs, self.keep_last, self.asynchronous = keep_epochs, keep_last, asynchronous
        self._writing: _Writing | None = None
        self._is_saved = self._is_published = True
        self.url = url
        self.remote = None if url is None else RemoteFolder(folder, url, keep_last)

    def is_due(self, step: int) -> bool:
        """Whether to save after that step, within the epoch."""
        return any(each and step % each == 0 for each in (self.interval, self.keep_interval))

    def save(self, progress: Progress, best_before: tuple[float, int] | None = None) -> None:
        """Write the state, or copy it and begin to write it; every rank calls it. The last and the
        previous checkpoint are complete, whenever the process is killed.

        Args:
            progress: its best score goes back to the one before if the state cannot be written.
            best_before: score and epoch of the best state before this one, if this is the best.

        Raises:
            RunError: this state or the one before it cannot be written, or is not finite. Earlier
                ones are kept.
        """
        self._wait_for_room(progress.step)
        ranks, learner = self.learner.ranks, self.learner
        ranks.average_statistics(dict(learner.model.named_parameters()))
        ranks.average_statistics(learner.average.averages)
        takes_part = ranks.is_first or learner.is_sharded
        optimizer_state = gather_optimizer_state(learner) if takes_part else {}
        if ranks.is_first:
            state = copy_state(
                learner, progress, self.config, self.classes, optimizer_state, self.data
            )
            names = self._names(progress, best_before is not None)
            self._writing = _Writing(partial(self._write, state, names), progress, best_before)
            del state, optimizer_state  # the only copy is the one that is written
            if self.asynchronous:
                self._writing.start()
            else:
                self._writing.run()
                self.wait()
        ranks.wait()

    def check(self) -> None:
        """Raise RunError if a state that was being written cannot be. Returns at once."""
        if self._writing is not None and not self._writing.is_alive():
            self.wait()

    def wait(self) -> bool:
        """Wait until the state is written.

        Returns:
            Whether it was; false only with `on_error: continue`.

        Raises:
            RunError: it cannot be written, or is not finite. Earlier ones are kept.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return self._is_saved and self._is_published
        if writing.is_alive():
            writing.join()
        self._is_saved = writing.error is None
        if isinstance(writing.error, OSError):
            self._handle(writing.error, writing)
        elif writing.error is not None:
            raise writing.error
        return self._is_saved and self._is_published

    def _wait_for_room(self, step: int) -> None:
        """Wait for the state that is being written: there is one copy in memory at a time."""
        begin = time.perf_counter()
        self.wait()
        if (waited := time.perf_counter() - begin) > 1.0:
            get_logger().warning(
                "after step %d training waited %.0f s for the checkpoint before; save less often, "
                "or to a faster disk",
                step,
                waited,
            )

    def _handle(self, error: OSError, writing: _Writing) -> None:
        progress = writing.progress
        message = (
            f"{self.folder / LAST}: the state after step {writing.step} cannot be written "
            f"({error.strerror or error}); earlier ones are intact"
        )
        if self.on_error == "stop":
            raise RunError(
                f"{message}. Make room, then continue by --resume auto; with checkpoint.on_error: "
                "continue a run does not stop for this"
            ) from None
        get_logger().warning("%s; the run continues", message)
        if writing.best_before is not None:
            progress.best_score, progress.best_epoch = writing.best_before

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyboardInterrupt):  # a second Ctrl-C ends the process at once
            return
        try:
            self.wait()
        except RunError as failure:
            if error is None or isinstance(error, Stopped):
                raise
            get_logger().error("%s", failure)

    def _names(self, progress: Progress, is_best: bool) -> list[Path]:
        """The other names of a state, besides `last`."""
        names = [self.folder / BEST] if is_best else []
        if self._is_kept(progress):
            names.append(self.folder / KEPT.format(progress.step))
        if self.keep_last is not None:
            names.append(self.folder / RECENT.format(progress.step))
        return names

    def _write(self, state: State, others: Sequence[Path]) -> None:
        self.metrics.sync()
        # `best` is written before `last` counts on it: a run killed in between is resumed from an
        # earlier state and comes to the same best again.
        write_state(self.folder / LAST, state, others, self.folder / PREVIOUS)
        self._remove_old(state.step)
        self._publish(state.step)
        self.metrics.checkpoint_written()

    def _is_kept(self, progress: Progress) -> bool:
        """Whether the checkpoint stays for good."""
        step, epoch = progress.step, progress.epoch
        if self.keep_interval is not None and step > 0 and step % self.keep_interval == 0:
            return True
        is_end_of_epoch = epoch > 0 and progress.samples == 0
        return self.keep_epochs is not None and is_end_of_epoch and epoch % self.keep_epochs == 0

    def _remove_old(self, step: int) -> None:
        recent = recent_checkpoints(self.folder)
        for number in outdated(recent, step, self.keep_last):
            try:
                recent[number].unlink(missing_ok=True)
            except OSError as error:  # costs space only
                get_logger().warning("%s cannot be removed: %s", recent[number], error.strerror)

    def _publish(self, step: int) -> None:
        """Bring the files to `url`. What fails now is brought with the next checkpoint."""
        if self.remote is None:
            return
        self._is_published = False
        try:
            self.remote.publish(step)
            self._is_published = True
        except OSError as error:
            message = f"the state after step {step} is in {self.folder}, not in {self.url}: {error}"
            if self.on_error == "stop":
                raise RunError(
                    f"{message}. Look at the storage, then continue by --resume auto; with "
                    "checkpoint.on_error: continue a run does not stop for this"
                ) from None
            get_logger().warning("%s; the run continues", message)


class _Writing(threading.Thread):
    """A state that is being written: `start` does so in a thread, `run` in this one.

    A process ends without waiting for the thread, as it would end in the middle of `run`.

    Args:
        write: the act. It is released when it is done, with the copy of the state.
        progress: of the run, which goes on.
        best_before: see `Saver.save`.

    Attributes:
        step: after which the state is.
        error: why it could not be written; null if it was.
    """

    def __init__(
        self, write: Callable[[], None], progress: Progress, best_before: tuple[float, int] | None
    ):
        super().__init__(name="checkpoint", daemon=True)
        self._write: Callable[[], None] | None = write
        self.progress, self.best_before, self.step = progress, best_before, progress.step
        self.error: BaseException | None = None

    def run(self) -> None:
        write, self._write = self._write, None
        assert write is not None
        try:
            write()
        except BaseException as error:
            self.error = error
