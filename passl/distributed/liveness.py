"""The processes of a run meet here before they talk through Paddle, and watch each other until the
run ends.

Paddle's collectives and its store wait without saying for whom: Gloo gives up after 30 s, NCCL and
the store never do. So every rank keeps a connection of its own to rank 0, which a thread serves
whatever the main thread does. A process that dies closes its connection; one that is stopped or cut
off no longer sends heartbeats. Rank 0 passes the verdict on to all, and each process ends with it.

Messages are JSON objects, one a line; nothing that comes in is executed.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from passl.distributed.environment import MASTER, Place
from passl.errors import RunError
from passl.logging import get_logger

_BEAT = 1.0
"""Seconds between two heartbeats."""
_LOOK = 0.01
"""Seconds between two looks of a thread that waits."""
_REPORT = 10.0
"""Seconds between two log lines of a start that waits."""
_GRACE = 5.0
"""Seconds that the main thread gets to end in order after a verdict."""
_LONGEST = 65536
"""Bytes of a message; more do not come from a rank."""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long the processes of a run wait for each other, in seconds.

    Args:
        join: until all processes have started.
        silence: without a heartbeat, after which a process counts as gone: in a training step, in
            an evaluation and in a checkpoint.
        wait: for a process that is alive but does not arrive, because its data or disk is slow.
    """

    join: float = 600.0
    silence: float = 30.0
    wait: float = 1800.0

    def __post_init__(self) -> None:
        # A heartbeat comes every second.
        for name, least in (("join", 1), ("silence", 3), ("wait", 1)):
            seconds = getattr(self, name)
            if not seconds >= least:
                raise ValueError(f"timeouts.{name} {seconds} must be at least {least} seconds")


class _Line:
    """A connection to another rank."""

    def __init__(self, connection: socket.socket, rank: int | None = None):
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket, self.rank = connection, rank
        self.heard_at = time.monotonic()
        self.is_open = True
        self._received = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, **message: Any) -> None:
        """Send, or drop what a process that no longer reads has no room for."""
        with suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def messages(self) -> Iterator[dict[str, Any]]:
        """What has come; `is_open` is false once the other side has closed."""
        try:
            content = self.socket.recv(_LONGEST)
        except BlockingIOError:
            return
        except OSError:
            content = b""
        self.heard_at = time.monotonic()
        self.is_open = bool(content)
        *lines, self._received = (self._received + content).split(b"\n")
        if len(self._received) > _LONGEST:
            self.is_open = False
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                self.is_open = False  # not one of ours
                return
            if isinstance(message, dict):
                yield message


