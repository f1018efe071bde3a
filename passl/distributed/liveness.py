"""The processes of a run meet here before they talk through Paddle, and watch each other until the
run ends. Paddle's collectives and its store wait without saying for whom: Gloo gives up after 30 s,
NCCL and the store never do.

Every rank has a TCP connection to rank 0, which a thread serves whatever the main thread does.
Rank 0 listens at PADDLE_MASTER until all ranks have joined; then Paddle's store listens there.
Messages are JSON objects, one a line; nothing in them is executed.

    rank 0 -> rank   {"nonce"}                                     as soon as it connects
    rank -> rank 0   {"rank", "world", "host", "proof"}            an HMAC of the nonce
    rank 0 -> rank   {"hosts", "address"}                          all ranks have joined
    both ways        {"begun": n}                                  each second: operations
    rank -> rank 0   {"begun": n, "gave_up": true}                 an operation timed out
    rank -> rank 0   {"arrived": n}                                at the n-th barrier
    rank 0 -> rank   {"passed": n}                                 all are there
    both ways        {"left": true}                                this rank ends in order
    both ways        {"verdict": reason, "late": [rank]}           all ranks must end

Silence, and a connection that closes without "left", lead to a verdict too.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge

from passl.distributed.environment import MASTER, SECRET, Place
from passl.distributed.peer import Operations, Peer, main_thread_stack
from passl.errors import RunError, shortened
from passl.logging import get_logger
from passl.utils.schema import validated

_BEAT = 1.0
"""Seconds between two heartbeats."""
_POLL = 0.01
_REPORT = 10.0
"""Seconds between two log lines while ranks are missing."""
_GRACE = 5.0
"""Seconds in which the main thread can end in order after a verdict."""
_LONGEST = 2**20
"""Bytes of a message."""


@validated
@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long the processes of a run wait for each other, in seconds.

    Args:
        join: until all processes have started.
        silence: without a heartbeat, after which a process counts as gone: in a training step, in
            an evaluation and in a checkpoint.
        wait: for a process that is alive but does not arrive, or does not begin a collective
            operation that others have begun, because its data or disk is slow or it hangs.
    """

    join: Annotated[float, Ge(1)] = 600.0
    # A heartbeat comes every second.
    silence: Annotated[float, Ge(3)] = 30.0
    wait: Annotated[float, Ge(1)] = 1800.0


