"""Multi-head self-attention, of the blocks of ConViT behind the local ones.

Shapes in names: B batch, C embedding width, N tokens, H heads, D channels of a head.
"""

from __future__ import annotations

from paddle import nn

from passl.modeling.layers import Attention, AttentionLayer, Grid, split_heads


class MHSA(AttentionLayer):
    """Multi-head self-attention. Arguments as for GPSA."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qkv_bias: bool,
        scale: float,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias_attr=None if qkv_bias else False)
        self.attend = Attention(scale, attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x_BNC, grid: Grid):
        q_BNHD, k_BNHD, v_BNHD = self.project_qkv(x_BNC, grid)
        return self.proj_drop(self.proj(self.attend(q_BNHD, k_BNHD, v_BNHD).flatten(2)))

    def project_qkv(self, x_BNC, grid: Grid):
        return [split_heads(x, self.num_heads) for x in self.qkv(x_BNC).chunk(3, axis=-1)]
