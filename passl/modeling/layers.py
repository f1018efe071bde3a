"""What ConViT and CvT share: activations, norms, attention, feed-forward, drop path, conversions
between tokens and maps, initialisation.

Shapes in names: B batch, N tokens (queries), M tokens (keys), C channels, H heads, D channels of a
head, Y rows and X columns of a grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from passl.errors import ConfigError

Grid = Sequence[int]
"""Rows and columns of patches or tokens."""


class QuickGELU(nn.Layer):
    """x * sigmoid(1.702 x), the activation of microsoft/CvT (cls_cvt.py:48-50)."""

    def forward(self, x):
        return x * F.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[], nn.Layer]] = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate=True),  # MindSpore's default
    "quick_gelu": QuickGELU,
    "relu": nn.ReLU,
}


def activation(name: str) -> nn.Layer:
    """A new layer of that activation."""
    return ACTIVATIONS[name]()


def norm(name: str, dim: int, eps: float) -> nn.Layer:
    """A norm over the last axis: `layer_norm`, or `rms_norm`, which no published variant has."""
    return RMSNorm(dim, eps) if name == "rms_norm" else nn.LayerNorm(dim, epsilon=eps)


class RMSNorm(nn.Layer):
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis (Zhang and Sennrich, arXiv
    1910.07467). It computes in float32 under mixed precision too, since 256^2 overflows float16.
    """

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self._cast_to_low_precision = False  # like Paddle's norms
        self.eps = eps
        self.weight = self.create_parameter([dim], default_initializer=nn.initializer.Constant(1.0))

    def forward(self, x):
        if x.dtype in (paddle.float16, paddle.bfloat16):
            x = x.astype("float32")
        return x * paddle.rsqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.weight


