"""Attention with convolutional projections, the attention of CvT (Wu et al., arXiv 2103.15808,
section 3.2).

Shapes in names: B batch, C channels of the stage, Y rows and X columns of its grid, N = Y * X
tokens (one more with a class token), M tokens of the coarser grid of k and v, H heads, D channels
of a head.
"""

from __future__ import annotations

import numpy as np
from paddle import nn

from passl.modeling.layers import (
    Attention,
    AttentionLayer,
    Grid,
    join_class_token,
    split_class_token,
    split_heads,
    to_map,
    to_tokens,
    windows,
)


class ConvProjection(nn.Layer):
    """The `dw_bn` projection (section 3.2): a depthwise convolution and a BatchNorm, before the
    Linear of q, k or v.
    """

    def __init__(self, dim: int, *, kernel: int, stride: int, padding: int):
        super().__init__()
        self.conv = nn.Conv2D(dim, dim, kernel, stride, padding, groups=dim, bias_attr=False)
        self.bn = nn.BatchNorm2D(dim, momentum=0.9, epsilon=1e-5)  # PyTorch's momentum 0.1

    def forward(self, x_BCYX):
        return self.bn(self.conv(x_BCYX))


def projection(method: str, dim: int, *, kernel: int, stride: int, padding: int) -> nn.Layer:
    """The map that goes into the Linear of q, k or v; with `linear` it is the input."""
    if method == "dw_bn":
        return ConvProjection(dim, kernel=kernel, stride=stride, padding=padding)
    if method == "avg":
        # As in PyTorch: the average counts zeros of the padding, but not what the last window
        # covers beyond it.
        return nn.AvgPool2D(kernel, stride, padding, ceil_mode=True, exclusive=False)
    return nn.Identity()


class ConvAttention(AttentionLayer):
    """Attention whose q, k and v are projected by small convolutions over the grid; k and v on a
    coarser one (section 3.2).

    Args:
        dim: width C, a multiple of num_heads.
        num_heads: heads H.
        method: `dw_bn`, `avg` (for k and v; q stays linear) or `linear`.
        kernel_size: side of the convolutions or windows.
        stride_q, stride_kv, padding_q, padding_kv: theirs.
        qkv_bias: whether the three Linear have a bias.
        attn_drop: dropout on the attention weights.
        proj_drop: dropout on the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        method: str,
        kernel_size: int,
        stride_q: int,
        stride_kv: int,
        padding_q: int,
        padding_kv: int,
        qkv_bias: bool,
        attn_drop: float,
        proj_drop: float,
    ):
        super().__init__()
        bias = None if qkv_bias else False
        of_q = {"kernel": kernel_size, "stride": stride_q, "padding": padding_q}
        of_kv = {"kernel": kernel_size, "stride": stride_kv, "padding": padding_kv}
        self.num_heads, self.method, self.of_kv = num_heads, method, of_kv
        self.conv_proj_q = projection("linear" if method == "avg" else method, dim, **of_q)
        self.conv_proj_k = projection(method, dim, **of_kv)
        self.conv_proj_v = projection(method, dim, **of_kv)
        self.proj_q = nn.Linear(dim, dim, bias_attr=bias)
        self.proj_k = nn.Linear(dim, dim, bias_attr=bias)
        self.proj_v = nn.Linear(dim, dim, bias_attr=bias)
        # QUIRK: the scale is that of the full width rather than of a head (cls_cvt.py:100), and the
        # published weights are trained with it.
        self.attend = Attention(dim**-0.5, attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x_BNC, grid: Grid):
        q_BNHD, k_BMHD, v_BMHD = self.project_qkv(x_BNC, grid)
        return self.proj_drop(self.proj(self.attend(q_BNHD, k_BMHD, v_BMHD).flatten(2)))

    def key_grid(self, grid: Grid) -> Grid:
        if self.method == "linear":
            return grid
        return windows(grid, **self.of_kv, ceil=self.method == "avg")

    def key_places(self, grid: Grid) -> list[np.ndarray]:
        if self.method == "linear":
            return super().key_places(grid)
        first = (self.of_kv["kernel"] - 1) / 2 - self.of_kv["padding"]  # center of its window
        return [first + self.of_kv["stride"] * np.arange(n) for n in self.key_grid(grid)]

    def project_qkv(self, x_BNC, grid: Grid):
        cls_B1C, patches_BNC = split_class_token(x_BNC, grid)
        x_BCYX = to_map(patches_BNC, grid)
        branches = (
            (self.conv_proj_q, self.proj_q),
            (self.conv_proj_k, self.proj_k),
            (self.conv_proj_v, self.proj_v),
        )
        return [
            # The class token goes past the convolution.
            split_heads(linear(join_class_token(cls_B1C, to_tokens(conv(x_BCYX)))), self.num_heads)
            for conv, linear in branches
        ]
