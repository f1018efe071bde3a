"""Layers that compute by `cpu_ops` what their plain classes compute by Paddle's operations.

Only `forward` differs, so that an object can change between the two classes. In an exported graph,
and for tensors that the kernels are not made for, `forward` is the plain one.
"""

from __future__ import annotations

import paddle
from paddle import nn

from passl.accelerate import cpu_ops, onednn
from passl.modeling import layers
from passl.modeling.autocast import is_on


def on_cpu(x) -> bool:
    """Whether x is a tensor on a CPU, outside of a graph, that the kernels take. They leave
    tensors in bfloat16 (see `engine.rounding`) to Paddle.
    """
    return paddle.in_dynamic_mode() and x.place.is_cpu_place() and x.dtype != paddle.bfloat16


def trains_on_cpu(x) -> bool:
    """`on_cpu`, where gradients are recorded: for kernels that are faster in the backward pass."""
    return paddle.is_grad_enabled() and on_cpu(x)


class Linear(nn.Linear):
    """A Linear whose bias costs no pass of its own; within autocast in bfloat16, on a processor
    that multiplies it.
    """

    def forward(self, x):
        if is_on() and on_cpu(x) and self._is_float32(x) and onednn.multiplies_bfloat16():
            return cpu_ops.Linear16.apply(x, self.weight, self.bias)
        if self.bias is not None and trains_on_cpu(x):
            return cpu_ops.Linear.apply(x, self.weight, self.bias)
        return super().forward(x)

    def _is_float32(self, x) -> bool:
        return x.dtype == self.weight.dtype == paddle.float32


class LayerNorm(nn.LayerNorm):
    """A LayerNorm over the last axis with a fast gradient."""

    def forward(self, x):
        if trains_on_cpu(x) and len(self._normalized_shape) == 1 and self._is_affine():
            return cpu_ops.LayerNorm.apply(x, self.weight, self.bias, self._epsilon)
        return super().forward(x)

    def _is_affine(self) -> bool:
        return self.weight is not None and self.bias is not None


class Conv2D(nn.Conv2D):
    """A convolution by oneDNN. One whose windows do not overlap is a matrix product, for which
    Paddle's own takes half the time in training.
    """

    def forward(self, x_BCYX):
        if not (on_cpu(x_BCYX) and x_BCYX.dtype == paddle.float32 and self._is_supported()):
            return super().forward(x_BCYX)
        geometry = self._stride[0], self._padding, self._groups
        y_BOYX = cpu_ops.Conv2D.apply(x_BCYX, self.weight, *geometry)
        return y_BOYX if self.bias is None else y_BOYX + self.bias.reshape([-1, 1, 1])

    def _is_supported(self) -> bool:
        if self._kernel_size[0] <= self._stride[0]:
            return False
        is_square = isinstance(self._padding, int) and self._stride[0] == self._stride[1]
        is_plain = self._padding_mode == "zeros" and self._data_format == "NCHW"
        return is_square and is_plain and list(self._dilation) == [1, 1] and onednn.usable()


class GELU(nn.GELU):
    """GELU by oneDNN. The approximation by tanh stays Paddle's."""

    def forward(self, x):
        return cpu_ops.Gelu.apply(x) if on_cpu(x) and not self._approximate else super().forward(x)


class QuickGELU(layers.QuickGELU):
    """QuickGELU by oneDNN, which keeps x alone for the backward pass."""

    def forward(self, x):
        return cpu_ops.QuickGelu.apply(x) if on_cpu(x) else super().forward(x)


class Attention(layers.Attention):
    """Attention that keeps no scores once they are more than are worked on at a time."""

    def forward(self, q_BNHD, k_BMHD, v_BMHD):
        batch, queries, heads, _ = q_BNHD.shape
        is_large = batch * heads * queries * k_BMHD.shape[1] > cpu_ops.SCORES
        drops = self.dropout > 0 and self.training
        if is_large and not drops and on_cpu(q_BNHD):
            return cpu_ops.Attention.apply(q_BNHD, k_BMHD, v_BMHD, self.scale)
        return super().forward(q_BNHD, k_BMHD, v_BMHD)


class DropPath(layers.DropPath):
    """Drop path that does not keep its input for the backward pass."""

    def forward(self, x):
        if self.training and self.rate > 0 and trains_on_cpu(x):
            return cpu_ops.ScaleSamples.apply(x, self.draw_scales(x))
        return super().forward(x)


FAST_CLASSES: dict[type[nn.Layer], type[nn.Layer]] = {
    nn.Linear: Linear,
    nn.LayerNorm: LayerNorm,
    nn.Conv2D: Conv2D,
    nn.GELU: GELU,
    layers.QuickGELU: QuickGELU,
    layers.Attention: Attention,
    layers.DropPath: DropPath,
}
"""Plain class -> fast class."""
