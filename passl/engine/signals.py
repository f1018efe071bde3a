"""SIGTERM and SIGINT stop a run after it has saved its state."""

from __future__ import annotations

import signal
from contextlib import suppress
from types import FrameType
from typing import Any

from passl.errors import Stopped
from passl.io.terminal import write_above

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Notes the signal instead of ending the process. A second Ctrl-C ends it at once.

    Used as a context. In another thread than the main one, which may not handle signals, it does
    nothing.

    Attributes:
        name: of the signal; null before one has arrived.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        with suppress(ValueError):  # not the main thread
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        for number in self._before:
            # Otherwise a rank that waits in Paddle's store fails with "interrupted".
            signal.siginterrupt(number, False)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise if a signal has arrived. Called where no operation is half done.

        Raises:
            Stopped: a signal has arrived.
        """
        if self.name is not None:
            raise Stopped(self.name)

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_second = self.name is not None
        self.name = signal.Signals(number).name
        if is_second and number == signal.SIGINT:
            raise KeyboardInterrupt
        # Not more: code that is interrupted may catch an exception as its own, and the logger may
        # be in the middle of a line.
        write_above(f"{self.name}: saving the state of the run, then stopping")
