"""Automatic mixed precision. Tested with bfloat16 on CPUs, where all but the kernels is the same;
untested on GPUs, because none was available.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import paddle
from paddle import nn
from paddle.amp.auto_cast import need_keep_fp32

from passl.accelerate import multiplies_bfloat16
from passl.engine.rounding import autocast_on_cpu, replaced_parameters, round_layers
from passl.errors import ConfigError
from passl.logging import get_logger
from passl.utils.schema import validated
from passl.utils.types import PositiveFloat


@validated
class Precision:
    """The number format of forward and backward passes. Parameters, gradients, optimizer state and
    averages are always float32.

    Args:
        on_gpu: whether the run is on a GPU. On a CPU float16 is off, and bfloat16 is computed in
            float32 and rounded (see `engine.rounding`); but `O1` of an accelerated model, on a
            processor with instructions for it, multiplies in bfloat16 in its `Linear` layers.
        level: `O0` is float32 everywhere; `O1` casts for each operation, by Paddle's lists; `O2`
            computes nearly everything in half precision, with half-precision copies of the weights
            except those of norms.
        dtype: bfloat16 needs a GPU of the Ampere generation or later.
        loss_scale: initial factor of the loss, which keeps small gradients in float16's range;
            unused with bfloat16.
        dynamic_loss_scale: halve the scale when a gradient overflows, and double it after many
            steps without overflow.

    Raises:
        ConfigError: the GPU has no bfloat16.
    """

    def __init__(
        self,
        on_gpu: bool,
        /,
        *,
        level: Literal["O0", "O1", "O2"] = "O0",
        dtype: Literal["float16", "bfloat16"] = "float16",
        loss_scale: PositiveFloat = 65536.0,
        dynamic_loss_scale: bool = True,
    ):
        if level != "O0" and not on_gpu and dtype == "float16":
            text = "amp: %s in %s does nothing on a CPU; training in float32"
            get_logger().info(text, level, dtype)
            level = "O0"
        has_none = on_gpu and dtype == "bfloat16" and not paddle.amp.is_bfloat16_supported()
        if level != "O0" and has_none:
            raise ConfigError("amp.dtype: this GPU has no bfloat16; use float16")
        self.level, self.dtype, self.on_gpu = level, dtype, on_gpu
        # If disabled, it passes everything through.
        self.scaler = LossScaler(
            enable=level != "O0" and dtype == "float16",
            init_loss_scaling=loss_scale,
            use_dynamic_loss_scaling=dynamic_loss_scale,
        )

    def prepare(self, model: nn.Layer) -> None:
        """Prepare a new model for `autocast` on this device."""
        if self.level == "O0" or self.on_gpu:
            return
        if self.level == "O1" and multiplies_bfloat16(model):
            text = "amp: Linear layers multiply in bfloat16 on this CPU; the rest is in float32"
            get_logger().info(text)
            return
        text = "amp: %s on this CPU computes in float32 and rounds to bfloat16; O0 is faster"
        get_logger().info(text, self.level)
        round_layers(model, self.level)

    def autocast(self) -> AbstractContextManager:
        """The context of a forward pass."""
        if self.level == "O0":
            return nullcontext()
        if self.on_gpu:
            return paddle.amp.auto_cast(level=self.level, dtype=self.dtype)
        return autocast_on_cpu(self.level).applied()

    def weights(self, model: nn.Layer) -> AbstractContextManager:
        """The context of a forward and backward pass, in which the model computes with weights of
        this level. They are copies of the float32 parameters, which get the gradients.
        """
        if self.level != "O2":
            return nullcontext()
        layers = [layer for layer in model.sublayers(include_self=True) if not is_kept(layer)]
        return replaced_parameters(layers, lambda parameter: parameter.astype(self.dtype))


def is_kept(layer: nn.Layer) -> bool:
    """Whether O2 keeps a layer's own parameters in float32: norms, and layers that ask for it. That
    is Paddle's rule for float16, used for bfloat16 too.
    """
    return need_keep_fp32(layer, "float16")


class LossScaler(paddle.amp.GradScaler):
    """Paddle's, whose message of an overflow fails under numpy 2.4."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue with the scale and the counts of a run. The settings, and a scale that is not
        dynamic, stay those of the config.

        Args:
            state: a `state_dict`; empty for a run without loss scaling.
        """
        if state and self.is_enable() and self._use_dynamic_loss_scaling:
            kept = {key: state[key] for key in ("scale", "incr_count", "decr_count")}
            self.load_state_dict({**self.state_dict(), **kept})

    def update(self) -> None:
        if self._enable and self._cache_found_inf:
            scale = self._scale.item()
            get_logger().info(
                "amp: a gradient has overflowed with loss scale %g; the step is skipped", scale
            )
        super().update()

    def _update(self) -> None:
        overflow = bool(self._cache_found_inf)
        self._incr_count = 0 if overflow else self._incr_count + 1  # type: ignore[has-type]
        self._decr_count = self._decr_count + 1 if overflow else 0  # type: ignore[has-type]
        if self._decr_count == self._decr_every_n_nan_or_inf:
            self._scale, self._decr_count = self._scale * self._decr_ratio, 0  # type: ignore[has-type]
        elif self._incr_count == self._incr_every_n_steps:
            self._scale, self._incr_count = self._scale * self._incr_ratio, 0
