"""ConViT: a vision transformer whose first blocks start as convolutions and may unlearn it
(d'Ascoli et al., arXiv 2103.10697).

Shapes in names: B batch, C embedding width, N tokens, H heads, D channels of a head, Y rows and X
columns of the patch grid. Parameter names are those of facebookresearch/convit and timm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from passl.modeling.backbones import BACKBONES, build_backbone
from passl.modeling.layers import (
    Attention,
    DropPath,
    Mlp,
    apply_weights,
    attention_weights,
    init_conv,
    init_linear,
    norm,
    trunc_normal_,
)
from passl.modeling.recompute import run_block
from passl.utils.types import ImageSize, NonNegativeInt, NormEps, PositiveFloat, PositiveInt, Rate


class Offsets:
    """Along each axis of a patch grid, how far patch j lies from patch i: x_XX[i, j] = j - i, y_YY
    likewise.

    Positional attention needs no more: its score is linear in (dx, dy, dx^2 + dy^2).
    """

    def __init__(self, rows: int, columns: int):
        self.grid = (rows, columns)
        self.y_YY, self.x_XX = _differences(rows), _differences(columns)


def _differences(length: int):
    index = paddle.arange(length, dtype="float32")
    return index.unsqueeze(0) - index.unsqueeze(1)


class GPSA(nn.Layer):
    """Gated positional self-attention: (1 - g) softmax(q k^T) + g softmax(position), with a gate g
    for each head.

    The positional score separates, s = [w0 dx + w2 dx^2] + [w1 dy + w2 dy^2] + b, and every token
    is a patch of a full grid, so its softmax is the Kronecker product P_y (x) P_x of two small
    ones; and because both attentions have rows that sum to one, they can be applied to the values
    one after the other. No [N, N] positional matrix is ever made, and a grid of any height and
    width will do. The dense form is computed only where its weights are needed: for attention
    dropout, which acts on the mixture, and for maps. `tests/unit/modeling/test_convit.py` holds the
    two equal.

    Args:
        dim: width C, a multiple of num_heads.
        num_heads: heads H.
        qkv_bias: whether q, k and v have a bias.
        scale: what q k^T is multiplied by.
        attn_drop: dropout on the attention weights.
        proj_drop: dropout on the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool,
        scale: float,
        attn_drop: float,
        proj_drop: float,
    ):
        super().__init__()
        bias = None if qkv_bias else False
        self.num_heads = num_heads
        self.scale = scale
        self.qk = nn.Linear(dim, 2 * dim, bias_attr=bias)
        self.v = nn.Linear(dim, dim, bias_attr=bias)
        self.attend = Attention(scale)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.pos_proj = nn.Linear(3, num_heads)
        # Half precision cannot tell squared distances apart: this layer keeps its weights' format.
        self.pos_proj._cast_to_low_precision = False
        self.proj_drop = nn.Dropout(proj_drop)
        self.gating_param = self.create_parameter(
            [num_heads], default_initializer=nn.initializer.Constant(1.0)
        )

    def local_init_(self, strength: float) -> None:
        """Start as a convolution: head (h1, h2) of a K x K kernel attends to the patch that many
        steps away.

        `v` becomes the identity. Of H heads the first floor(sqrt(H))^2 are set; further ones keep
        their random weights, as in the original.
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

    def forward(self, x_BNC, offsets: Offsets):
        q_BNHD, k_BNHD, v_BNHD = self._qkv(x_BNC)
        if self.training and self.attn_drop.p > 0:
            attn_BHNN = self.attn_drop(self._weights(q_BNHD, k_BNHD, offsets))
            out_BNC = apply_weights(attn_BHNN, v_BNHD).flatten(2)
        else:
            content_BNC = self.attend(q_BNHD, k_BNHD, v_BNHD).flatten(2)
            position_BNC = self._apply_positions(v_BNHD, offsets).flatten(2)
            gate_C = F.sigmoid(self.gating_param).repeat_interleave(v_BNHD.shape[-1])
            out_BNC = content_BNC + (position_BNC - content_BNC) * gate_C
        return self.proj_drop(self.proj(out_BNC))

    def attention_map(self, x_BNC, offsets: Offsets):
        """The mixed attention weights [B, H, N, N]."""
        q_BNHD, k_BNHD, _ = self._qkv(x_BNC)
        return self._weights(q_BNHD, k_BNHD, offsets)

    def _qkv(self, x_BNC):
        shape = [0, 0, self.num_heads, x_BNC.shape[-1] // self.num_heads]
        q_BNC, k_BNC = self.qk(x_BNC).chunk(2, axis=-1)
        return q_BNC.reshape(shape), k_BNC.reshape(shape), self.v(x_BNC).reshape(shape)

    def _weights(self, q_BNHD, k_BNHD, offsets: Offsets):
        gate_H11 = F.sigmoid(self.gating_param).reshape([-1, 1, 1])
        y_HYY, x_HXX = self._positions(offsets)
        tokens = offsets.grid[0] * offsets.grid[1]
        position_HNN = (y_HYY.unsqueeze([2, 4]) * x_HXX.unsqueeze([1, 3])).reshape(
            [self.num_heads, tokens, tokens]
        )
        attn_BHNN = (1 - gate_H11) * attention_weights(
            q_BNHD, k_BNHD, self.scale
        ) + gate_H11 * position_HNN
        return attn_BHNN / attn_BHNN.sum(
            -1, keepdim=True
        )  # a no-op but for rounding; the original does it

    def _positions(self, offsets: Offsets):
        """P_y [H, Y, Y] and P_x [H, X, X]."""
        weight_x, weight_y, weight_d = self.pos_proj.weight.reshape([3, -1, 1, 1]).unbind(0)
        # The softmax cancels the bias. As a zero it has the gradient that it should have, 0 and no
        # rounding, of which AdamW would make steps of full size, others for each number of ranks.
        zero = 0 * self.pos_proj.bias.reshape([-1, 1, 1])
        y_YY, x_XX = offsets.y_YY.astype(zero.dtype), offsets.x_XX.astype(zero.dtype)
        y_HYY = F.softmax(weight_y * y_YY + weight_d * y_YY.square() + zero, axis=-1)
        x_HXX = F.softmax(weight_x * x_XX + weight_d * x_XX.square() + zero, axis=-1)
        return y_HYY, x_HXX

    def _apply_positions(self, v_BNHD, offsets: Offsets):
        """(P_y (x) P_x) v, one axis of the grid after the other. The batch is folded into the
        columns.
        """
        rows, columns = offsets.grid
        heads, width = v_BNHD.shape[-2:]
        y_HYY, x_HXX = self._positions(offsets)
        v_HYbxd = (
            v_BNHD.reshape([-1, rows, columns, heads, width]).transpose([3, 1, 0, 2, 4]).flatten(2)
        )
        v_HYBXD = (y_HYY @ v_HYbxd).reshape([heads, rows, -1, columns, width])
        v_HXbyd = v_HYBXD.transpose([0, 3, 2, 1, 4]).flatten(2)
        v_HXBYD = (x_HXX @ v_HXbyd).reshape([heads, columns, -1, rows, width])
        return v_HXBYD.transpose([2, 3, 1, 0, 4]).flatten(1, 2)


class MHSA(nn.Layer):
    """Plain multi-head self-attention, for the blocks behind the local ones. Arguments as for
    GPSA.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool,
        scale: float,
        attn_drop: float,
        proj_drop: float,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.scale = scale
        self.qkv = nn.Linear(dim, 3 * dim, bias_attr=None if qkv_bias else False)
        self.attend = Attention(scale, attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x_BNC, offsets: Offsets):
        q_BNHD, k_BNHD, v_BNHD = self._qkv(x_BNC)
        return self.proj_drop(self.proj(self.attend(q_BNHD, k_BNHD, v_BNHD).flatten(2)))

    def attention_map(self, x_BNC, offsets: Offsets):
        """The attention weights [B, H, N, N], the class token first."""
        q_BNHD, k_BNHD, _ = self._qkv(x_BNC)
        return attention_weights(q_BNHD, k_BNHD, self.scale)

    def _qkv(self, x_BNC):
        shape = [0, 0, self.num_heads, x_BNC.shape[-1] // self.num_heads]
        return [part.reshape(shape) for part in self.qkv(x_BNC).chunk(3, axis=-1)]


class Block(nn.Layer):
    """Attention and feed-forward, each with a residual; the norm stands before them, or (post-norm)
    behind each sum.
    """

    def __init__(
        self,
        attn: nn.Layer,
        mlp: Mlp,
        norm1: nn.Layer,
        norm2: nn.Layer,
        drop_path: float,
        pre_norm: bool,
    ):
        super().__init__()
        self.norm1 = norm1
        self.attn = attn
        self.drop_path = DropPath(drop_path)
        self.norm2 = norm2
        self.mlp = mlp
        self.pre_norm = pre_norm

    def forward(self, x_BNC, offsets: Offsets):
        if self.pre_norm:
            x_BNC = x_BNC + self.drop_path(self.attn(self.norm1(x_BNC), offsets))
            return x_BNC + self.drop_path(self.mlp(self.norm2(x_BNC)))
        x_BNC = self.norm1(x_BNC + self.drop_path(self.attn(x_BNC, offsets)))
        return self.norm2(x_BNC + self.drop_path(self.mlp(x_BNC)))

    def attention_map(self, x_BNC, offsets: Offsets):
        """The attention weights [B, H, N, N] that this block applies to its input."""
        return self.attn.attention_map(self.norm1(x_BNC) if self.pre_norm else x_BNC, offsets)


class PatchEmbed(nn.Layer):
    """One convolution from images [B, 3, height, width] to the patch grid [B, C, Y, X]."""

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int):
        super().__init__()
        self.stride = patch_size
        self.proj = nn.Conv2D(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)
        init_conv(self.proj)

    def forward(self, images):
        return self.proj(images)


