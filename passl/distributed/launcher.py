"""The processes of one machine: start them, watch them, end them together, and start again.

Paddle's launcher does this too, but hides what a batch system and a restart need to know. Ended by
a signal it returns that signal's number, whatever the processes returned; a failed process leaves
the others three seconds; processes of a killed process (a loader's workers) stay; all output goes
through files, results included; and beside them lies the whole environment, readable by everybody.

Exit codes of a run: 0, done; 2, wrong call or config; 75, stopped in order, to be resumed; anything
else, failed.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from passl.distributed.environment import LOOPBACK, MASTER, PORTS, parse_address
from passl.errors import ConfigError
from passl.io.shared_memory import remove_leftovers

EXIT_WRONG_CALL, EXIT_STOPPED = 2, 75
_POLL = 0.1
_SETTLE = 2.0
"""Seconds in which processes that fail of the same thing, or of each other, end by themselves."""
_KILL_AFTER = 5.0
"""Seconds that the rest of a failed run gets between SIGTERM and SIGKILL."""
_TAIL = 8192
"""Bytes of a failed process's log that are shown."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


@dataclass
class Job:
    """What is started on this machine.

    Args:
        command: of every process.
        processes: how many here.
        machines: how many machines do the same.
        machine: which of them this is, from 0 up; rank 0 is on machine 0.
        master: HOST:PORT where rank 0 listens; null takes a free port of this machine.
        logs: folder for the output of all but this machine's first process, whose output goes where
            that of the launcher goes.
        grace: seconds that processes get for an orderly stop.
        checkpoint: the file that tells whether a run that failed had come further; null for none.
    """

    command: Sequence[str]
    processes: int
    logs: Path
    machines: int = 1
    machine: int = 0
    master: str | None = None
    grace: float = 60.0
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        if self.processes < 1 or self.machines < 1:
            raise ConfigError(
                f"{self.processes} processes on {self.machines} machines: there must be at least 1 "
                "of both"
            )
        if not 0 <= self.machine < self.machines:
            raise ConfigError(
                f"--rank {self.machine} must be from 0 to {self.machines - 1} with --nnodes "
                f"{self.machines}: it is the number of this machine, another on each"
            )
        if self.machines > 1 and self.master is None:
            raise ConfigError(
                f"--nnodes {self.machines} needs --master HOST:PORT, a free port of the machine "
                "with --rank 0, the same on all machines"
            )
        if self.master is not None:
            parse_address("--master", self.master)

    def environment(self, local_rank: int, master: str) -> dict[str, str]:
        """What the process is told, by the variables of Paddle's launcher."""
        return {
            "PADDLE_TRAINER_ID": str(self.machine * self.processes + local_rank),
            "PADDLE_TRAINERS_NUM": str(self.machines * self.processes),
            "PADDLE_LOCAL_RANK": str(local_rank),
            "PADDLE_LOCAL_SIZE": str(self.processes),
            "PADDLE_NNODES": str(self.machines),
            MASTER: master,
        }


