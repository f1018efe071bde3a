"""A signal is noted, and handled where no operation is half done."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from passl.engine.signals import StopRequest
from passl.errors import Stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_is_only_noted(number, capfd):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        stop.check()
        os.kill(os.getpid(), number)
        assert stop.name == number.name
        with pytest.raises(Stopped, match=number.name):
            stop.check()
    assert signal.getsignal(number) is before
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(number.name)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_second_ctrl_c_raises(first):
    with pytest.raises(KeyboardInterrupt), StopRequest():
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGINT)


def test_second_sigterm_does_not_raise():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.name == "SIGTERM"


def test_other_threads_note_nothing():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def use():
        with StopRequest() as stop:
            seen.append((stop.name, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [(None, before)]
    assert signal.getsignal(signal.SIGTERM) is before
