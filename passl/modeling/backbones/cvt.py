"""CvT: a vision transformer in three stages, with convolutions for token embedding and for q, k, v
(Wu et al., arXiv 2103.15808).

Shapes in names: B batch, C channels of the stage, Y rows and X columns of its grid, N = Y * X
tokens (one more with a class token), H heads, D channels of a head. Parameter names are those of
microsoft/CvT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import paddle
from annotated_types import MinLen
from paddle import nn

from passl.modeling.backbones import BACKBONES
from passl.modeling.layers import (
    Attention,
    DropPath,
    Mlp,
    attention_weights,
    init_conv,
    init_linear,
    norm,
    trunc_normal_,
)
from passl.modeling.recompute import run_block
from passl.utils.types import NonNegativeInt, NormEps, PositiveFloat, PositiveInt, Rate

T = TypeVar("T")


class ConvEmbed(nn.Layer):
    """Convolutional token embedding: an overlapping convolution and a LayerNorm, [B, C_in, h, w] ->
    [B, C, Y, X].
    """

    def __init__(
        self, in_chans: int, dim: int, kernel: int, stride: int, padding: int, norm: nn.Layer
    ):
        super().__init__()
        self.proj = nn.Conv2D(in_chans, dim, kernel, stride, padding)
        self.norm = norm

    def forward(self, x):
        x_BCYX = self.proj(x)
        return to_map(self.norm(to_tokens(x_BCYX)), x_BCYX.shape[-2:])


class ConvProjection(nn.Layer):
    """The `dw_bn` projection: a depthwise convolution and a BatchNorm before the Linear of q, k or
    v.
    """

    def __init__(self, dim: int, kernel: int, stride: int, padding: int):
        super().__init__()
        self.conv = nn.Conv2D(dim, dim, kernel, stride, padding, groups=dim, bias_attr=False)
        self.bn = nn.BatchNorm2D(dim, momentum=0.9, epsilon=1e-5)  # PyTorch calls this momentum 0.1

    def forward(self, x_BCYX):
        return self.bn(self.conv(x_BCYX))


def projection(method: str, dim: int, kernel: int, stride: int, padding: int) -> nn.Layer:
    """What stands between the tokens and the Linear of q, k or v; `linear` is nothing at all."""
    if method == "dw_bn":
        return ConvProjection(dim, kernel, stride, padding)
    if method == "avg":
        # Padding counts as zeros; what a last window reaches beyond it does not, as in PyTorch.
        return nn.AvgPool2D(kernel, stride, padding, ceil_mode=True, exclusive=False)
    return nn.Identity()


class ConvAttention(nn.Layer):
    """Attention whose q, k and v are projected by small convolutions over the grid; k and v on a
    coarser one.

    Args:
        dim: width C, a multiple of num_heads.
        num_heads: heads H.
        method: `dw_bn`, `avg` (for k and v; q stays linear) or `linear`.
        kernel: side of the convolutions or windows.
        stride_q, stride_kv, padding_q, padding_kv: theirs.
        qkv_bias: whether the three Linear have a bias.
        attn_drop: dropout on the attention weights.
        proj_drop: dropout on the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        method: str,
        kernel: int,
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
        self.num_heads = num_heads
        # QUIRK: CvT scales by the full width, not by the head's (cls_cvt.py:100); its weights are
        # made for that.
        self.scale = dim**-0.5
        self.conv_proj_q = projection(
            "linear" if method == "avg" else method, dim, kernel, stride_q, padding_q
        )
        self.conv_proj_k = projection(method, dim, kernel, stride_kv, padding_kv)
        self.conv_proj_v = projection(method, dim, kernel, stride_kv, padding_kv)
        self.proj_q = nn.Linear(dim, dim, bias_attr=bias)
        self.proj_k = nn.Linear(dim, dim, bias_attr=bias)
        self.proj_v = nn.Linear(dim, dim, bias_attr=bias)
        self.attend = Attention(self.scale, attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x_BNC, grid: Sequence[int]):
        q_BNHD, k_BMHD, v_BMHD = self._qkv(x_BNC, grid)
        return self.proj_drop(self.proj(self.attend(q_BNHD, k_BMHD, v_BMHD).flatten(2)))

    def attention_map(self, x_BNC, grid: Sequence[int]):
        """The attention weights [B, H, N, M] of N tokens over the M of the coarser grid."""
        q_BNHD, k_BMHD, _ = self._qkv(x_BNC, grid)
        return attention_weights(q_BNHD, k_BMHD, self.scale)

    def _qkv(self, x_BNC, grid: Sequence[int]):
        cls_B1C, patches_BNC = split_class_token(x_BNC, grid)
        x_BCYX = to_map(patches_BNC, grid)
        shape = [0, 0, self.num_heads, x_BNC.shape[-1] // self.num_heads]
        branches = (
            (self.conv_proj_q, self.proj_q),
            (self.conv_proj_k, self.proj_k),
            (self.conv_proj_v, self.proj_v),
        )
        return [
            proj(join_class_token(cls_B1C, to_tokens(conv(x_BCYX)))).reshape(shape)
            for conv, proj in branches
        ]


class Block(nn.Layer):
    """Pre-norm attention and feed-forward, each with a residual."""

    def __init__(
        self, attn: ConvAttention, mlp: Mlp, norm1: nn.Layer, norm2: nn.Layer, drop_path: float
    ):
        super().__init__()
        self.norm1 = norm1
        self.attn = attn
        self.drop_path = DropPath(drop_path)
        self.norm2 = norm2
        self.mlp = mlp

    def forward(self, x_BNC, grid: Sequence[int]):
        x_BNC = x_BNC + self.drop_path(self.attn(self.norm1(x_BNC), grid))
        return x_BNC + self.drop_path(self.mlp(self.norm2(x_BNC)))

    def attention_map(self, x_BNC, grid: Sequence[int]):
        """The attention weights [B, H, N, M] that this block applies to its input."""
        return self.attn.attention_map(self.norm1(x_BNC), grid)


class Stage(nn.Layer):
    """Token embedding, then blocks. A class token lives and ends within its stage.

    Args:
        patch_embed: from the map of the stage before to this one's.
        blocks: the transformer blocks.
        dim: width C.
        drop: dropout on the embedded tokens.
        with_cls_token: whether a class token is put in front of them.
    """

    def __init__(
        self,
        patch_embed: ConvEmbed,
        blocks: Sequence[Block],
        dim: int,
        drop: float,
        with_cls_token: bool,
    ):
        super().__init__()
        self.patch_embed = patch_embed
        self.cls_token = self.create_parameter([1, 1, dim]) if with_cls_token else None
        self.pos_drop = nn.Dropout(drop)
        self.blocks = nn.LayerList(blocks)

    def forward(self, x, recompute: bool = False):
        """[B, C_in, h, w] -> tokens [B, N, C] and their grid (Y, X)."""
        x_BNC, grid = self.embed(x)
        for block in self.blocks:
            x_BNC = run_block(block, recompute, x_BNC, grid)
        return x_BNC, grid

    def embed(self, x):
        """The tokens before the first block, and their grid."""
        x_BCYX = self.patch_embed(x)
        cls_B1C = (
            None if self.cls_token is None else self.cls_token.expand([x_BCYX.shape[0], -1, -1])
        )
        return self.pos_drop(join_class_token(cls_B1C, to_tokens(x_BCYX))), x_BCYX.shape[-2:]


Projection = Literal["dw_bn", "avg", "linear"]


def _per_stage(name: str, value: T | Sequence[T], stages: int) -> Sequence[T]:
    """One value for each stage, from one for all or from a list."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * stages  # type: ignore[list-item]
    if len(value) != stages:
        raise ValueError(
            f"{name} {list(value)} has {len(value)} values for {stages} stages (the length of "
            "embed_dim); give one for each"
        )
    return value


def _check_stage(
    stage: int,
    embed_dim: int,
    *,
    num_heads: int,
    mlp_ratio: float,
    method: str,
    kernel_size: int,
    stride_q: int,
    padding_q: int,
    **_: Any,
) -> None:
    """Raise a ValueError for options of a stage that do not go together."""
    if embed_dim % num_heads:
        raise ValueError(
            f"embed_dim {embed_dim} of stage {stage} does not divide into {num_heads} heads; "
            "num_heads must divide it"
        )
    if int(embed_dim * mlp_ratio) < 1:
        raise ValueError(f"mlp_ratio {mlp_ratio} of width {embed_dim} leaves no feed-forward")
    if method == "dw_bn" and kernel_size % 2 == 0:
        raise ValueError(f"kernel_size {kernel_size} of stage {stage} must be odd, such as 3")
    if method == "dw_bn" and (stride_q != 1 or 2 * padding_q != kernel_size - 1):
        raise ValueError(
            f"stage {stage}: stride_q {stride_q}, padding_q {padding_q} and kernel_size "
            f"{kernel_size} change the number of tokens; use stride_q 1 and padding_q "
            f"{(kernel_size - 1) // 2}"
        )


@BACKBONES.register
class CvT(nn.Layer):
    """CvT without its classification layer. Defaults are CvT-13's.

    Every option from patch_size on is one value for all stages, or a list with one for each. No
    stage has a position embedding: the convolutions see where they are, and any image size will do.

    Args:
        in_chans: channels of an image.
        act: activation of the feed-forward; transformers' port wants gelu.
        norm_layer: the norm of tokens and blocks.
        norm_eps: its epsilon.
        init: `trunc_norm` or `xavier`, for the Linear layers.
        num_stages: may be left out; else it must be the length of embed_dim.
        embed_dim: width of each stage.
        patch_size, patch_stride, patch_padding: of the token embedding's convolution.
        depth: blocks.
        num_heads: heads.
        mlp_ratio: width of the feed-forward over embed_dim.
        qkv_bias: whether q, k and v have a bias.
        drop_rate: dropout on tokens, on the output of attention and in the feed-forward.
        attn_drop_rate: dropout on attention weights.
        drop_path_rate: drop path of the stage's last block; it rises linearly from 0 within each
            stage.
        with_cls_token: whether the stage has a class token. The last one's is the feature; without
            it, the mean of the tokens.
        method: how q, k and v are projected before their Linear: `dw_bn`, `avg` or `linear`.
        kernel_size: side of the projection's convolution.
        padding_q, padding_kv: its padding for q, and for k and v.
        stride_q, stride_kv: its stride. stride_q is 1: attention must give back as many tokens as
            it got.

    Raises:
        ValueError: two arguments do not go together; the message says which.
    """

    def __init__(
        self,
        *,
        in_chans: PositiveInt = 3,
        act: Literal["gelu", "gelu_tanh", "quick_gelu", "relu"] = "quick_gelu",
        norm_layer: Literal["layer_norm", "rms_norm"] = "layer_norm",
        norm_eps: NormEps = 1e-5,
        init: Literal["trunc_norm", "xavier"] = "trunc_norm",
        num_stages: int | None = None,
        embed_dim: Annotated[Sequence[PositiveInt], MinLen(1)] = (64, 192, 384),
        patch_size: PositiveInt | Sequence[PositiveInt] = (7, 3, 3),
        patch_stride: PositiveInt | Sequence[PositiveInt] = (4, 2, 2),
        patch_padding: NonNegativeInt | Sequence[NonNegativeInt] = (2, 1, 1),
        depth: PositiveInt | Sequence[PositiveInt] = (1, 2, 10),
        num_heads: PositiveInt | Sequence[PositiveInt] = (1, 3, 6),
        mlp_ratio: PositiveFloat | Sequence[PositiveFloat] = 4.0,
        qkv_bias: bool | Sequence[bool] = True,
        drop_rate: Rate | Sequence[Rate] = 0.0,
        attn_drop_rate: Rate | Sequence[Rate] = 0.0,
        drop_path_rate: Rate | Sequence[Rate] = (0.0, 0.0, 0.1),
        with_cls_token: bool | Sequence[bool] = (False, False, True),
        method: Projection | Sequence[Projection] = "dw_bn",
        kernel_size: PositiveInt | Sequence[PositiveInt] = 3,
        padding_q: NonNegativeInt | Sequence[NonNegativeInt] = 1,
        padding_kv: NonNegativeInt | Sequence[NonNegativeInt] = 1,
        stride_q: PositiveInt | Sequence[PositiveInt] = 1,
        stride_kv: PositiveInt | Sequence[PositiveInt] = 2,
    ):
        super().__init__()
        self.num_stages = len(embed_dim)

        def each(name: str, value: T | Sequence[T]) -> Sequence[T]:
            return _per_stage(name, value, self.num_stages)

        patch_sizes, patch_paddings = (
            each("patch_size", patch_size),
            each("patch_padding", patch_padding),
        )
        patch_strides, depths = each("patch_stride", patch_stride), each("depth", depth)
        heads, ratios = each("num_heads", num_heads), each("mlp_ratio", mlp_ratio)
        biases, drops = each("qkv_bias", qkv_bias), each("drop_rate", drop_rate)
        attn_drops, drop_paths = (
            each("attn_drop_rate", attn_drop_rate),
            each("drop_path_rate", drop_path_rate),
        )
        cls_tokens, methods = each("with_cls_token", with_cls_token), each("method", method)
        kernels, strides_q, strides_kv = (
            each("kernel_size", kernel_size),
            each("stride_q", stride_q),
            each("stride_kv", stride_kv),
        )
        paddings_q, paddings_kv = each("padding_q", padding_q), each("padding_kv", padding_kv)

        self.num_features = embed_dim[-1]
        self.recompute = False
        self.act, self.norm_eps = act, norm_eps
        self.stride = 1
        channels = in_chans
        for s, dim in enumerate(embed_dim):
            embed = ConvEmbed(
                channels,
                dim,
                patch_sizes[s],
                patch_strides[s],
                patch_paddings[s],
                norm(norm_layer, dim, norm_eps),
            )
            blocks = [
                Block(
                    ConvAttention(
                        dim,
                        heads[s],
                        methods[s],
                        kernels[s],
                        strides_q[s],
                        strides_kv[s],
                        paddings_q[s],
                        paddings_kv[s],
                        biases[s],
                        attn_drops[s],
                        drops[s],
                    ),
                    Mlp(dim, int(dim * ratios[s]), act, drops[s]),
                    norm(norm_layer, dim, norm_eps),
                    norm(norm_layer, dim, norm_eps),
                    drop_path=drop_paths[s] * b / max(depths[s] - 1, 1),
                )
                for b in range(depths[s])
            ]
            self.add_sublayer(f"stage{s}", Stage(embed, blocks, dim, drops[s], cls_tokens[s]))
            self.stride *= patch_strides[s]
            channels = dim
        self.norm = norm(norm_layer, embed_dim[-1], norm_eps)
        self._init_weights(init)

    @staticmethod
    def check_options(*, embed_dim: Sequence[int], num_stages: int | None, **options: Any) -> None:
        """Raise a ValueError for options that do not go together."""
        stages = len(embed_dim)
        if num_stages not in (None, stages):
            raise ValueError(
                f"num_stages {num_stages} is not the length of embed_dim {list(embed_dim)}"
            )
        each = {name: _per_stage(name, value, stages) for name, value in options.items()}
        for stage, width in enumerate(embed_dim):
            own = {name: values[stage] for name, values in each.items()}
            _check_stage(stage, width, **own)

    @property
    def stages(self) -> list[Stage]:
        """The stages, in order. (Their names, stage0, stage1, ..., are the weight files'.)"""
        return [getattr(self, f"stage{s}") for s in range(self.num_stages)]

    def forward(self, images):
        """Images [B, in_chans, height, width] -> features [B, embed_dim[-1]]."""
        x = images
        for stage in self.stages:
            x_BNC, grid = stage(x, self.recompute)
            cls_B1C, patches_BNC = split_class_token(x_BNC, grid)
            x = to_map(patches_BNC, grid)
        if cls_B1C is None:
            return self.norm(patches_BNC).mean(1)
        return self.norm(cls_B1C).squeeze(1)

    def forward_features(self, images, out_indices: Sequence[int] | None = None):
        """The feature maps [B, C, Y, X] of the named stages: strides 4, 8 and 16 as published.

        Args:
            out_indices: stages, counted from 0; negative ones from the end; null for all.

        Raises:
            ValueError: there is no such stage.
        """
        wanted = self._stage_indices(range(self.num_stages) if out_indices is None else out_indices)
        maps = []
        x = images
        for stage in self.stages:
            x_BNC, grid = stage(x, self.recompute)
            x = to_map(split_class_token(x_BNC, grid)[1], grid)
            maps.append(x)
        return [maps[index] for index in wanted]

    def attention_maps(self, images, stages: Sequence[int] | None = None):
        """For each named stage, the attention weights [B, H, N, M] of its blocks, as the network
        applies them.

        Tokens are numbered row by row, M on the coarser grid of k and v; a class token comes first.

        Args:
            stages: as out_indices of `forward_features`.
        """
        wanted = self._stage_indices(range(self.num_stages) if stages is None else stages)
        maps = []
        x = images
        for stage in self.stages:
            x_BNC, grid = stage.embed(x)
            maps.append([])
            for block in stage.blocks:
                maps[-1].append(block.attention_map(x_BNC, grid))
                x_BNC = block(x_BNC, grid)
            x = to_map(split_class_token(x_BNC, grid)[1], grid)
        return [maps[index] for index in wanted]

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay spares although they are not one-dimensional."""
        return {name for name, _ in self.named_parameters() if name.endswith("cls_token")}

    @property
    def num_layers(self) -> int:
        """The last layer's index: the blocks of all stages, from 1, and the final norm."""
        return sum(len(stage.blocks) for stage in self.stages) + 1

    def layer_index(self, name: str) -> int:
        """The layer that a parameter belongs to: 0 for what embeds the image, then the blocks of
        all stages, num_layers for the final norm. Embedding and class token of a later stage
        belong to its first block.
        """
        part, *rest = name.split(".")
        if part == "norm":
            return self.num_layers
        number = int(part.removeprefix("stage"))
        before = sum(len(stage.blocks) for stage in self.stages[:number])
        if rest[0] == "blocks":
            return before + int(rest[1]) + 1
        return before + 1 if number else 0

    def _stage_indices(self, indices: Sequence[int]) -> list[int]:
        wrong = [index for index in indices if not -self.num_stages <= index < self.num_stages]
        if wrong:
            raise ValueError(
                f"there is no stage {wrong[0]}; this CvT has 0 to {self.num_stages - 1}"
            )
        return [index % self.num_stages for index in indices]

    def _init_weights(self, init: str) -> None:
        for layer in self.sublayers():
            if isinstance(layer, nn.Linear):
                init_linear(layer, init)
            elif isinstance(layer, nn.Conv2D):
                init_conv(layer)
            elif isinstance(layer, Stage) and layer.cls_token is not None:
                trunc_normal_(layer.cls_token)


def to_tokens(x_BCYX):
    """A map as tokens [B, N, C], row by row."""
    return x_BCYX.flatten(2).transpose([0, 2, 1])


def to_map(x_BNC, grid: Sequence[int]):
    """Tokens as the map [B, C, Y, X] that they came from."""
    return x_BNC.transpose([0, 2, 1]).reshape([0, 0, *grid])


def split_class_token(x_BNC, grid: Sequence[int]):
    """The class token [B, 1, C], or None if there is none, and the patches."""
    patches = grid[0] * grid[1]
    return (x_BNC[:, :1], x_BNC[:, 1:]) if x_BNC.shape[1] > patches else (None, x_BNC)


def join_class_token(cls_B1C, patches_BNC):
    """The other way round."""
    return patches_BNC if cls_B1C is None else paddle.concat([cls_B1C, patches_BNC], axis=1)
