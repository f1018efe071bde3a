"""What ConViT and CvT share: activations, norms, attention, feed-forward, drop path,
initialisation.

Shapes in names: B batch, N tokens (queries), M tokens (keys), C channels, H heads, D channels of a
head.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute as paddle_recompute
from paddle.nn import functional as F

from passl.accelerate import cpu_ops, onednn
from passl.modeling.autocast import Autocast


def gelu(x):
    """GELU by erf."""
    if cpu_ops.on_cpu(x):
        return cpu_ops.Gelu.apply(x)
    return F.gelu(x)


def quick_gelu(x):
    """x * sigmoid(1.702 x), the cheap GELU that microsoft/CvT was trained with
    (cls_cvt.py:48-50).
    """
    if cpu_ops.on_cpu(x):
        return cpu_ops.QuickGelu.apply(x)
    return x * F.sigmoid(1.702 * x)


def gelu_tanh(x):
    """GELU by its tanh approximation, MindSpore's default."""
    return F.gelu(x, approximate=True)


ACTIVATIONS: dict[str, Callable] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
}


def activation(name: str) -> Callable:
    """The activation function of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"act {name!r} is not one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def norm(name: str, dim: int, eps: float) -> nn.Layer:
    """A norm over the last axis: `layer_norm` or `rms_norm` (no mean, no bias; not a published
    variant of either network).
    """
    if name == "layer_norm":
        return LayerNorm(dim, epsilon=eps)
    if name == "rms_norm":
        return RMSNorm(dim, eps)
    raise ValueError(f"norm_layer {name!r} is not one of layer_norm, rms_norm")


def run_block(block: nn.Layer, recompute: bool, *inputs):
    """`block(*inputs)`; with `recompute`, in training, without keeping what is inside the block for
    the backward pass, which makes it anew: less memory for a third more time.

    Dropout repeats its draws. Running statistics take the batch in once, not twice.
    """
    if not (recompute and block.training):
        return block(*inputs)
    norms = [
        layer for layer in block.sublayers() if isinstance(layer, nn.BatchNorm2D | nn.SyncBatchNorm)
    ]
    again, autocast = False, Autocast.now()

    def run(*inputs):
        nonlocal again
        momenta = [layer._momentum for layer in norms]
        for layer in norms if again else ():
            layer._momentum = 1.0  # the statistics stay exactly as they are
        again = True
        try:
            with autocast.applied():
                return block(*inputs)
        finally:
            for layer, momentum in zip(norms, momenta, strict=True):
                layer._momentum = momentum

    # The other implementation, Paddle's default, gives no gradient to a block's parameters where
    # its input needs none, and DataParallel overlooks its gradients. Autocast is brought back by
    # `run`, since Paddle brings it back on GPUs alone.
    with autocast.off().applied():
        return paddle_recompute(run, *inputs, use_reentrant=False)


class Linear(nn.Linear):
    """Paddle's Linear, which trains faster on a CPU."""

    def forward(self, x):
        if self.bias is not None and cpu_ops.trains_on_cpu(x):
            return cpu_ops.Linear.apply(x, self.weight, self.bias)
        return super().forward(x)


class Conv2D(nn.Conv2D):
    """Paddle's Conv2D, faster on a CPU.

    Args:
        in_channels, out_channels: of the maps.
        kernel, stride, padding: along both sides.
        groups: as many as in_channels for a depthwise convolution.
        bias_attr: false for no bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        padding: int,
        groups: int = 1,
        bias_attr: bool | None = None,
    ):
        super().__init__(
            in_channels, out_channels, kernel, stride, padding, groups=groups, bias_attr=bias_attr
        )
        self.geometry = (stride, padding, groups)

    def forward(self, x_BCYX):
        if cpu_ops.on_cpu(x_BCYX) and x_BCYX.dtype == paddle.float32 and onednn.usable():
            y_BOYX = cpu_ops.Conv2D.apply(x_BCYX, self.weight, *self.geometry)
            return y_BOYX if self.bias is None else y_BOYX + self.bias.reshape([-1, 1, 1])
        return super().forward(x_BCYX)


class LayerNorm(nn.LayerNorm):
    """Paddle's LayerNorm over the last axis, which trains faster on a CPU."""

    def forward(self, x):
        if cpu_ops.trains_on_cpu(x):
            return cpu_ops.LayerNorm.apply(x, self.weight, self.bias, self._epsilon)
        return super().forward(x)


