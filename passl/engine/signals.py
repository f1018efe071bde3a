"""SIGTERM and SIGINT: a run that is told to stop saves its state first."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType
from typing import Any

from passl.errors import Stopped

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STDERR = 2


class StopRequest:
    """Notes the signal instead of ending the process; a second Ctrl-C ends it at once.

    Used as a context. Only the main thread may handle signals: in another one it notes nothing.

    Attributes:
        name: of the signal that has come; null if none has.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        try:
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        except ValueError:  # not the main thread
            self._before = {}
        for number in self._before:
            # Or a rank that waits for another one in Paddle's store fails with "interrupted".
            signal.siginterrupt(number, False)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """For places where nothing is half done.

        Raises:
            Stopped: the signal has come.
        """
        if self.name is not None:
            raise Stopped(self.name)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.name is not None
        self.name = signal.Signals(number).name
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        # Nothing more: what a handler raises may come up in code that takes it for an error of its
        # own, and the log may be in the middle of a line.
        with suppress(OSError):
            text = f"{self.name}: saving the state of the run, then stopping\n"
            os.write(STDERR, text.encode())
