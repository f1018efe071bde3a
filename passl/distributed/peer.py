"""A connection between two ranks, and which rank is late."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import threading
import time
import traceback
from typing import Any


class Peer:
    """A connection to another rank, with JSON objects as messages, one a line.

    Attributes:
        heard_at: when its last message came, by `time.monotonic`.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer = reader, writer
        self.heard_at = time.monotonic()

    @property
    def own_address(self) -> str:
        """IPv4 address of this end."""
        return self.writer.get_extra_info("sockname")[0]

    def send(self, **message: Any) -> None:
        """Send without waiting."""
        if not self.writer.is_closing():
            self.writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """The next message; null if the connection is closed, or the other side is no rank."""
        try:
            message = json.loads(await self.reader.readline())
        except (OSError, ValueError, RecursionError):
            return None
        self.heard_at = time.monotonic()
        return message if isinstance(message, dict) else None


class Operations:
    """How many collective operations each rank has begun. All have the same ones, in one order.

    Attributes:
        begun: rank -> number of operations.
    """

    def __init__(self, world: int):
        self.begun = dict.fromkeys(range(world), 0)
        self._slowest, self._since = 0, math.inf

    def behind(self) -> list[int]:
        """The ranks that have not begun the last operation of the others."""
        last = max(self.begun.values())
        return [rank for rank, number in self.begun.items() if number < last]

    def late_for(self, now: float) -> float:
        """Seconds in which a rank was behind and the slowest one has begun no other
        operation, at most since the first call. Called again and again, with the time.
        """
        slowest = min(self.begun.values())
        if not self.behind():
            self._since = math.inf
        elif slowest != self._slowest or self._since == math.inf:
            self._slowest, self._since = slowest, now
        return max(0.0, now - self._since)


def main_thread_stack() -> str:
    """Where the main thread is: the innermost line of code and those that have called it."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    lines = [f"{at.filename}:{at.lineno} in {at.name}" for at in traceback.extract_stack(frame)]
    return ", called by ".join(reversed(lines[-8:]))