class Liveness:
    """Watches the other ranks, and is watched by them.

    Args:
        place: which of how many processes this is.
        address: host and port of rank 0. Its port is free again for Paddle when all have met.
        timeouts: see there.
        end: ends this process at once, with an exit code.

    Attributes:
        verdict: why the run cannot go on; null while it can.
        begun: collective operations that the main thread has begun; it counts them.
        hosts: rank -> name of its machine, of all ranks once they have met.
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
        self.begun = 0
        self.hosts = {0: address[0], place.rank: socket.gethostname()}
        self.own_address = address[0]
        self._silence = timeouts.silence
        self._verdict_at = self._first_arrived_at = math.inf
        self._passed = 0
        self._arrived = dict.fromkeys(range(place.world), 0)
        self._operations = Operations(place.world)
        self._left: set[int] = set()
        self._peers: dict[int, Peer] = {}
        self._tasks: list[asyncio.Task] = []
        self._met = threading.Event()  # all ranks have joined, or there is a verdict
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="liveness", daemon=True)

    # ----------------------------------------------------------------------------------------------
    # Called by the main thread
    # ----------------------------------------------------------------------------------------------
    def meet(self) -> None:
        """Wait until all processes of the run have joined.

        Raises:
            RunError: rank 0 cannot listen, a process does not come in time, ends, or is of another
                run.
        """
        self._thread.start()
        for part in (self._watch(), self._connect() if self.place.rank else self._listen()):
            asyncio.run_coroutine_threadsafe(self._run(part), self._loop)
        start, waited, seconds = time.monotonic(), 0.0, self.timeouts.join
        try:
            while not self._met.wait(min(_REPORT, max(_POLL, seconds - waited))):
                waited = time.monotonic() - start
                get_logger().info("%s (%.0f s of %g s)", self._waiting(), waited, seconds)
                if waited >= seconds:
                    text = (
                        f"{self._waiting()} after {seconds:g} s; start all processes of the run, "
                        f"with the same {MASTER}, or raise timeouts.join"
                    )
                    self._loop.call_soon_threadsafe(self._judge, text)
            self.check()
            os.register_at_fork(after_in_child=self._release)
            # Paddle itself would look for rank 0's store only every three seconds.
            while self.place.rank and not self._is_store_open():
                self.check()
                time.sleep(_POLL)
        except BaseException:
            self.stop()
            raise

    def wait(self) -> None:
        """A barrier: return once every rank has called this as often.

        Raises:
            RunError: a rank is gone, has failed, or does not arrive in time.
        """
        number = self._arrived[self.place.rank] + 1
        self._loop.call_soon_threadsafe(self._arrive, self.place.rank, number)
        while self._passed < number:
            self.check()
            time.sleep(_POLL)

    def check(self) -> None:
        """Raise RunError if the run cannot go on."""
        if self.verdict is not None:
            raise RunError(self.verdict)

    def explain(self, error: Exception) -> Exception:
        """The verdict as an error if there is one or comes within seconds; else `error`.

        When a rank is gone, a collective operation of the others fails with a message that does not
        name it.
        """
        self._silence = 2 * _BEAT  # the connection of a rank that is gone may still be open
        if "timeout" in str(error).lower():  # Gloo's, which does not name the rank
            self._loop.call_soon_threadsafe(self._give_up)
        end = time.monotonic() + 4 * _BEAT
        while self.verdict is None and time.monotonic() < end:
            time.sleep(_POLL)
        self._silence = self.timeouts.silence
        return error if self.verdict is None else RunError(self.verdict)

    def leave(self, error: BaseException | None = None) -> None:
        """Stop watching, at the end of a run.

        Args:
            error: why this rank ends before the others, which are told; null if all end in order.

        Raises:
            RunError: another rank does not come to the end.
        """
        if error is None:
            self.wait()
        else:
            reason = (str(error) or type(error).__name__).splitlines()[0][:1000]
            verdict = f"{self._name(self.place.rank)} has failed: {reason}"
            self._loop.call_soon_threadsafe(self._judge, verdict)
        self._loop.call_soon_threadsafe(lambda: self._send(left=True))
        # Paddle's store, which lives in rank 0, must not end while another rank uses it; and a
        # verdict must be read before the connection ends.
        if self.place.rank == 0 or error is not None:
            end = time.monotonic() + (self.timeouts.silence if error is None else 3 * _BEAT)
            while not self._left.issuperset(tuple(self._peers)) and time.monotonic() < end:
                time.sleep(_POLL)
        self.stop()

    def stop(self) -> None:
        """End the thread and close the connections."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._close(), self._loop)
            self._thread.join()
            self._loop.close()

    def _release(self) -> None:
        """Release the connections in a forked process, a loader's worker, so that they close when
        this process dies.
        """
        null = os.open(os.devnull, os.O_RDWR)
        for peer in self._peers.values():
            connection = peer.writer.get_extra_info("socket")
            if connection.fileno() >= 0:
                os.dup2(null, connection.fileno())  # keeps the number, which asyncio may close
        os.close(null)

    def _is_store_open(self) -> bool:
        with suppress(OSError), socket.create_connection(self.address, timeout=2 * _BEAT):
            return True
        return False

    def _waiting(self) -> str:
        if self.place.rank != 0:
            what = "the other processes of the run" if self._peers else f"rank 0 at {self._address}"
            return f"waiting for {what}"
        absent = [rank for rank in range(1, self.place.world) if rank not in self._peers]
        local, world = self.place.local_world, self.place.world
        if local and world > local:
            what = f"{len({rank // local for rank in absent})} of {world // local} machines"
        else:
            what = f"{len(absent)} of {world} processes"
        ranks = shortened([str(rank) for rank in absent], 8)
        return f"waiting for {what}: rank {ranks} has not joined"

    # ----------------------------------------------------------------------------------------------
    # Run by the thread
    # ----------------------------------------------------------------------------------------------
    async def _run(self, part: Coroutine[Any, Any, None]) -> None:
        """Run a part of the work. If it fails, nobody watches: the run ends."""
        try:
            await part
        except Exception as error:
            self._judge(f"{self._name(self.place.rank)} cannot watch the other ranks: {error!r}")

    async def _listen(self) -> None:
        """Rank 0: wait for all other ranks."""
        try:
            listener = socket.create_server(("", self.address[1]), backlog=1024)
        except OSError as error:
            self._judge(
                f"{MASTER}={self._address}: rank 0 cannot listen there: "
                f"{os.strerror(error.errno or 0)}; set {MASTER} (or --master) to a free port, the "
                "same for every process"
            )
            return

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._run(self._welcome(reader, writer)))
            self._tasks.append(task)  # asyncio keeps no reference of its own

        with closing(await asyncio.start_server(accept, sock=listener, limit=_LONGEST)):
            while len(self._peers) < self.place.world - 1:
                await asyncio.sleep(_POLL)
        own = [peer.own_address for peer in self._peers.values()]
        self.own_address = next((a for a in own if not a.startswith("127.")), self.address[0])
        hosts = [self.hosts[rank] for rank in range(self.place.world)]
        self._send(hosts=hosts, address=self.own_address)
        self._met.set()

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Rank 0: let a rank of this run in. Anything may connect to a port."""
        with closing(writer):
            peer, nonce = Peer(reader, writer), secrets.token_hex()
            peer.send(nonce=nonce)
            hello = await peer.receive() or {}
            rank = hello.get("rank")
            if isinstance(rank, int) and self._admits(rank, hello, nonce):
                self.hosts[rank], self._peers[rank] = str(hello.get("host")), peer
                await self._follow(rank, peer)

    def _admits(self, rank: int, hello: dict[str, Any], nonce: str) -> bool:
        """Whether that rank is of this run. One with the right secret that is not ends the run."""
        if self._met.is_set():
            return False
        world, place = hello.get("world"), f"rank {rank} on {hello.get('host')}"
        proof = str(hello.get("proof")).encode(errors="replace")
        if not hmac.compare_digest(proof, self._proof(nonce, rank).encode()):
            get_logger().warning(
                "%s is refused: it has another %s; set the same for all processes", place, SECRET
            )
            return False
        if world == self.place.world and 0 < rank < world and rank not in self._peers:
            return True
        what = "has joined already" if rank in self._peers else f"of {world} is not of this run"
        self._judge(
            f"{place} {what}, which has {self.place.world} processes; another run may use "
            f"{MASTER}={self._address}, or two machines have the same --rank"
        )
        return False

    def _proof(self, nonce: str, rank: int) -> str:
        """What only a process that knows the run's secret can answer to the nonce."""
        secret, text = self.place.secret.encode(), f"{nonce} {rank}".encode()
        return hmac.new(secret, text, "sha256").hexdigest()

    async def _connect(self) -> None:
        """Other ranks: join rank 0, once it listens."""
        rank = self.place.rank
        while True:
            with suppress(OSError, asyncio.TimeoutError):
                opening = asyncio.open_connection(*self.address, limit=_LONGEST)
                reader, writer = await asyncio.wait_for(opening, _REPORT)
                with closing(writer):
                    peer = Peer(reader, writer)
                    greeting = await peer.receive() or {}
                    if "nonce" in greeting:
                        proof = self._proof(str(greeting["nonce"]), rank)
                        host = self.hosts[rank]
                        peer.send(rank=rank, world=self.place.world, host=host, proof=proof)
                        self._peers[0] = peer
                        await self._follow(0, peer)
                        return
            await asyncio.sleep(_BEAT / 10)

    async def _follow(self, rank: int, peer: Peer) -> None:
        """Take a rank's messages until its connection ends."""
        with suppress(KeyError, TypeError, ValueError):  # not a message of ours
            while (message := await peer.receive()) is not None:
                self._take(rank, peer, message)
        del self._peers[rank]
        if rank not in self._left:
            refused = " began, or has refused this process: see its log"
            when = " did" if self._met.is_set() else refused if rank == 0 else " began"
            self._judge(f"{self._name(rank)} has ended before the run{when}")

    def _take(self, rank: int, peer: Peer, message: dict[str, Any]) -> None:
        if "hosts" in message:
            self.hosts = dict(enumerate(map(str, message["hosts"])))
            is_with_first = self.hosts[self.place.rank] == self.hosts[0]
            self.own_address = str(message["address"]) if is_with_first else peer.own_address
            self._met.set()
        if "arrived" in message:
            self._arrive(rank, int(message["arrived"]))
        if "begun" in message:
            self._operations.begun[rank] = int(message["begun"])
        if "gave_up" in message:
            self._give_up()
        if "passed" in message:
            self._passed = int(message["passed"])
        if "left" in message:
            self._left.add(rank)
        if "verdict" in message:
            self._judge(str(message["verdict"]), map(int, message.get("late", ())))

    def _arrive(self, rank: int, number: int) -> None:
        self._arrived[rank] = number
        if self.place.rank != 0:
            self._send(arrived=number)
            return
        self._first_arrived_at = min(self._first_arrived_at, time.monotonic())
        if min(self._arrived.values()) == number:
            self._passed, self._first_arrived_at = number, math.inf
            self._send(passed=number)

    async def _watch(self) -> None:
        """Send heartbeats, and judge what is late."""
        now = time.monotonic()
        while True:
            before = now
            await asyncio.sleep(_BEAT)
            now = time.monotonic()
            self._send(begun=self.begun)
            for rank, peer in self._peers.items():
                if now - before > 2 * _BEAT:  # this process itself was stopped
                    peer.heard_at += now - before
                silent = now - peer.heard_at
                if silent > self._silence and rank not in self._left:
                    self._judge(
                        f"{self._name(rank)} has not answered for {silent:.0f} s: it is stopped or "
                        "cut off"
                    )
            if now - self._first_arrived_at > self.timeouts.wait:
                late = [r for r, number in self._arrived.items() if number == self._passed]
                self._judge(
                    f"{shortened([*map(self._name, late)], 3)} did not arrive within "
                    f"{self.timeouts.wait:g} s where the others wait; look at its disk and data, "
                    "or raise timeouts.wait",
                    late,
                )
            self._operations.begun[self.place.rank] = self.begun
            if self.place.rank == 0 and self._operations.late_for(now) > self.timeouts.wait:
                self._judge_behind(f"for {self.timeouts.wait:g} s")
            if now - self._verdict_at > _GRACE:
                self._end(1)  # the main thread is held in a call that does not return

    def _give_up(self) -> None:
        """A collective operation of a rank timed out. Rank 0 is told."""
        self._operations.begun[self.place.rank] = self.begun
        if self.place.rank != 0:
            self._send(begun=self.begun, gave_up=True)
        elif self._operations.behind():
            self._judge_behind("until their operation timed out")

    def _judge_behind(self, when: str) -> None:
        late = self._operations.behind()
        self._judge(
            f"{shortened([*map(self._name, late)], 3)} answers, but did not come {when} to "
            "an operation in which the others wait; its log shows where it hangs. Look at its disk "
            "and data, or raise timeouts.wait",
            late,
        )

    def _judge(self, verdict: str, late: Iterable[int] = ()) -> None:
        """The run cannot go on; the first reason counts, and all ranks are told.

        Args:
            late: ranks that the others wait for. They log where their main thread is.
        """
        if self.verdict is None:
            self._send(verdict=verdict, late=(late := list(late)))
            if self._met.is_set():  # the main thread may not come to raise it: Gloo may abort
                get_logger().error("%s", verdict)
            if self.place.rank in late:
                get_logger().error("the main thread is at %s", main_thread_stack())
            self.verdict, self._verdict_at = verdict, time.monotonic()
            self._met.set()

    async def _close(self) -> None:
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:  # each closes its connection
                task.cancel()
            await asyncio.sleep(_POLL)  # asyncio may lose a cancellation, so look again
        self._loop.stop()

    def _send(self, **message: Any) -> None:
        for peer in self._peers.values():
            peer.send(**message)

    def _name(self, rank: int) -> str:
        return f"rank {rank} on {self.hosts.get(rank, 'an unknown host')}"

    @property
    def _address(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"
