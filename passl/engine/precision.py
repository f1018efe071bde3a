"""Automatic mixed precision. Written from Paddle's documentation and not tested: no GPU was at
hand.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal

import paddle
from paddle import nn

from passl.engine import rules
from passl.utils.errors import ConfigError
from passl.utils.logging import get_logger


class Precision:
    """The number format of forward and backward passes. Parameters keep a float32 copy.

    Args:
        on_gpu: whether the run is on a GPU. On a CPU Paddle's AMP does nothing, and says so in a
            warning at every step; here it is off, and said once.
        level: `O0` is float32 everywhere; `O1` casts for each operation, by Paddle's lists; `O2`
            has half-precision weights.
        dtype: bfloat16 needs a GPU of the Ampere generation or later.
        loss_scale: what the loss is multiplied by at first, so that small gradients survive
            float16; bfloat16 has none.
        dynamic_loss_scale: halve it when a gradient overflows, and double it after many steps that
            did not.

    Raises:
        ConfigError: the GPU cannot do it.
    """

    def __init__(
        self,
        on_gpu: bool,
        /,
        *,
        level: Literal["O0", "O1", "O2"] = "O0",
        dtype: Literal["float16", "bfloat16"] = "float16",
        loss_scale: float = 65536.0,
        dynamic_loss_scale: bool = True,
    ):
        rules.precision(loss_scale=loss_scale)
        if level != "O0" and not on_gpu:
            get_logger().info(
                "amp: %s in %s does nothing on a CPU; training in float32", level, dtype
            )
        self.level, self.dtype = level if on_gpu else "O0", dtype
        if self.level != "O0" and dtype == "bfloat16" and not paddle.amp.is_bfloat16_supported():
            raise ConfigError("amp.dtype: this GPU has no bfloat16; use float16")
        # Without scaling it passes everything through.
        self.scaler = paddle.amp.GradScaler(
            enable=self.level != "O0" and dtype == "float16",
            init_loss_scaling=loss_scale,
            use_dynamic_loss_scaling=dynamic_loss_scale,
        )

    def autocast(self) -> AbstractContextManager:
        """The context of a forward pass."""
        level = "O1" if self.level == "O0" else self.level
        return paddle.amp.auto_cast(enable=self.level != "O0", level=level, dtype=self.dtype)

    def prepare(self, model: nn.Layer, optimizer: Any) -> tuple[nn.Layer, Any]:
        """Model and optimizer for training; with O2 in half precision, saved in float32."""
        if self.level != "O2":
            return model, optimizer
        return paddle.amp.decorate(
            model, optimizer, level="O2", dtype=self.dtype, save_dtype="float32"
        )
