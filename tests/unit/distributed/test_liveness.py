"""Ranks as threads of one process, on the loopback."""

from __future__ import annotations

import hmac
import json
import os
import signal
import socket
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import pytest

from passl.distributed import liveness
from passl.distributed.environment import Place
from passl.distributed.launcher import free_port
from passl.distributed.liveness import Liveness, Timeouts
from passl.distributed.peer import Operations
from passl.errors import RunError

HOST = socket.gethostname()
threads: list[threading.Thread] = []
"""Of `later`, until the end of a test."""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Ten heartbeats a second."""
    monkeypatch.setattr(liveness, "_BEAT", 0.1)
    monkeypatch.setattr(liveness, "_GRACE", 0.5)


@pytest.fixture
def address():
    return "127.0.0.1", free_port()


@pytest.fixture
def ended():
    """Exit codes of processes that have been ended at once."""
    return []


@pytest.fixture
def meet(address, ended):
    """`meet(world, ...)`: ranks that have met; `but` leaves some out; `before` is called
    before the others connect to rank 0.
    """
    met: list[Liveness] = []

    def run(
        world: int, but: tuple[int, ...] = (), before=lambda: None, secret="", **seconds: float
    ) -> list[Liveness]:
        limits = SimpleNamespace(**{"silence": 1.0, "join": 20.0, "wait": 20.0, **seconds})
        found = [
            Liveness(Place(rank, world, rank, 1, secret), address, limits, ended.append)
            for rank in range(world)
            if rank not in but
        ]
        met.extend(found)
        with ThreadPoolExecutor(world) as pool:
            rest = [one for one in found if one.place.rank]
            after = [pool.submit(lambda one=one: (before(), one.meet())) for one in rest]
            # Paddle's store listens there next; the others wait for it.
            first = [one for one in found if one.place.rank == 0]
            for one in first:
                one.meet()
            with socket.socket() as store:
                store.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if first:
                    store.bind(address)
                    store.listen()
                for future in after:
                    future.result()
        return found

    yield run
    while threads:
        threads.pop().join(20)
    for one in met:
        one.stop()


@pytest.fixture
def connect(address):
    """`connect(answer)`: a connection to rank 0, once it listens, that answers its first line."""
    opened: list[socket.socket] = []

    def run(answer) -> socket.socket:
        end = time.monotonic() + 20
        while True:
            try:
                opened.append(socket.create_connection(address, timeout=20))
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.01)
        greeting = opened[-1].makefile("rb").readline()
        opened[-1].sendall(answer if isinstance(answer, bytes) else answer(greeting))
        return opened[-1]

    yield run
    for one in opened:
        one.close()


def hello(rank: int, world: int, secret: str = ""):
    """What a rank answers to rank 0's first line."""

    def answer(greeting: bytes) -> bytes:
        text = f"{json.loads(greeting)['nonce']} {rank}"
        proof = hmac.new(secret.encode(), text.encode(), "sha256").hexdigest()
        message = {"rank": rank, "world": world, "host": "elsewhere", "proof": proof}
        return json.dumps(message).encode() + b"\n"

    return answer


def later(call, *arguments):
    def run():
        with suppress(RunError):  # of ranks whose end is not looked at
            call(*arguments)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    threads.append(thread)
    return thread


def verdict_of(one: Liveness) -> str:
    with pytest.raises(RunError) as caught:
        one.wait()
    return str(caught.value)


def test_barrier_waits_for_all_ranks(meet):
    ranks, order = meet(3), []

    def pass_barriers(one: Liveness):
        for number in range(5):
            if number == one.place.rank:
                time.sleep(0.05)
            order.append(number)
            one.wait()
        one.leave()

    passing = [later(pass_barriers, one) for one in ranks]
    for thread in passing:
        thread.join(20)
    assert order == sorted(order)
    assert len(order) == 15
    assert [one.verdict for one in ranks] == [None] * 3
    assert ranks[2].hosts == dict.fromkeys(range(3), HOST)


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_rank_that_dies_is_named(meet, gone, caplog):
    ranks = meet(3)
    died = ranks.pop(gone)
    died.stop()
    for one in ranks:
        assert f"rank {gone} on {HOST}" in verdict_of(one)
    # The log has it at once, by both: a collective operation may abort the process.
    assert caplog.messages == [f"rank {gone} on {HOST} has ended before the run did"] * 2


