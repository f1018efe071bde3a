"""ConViT: a vision transformer whose first blocks start as convolutions and can unlearn it
(d'Ascoli et al., arXiv 2103.10697).

Shapes in names: B batch, C embedding width, N tokens, H heads, D channels of a head, Y rows and X
columns of the patch grid, N = Y * X. Parameter names are those of facebookresearch/convit and timm.
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
from passl.modeling.gpsa import GPSA
from passl.modeling.layers import (
    AttentionBlock,
    DropPath,
    Grid,
    Mlp,
    init_conv,
    init_linear,
    join_class_token,
    norm,
    resolve_indices,
    split_class_token,
    to_map,
    to_tokens,
    trunc_normal_,
)
from passl.modeling.mhsa import MHSA
from passl.modeling.recompute import run_block
from passl.utils.types import ImageSize, NonNegativeInt, NormEps, PositiveFloat, PositiveInt, Rate


class Block(nn.Layer):
    """Attention and feed-forward, each with a residual and a norm: before it (pre-norm), or behind
    the sum.
    """

    def __init__(
        self,
        attn: GPSA | MHSA,
        mlp: Mlp,
        *,
        norms: Sequence[nn.Layer],
        drop_path: float,
        pre_norm: bool,
    ):
        super().__init__()
        self.norm1 = norms[0]
        self.attn = attn
        self.drop_path = DropPath(drop_path)
        self.norm2 = norms[1]
        self.mlp = mlp
        self.pre_norm = pre_norm

    def forward(self, x_BNC, grid: Grid):
        if self.pre_norm:
            x_BNC = x_BNC + self.drop_path(self.attn(self.norm1(x_BNC), grid))
            return x_BNC + self.drop_path(self.mlp(self.norm2(x_BNC)))
        x_BNC = self.norm1(x_BNC + self.drop_path(self.attn(x_BNC, grid)))
        return self.norm2(x_BNC + self.drop_path(self.mlp(x_BNC)))

    def attention_input(self, x_BNC):
        """What the attention gets of this block's input."""
        return self.norm1(x_BNC) if self.pre_norm else x_BNC


class PatchEmbed(nn.Layer):
    """A convolution from images [B, 3, height, width] to the patch grid [B, C, Y, X]."""

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int):
        super().__init__()
        self.stride = patch_size
        self.proj = nn.Conv2D(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)
        init_conv(self.proj)

    def forward(self, images):
        return self.proj(images)


class HybridEmbed(nn.Layer):
    """The last feature map of another backbone, projected to the width, as the patch grid (FB's
    HybridEmbed).
    """

    def __init__(self, backbone: nn.Layer, embed_dim: int):
        super().__init__()
        self.backbone = backbone
        self.stride = backbone.feature_strides[-1]
        self.proj = nn.Linear(backbone.feature_channels[-1], embed_dim)
        init_linear(self.proj)

    def forward(self, images):
        map_BCYX = self.backbone.forward_features(images)[-1]
        return to_map(self.proj(to_tokens(map_BCYX)), map_BCYX.shape[-2:])


def _patch_embed(
    patch_size: int, in_chans: int, embed_dim: int, hybrid_backbone: Mapping | None
) -> PatchEmbed | HybridEmbed:
    if hybrid_backbone is None:
        return PatchEmbed(patch_size, in_chans, embed_dim)
    return HybridEmbed(build_backbone(hybrid_backbone), embed_dim)


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