class RMSNorm(nn.Layer):
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis (Zhang and Sennrich, arXiv
    1910.07467). In float32 also under mixed precision, as other norms' statistics: a square leaves
    float16 from 256 up.
    """

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self._cast_to_low_precision = False  # as Paddle's norms, the weight stays float32
        self.eps = eps
        self.weight = self.create_parameter([dim], default_initializer=nn.initializer.Constant(1.0))

    def forward(self, x):
        if x.dtype in (paddle.float16, paddle.bfloat16):
            x = x.astype("float32")
        return x * paddle.rsqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.weight


class DropPath(nn.Layer):
    """Drops the whole residual branch of a sample with probability `rate` and scales the others up
    (Huang et al. 2016).

    A mask is multiplied, the branch is never skipped: under data parallelism every parameter must
        be used on every rank.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        if self.rate == 0 or not self.training:
            return x
        keep = 1 - self.rate
        shape = [x.shape[0]] + [1] * (x.ndim - 1)
        mask = (paddle.rand(shape, dtype="float32") < keep).astype(
            x.dtype
        )  # drawn in fp32 under mixed precision too
        scale = mask / keep
        return cpu_ops.ScaleSamples.apply(x, scale) if cpu_ops.trains_on_cpu(x) else x * scale

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class Mlp(nn.Layer):
    """Linear, activation, dropout, Linear, dropout on [B, N, C]."""

    def __init__(self, dim: int, hidden: int, act: str, dropout: float):
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.act = activation(act)
        self.fc2 = Linear(hidden, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BNC):
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x_BNC)))))


def attend(q_BNHD, k_BMHD, v_BMHD, scale: float, dropout: float = 0.0):
    """softmax(q k^T * scale) v -> [B, N, H, D], without handing out the weights.

    Paddle's kernel is called with its own scale, D^-0.5, because on a GPU only that reaches the
    flash kernel; what `scale` differs by is folded into q. On a CPU, more scores than are worked on
    at once go in blocks that are not kept.
    """
    batch, queries, heads, _ = q_BNHD.shape
    large = batch * heads * queries * k_BMHD.shape[1] > cpu_ops.SCORES
    if large and not dropout and cpu_ops.on_cpu(q_BNHD):
        return cpu_ops.Attention.apply(q_BNHD, k_BMHD, v_BMHD, scale)
    ratio = scale * math.sqrt(q_BNHD.shape[-1])
    if not math.isclose(ratio, 1.0, rel_tol=1e-12):
        q_BNHD = q_BNHD * ratio
    return F.scaled_dot_product_attention(
        q_BNHD, k_BMHD, v_BMHD, dropout_p=dropout, training=dropout > 0
    )


def scale_channels(x, weight_C):
    """x * weight along the last axis."""
    if cpu_ops.trains_on_cpu(x):
        return cpu_ops.ScaleChannels.apply(x, weight_C)
    return x * weight_C


def attention_weights(q_BNHD, k_BMHD, scale: float):
    """softmax(q k^T * scale) -> [B, H, N, M], the dense form."""
    q_BHND, k_BHDM = q_BNHD.transpose([0, 2, 1, 3]), k_BMHD.transpose([0, 2, 3, 1])
    return F.softmax(q_BHND @ k_BHDM * scale, axis=-1)


def apply_weights(attn_BHNM, v_BMHD):
    """attention weights times values -> [B, N, H, D]."""
    return (attn_BHNM @ v_BMHD.transpose([0, 2, 1, 3])).transpose([0, 2, 1, 3])


# --------------------------------------------------------------------------------------------------
# Initialisation. Paddle's defaults are not PyTorch's (a depthwise convolution starts three times
# too small), so that every weight is set here to what the original code starts from.
# --------------------------------------------------------------------------------------------------
def trunc_normal_(parameter, std: float = 0.02) -> None:
    """Normal with that deviation, cut at -2 and 2 (absolute, as PyTorch's and Paddle's own)."""
    nn.initializer.TruncatedNormal(std=std)(parameter)


def init_linear(layer: nn.Linear, init: str = "trunc_norm") -> None:
    """Truncated normal of deviation 0.02, or Xavier's uniform; bias 0."""
    if init == "trunc_norm":
        trunc_normal_(layer.weight)
    else:
        nn.initializer.XavierUniform()(layer.weight)
    if layer.bias is not None:
        nn.initializer.Constant(0.0)(layer.bias)


def init_conv(layer: nn.Conv2D) -> None:
    """PyTorch's default for a convolution, which both original codes keep: uniform within
    1/sqrt(fan_in), bias too.
    """
    fan_in = math.prod(layer.weight.shape[1:])  # of one group
    bound = 1 / math.sqrt(fan_in)
    nn.initializer.Uniform(-bound, bound)(layer.weight)
    if layer.bias is not None:
        nn.initializer.Uniform(-bound, bound)(layer.bias)
