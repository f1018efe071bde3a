"""Gated positional self-attention, the attention of ConViT's local blocks (d'Ascoli et al., arXiv
2103.10697, section 3).

Shapes in names: B batch, C embedding width, N tokens, H heads, D channels of a head, Y rows and X
columns of the patch grid, N = Y * X.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from passl.modeling.layers import Attention, AttentionLayer, Grid, chosen_rows, split_heads


class GPSA(AttentionLayer):
    """Gated positional self-attention (section 3): for each head, with a learned gate g,
    (1 - g) softmax(q k^T * scale) + g softmax(position), applied to v.

    Two identities keep it cheap; `tests/unit/modeling/test_convit.py` compares them with the
    definition.

    * The positional score of two patches is linear in (dx, dy, dx^2 + dy^2), so it is a function of
      dx plus a function of dy, and its softmax over a full grid is the Kronecker product
      P_y (x) P_x of two small matrices. No [N, N] matrix is computed, and any grid will do.
    * Both attentions have rows that sum to one, so each is applied to v on its own, and the gate
      mixes the two results. Dividing by the sum of the mixture, as the original does, changes
      nothing.

    Attention dropout and attention maps need the mixed weights; they take the dense form.

    Args:
        dim: width C, a multiple of num_heads.
        num_heads: heads H.
        qkv_bias: whether q, k and v have a bias.
        scale: factor of q k^T.
        attn_drop: dropout on the attention weights.
        proj_drop: dropout on the output.
    """

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
        bias = None if qkv_bias else False
        self.num_heads = num_heads
        self.qk = nn.Linear(dim, 2 * dim, bias_attr=bias)
        self.v = nn.Linear(dim, dim, bias_attr=bias)
        self.attend = Attention(scale)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.pos_proj = nn.Linear(3, num_heads)
        # Half precision cannot tell squared distances apart, so these weights stay in float32.
        self.pos_proj._cast_to_low_precision = False
        self.gating_param = self.create_parameter(
            [num_heads], default_initializer=nn.initializer.Constant(1.0)
        )

    def local_init_(self, strength: float) -> None:
        """Start as a convolution (section 3): each head of a K x K kernel attends to the patch at
        its offset, and v is the identity.

        Of H heads the first floor(sqrt(H))^2 are set; the others keep their random weights, as in
        the original.
        """
        size = math.isqrt(self.num_heads)
        center = (size - 1) / 2 if size % 2 == 0 else size // 2
        weight_3H = self.pos_proj.weight.numpy().copy()
        for column in range(size):
            for row in range(size):
                weight_3H[:, row + size * column] = [2 * (column - center), 2 * (row - center), -1]
        weight_3H[:, : size * size] *= strength
        self.pos_proj.weight.set_value(weight_3H)
        self.v.weight.set_value(paddle.eye(self.v.weight.shape[0]))

    def forward(self, x_BNC, grid: Grid):
        q_BNHD, k_BNHD, v_BNHD = self.project_qkv(x_BNC, grid)
        if self.training and self.attn_drop.p > 0:
            attn_BHNN = self.attn_drop(self.weights(q_BNHD, k_BNHD, grid))
            out_BHND = attn_BHNN @ v_BNHD.transpose([0, 2, 1, 3])
            out_BNC = out_BHND.transpose([0, 2, 1, 3]).flatten(2)
        else:
            content_BNC = self.attend(q_BNHD, k_BNHD, v_BNHD).flatten(2)
            position_BNC = self._apply_positions(v_BNHD, grid).flatten(2)
            gate_C = F.sigmoid(self.gating_param).repeat_interleave(v_BNHD.shape[-1])
            out_BNC = content_BNC + (position_BNC - content_BNC) * gate_C
        return self.proj_drop(self.proj(out_BNC))

    def project_qkv(self, x_BNC, grid: Grid):
        q_BNC, k_BNC = self.qk(x_BNC).chunk(2, axis=-1)
        return [split_heads(x, self.num_heads) for x in (q_BNC, k_BNC, self.v(x_BNC))]

    def weights(self, q_BNHD, k_BNHD, grid: Grid, rows: Sequence[int] | None = None):
        # The dense form: the mixture of both attentions.
        gate_H11 = F.sigmoid(self.gating_param).reshape([-1, 1, 1])
        position_HNN = self.position_weights(grid, rows)
        content_BHNN = self.attend.weights(chosen_rows(q_BNHD, rows), k_BNHD)
        attn_BHNN = (1 - gate_H11) * content_BHNN + gate_H11 * position_HNN
        # A no-op but for rounding; the original does it.
        return attn_BHNN / attn_BHNN.sum(-1, keepdim=True)

    def position_weights(self, grid: Grid, rows: Sequence[int] | None = None):
        """The positional attention P_y (x) P_x, [H, N, N], or of some queries [H, len(rows), N]."""
        y_HYY, x_HXX = self.positions(grid)
        if rows is None:
            position_HYXYX = y_HYY.unsqueeze([2, 4]) * x_HXX.unsqueeze([1, 3])
            return position_HYXYX.flatten(3, 4).flatten(1, 2)
        row, column = (paddle.to_tensor(part) for part in np.divmod(list(rows), grid[1]))
        y_HnY, x_HnX = y_HYY.index_select(row, axis=1), x_HXX.index_select(column, axis=1)
        return (y_HnY.unsqueeze(3) * x_HnX.unsqueeze(2)).flatten(2)

    def positions(self, grid: Grid):
        """The positional attention along each axis of the grid: P_y [H, Y, Y] and P_x [H, X, X]."""
        weight_x, weight_y, weight_d = self.pos_proj.weight.reshape([3, -1, 1, 1]).unbind(0)
        # The softmax cancels the bias. Times zero, it gets the gradient 0 that it has in exact
        # arithmetic; AdamW would turn rounding errors into steps of full size.
        zero = 0 * self.pos_proj.bias.reshape([-1, 1, 1])
        y_YY, x_XX = (_offsets(length, zero.dtype) for length in grid)
        y_HYY = F.softmax(weight_y * y_YY + weight_d * y_YY.square() + zero, axis=-1)
        x_HXX = F.softmax(weight_x * x_XX + weight_d * x_XX.square() + zero, axis=-1)
        return y_HYY, x_HXX

    def _apply_positions(self, v_BNHD, grid: Grid):
        """(P_y (x) P_x) v, along one axis of the grid and then along the other. Lower case marks
        axes that are folded into the columns.
        """
        rows, columns = grid
        heads, width = v_BNHD.shape[-2:]
        y_HYY, x_HXX = self.positions(grid)
        v_BYXHD = v_BNHD.reshape([-1, rows, columns, heads, width])
        v_HYbxd = v_BYXHD.transpose([3, 1, 0, 2, 4]).flatten(2)
        v_HYBXD = (y_HYY @ v_HYbxd).reshape([heads, rows, -1, columns, width])
        v_HXbyd = v_HYBXD.transpose([0, 3, 2, 1, 4]).flatten(2)
        v_HXBYD = (x_HXX @ v_HXbyd).reshape([heads, columns, -1, rows, width])
        return v_HXBYD.transpose([2, 3, 1, 0, 4]).flatten(1, 2)


def _offsets(length: int, dtype):
    """[length, length] offsets j - i along one axis of the grid."""
    index = paddle.arange(length, dtype=dtype)
    return index - index.unsqueeze(1)
