"""Paddle is silent about what nobody can act on, and what the user has set stays."""

from __future__ import annotations

import os
import sys
import types
import warnings

import pytest

from passl.paddle_settings import MKL_SWITCH, choose_mkl_path, prepare_for_paddle

LEVEL = "GLOG_minloglevel"


@pytest.fixture
def fresh(monkeypatch):
    """A process that has neither Paddle nor settings for it."""
    monkeypatch.delitem(sys.modules, "paddle", raising=False)
    for variable in (LEVEL, "GLOG_v", "GLOG_vmodule", MKL_SWITCH):
        monkeypatch.setenv(variable, "")  # so that it is put back in the end
        monkeypatch.delenv(variable)


def test_notes_and_warnings_are_off_and_errors_are_on(fresh):
    prepare_for_paddle()
    assert os.environ[LEVEL] == "2"  # of INFO 0, WARNING 1, ERROR 2, FATAL 3


@pytest.mark.parametrize(("variable", "value"), [(LEVEL, "0"), ("GLOG_v", "3")])
def test_what_the_user_has_set_stays(fresh, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    prepare_for_paddle()
    assert os.environ[variable] == value
    assert os.environ.get(LEVEL) in (None, "0")


def test_a_paddle_without_that_variable_is_left_alone(fresh, monkeypatch):
    for paddle in (
        types.SimpleNamespace(),
        types.SimpleNamespace(base=types.SimpleNamespace(libpaddle=os)),
    ):
        monkeypatch.setitem(sys.modules, "paddle", paddle)
        monkeypatch.delenv(LEVEL, raising=False)
        prepare_for_paddle()


def warn(module: str, message: str) -> None:
    warnings.warn_explicit(message, UserWarning, "file.py", 1, module)


def test_exactly_those_warnings_are_ignored(fresh):
    ccache = "No ccache found. Please be aware"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prepare_for_paddle()
        warn("paddle.utils.cpp_extension.extension_utils", ccache)
        assert not caught
        warn("paddle.utils.cpp_extension.extension_utils", "Compilation failed")
        warn("mine", ccache)
    assert len(caught) == 2


AMD = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx avx2 bmi1\n"


@pytest.mark.parametrize(
    ("cpuinfo", "before", "after"),
    [
        (AMD, None, "5"),
        (AMD, "0", "0"),
        (AMD.replace(" avx2", ""), None, None),
        (AMD.replace("AuthenticAMD", "GenuineIntel"), None, None),
    ],
)
def test_mkl_path(tmp_path, monkeypatch, cpuinfo, before, after):
    monkeypatch.delenv(MKL_SWITCH, raising=False)
    if before is not None:
        monkeypatch.setenv(MKL_SWITCH, before)
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    choose_mkl_path(tmp_path / "cpuinfo")
    assert os.environ.get(MKL_SWITCH) == after
    monkeypatch.delenv(MKL_SWITCH, raising=False)


def test_no_cpuinfo(tmp_path, monkeypatch):
    monkeypatch.delenv(MKL_SWITCH, raising=False)
    choose_mkl_path(tmp_path / "nothing")
    assert MKL_SWITCH not in os.environ