class Stop:
    """Whether this process was told to stop. As a context it takes SIGTERM and SIGINT.

    Attributes:
        times: how often it was told; the second time it is meant at once.
    """

    def __init__(self) -> None:
        self.times = 0
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether it was told at all."""
        return self.times > 0

    def __enter__(self) -> Stop:
        self._before = {
            number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.times += 1

    def sleep(self, seconds: float) -> None:
        """Wait that long, or until told to stop."""
        end = time.monotonic() + seconds
        while not self.asked and time.monotonic() < end:
            time.sleep(_POLL)


def launch(job: Job, restarts: int = 0, waits: Sequence[float] = (5.0, 10.0, 20.0)) -> int:
    """Run the job; after a failure start it again with `--resume auto`.

    Args:
        restarts: how often at most without a new checkpoint in between. There is none after a
            wrong config, nor after an orderly stop.
        waits: seconds before the first restart, the second, and so on; the last one holds for all
            that follow.

    Returns:
        The exit code: 0 if all processes returned it; else that of the process that failed, 128
        more than the signal's number if a signal ended it.
    """
    with Stop() as stop:
        failures = 0
        while True:
            before = _written_at(job.checkpoint)
            code = _run(job, stop)
            if _written_at(job.checkpoint) != before:
                failures = 0  # the run has come further
            if code in (0, EXIT_WRONG_CALL, EXIT_STOPPED) or stop.asked or failures == restarts:
                break
            wait = waits[min(failures, len(waits) - 1)]
            failures += 1
            _say(f"restart {failures} of {restarts} in {wait:g} s, with --resume auto")
            stop.sleep(wait)
            if stop.asked:
                break
            job.command = resumed(job.command)
    return code


def _written_at(checkpoint: Path | None) -> int | None:
    """When the file was written; null while there is none."""
    with suppress(OSError):
        return None if checkpoint is None else checkpoint.stat().st_mtime_ns
    return None


def resumed(command: Sequence[str]) -> list[str]:
    """The command with `--resume auto`, in place of another resume."""
    kept, items = [], iter(command)
    for item in items:
        if item == "--resume":
            next(items, None)
        elif not item.startswith("--resume="):
            kept.append(item)
    return [*kept, "--resume", "auto"]


def free_port() -> int:
    """A port that nobody listens on now. It is not held until rank 0 listens there, seconds later;
    but systems give their own choice of ports from another range, so only a process that asks for
    this number can take it.
    """
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as tried:
            try:
                tried.bind(("", port))
            except OSError:
                continue
            return port
    raise ConfigError(f"no free port between {PORTS[0]} and {PORTS[-1]}; give one by --master")


def _run(job: Job, stop: Stop) -> int:
    """One attempt."""
    master = job.master or f"{LOOPBACK}:{free_port()}"
    ranks: list[_Rank] = []
    try:
        for local_rank in range(job.processes):
            environ = os.environ | job.environment(local_rank, master)
            log = job.logs / f"rank_{environ['PADDLE_TRAINER_ID']}.log" if local_rank else None
            ranks.append(_Rank(job.command, environ, log))
        _watch(ranks, stop, job.grace)
        code = _judge(ranks)
        _end(ranks, 0.0 if stop.times > 1 else _KILL_AFTER)
        return code
    finally:
        for rank in ranks:
            rank.kill()
        remove_leftovers()


def _watch(ranks: Sequence[_Rank], stop: Stop, grace: float) -> None:
    """Wait until all have ended, or one has failed and the others had time to fail of the same, or
    an orderly stop has taken too long.
    """
    end = float("inf")
    was_asked = had_failed = False
    while any(rank.runs for rank in ranks) and time.monotonic() < end and stop.times < 2:
        now = time.monotonic()
        for rank in ranks:
            if not rank.runs:
                # A loader's workers hold the connections to other ranks, which wait for ever on
                # these, here and on other machines.
                rank.kill()
                rank.ended_at = min(rank.ended_at, now)
        if stop.asked and not was_asked:
            was_asked, end = True, now + grace
            _say(f"stopping {len(ranks)} process(es), which have {grace:g} s for it")
            for rank in ranks:
                rank.signal(signal.SIGTERM)
        if any(rank.code == EXIT_STOPPED for rank in ranks):  # told by somebody else
            end = min(end, now + grace)
        if not had_failed and any(rank.failed for rank in ranks):
            had_failed, end = True, now + _SETTLE
        time.sleep(_POLL)


def _end(ranks: Sequence[_Rank], seconds: float) -> None:
    """End what still runs."""
    late = [rank for rank in ranks if rank.runs]
    if not late:
        return
    _say(f"ending what still runs: rank {', '.join(rank.number for rank in late)}")
    for rank in late:
        rank.signal(signal.SIGTERM)
    end = time.monotonic() + seconds
    while any(rank.runs for rank in late) and time.monotonic() < end:
        time.sleep(_POLL)


def _judge(ranks: Sequence[_Rank]) -> int:
    """Say how they ended, and give the exit code of them all. A wrong config explains what others
    failed of, and so does the first failure; that some stopped in order explains nothing.
    """
    ended = sorted(
        (rank for rank in ranks if rank.code), key=lambda rank: (rank.ended_at, rank.code)
    )
    for rank in ended:
        _say(f"rank {rank.number} (process {rank.process.pid}) {rank.outcome}")
    failed = [rank for rank in ended if rank.code != EXIT_STOPPED]
    wrong = [rank for rank in failed if rank.code == EXIT_WRONG_CALL]
    for rank in wrong[:1] or failed:  # the same mistake need not be said by all
        rank.show_log()
    if wrong or failed:
        return (wrong or failed)[0].exit_code
    if any(rank.runs for rank in ranks):
        return 128 + signal.SIGKILL  # told to stop, they did not
    return EXIT_STOPPED if ended else 0


class _Rank:
    """One process, in a process group of its own with all that it starts."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], log: Path | None):
        self.number, self.log = environ["PADDLE_TRAINER_ID"], log
        self.ended_at = float("inf")  # when it was seen
        self._is_killed, self._from = False, 0
        output = None
        if log is not None:
            log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            self._from = log.stat().st_size
        try:
            self.process = subprocess.Popen(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        finally:
            if output is not None:
                os.close(output)

    @property
    def code(self) -> int | None:
        """Its exit code, a signal's number negative; null while it runs."""
        return self.process.poll()

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.code is None

    @property
    def failed(self) -> bool:
        """Whether it ended, neither well nor in order."""
        return self.code not in (None, 0, EXIT_STOPPED)

    @property
    def exit_code(self) -> int:
        """The exit code as shells count, with 128 more than a signal's number."""
        assert self.code is not None
        return self.code if self.code >= 0 else 128 - self.code

    @property
    def outcome(self) -> str:
        """How it ended, for messages."""
        assert self.code is not None
        if self.code < 0:
            return f"was killed by signal {-self.code} ({signal.strsignal(-self.code)})"
        return f"returned {self.code}"

    def signal(self, number: int) -> None:
        """Send a signal to the process only: what it started is its own to end."""
        if self.runs:
            self.process.send_signal(number)

    def kill(self) -> None:
        """End it and all that it started, at once. The second time nothing happens."""
        if self._is_killed:
            return
        self._is_killed = True
        with suppress(ProcessLookupError):  # nothing is left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def show_log(self) -> None:
        """Print the end of its output, if that went to a file."""
        if self.log is None:
            return
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._from, size - _TAIL))
            text = file.read().decode(errors="replace")
        _say(f"the end of {self.log}:\n{text.rstrip()}")


def _end_with_parent() -> None:
    """Let the system send this process SIGTERM when the launcher is gone, killed perhaps."""
    _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _say(text: str) -> None:
    sys.stderr.write(f"launch: {text}\n")
    sys.stderr.flush()
