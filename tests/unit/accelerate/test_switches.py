"""The environment is changed where it helps and nowhere else."""

from __future__ import annotations

import os

import pytest

from passl.accelerate.switches import MKL_SWITCH, choose_mkl_path

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