def _sides(size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


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
            another size are accepted if the patch divides them; the embedding is then resampled
            (bicubic).
        patch_size: side of a patch in pixels. Unused with a hybrid_backbone.
        in_chans: channels of an image.
        embed_dim: width, of all heads together. (FB and timm write it per head.)
        depth: blocks, local and non-local together.
        num_heads: heads; null for embed_dim / head_dim, or 4 if that is null too.
        mlp_ratio: width of the feed-forward over embed_dim.
        qkv_bias: whether q, k and v have a bias.
        drop_rate: dropout on patches, on the output of attention and in the feed-forward.
        attn_drop_rate: dropout on attention weights. Above 0, training takes the dense form of
            GPSA.
        drop_path_rate: drop path of the last block; it rises linearly from 0.
        norm_eps: epsilon of the norms. MindCV's weights want 1e-7.
        act: activation of the feed-forward. MindCV's weights want gelu_tanh.
        local_up_to_layer: how many blocks are GPSA.
        locality_strength: how sharply GPSA starts as a convolution; null leaves it at random
            weights.
        head_dim: width of a head, instead of num_heads.
        ff_dim: width of the feed-forward, instead of mlp_ratio.
        qk_scale: factor of q k^T; null for head width^-0.5.
        pos_drop_rate, proj_drop_rate, ff_dropout: dropout on patches, on the output of attention
            and in the feed-forward; null for drop_rate.
        token_dropout: probability that a patch is dropped whole, before the first block.
        norm_layer: the norm of the blocks and at the end.
        pre_norm: norm before attention and feed-forward, or behind their sums.
        global_pool: what `forward` returns: the class token, or the mean of the patches.
        use_pos_embed: whether the patches get a learned position embedding.
        init: initialisation of the Linear layers. The standard deviation of trunc_norm is 0.02,
            which suits widths of hundreds; narrow networks learn sooner with xavier.
        hybrid_backbone: a backbone's config; its last feature map replaces the patches.

    The published variants need the options up to locality_strength; the others exist for configs of
    other implementations (docs/options.md).

    Raises:
        ConfigError: an argument has a wrong value, or two do not go together.
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
        mlp_ratio: PositiveFloat = 4.0,
        qkv_bias: bool = False,
        drop_rate: Rate = 0.0,
        attn_drop_rate: Rate = 0.0,
        drop_path_rate: Rate = 0.1,
        norm_eps: NormEps = 1e-6,
        act: Literal["gelu", "gelu_tanh", "quick_gelu", "relu"] = "gelu",
        local_up_to_layer: NonNegativeInt = 10,
        locality_strength: float | None = 1.0,
        # Options of other implementations, which no published variant sets.
        head_dim: PositiveInt | None = None,
        ff_dim: PositiveInt | None = None,
        qk_scale: float | None = None,
        pos_drop_rate: Rate | None = None,
        proj_drop_rate: Rate | None = None,
        ff_dropout: Rate | None = None,
        token_dropout: Rate = 0.0,
        norm_layer: Literal["layer_norm", "rms_norm"] = "layer_norm",
        pre_norm: bool = True,
        global_pool: Literal["token", "avg"] = "token",
        use_pos_embed: bool = True,
        init: Literal["trunc_norm", "xavier"] = "trunc_norm",
        hybrid_backbone: Mapping | None = None,
    ):
        super().__init__()
        heads = _heads(embed_dim, num_heads, head_dim)
        own_rates = (pos_drop_rate, proj_drop_rate, ff_dropout)
        pos_drop, proj_drop, ff_drop = (drop_rate if rate is None else rate for rate in own_rates)
        self.num_features, self.act, self.norm_eps, self.recompute = embed_dim, act, norm_eps, False
        self.patch_embed = _patch_embed(patch_size, in_chans, embed_dim, hybrid_backbone)
        self.feature_channels = [embed_dim] * depth
        self.feature_strides = [self.patch_embed.stride] * depth
        self.local_up_to_layer, self.global_pool = local_up_to_layer, global_pool
        self.grid = self._grid_of(*_sides(img_size))
        self.pos_embed = self._token_parameter(math.prod(self.grid)) if use_pos_embed else None
        self.cls_token: Any = self._token_parameter(1) if local_up_to_layer < depth else None
        self.pos_drop = nn.Dropout(pos_drop)
        self.token_drop = nn.Dropout(token_dropout, axis=[0, 1])  # one draw for each token
        scale = (embed_dim // heads) ** -0.5 if qk_scale is None else qk_scale
        drops = {"attn_drop": attn_drop_rate, "proj_drop": proj_drop}
        self.blocks = nn.LayerList()
        for index in range(depth):
            kind = GPSA if index < local_up_to_layer else MHSA
            attention = kind(embed_dim, heads, qkv_bias=qkv_bias, scale=scale, **drops)
            mlp = Mlp(embed_dim, ff_dim or int(embed_dim * mlp_ratio), act, ff_drop)
            norms = [norm(norm_layer, embed_dim, norm_eps) for _ in range(2)]
            rate = drop_path_rate * index / max(depth - 1, 1)
            block = Block(attention, mlp, norms=norms, drop_path=rate, pre_norm=pre_norm)
            self.blocks.append(block)
        self.norm = norm(norm_layer, embed_dim, norm_eps)
        self._init_weights(init, locality_strength)

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
            _check_patches(*_sides(img_size), patch_size)

    def forward(self, images):
        """Images [B, in_chans, height, width] -> features [B, embed_dim]."""
        x_BNC, grid = self._embed(images)
        for index, block in enumerate(self.blocks):
            x_BNC = run_block(block, self.recompute, self._join(x_BNC, index), grid)
        x_BNC = self.norm(x_BNC)
        if self.global_pool == "token":
            return x_BNC[:, 0]
        return split_class_token(x_BNC, grid)[1].mean(1)

    def forward_features(self, images, out_indices: Sequence[int] | None = None):
        """The feature maps [B, embed_dim, height / stride, width / stride] behind the named blocks,
        without the final norm.

        Args:
            out_indices: blocks, counted from 0; negative ones from the end; null for the last.

        Raises:
            ValueError: there is no such block.
        """
        chosen = [-1] if out_indices is None else out_indices
        wanted = resolve_indices(chosen, len(self.blocks), "block")
        x_BNC, grid = self._embed(images)
        maps = {}
        for index, block in enumerate(self.blocks):
            x_BNC = run_block(block, self.recompute, self._join(x_BNC, index), grid)
            if index in wanted:
                maps[index] = to_map(split_class_token(x_BNC, grid)[1], grid)
        return [maps[index] for index in wanted]

    def attention_maps(self, images, blocks: Sequence[int] | None = None):
        """The attention weights [B, H, N, N] of the named blocks, as the network applies them to
        these images.

        Patches are numbered row by row; behind the local blocks the class token comes first.

        Args:
            blocks: as out_indices of `forward_features`; null for all.
        """
        chosen = range(len(self.blocks)) if blocks is None else blocks
        wanted = resolve_indices(chosen, len(self.blocks), "block")
        maps = {}
        for index, (block, x_BNC) in enumerate(self.attention_inputs(images)):
            if index in wanted:
                maps[index] = block.attn.attention_map(x_BNC, block.query_grid)
        return [maps[index] for index in wanted]

    def attention_blocks(self, height: int, width: int) -> list[AttentionBlock]:
        """The attention of each block, for images of height x width."""
        grid = self._grid_of(height, width)
        return [
            AttentionBlock(
                f"blocks.{index}",
                block.attn,
                grid,
                self.feature_strides[index],
                has_class_token=index >= self.local_up_to_layer,
            )
            for index, block in enumerate(self.blocks)
        ]

    def attention_inputs(self, images):
        """For each of `attention_blocks`, in their order, what its attention gets of these images,
        [B, N, C]. A block is computed when the next one is asked for.
        """
        x_BNC, grid = self._embed(images)
        blocks = self.attention_blocks(*images.shape[-2:])
        for index, block in enumerate(self.blocks):
            x_BNC = self._join(x_BNC, index)
            yield blocks[index], block.attention_input(x_BNC)
            x_BNC = block(x_BNC, grid)

    def fit_positions(self, pos_embed: np.ndarray) -> np.ndarray:
        """A position embedding [1, N, C] of a square image, resampled for this network's grid.

        Raises:
            ValueError: N is not a square, so its grid is unknown.
        """
        side = math.isqrt(pos_embed.shape[1])
        if side * side != pos_embed.shape[1]:
            raise ValueError(
                f"a position embedding of {pos_embed.shape[1]} patches is not that of a square "
                "image; its grid is not known, so it cannot be resampled"
            )
        return resample_positions(paddle.to_tensor(pos_embed), (side, side), self.grid).numpy()

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay spares although they are not one-dimensional."""
        return {name for name, _ in self.named_parameters() if name in ("pos_embed", "cls_token")}

    @property
    def num_layers(self) -> int:
        """The index of the final norm; the blocks are 1 to `num_layers - 1`."""
        return len(self.blocks) + 1

    def layer_index(self, name: str) -> int:
        """The layer that a parameter belongs to: 0 for the embeddings, i + 1 for block i,
        num_layers for the final norm.
        """
        part, _, rest = name.partition(".")
        if part == "blocks":
            return int(rest.partition(".")[0]) + 1
        return self.num_layers if part == "norm" else 0

    def _embed(self, images):
        """Images to tokens [B, N, C], and their grid."""
        grid = self._grid_of(*images.shape[-2:])
        x_BNC = to_tokens(self.patch_embed(images))
        if self.pos_embed is not None:
            x_BNC = x_BNC + resample_positions(self.pos_embed, self.grid, grid)
        return self.token_drop(self.pos_drop(x_BNC)), grid

    def _join(self, x_BNC, index: int):
        """Put the class token in front of the patches before the first non-local block."""
        if index != self.local_up_to_layer:
            return x_BNC
        return join_class_token(self.cls_token.expand([x_BNC.shape[0], -1, -1]), x_BNC)

    def _grid_of(self, height: int, width: int) -> tuple[int, int]:
        stride = self.patch_embed.stride
        _check_patches(height, width, stride)
        return height // stride, width // stride

    def _token_parameter(self, tokens: int):
        return self.create_parameter([1, tokens, self.num_features])

    def _init_weights(self, init: str, locality_strength: float | None) -> None:
        for parameter in (self.pos_embed, self.cls_token):
            if parameter is not None:
                trunc_normal_(parameter)
        for layer in self.blocks.sublayers():
            if isinstance(layer, nn.Linear):
                init_linear(layer, init)
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
