"""SIGTERM and SIGINT: a run that is told to stop saves its state first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from passl.utils.errors import Stopped
from passl.utils.logging import get_logger

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Notes the signal instead of ending the process; a second Ctrl-C ends it at once.

    Used as a context. Only the main thread may handle signals: in another one it notes nothing.

    Attributes:
        name: of the signal that has come; null if none has.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._raises = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        try:
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        except ValueError:  # not the main thread
            self._before = {}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it the signal raises Stopped where it comes, for work that can be done again."""
        self._raises = True
        try:
            if self.name is not None:
                raise Stopped(self.name)
            yield
        finally:
            self._raises = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.name is not None
        self.name = signal.Signals(number).name
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        get_logger().warning("%s: saving the state of the run, then stopping", self.name)
        if self._raises:
            self._raises = False
            raise Stopped(self.name)
