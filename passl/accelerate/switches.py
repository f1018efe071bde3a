"""What the environment says about a CPU: what must be set before paddle is loaded, and which
operations are used.
"""

from __future__ import annotations

import os
from pathlib import Path

MKL_SWITCH = "MKL_DEBUG_CPU_TYPE"
OPS_SWITCH = "PASSL_CPU_OPS"


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


def plain_ops_wanted() -> bool:
    """Whether PASSL_CPU_OPS=0 asks for Paddle's own operations on a CPU too, instead of those of
    `passl/accelerate/cpu_ops.py`.
    """
    return os.environ.get(OPS_SWITCH) == "0"