class HybridEmbed(nn.Layer):
    """Another backbone's last feature map as the patch grid, brought to the width by a Linear (FB's
    HybridEmbed).
    """

    def __init__(self, backbone: nn.Layer, embed_dim: int):
        super().__init__()
        self.backbone = backbone
        self.stride = backbone.stride
        self.proj = nn.Linear(backbone.num_features, embed_dim)
        init_linear(self.proj)

    def forward(self, images):
        map_BCYX = self.backbone.forward_features(images)[-1]
        return self.proj(map_BCYX.transpose([0, 2, 3, 1])).transpose([0, 3, 1, 2])


def _heads(embed_dim: int, num_heads: int | None, head_dim: int | None) -> int:
    """The number of heads; a ValueError if they do not divide the width."""
    if num_heads is None:
        num_heads = 4 if head_dim is None else max(1, embed_dim // head_dim)
    if embed_dim % num_heads or (head_dim and num_heads * head_dim != embed_dim):
        width = f"{num_heads} heads of {head_dim}" if head_dim else f"{num_heads} heads"
        raise ValueError(
            f"embed_dim {embed_dim} does not divide into {width}; embed_dim is num_heads * head_dim"
        )
    return num_heads


def _check_patches(height: int, width: int, patch_size: int) -> None:
    """Raise a ValueError unless patches of that size divide an image."""
    if height % patch_size or width % patch_size or min(height, width) < patch_size:
        near = [max(1, round(side / patch_size)) * patch_size for side in (height, width)]
        raise ValueError(
            f"an image of {height}x{width} does not divide into patches of {patch_size} pixels; "
            f"use multiples of {patch_size}, for example {near[0]}x{near[1]}"
        )


@BACKBONES.register
class ConViT(nn.Layer):
    """ConViT without its classification layer.

    The first `local_up_to_layer` blocks are GPSA on the patches alone; then the class token joins
    and the rest are MHSA. Defaults are convit_tiny's.

    Args:
        img_size: side, or [height, width], that the position embedding is made for. Images of
            another size are taken as long as the patch divides them; the embedding is then
            resampled (bicubic).
        patch_size: side of a patch in pixels. Unused with a hybrid_backbone.
        in_chans: channels of an image.
        embed_dim: width, of all heads together. (FB and timm write it per head.)
        depth: blocks, local and non-local together.
        num_heads: heads; null takes embed_dim / head_dim, or 4 if that is null too.
        head_dim: width of a head, instead of num_heads.
        mlp_ratio: width of the feed-forward over embed_dim.
        ff_dim: that width itself, instead of mlp_ratio.
        qkv_bias: whether q, k and v have a bias.
        qk_scale: what q k^T is multiplied by; null for head width^-0.5.
        drop_rate: dropout, the default of the three that follow.
        pos_drop_rate: dropout on the embedded patches.
        proj_drop_rate: dropout on the output of attention.
        ff_dropout: dropout in the feed-forward.
        token_dropout: probability that a patch is dropped whole, before the first block.
        attn_drop_rate: dropout on attention weights. Above 0, training takes the dense form of
            GPSA.
        drop_path_rate: drop path of the last block; it rises linearly from 0.
        norm_layer: the norm of the blocks and at the end.
        norm_eps: its epsilon. MindCV's weights want 1e-7.
        act: activation of the feed-forward. MindCV's weights want gelu_tanh.
        pre_norm: norm before attention and feed-forward, or behind their sums.
        global_pool: what `forward` returns: the class token, or the mean of the patches.
        local_up_to_layer: how many blocks are GPSA.
        locality_strength: how sharply GPSA starts as a convolution; null leaves it at random
            weights.
        use_pos_embed: whether the patches get a learned position embedding.
        hybrid_backbone: a backbone's config; its last feature map replaces the patches.

    Raises:
        ValueError: two arguments do not go together; the message says which.
    """

    def __init__(
        self,
        *,
        img_size: ImageSize = 224,
        patch_size: PositiveInt = 16,
        in_chans: PositiveInt = 3,
        embed_dim: PositiveInt = 192,
        depth: PositiveInt = 12,
        num_heads: PositiveInt | None = None,
        head_dim: PositiveInt | None = None,
        mlp_ratio: PositiveFloat = 4.0,
        ff_dim: PositiveInt | None = None,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        drop_rate: Rate = 0.0,
        pos_drop_rate: Rate | None = None,
        proj_drop_rate: Rate | None = None,
        ff_dropout: Rate | None = None,
        token_dropout: Rate = 0.0,
        attn_drop_rate: Rate = 0.0,
        drop_path_rate: Rate = 0.1,
        norm_layer: Literal["layer_norm", "rms_norm"] = "layer_norm",
        norm_eps: NormEps = 1e-6,
        act: Literal["gelu", "gelu_tanh", "quick_gelu", "relu"] = "gelu",
        pre_norm: bool = True,
        global_pool: Literal["token", "avg"] = "token",
        local_up_to_layer: NonNegativeInt = 10,
        locality_strength: float | None = 1.0,
        use_pos_embed: bool = True,
        hybrid_backbone: Mapping | None = None,
    ):
        super().__init__()
        heads = _heads(embed_dim, num_heads, head_dim)
        pos_drop_rate, proj_drop_rate, ff_dropout = (
            drop_rate if rate is None else rate
            for rate in (pos_drop_rate, proj_drop_rate, ff_dropout)
        )
        self.num_features = embed_dim
        self.recompute = False
        self.act, self.norm_eps = act, norm_eps
        self.local_up_to_layer = local_up_to_layer
        self.global_pool = global_pool

        self.patch_embed = (
            PatchEmbed(patch_size, in_chans, embed_dim)
            if hybrid_backbone is None
            else HybridEmbed(build_backbone(hybrid_backbone), embed_dim)
        )
        self.stride = self.patch_embed.stride
        self.grid = self._grid_of(
            *((img_size, img_size) if isinstance(img_size, int) else img_size)
        )
        self.pos_embed = (
            self._token_parameter(self.grid[0] * self.grid[1]) if use_pos_embed else None
        )
        self.cls_token = self._token_parameter(1) if local_up_to_layer < depth else None
        self.pos_drop = nn.Dropout(pos_drop_rate)
        self.token_drop = nn.Dropout(
            token_dropout, axis=[0, 1]
        )  # one mask over all channels of a token

        scale = (embed_dim // heads) ** -0.5 if qk_scale is None else qk_scale
        hidden = int(embed_dim * mlp_ratio) if ff_dim is None else ff_dim
        self.blocks = nn.LayerList()
        for index in range(depth):
            attention = GPSA if index < local_up_to_layer else MHSA
            block = Block(
                attention(embed_dim, heads, qkv_bias, scale, attn_drop_rate, proj_drop_rate),
                Mlp(embed_dim, hidden, act, ff_dropout),
                norm(norm_layer, embed_dim, norm_eps),
                norm(norm_layer, embed_dim, norm_eps),
                drop_path=drop_path_rate * index / max(depth - 1, 1),
                pre_norm=pre_norm,
            )
            self.blocks.append(block)
        self.norm = norm(norm_layer, embed_dim, norm_eps)
        self._init_weights(locality_strength)

    @staticmethod
    def check_options(
        *,
        img_size: int | Sequence[int],
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int | None,
        head_dim: int | None,
        mlp_ratio: float,
        ff_dim: int | None,
        local_up_to_layer: int,
        global_pool: str,
        hybrid_backbone: Mapping | None,
        **_: Any,
    ) -> None:
        """Raise a ValueError for options that do not go together."""
        if local_up_to_layer > depth:
            raise ValueError(
                f"local_up_to_layer {local_up_to_layer} must lie between 0 and depth {depth}"
            )
        if local_up_to_layer == depth and global_pool == "token":
            raise ValueError(
                f"local_up_to_layer {local_up_to_layer} leaves no block for the class token to "
                f"join; lower it below depth {depth}, or set global_pool: avg"
            )
        _heads(embed_dim, num_heads, head_dim)
        if ff_dim is None and int(embed_dim * mlp_ratio) < 1:
            raise ValueError(f"mlp_ratio {mlp_ratio} of width {embed_dim} leaves no feed-forward")
        if hybrid_backbone is not None:
            BACKBONES.check(hybrid_backbone)
        else:
            sides = (img_size, img_size) if isinstance(img_size, int) else img_size
            _check_patches(*sides, patch_size)

    def forward(self, images):
        """Images [B, in_chans, height, width] -> features [B, embed_dim]."""
        x_BNC, offsets = self._embed(images)
        for index, block in enumerate(self.blocks):
            x_BNC = run_block(block, self.recompute, self._join(x_BNC, index), offsets)
        x_BNC = self.norm(x_BNC)
        if self.global_pool == "token":
            return x_BNC[:, 0]
        return self._patches(x_BNC, len(self.blocks) - 1).mean(1)

    def forward_features(self, images, out_indices: Sequence[int] | None = None):
        """The feature maps [B, embed_dim, height / stride, width / stride] behind the named blocks,
        without the final norm.

        Args:
            out_indices: blocks, counted from 0; negative ones from the end; null for the last.

        Raises:
            ValueError: there is no such block.
        """
        wanted = self._block_indices([-1] if out_indices is None else out_indices)
        x_BNC, offsets = self._embed(images)
        maps = {}
        for index, block in enumerate(self.blocks):
            x_BNC = run_block(block, self.recompute, self._join(x_BNC, index), offsets)
            if index in wanted:
                maps[index] = (
                    self._patches(x_BNC, index).transpose([0, 2, 1]).reshape([0, 0, *offsets.grid])
                )
        return [maps[index] for index in wanted]

    def attention_maps(self, images, blocks: Sequence[int] | None = None):
        """The attention weights [B, H, N, N] of the named blocks, as the network applies them to
        these images.

        Patches are numbered row by row; behind the local blocks the class token comes first.

        Args:
            blocks: as out_indices of `forward_features`; null for all.
        """
        wanted = self._block_indices(range(len(self.blocks)) if blocks is None else blocks)
        x_BNC, offsets = self._embed(images)
        maps = {}
        for index, block in enumerate(self.blocks):
            x_BNC = self._join(x_BNC, index)
            if index in wanted:
                maps[index] = block.attention_map(x_BNC, offsets)
            x_BNC = block(x_BNC, offsets)
        return [maps[index] for index in wanted]

    def fit_positions(self, pos_embed: np.ndarray) -> np.ndarray:
        """A position embedding [1, N, C] of a square image, resampled for this network's grid.

        Raises:
            ValueError: N is no square, so that its grid is not known.
        """
        side = math.isqrt(pos_embed.shape[1])
        if side * side != pos_embed.shape[1]:
            raise ValueError(
                f"a position embedding of {pos_embed.shape[1]} patches is not that of a square "
                "image; "
                "its grid is not known, so it cannot be resampled"
            )
        return resample_positions(paddle.to_tensor(pos_embed), (side, side), self.grid).numpy()

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay spares although they are not one-dimensional."""
        return {name for name, _ in self.named_parameters() if name in ("pos_embed", "cls_token")}

    @property
    def num_layers(self) -> int:
        """The last layer's index: the blocks, from 1, and the final norm."""
        return len(self.blocks) + 1

    def layer_index(self, name: str) -> int:
        """The layer that a parameter belongs to: 0 for what embeds, i + 1 for block i, num_layers
        for the final norm.
        """
        part, _, rest = name.partition(".")
        if part == "blocks":
            return int(rest.partition(".")[0]) + 1
        return self.num_layers if part == "norm" else 0

    def _embed(self, images):
        """Images to tokens [B, N, C], and the offsets of their grid."""
        rows, columns = self._grid_of(*images.shape[-2:])
        x_BNC = self.patch_embed(images).flatten(2).transpose([0, 2, 1])
        if self.pos_embed is not None:
            x_BNC = x_BNC + resample_positions(self.pos_embed, self.grid, (rows, columns))
        return self.token_drop(self.pos_drop(x_BNC)), Offsets(rows, columns)

    def _join(self, x_BNC, index: int):
        """The class token joins, first in the sequence, before the first non-local block."""
        if index != self.local_up_to_layer:
            return x_BNC
        return paddle.concat([self.cls_token.expand([x_BNC.shape[0], -1, -1]), x_BNC], axis=1)

    def _patches(self, x_BNC, index: int):
        """The tokens behind that block without the class token, if it has joined."""
        return x_BNC if index < self.local_up_to_layer else x_BNC[:, 1:]

    def _grid_of(self, height: int, width: int) -> tuple[int, int]:
        _check_patches(height, width, self.stride)
        return height // self.stride, width // self.stride

    def _block_indices(self, indices: Sequence[int]) -> list[int]:
        depth = len(self.blocks)
        wrong = [index for index in indices if not -depth <= index < depth]
        if wrong:
            raise ValueError(
                f"there is no block {wrong[0]}; ConViT of depth {depth} has 0 to {depth - 1}"
            )
        return [index % depth for index in indices]

    def _token_parameter(self, tokens: int):
        return self.create_parameter([1, tokens, self.num_features])

    def _init_weights(self, locality_strength: float | None) -> None:
        for parameter in (self.pos_embed, self.cls_token):
            if parameter is not None:
                trunc_normal_(parameter)
        for layer in self.blocks.sublayers():
            if isinstance(layer, nn.Linear):
                init_linear(layer)
        if locality_strength is not None:
            for block in self.blocks[: self.local_up_to_layer]:
                block.attn.local_init_(locality_strength)


def resample_positions(pos_embed_1NC, old: tuple[int, int], new: tuple[int, int]):
    """A position embedding for another patch grid, bicubically, as PyTorch's
    `interpolate(align_corners=False)` does.
    """
    if old == new:
        return pos_embed_1NC
    map_1CYX = pos_embed_1NC.transpose([0, 2, 1]).reshape([1, -1, *old])
    map_1CYX = F.interpolate(map_1CYX, size=list(new), mode="bicubic", align_corners=False)
    return map_1CYX.flatten(2).transpose([0, 2, 1])
