"""Settings that must be made before Paddle is imported, by `import passl`: fast code paths, and
the level below which Paddle's notes are hidden.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path

MKL_SWITCH = "MKL_DEBUG_CPU_TYPE"
_ERROR = 2
"""Level of glog's errors, which are shown. Below it are notes on each executor, and warnings such
as `Paddle static graph(PIR) not support input out tensor` at Paddle's own calls.
"""
_LEVEL = "GLOG_minloglevel"
_CHOSEN_BY_USER = (_LEVEL, "GLOG_v", "GLOG_vmodule")
_WARNINGS = (
    ("No ccache found", r"paddle\.utils\.cpp_extension"),
    ("When training, we now always track global mean and variance", r"paddle\.nn\.layer\.norm"),
)
"""The beginnings of messages that are hidden, and the modules that print them."""


def prepare_for_paddle() -> None:
    """Set what Paddle reads while it is imported. Variables that the user has set stay.

    If Paddle is imported already, only its notes are hidden; its matrix products then take the code
    path that Paddle chooses.
    """
    for message, module in _WARNINGS:
        warnings.filterwarnings("ignore", message, UserWarning, module)
    choose_mkl_path()
    if any(variable in os.environ for variable in _CHOSEN_BY_USER):
        return
    os.environ[_LEVEL] = str(_ERROR)
    if "paddle" in sys.modules:
        _quieten(sys.modules["paddle"])


def _quieten(paddle: object) -> None:
    """Set the level in a Paddle that has read the environment. It has no function for that, so the
    variable of glog in its library is set.
    """
    with suppress(AttributeError, OSError, ValueError):  # no such variable: the notes stay
        library = ctypes.CDLL(paddle.base.libpaddle.__file__)  # type: ignore[attr-defined]
        ctypes.c_int32.in_dll(library, "_ZN3fLI17FLAGS_minloglevelE").value = _ERROR


def choose_mkl_path(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Let the MKL of Paddle's CPU wheel use AVX2 on AMD processors.

    That MKL, of 2019, takes its slowest code path on a processor that is not Intel's; its own
    variable MKL_DEBUG_CPU_TYPE=5 selects the AVX2 one. A value that is set already stays, so
    `MKL_DEBUG_CPU_TYPE=0` switches this off. It changes nothing on other processors or on a GPU.
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return  # not Linux
    if "AuthenticAMD" in text and " avx2 " in text:
        os.environ.setdefault(MKL_SWITCH, "5")