class DropPath(nn.Layer):
    """Stochastic depth (Huang et al., arXiv 1603.09382): drop the residual branch of a sample with
    probability `rate` and scale the others up.

    The branch is multiplied by a mask rather than skipped: under data parallelism every parameter
    must be used on every rank.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        return x * self.draw_scales(x) if self.training and self.rate > 0 else x

    def draw_scales(self, x):
        """A factor for each sample of x, [B, 1, ...]: 0, or 1 / keep with probability keep."""
        keep = 1 - self.rate
        # Drawn in float32 under mixed precision too.
        draws = paddle.rand([x.shape[0]] + [1] * (x.ndim - 1), dtype="float32")
        return (draws < keep).astype(x.dtype) / keep

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class Mlp(nn.Layer):
    """Linear, activation, dropout, Linear, dropout on [B, N, C]."""

    def __init__(self, dim: int, hidden: int, act: str, dropout: float):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = activation(act)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BNC):
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x_BNC)))))


class Attention(nn.Layer):
    """softmax(q k^T * scale) v -> [B, N, H, D].

    Args:
        scale: factor of q k^T.
        dropout: on the attention weights, in training.
    """

    def __init__(self, scale: float, dropout: float = 0.0):
        super().__init__()
        self.scale = scale
        self.dropout = dropout

    def forward(self, q_BNHD, k_BMHD, v_BMHD):
        # Paddle's function reaches the flash kernel of a GPU only with its own scale, D^-0.5; the
        # remaining factor goes into q.
        ratio = self.scale * math.sqrt(q_BNHD.shape[-1])
        if not math.isclose(ratio, 1.0, rel_tol=1e-12):
            q_BNHD = q_BNHD * ratio
        return F.scaled_dot_product_attention(
            q_BNHD, k_BMHD, v_BMHD, dropout_p=self.dropout, training=self.training
        )

    def weights(self, q_BNHD, k_BMHD):
        """softmax(q k^T * scale) -> [B, H, N, M], without dropout."""
        q_BHND, k_BHDM = q_BNHD.transpose([0, 2, 1, 3]), k_BMHD.transpose([0, 2, 3, 1])
        return F.softmax(q_BHND @ k_BHDM * self.scale, axis=-1)


class AttentionLayer(nn.Layer):
    """What the attention layers of ConViT and CvT share. Each has `attend`, the `Attention`, and
    `num_heads`.
    """

    attend: Attention
    num_heads: int

    def project_qkv(self, x_BNC, grid: Grid):
        """q [B, N, H, D], k and v [B, M, H, D] of the tokens of a grid."""
        raise NotImplementedError

    def key_grid(self, grid: Grid) -> Grid:
        """The grid of k and v, for queries on this one."""
        return grid

    def key_places(self, grid: Grid) -> list[np.ndarray]:
        """The centers of k and v on the query grid, along y and along x, in its tokens."""
        return [np.arange(length, dtype=np.float64) for length in grid]

    def weights(self, q_BNHD, k_BMHD, grid: Grid, rows: Sequence[int] | None = None):
        """The attention weights that the layer applies to v, without dropout: [B, H, N, M], or of
        some queries [B, H, len(rows), M].

        Args:
            q_BNHD, k_BMHD: of `project_qkv`.
            grid: of the queries.
            rows: the queries; null for all.
        """
        return self.attend.weights(chosen_rows(q_BNHD, rows), k_BMHD)

    def attention_map(self, x_BNC, grid: Grid):
        """The attention weights [B, H, N, M] of N tokens over the M of `key_grid`; a class token
        comes first.
        """
        q_BNHD, k_BMHD, _ = self.project_qkv(x_BNC, grid)
        return self.weights(q_BNHD, k_BMHD, grid)


@dataclass(frozen=True, eq=False)
class AttentionBlock:
    """An attention of a network, for images of one size.

    Args:
        name: of its block, within the backbone.
        attn: the attention layer.
        query_grid: rows and columns of its queries.
        stride: pixels of the image between two neighbours of the query grid.
        has_class_token: whether a class token comes first among queries and keys.
    """

    name: str
    attn: AttentionLayer
    query_grid: Grid
    stride: int
    has_class_token: bool

    @property
    def kind(self) -> str:
        """The class of the attention layer: GPSA, MHSA or ConvAttention."""
        return type(self.attn).__name__

    @property
    def heads(self) -> int:
        return self.attn.num_heads

    @cached_property
    def key_grid(self) -> Grid:
        return tuple(self.attn.key_grid(self.query_grid))

    @property
    def queries(self) -> int:
        """Tokens N, the class token included."""
        return math.prod(self.query_grid) + self.has_class_token

    @property
    def keys(self) -> int:
        """Tokens M, the class token included."""
        return math.prod(self.key_grid) + self.has_class_token


def chosen_rows(x_BNHD, rows: Sequence[int] | None):
    """Some of the N tokens; null for all."""
    return x_BNHD if rows is None else x_BNHD.index_select(paddle.to_tensor(list(rows)), axis=1)


def split_heads(x_BNC, heads: int):
    """Channels as heads, [B, N, H, D]."""
    return x_BNC.reshape([0, 0, heads, x_BNC.shape[-1] // heads])


def to_tokens(x_BCYX):
    """A map as tokens [B, N, C], row by row."""
    return x_BCYX.flatten(2).transpose([0, 2, 1])


def to_map(x_BNC, grid: Sequence[int]):
    """Tokens as the map [B, C, Y, X] of a grid (Y, X)."""
    return x_BNC.transpose([0, 2, 1]).reshape([0, 0, *grid])


def windows(
    grid: Grid, *, kernel: int, stride: int, padding: int, ceil: bool = False
) -> tuple[int, ...]:
    """The grid of a convolution's output.

    Args:
        grid: of its input.
        ceil: whether a last window may reach beyond the padding.
    """
    beyond = stride - 1 if ceil else 0
    return tuple((n + 2 * padding - kernel + beyond) // stride + 1 for n in grid)


def resized(x_BCYX, size: Sequence[int]):
    """A map at another size (Y, X), bilinear."""
    # In three dimensions, of which one is 1: Paddle Inference 3.3.1 cannot run the two-dimensional
    # operation by oneDNN.
    return F.interpolate(
        x_BCYX.unsqueeze(2), [1, *size], mode="trilinear", data_format="NCDHW"
    ).squeeze(2)


def padded(images, multiple: int):
    """Images with zeros at the bottom and at the right, so that a multiple divides height and
    width, as backbones need it.

    Raises:
        ConfigError: images of a graph that is being exported have no fixed size.
    """
    height, width = images.shape[-2:]
    if not (isinstance(height, int) and isinstance(width, int)):
        raise ConfigError("images without a fixed size cannot be padded; export with a size")
    below, right = -height % multiple, -width % multiple
    return F.pad(images, [0, right, 0, below]) if below or right else images


def split_class_token(x_BNC, grid: Sequence[int]):
    """The class token [B, 1, C], or None if there is none, and the patches of a grid."""
    patches = grid[0] * grid[1]
    return (x_BNC[:, :1], x_BNC[:, 1:]) if x_BNC.shape[1] > patches else (None, x_BNC)


def join_class_token(cls_B1C, patches_BNC):
    """The inverse of `split_class_token`."""
    return patches_BNC if cls_B1C is None else paddle.concat([cls_B1C, patches_BNC], axis=1)


def resolve_indices(indices: Sequence[int], count: int, kind: str) -> list[int]:
    """Indices from 0, where negative ones count from the end.

    Args:
        count: how many there are.
        kind: what they are, for the message.

    Raises:
        ConfigError: an index is out of range.
    """
    for index in indices:
        if not -count <= index < count:
            raise ConfigError(f"there is no {kind} {index}; this network has 0 to {count - 1}")
    return [index % count for index in indices]


# --------------------------------------------------------------------------------------------------
# Initialisation. Paddle's defaults differ from PyTorch's (a depthwise convolution starts three
# times too small), so each weight is initialised as in the original code.
# --------------------------------------------------------------------------------------------------
def trunc_normal_(parameter, std: float = 0.02) -> None:
    """Normal of that deviation, truncated at -2 and 2 (not deviations), as in PyTorch."""
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
    """PyTorch's default for a convolution, as in both original implementations: weight and bias
    uniform within 1/sqrt(fan_in).
    """
    fan_in = math.prod(layer.weight.shape[1:])  # of one group
    bound = 1 / math.sqrt(fan_in)
    nn.initializer.Uniform(-bound, bound)(layer.weight)
    if layer.bias is not None:
        nn.initializer.Uniform(-bound, bound)(layer.bias)