def test_worker_of_a_dead_rank_does_not_hold_its_connection(meet):
    ranks = meet(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
        worker = os.fork()
    if worker == 0:
        time.sleep(60)
        os._exit(0)
    try:
        ranks[1].stop()
        assert "has ended before the run did" in verdict_of(ranks[0])
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_rank_that_no_longer_answers_is_named(meet, connect):
    later(connect, hello(2, 3))
    for one in meet(3, but=(2,)):
        assert "rank 2 on elsewhere has not answered" in verdict_of(one)


def test_process_ends_when_its_main_thread_is_blocked(meet, connect, ended):
    later(connect, hello(1, 2))
    (one,) = meet(2, but=(1,))
    end = time.monotonic() + 20
    while not ended and time.monotonic() < end:
        time.sleep(0.01)
    assert one.verdict is not None
    assert set(ended) == {1}


def test_others_get_the_reason_of_a_failure(meet):
    ranks = meet(3)
    later(ranks[1].leave, RunError("x.png: cannot be read"))
    for one in (ranks[0], ranks[2]):
        assert verdict_of(one) == f"rank 1 on {HOST} has failed: x.png: cannot be read"


def test_error_of_a_collective_is_replaced_by_the_reason(meet):
    ranks = meet(2)
    later(ranks[1].leave, RunError("x.png: cannot be read"))
    assert "x.png" in str(ranks[0].explain(RuntimeError("Connection closed by peer")))


def test_error_without_a_late_rank_is_kept(meet):
    error = RuntimeError("a defect")
    assert meet(2)[0].explain(error) is error


def test_rank_that_does_not_arrive_at_a_barrier_is_named(meet):
    ranks = meet(3, wait=1.0)
    later(ranks[1].wait)
    assert f"rank 2 on {HOST} did not arrive within 1 s" in verdict_of(ranks[0])


def test_rank_whose_main_thread_hangs_is_named(meet, caplog):
    """Its heartbeats go on. The others are in an operation that it has not begun."""
    ranks = meet(3, wait=1.0)
    for one in ranks:
        one.begun = 7
    for one in ranks[:2]:
        one.begun = 8
    end = time.monotonic() + 20
    while any(one.verdict is None for one in ranks) and time.monotonic() < end:
        time.sleep(0.01)
    for one in ranks:
        assert f"rank 2 on {HOST} answers, but did not come for 1 s to" in one.verdict
    assert "the main thread is at " in caplog.text
    assert "in test_rank_whose_main_thread_hangs_is_named" in caplog.text


def test_operation_that_times_out_names_the_rank_that_hangs(meet):
    """Gloo gives up before `timeouts.wait`, and does not say for which rank it has waited."""
    ranks = meet(3)
    for rank, number in enumerate((8, 8, 7)):
        ranks[rank].begun = number
    error = ranks[1].explain(RuntimeError("gloo/transport/tcp/unbound_buffer.cc:80] TIMEOUT"))
    assert f"rank 2 on {HOST} answers, but did not come" in str(error)


def test_slow_ranks_are_not_judged():
    """A rank that is always behind, but goes on, is slow. One that does not is late."""
    operations = Operations(2)
    for second in range(100):
        operations.begun = {0: second + 2, 1: second + 1}
        assert operations.late_for(second) == 0
    assert [operations.late_for(100 + second) for second in range(3)] == [1, 2, 3]
    assert operations.behind() == [1]
    operations.begun = {0: 101, 1: 101}
    assert operations.late_for(200) == 0
    assert operations.behind() == []


def test_missing_machines_are_named(address, meet):
    with pytest.raises(RunError, match=r"waiting for 2 of 3 machines: rank 1, 2 has not joined"):
        meet(3, but=(1, 2), join=1.0)
    with pytest.raises(RunError, match=f"waiting for rank 0 at 127.0.0.1:{address[1]}"):
        meet(3, but=(0, 2), join=1.0)


def test_a_start_that_fails_ends_the_ranks_that_have_joined(address):
    limits = SimpleNamespace(silence=9.0, join=1.0, wait=9.0)
    first = Liveness(Place(0, 3), address, limits)
    second = Liveness(Place(1, 3), address, SimpleNamespace(**vars(limits) | {"join": 60.0}))
    with ThreadPoolExecutor(2) as pool:
        errors = [future.exception() for future in [pool.submit(o.meet) for o in (first, second)]]
    assert {type(error) for error in errors} == {RunError}
    assert str(errors[0]) == str(errors[1])
    assert "waiting for 1 of 3 processes: rank 2 has not joined" in str(errors[0])


def test_an_address_that_is_no_name_is_reported():
    limits = SimpleNamespace(silence=9.0, join=20.0, wait=9.0)
    with pytest.raises(RunError, match="rank 1 on .* cannot watch the other ranks: UnicodeError"):
        Liveness(Place(1, 2), ("no..name", 29500), limits).meet()


def test_a_port_that_is_taken_is_named(meet, address):
    with socket.socket() as other:
        other.bind(address)
        other.listen()
        with pytest.raises(RunError, match=f"{address[1]}: rank 0 cannot listen there"):
            meet(2, but=(1,))


@pytest.mark.parametrize("content", [b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"{}\n", b"\xff\n", b""])
def test_strangers_are_ignored(meet, connect, content):
    ranks = meet(2, before=lambda: connect(content).close())
    later(ranks[1].wait)
    ranks[0].wait()


def test_a_rank_that_comes_after_the_start_is_refused(meet, connect):
    greetings, strangers = [], []

    def wait(greeting: bytes) -> bytes:
        greetings.append(greeting)
        return b""

    ranks = meet(2, before=lambda: strangers.append(connect(wait)))
    strangers[0].sendall(hello(1, 2)(greetings[0]))
    assert strangers[0].recv(100) == b""  # closed by rank 0
    later(ranks[1].wait)
    ranks[0].wait()


@pytest.mark.parametrize("content", [hello(1, 4), hello(5, 2), hello(0, 2)])
def test_a_rank_of_another_run_is_refused(meet, connect, content):
    later(connect, content)
    with pytest.raises(RunError, match="not of this run"):
        meet(2, but=(1,))


def test_a_rank_without_the_secret_is_refused(meet, connect, caplog):
    strangers = []

    def intrude():
        strangers.append(connect(hello(1, 2, secret="wrong")))
        assert strangers[0].recv(100) == b""  # closed by rank 0

    ranks = meet(2, before=intrude, secret="right")
    later(ranks[1].wait)
    ranks[0].wait()
    assert "rank 1 on elsewhere is refused: it has another PASSL_SECRET" in caplog.text


def test_a_rank_that_has_the_secret_is_let_in(meet, connect):
    later(connect, hello(1, 2, secret="right"))
    (one,) = meet(2, but=(1,), secret="right")
    assert one.hosts == {0: HOST, 1: "elsewhere"}


def test_a_rank_that_stops_while_others_are_missing_is_named(meet, connect):
    later(connect, hello(2, 3))
    with pytest.raises(RunError, match="rank 2 on elsewhere has not answered"):
        meet(3, but=(1, 2))


def test_a_rank_that_dies_while_others_are_missing_is_named(meet, connect):
    later(lambda: connect(hello(2, 3)).close())
    with pytest.raises(RunError, match="rank 2 on elsewhere has ended before the run began"):
        meet(3, but=(1, 2))


@pytest.mark.parametrize("wrong", [{"join": 0}, {"silence": 0.2}, {"wait": float("nan")}])
def test_timeouts_are_checked(wrong):
    with pytest.raises(ValueError, match=f"Timeouts.{next(iter(wrong))}"):
        Timeouts(**wrong)