class Liveness:
    """Watches the other ranks, and is watched by them.

    Args:
        place: which of how many processes this is.
        address: host and port of rank 0. Its port is free again for Paddle when all have met.
        timeouts: see there.
        end: what ends this process at once, given an exit code.

    Attributes:
        verdict: why the run cannot go on; null while it can.
        hosts: name of each rank's machine, once all have met.
        own_address: IPv4 address by which the others reach this process, once all have met.
    """

    def __init__(
        self,
        place: Place,
        address: tuple[str, int],
        timeouts: Timeouts,
        end: Callable[[int], Any] = os._exit,
    ):
        self.place, self.address, self.timeouts, self._end = place, address, timeouts, end
        self.verdict: str | None = None
        self.hosts: list[str] = []
        self.own_address = address[0]
        self._verdict_at = 0.0
        self._lines: list[_Line] = []
        self._arrived = dict.fromkeys(range(place.world), 0)
        self._left: set[int] = set()
        self._passed = 0
        self._is_leaving = False
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._serve, name="liveness", daemon=True)

    # ----------------------------------------------------------------------------------------------
    # What the main thread calls
    # ----------------------------------------------------------------------------------------------
    def meet(self) -> None:
        """Wait until all processes of the run are there.

        Raises:
            RunError: rank 0 cannot listen, a process does not come in time, or is none of this run.
        """
        deadline = _Deadline(self.timeouts.join)
        lines = self._listen(deadline) if self.place.rank == 0 else self._connect(deadline)
        for line in lines:
            line.heard_at = time.monotonic()
        self._lines = lines
        self._thread.start()

    def wait(self) -> None:
        """A barrier: return once every rank has called this as often.

        Raises:
            RunError: a rank is gone, has failed, or does not arrive in time.
        """
        with self._lock:
            self._arrived[self.place.rank] += 1
            number = self._arrived[self.place.rank]
            self._arrive(self.place.rank, number)
        start = time.monotonic()
        while self._passed < number:
            self.check()
            if time.monotonic() - start > self.timeouts.wait:
                start = time.monotonic()
                self._overdue(self.place.rank, number)
            time.sleep(_LOOK)

    def check(self) -> None:
        """Raise RunError if the run cannot go on."""
        if self.verdict is not None:
            raise RunError(self.verdict)

    def explain(self, error: Exception) -> Exception:
        """The verdict as an error if there is one or comes within seconds; else `error`.

        Where a rank is gone, a collective operation of the others fails with a message that does
        not name it.
        """
        end = time.monotonic() + 3 * _BEAT
        while self.verdict is None and time.monotonic() < end:
            quiet = [line for line in self._lines if time.monotonic() - line.heard_at > 2 * _BEAT]
            for line in quiet:
                self._judge(self._silent(line))
            time.sleep(_LOOK)
        return error if self.verdict is None else RunError(self.verdict)

    def leave(self, error: BaseException | None = None) -> None:
        """Stop to watch, at the end of a run.

        Args:
            error: why this rank ends before the others, which it tells them; null if all of them
                end in order.

        Raises:
            RunError: another rank does not come to the end.
        """
        if error is None:
            self.wait()
        else:
            reason = (str(error) or type(error).__name__).splitlines()[0][:1000]
            self._judge(f"{self._called(self.place.rank)} has failed: {reason}")
        with self._lock:
            self._left.add(self.place.rank)
            for line in self._lines:
                line.send(left=self.place.rank)
        # Paddle's store, which lives in rank 0, must not end while another rank uses it; and what
        # is sent last must be read before the connection ends.
        stays = self.place.rank == 0 or self.verdict is not None
        end = time.monotonic() + (self.timeouts.silence if self.verdict is None else 3 * _BEAT)
        while stays and self._lines and len(self._left) < self.place.world:
            if time.monotonic() > end:
                break
            time.sleep(_LOOK)
        self._is_leaving = True

    # ----------------------------------------------------------------------------------------------
    # How they meet
    # ----------------------------------------------------------------------------------------------
    def _listen(self, deadline: _Deadline) -> list[_Line]:
        """Rank 0: a line to every other rank."""
        found: dict[int, _Line] = {}
        hosts = {0: socket.gethostname()}
        with _listener(self.address) as listener, ExitStack() as strangers:
            lines: list[_Line] = []
            while len(found) < self.place.world - 1:
                absent = [rank for rank in range(1, self.place.world) if rank not in found]
                deadline.check(lambda absent=absent: self._waiting(absent))
                ready, _, _ = select.select([listener, *lines], [], [], _BEAT)
                if listener in ready:
                    lines.append(_Line(strangers.enter_context(listener.accept()[0])))
                for line in [line for line in lines if line in ready]:
                    hello = next(line.messages(), None)
                    if hello is None and line.is_open:
                        continue  # the rest of its line is on the way
                    lines.remove(line)
                    if hello is not None and self._is_ours(hello, found):
                        rank = line.rank = int(hello["rank"])
                        found[rank], hosts[rank] = line, str(hello.get("host"))
                    else:
                        line.socket.close()
            strangers.pop_all()
            for line in lines:
                line.socket.close()
        self.hosts = [hosts[rank] for rank in range(self.place.world)]
        for line in found.values():
            own, _ = line.socket.getsockname()
            if not own.startswith("127."):
                self.own_address = own
        for line in found.values():
            line.send(hosts=self.hosts, address=self.own_address)
        return [found[rank] for rank in sorted(found)]

    def _is_ours(self, hello: dict[str, Any], found: Container[int]) -> bool:
        """Whether what has connected is a rank of this run; anything may connect to a port.

        Raises:
            RunError: it is a rank of another run, or one that is there already.
        """
        rank, world = hello.get("rank"), hello.get("world")
        if not isinstance(rank, int) or not isinstance(world, int):
            return False
        if world == self.place.world and 0 < rank < world and rank not in found:
            return True
        what = "has joined already" if rank in found else "is not of this run"
        raise RunError(
            f"rank {rank} of {world} on {hello.get('host')} {what}, which has {self.place.world} "
            f"processes; another run may use {MASTER}={_shown(self.address)}, or two machines have "
            "the same --rank"
        )

    def _connect(self, deadline: _Deadline) -> list[_Line]:
        """Other ranks: the line to rank 0."""
        while True:
            deadline.check(lambda: f"waiting for rank 0 at {_shown(self.address)}")
            try:
                connection = socket.create_connection(self.address, timeout=2 * _BEAT)
            except OSError:  # rank 0 does not listen so far, or its host is not known so far
                time.sleep(_BEAT / 10)
                continue
            with ExitStack() as opened:
                line = _Line(opened.enter_context(connection), 0)
                line.send(rank=self.place.rank, world=self.place.world, host=socket.gethostname())
                message: dict[str, Any] = {}
                while line.is_open and not message:
                    deadline.check(lambda: "waiting for the other processes of the run")
                    if select.select([line], [], [], _BEAT)[0]:
                        message = next(line.messages(), {})
                if isinstance(message.get("hosts"), list):
                    self.hosts = [str(host) for host in message["hosts"]]
                    self.own_address, _ = connection.getsockname()
                    if self.hosts[self.place.rank] == self.hosts[0]:
                        self.own_address = str(message["address"])
                    self._await_store(deadline)
                    opened.pop_all()
                    return [line]
            time.sleep(_BEAT)  # rank 0 has ended, or something else listens there

    def _await_store(self, deadline: _Deadline) -> None:
        """Rank 0 now opens Paddle's store at the same address, which Paddle itself would look for
        only every three seconds.
        """
        while True:
            deadline.check(lambda: f"waiting for rank 0 at {_shown(self.address)}")
            with suppress(OSError), socket.create_connection(self.address, timeout=2 * _BEAT):
                return
            time.sleep(_LOOK)

    def _waiting(self, absent: list[int]) -> str:
        local, world = self.place.local_world, self.place.world
        if local and world > local:
            machines = {rank // local for rank in absent}
            what = f"{len(machines)} of {world // local} machines"
        else:
            what = f"{len(absent)} of {world} processes"
        more = ", ..." if len(absent) > 8 else ""
        return f"waiting for {what}: rank {', '.join(map(str, absent[:8]))}{more} has not joined"

    # ----------------------------------------------------------------------------------------------
    # The thread
    # ----------------------------------------------------------------------------------------------
    def _serve(self) -> None:
        beaten_at = looked_at = time.monotonic()
        while self._lines and not self._is_leaving:
            ready, _, _ = select.select(self._lines, [], [], _BEAT / 5)
            now = time.monotonic()
            if now - looked_at > 2 * _BEAT:  # this process itself was stopped
                for line in self._lines:
                    line.heard_at += now - looked_at
            looked_at = now
            with self._lock:
                for line in ready:
                    self._read(line)
            if now - beaten_at >= _BEAT:
                beaten_at = now
                for line in self._lines:
                    line.send()
            for line in self._lines:
                if now - line.heard_at > self.timeouts.silence and line.rank not in self._left:
                    self._judge(self._silent(line))
            if self.verdict is not None and now - self._verdict_at > _GRACE:
                self._abort()
        for line in self._lines:
            line.socket.close()

    def _read(self, line: _Line) -> None:
        for message in line.messages():
            self._take(line, message)
        if line.is_open:
            return
        self._lines.remove(line)
        line.socket.close()
        if line.rank not in self._left:
            self._judge(f"{self._called(line.rank)} has ended before the run did")

    def _take(self, line: _Line, message: dict[str, Any]) -> None:
        assert line.rank is not None
        if "arrived" in message:
            self._arrive(line.rank, int(message["arrived"]))
        if "passed" in message:
            self._passed = int(message["passed"])
        if "overdue" in message:
            self._overdue(line.rank, int(message["overdue"]))
        if "left" in message:
            self._left.add(line.rank)
        if "verdict" in message:
            self._judge(str(message["verdict"]))

    def _arrive(self, rank: int, number: int) -> None:
        """A rank has come to that barrier."""
        self._arrived[rank] = number
        if self.place.rank != 0:
            for line in self._lines:
                line.send(arrived=number)
            return
        passed = min(self._arrived.values())
        if passed > self._passed:
            self._passed = passed
            for line in self._lines:
                line.send(passed=passed)

    def _overdue(self, rank: int, number: int) -> None:
        """That rank has waited too long at that barrier. Rank 0 knows who is missing."""
        if self.place.rank != 0:
            for line in self._lines:
                line.send(overdue=number)
            return
        missing = [self._called(other) for other, at in self._arrived.items() if at < number]
        if missing:
            self._judge(
                f"{', '.join(missing[:3])} did not arrive within {self.timeouts.wait:g} s where "
                f"{self._called(rank)} waits; look at its disk and data, or raise timeouts.wait"
            )

    def _judge(self, verdict: str) -> None:
        """The run cannot go on; the first reason counts, and all are told."""
        with self._lock:
            if self.verdict is not None:
                return
            self.verdict, self._verdict_at = verdict, time.monotonic()
            for line in self._lines:
                line.send(verdict=verdict)

    def _abort(self) -> None:
        """End the process: the main thread is held in a call that does not return."""
        get_logger().error("%s", self.verdict)
        for handler in get_logger().handlers:
            with suppress(OSError, ValueError):
                handler.flush()
        if not get_logger().handlers:
            sys.stderr.write(f"error: {self.verdict}\n")
        self._end(1)

    def _called(self, rank: int | None) -> str:
        host = self.hosts[rank] if rank is not None and self.hosts else "an unknown host"
        return f"rank {rank} on {host}"

    def _silent(self, line: _Line) -> str:
        return (
            f"{self._called(line.rank)} has not answered for "
            f"{time.monotonic() - line.heard_at:.0f} s: it is stopped or cut off"
        )


class _Deadline:
    """Reports a wait from time to time, and ends it."""

    def __init__(self, seconds: float):
        self.seconds, self.start = seconds, time.monotonic()
        self.reported = self.start

    def check(self, text: Callable[[], str]) -> None:
        """Raise RunError when the time is over; log the text now and then before."""
        now = time.monotonic()
        if now - self.start > self.seconds:
            raise RunError(
                f"{text()} after {self.seconds:g} s; start all processes of the run, with the same "
                f"{MASTER}, or raise timeouts.join"
            )
        if now - self.reported > _REPORT:
            self.reported = now
            get_logger().info("%s (%.0f s of %g s)", text(), now - self.start, self.seconds)


def _listener(address: tuple[str, int]) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Paddle does
    try:
        listener.bind(("", address[1]))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise RunError(
            f"{MASTER}={_shown(address)}: rank 0 cannot listen there: {error.strerror}; set "
            f"{MASTER} (or --master) to a free port, the same for every process"
        ) from None
    return listener


def _shown(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"
