"""What must be set in the environment before paddle is loaded."""

from __future__ import annotations

import os
from pathlib import Path

MKL_SWITCH = "MKL_DEBUG_CPU_TYPE"


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
