"""Operations that give the same bits each time on GPUs. Written from Paddle's and NVIDIA's
documentation, untested: no GPU was available.
"""

from __future__ import annotations

import os

import paddle

from passl.logging import get_logger

_FLAGS = {"FLAGS_cudnn_deterministic": True, "FLAGS_embedding_deterministic": 1}


def make_deterministic() -> None:
    """Make Paddle, cuDNN and cuBLAS choose operations that do not depend on the order of threads.
    It is called before the device is chosen, because cuBLAS reads its variable when it starts.
    """
    if not paddle.is_compiled_with_cuda():
        get_logger().info("deterministic: changes nothing on a CPU, where runs repeat anyway")
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    for name, value in _FLAGS.items():
        try:
            paddle.set_flags({name: value})
        except ValueError:
            get_logger().warning(
                "deterministic: this Paddle does not know %s; runs may differ in their last bits",
                name,
            )
