"""Operations that give the same bits each time, on GPUs too. Written from Paddle's and NVIDIA's
documentation and not tested: no GPU was at hand.
"""

from __future__ import annotations

import os

import paddle

from passl.logging import get_logger

_FLAGS = {"FLAGS_cudnn_deterministic": True, "FLAGS_embedding_deterministic": 1}
"""Paddle's, which only its builds for GPUs know."""


def ask_for_determinism() -> list[str]:
    """Have Paddle, cuDNN and cuBLAS choose operations that do not depend on the order of threads.
    Called before the device is chosen, since cuBLAS reads its variable when it starts.

    Returns:
        The flags that this build of Paddle does not know.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    unknown = []
    for name, value in _FLAGS.items():
        try:
            paddle.set_flags({name: value})
        except ValueError:
            unknown.append(name)
    return unknown


def report(unknown: list[str]) -> None:
    """Say what came of it on the device that was chosen."""
    if not paddle.get_device().startswith("gpu"):
        get_logger().info("deterministic: changes nothing on a CPU, where runs repeat anyway")
    elif unknown:
        get_logger().warning(
            "deterministic: this Paddle does not know %s; runs may differ in their last bits",
            " and ".join(unknown),
        )
