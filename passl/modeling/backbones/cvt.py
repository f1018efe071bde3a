"""CvT: a vision transformer in three stages, with convolutions for token embedding and for q, k, v
(Wu et al., arXiv 2103.15808).

Shapes in names: B batch, C channels of the stage, Y rows and X columns of its grid, N = Y * X
tokens (one more with a class token), M tokens of the coarser grid of k and v, H heads, D channels
of a head. Parameter names are those of microsoft/CvT.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar, Union

from annotated_types import MinLen
from paddle import nn

from passl.modeling.backbones import BACKBONES
from passl.modeling.conv_attention import ConvAttention
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
    windows,
)
from passl.modeling.recompute import run_block
from passl.utils.types import NonNegativeInt, NormEps, PositiveFloat, PositiveInt, Rate

T = TypeVar("T")
PerStage = Union[T, Sequence[T]]  # noqa: UP007 (a generic alias)
"""One value for all stages, or a list with one for each."""


class ConvEmbed(nn.Layer):
    """Convolutional token embedding (section 3.1): an overlapping convolution and a norm,
    [B, C_in, height, width] -> [B, C, Y, X].
    """

    def __init__(
        self, in_chans: int, dim: int, *, kernel: int, stride: int, padding: int, norm: nn.Layer
    ):
        super().__init__()
        self.window: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": padding}
        self.proj = nn.Conv2D(in_chans, dim, kernel, stride, padding)
        self.norm = norm

    def forward(self, x):
        x_BCYX = self.proj(x)
        return to_map(self.norm(to_tokens(x_BCYX)), x_BCYX.shape[-2:])


class Block(nn.Layer):
    """Pre-norm attention and feed-forward, each with a residual."""

    def __init__(
        self,
        attn: ConvAttention,
        mlp: Mlp,
        *,
        norms: Sequence[nn.Layer],
        drop_path: float,
    ):
        super().__init__()
        self.norm1 = norms[0]
        self.attn = attn
        self.drop_path = DropPath(drop_path)
        self.norm2 = norms[1]
        self.mlp = mlp

    def forward(self, x_BNC, grid: Grid):
        x_BNC = x_BNC + self.drop_path(self.attn(self.norm1(x_BNC), grid))
        return x_BNC + self.drop_path(self.mlp(self.norm2(x_BNC)))

    def attention_input(self, x_BNC):
        """What the attention gets of this block's input."""
        return self.norm1(x_BNC)


class Stage(nn.Layer):
    """Token embedding, then blocks. A class token joins and ends within its stage.

    The arguments are those of `CvT`, each with its value for this stage. `in_chans` are the
    channels of the stage before.
    """

    def __init__(
        self,
        in_chans: int,
        *,
        act: str,
        norm_layer: str,
        norm_eps: float,
        embed_dim: int,
        patch_size: int,
        patch_stride: int,
        patch_padding: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        drop_rate: float,
        attn_drop_rate: float,
        drop_path_rate: float,
        with_cls_token: bool,
        qkv_bias: bool,
        method: str,
        kernel_size: int,
        padding_q: int,
        padding_kv: int,
        stride_q: int,
        stride_kv: int,
    ):
        super().__init__()
        self.patch_embed = ConvEmbed(
            in_chans,
            embed_dim,
            kernel=patch_size,
            stride=patch_stride,
            padding=patch_padding,
            norm=norm(norm_layer, embed_dim, norm_eps),
        )
        self.cls_token = self.create_parameter([1, 1, embed_dim]) if with_cls_token else None
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.LayerList()
        for index in range(depth):
            attention = ConvAttention(
                embed_dim,
                num_heads,
                method=method,
                kernel_size=kernel_size,
                padding_q=padding_q,
                padding_kv=padding_kv,
                stride_q=stride_q,
                stride_kv=stride_kv,
                qkv_bias=qkv_bias,
                attn_drop=attn_drop_rate,
                proj_drop=drop_rate,
            )
            mlp = Mlp(embed_dim, int(embed_dim * mlp_ratio), act, drop_rate)
            norms = [norm(norm_layer, embed_dim, norm_eps) for _ in range(2)]
            drop_path = drop_path_rate * index / max(depth - 1, 1)
            self.blocks.append(Block(attention, mlp, norms=norms, drop_path=drop_path))

    def forward(self, x, recompute: bool = False):
        """[B, C_in, height, width] -> tokens [B, N, C] and their grid (Y, X)."""
        x_BNC, grid = self.embed(x)
        for block in self.blocks:
            x_BNC = run_block(block, recompute, x_BNC, grid)
        return x_BNC, grid

    def embed(self, x):
        """The tokens before the first block, and their grid."""
        x_BCYX = self.patch_embed(x)
        cls_B1C = None
        if self.cls_token is not None:
            cls_B1C = self.cls_token.expand([x_BCYX.shape[0], -1, -1])
        return self.pos_drop(join_class_token(cls_B1C, to_tokens(x_BCYX))), x_BCYX.shape[-2:]


Projection = Literal["dw_bn", "avg", "linear"]


def _per_stage(name: str, value: PerStage[T], stages: int) -> Sequence[T]:
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

    Each option from patch_size on is one value for all stages, or a list with one for each. No
    stage has a position embedding: convolutions tell positions apart, and images may have any size.

    Args:
        in_chans: channels of an image.
        act: activation of the feed-forward. The weights of transformers' port want gelu.
        norm_layer: the norm of tokens and blocks.
        norm_eps: its epsilon.
        init: initialisation of the Linear layers.
        num_stages: length of embed_dim; may be left out.
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
        with_cls_token: whether the stage has a class token. The features are the last stage's class
            token, or the mean of its tokens if it has none.
        method: projection of q, k and v before their Linear: a depthwise convolution and BatchNorm
            (as published), an average (of k and v), or nothing.
        kernel_size: side of the projection's convolution.
        padding_q, padding_kv: its padding for q, and for k and v.
        stride_q, stride_kv: its stride for q, which is 1 so that attention keeps the number of
            tokens, and for k and v.

    Raises:
        ConfigError: an argument has a wrong value, or two do not go together.
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
        patch_size: PerStage[PositiveInt] = (7, 3, 3),
        patch_stride: PerStage[PositiveInt] = (4, 2, 2),
        patch_padding: PerStage[NonNegativeInt] = (2, 1, 1),
        depth: PerStage[PositiveInt] = (1, 2, 10),
        num_heads: PerStage[PositiveInt] = (1, 3, 6),
        mlp_ratio: PerStage[PositiveFloat] = 4.0,
        qkv_bias: PerStage[bool] = True,
        drop_rate: PerStage[Rate] = 0.0,
        attn_drop_rate: PerStage[Rate] = 0.0,
        drop_path_rate: PerStage[Rate] = (0.0, 0.0, 0.1),
        with_cls_token: PerStage[bool] = (False, False, True),
        method: PerStage[Projection] = "dw_bn",
        kernel_size: PerStage[PositiveInt] = 3,
        padding_q: PerStage[NonNegativeInt] = 1,
        padding_kv: PerStage[NonNegativeInt] = 1,
        stride_q: PerStage[PositiveInt] = 1,
        stride_kv: PerStage[PositiveInt] = 2,
    ):
        super().__init__()
        self.num_stages = stages = len(embed_dim)
        options: dict[str, Any] = {"act": act, "norm_layer": norm_layer, "norm_eps": norm_eps}
        options |= {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads}
        options |= {"mlp_ratio": mlp_ratio, "qkv_bias": qkv_bias, "with_cls_token": with_cls_token}
        options |= {"patch_size": patch_size, "patch_stride": patch_stride}
        options |= {"patch_padding": patch_padding, "drop_rate": drop_rate}
        options |= {"attn_drop_rate": attn_drop_rate, "drop_path_rate": drop_path_rate}
        options |= {"method": method, "kernel_size": kernel_size, "padding_q": padding_q}
        options |= {"padding_kv": padding_kv, "stride_q": stride_q, "stride_kv": stride_kv}
        each = {name: _per_stage(name, value, stages) for name, value in options.items()}
        for s, channels in enumerate([in_chans, *embed_dim[:-1]]):
            own = {name: values[s] for name, values in each.items()}
            self.add_sublayer(f"stage{s}", Stage(channels, **own))
        self.norm = norm(norm_layer, embed_dim[-1], norm_eps)
        self.recompute = False
        self.act, self.norm_eps = act, norm_eps
        self.num_features = embed_dim[-1]
        self.feature_channels = list(embed_dim)
        self.feature_strides = list(itertools.accumulate(each["patch_stride"], operator.mul))
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
        chosen = range(self.num_stages) if out_indices is None else out_indices
        wanted = resolve_indices(chosen, self.num_stages, "stage")
        maps: list[Any] = []
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
        chosen = range(self.num_stages) if stages is None else stages
        wanted = resolve_indices(chosen, self.num_stages, "stage")
        maps: list[list[Any]] = [[] for _ in range(self.num_stages)]
        stage_of = [s for s, stage in enumerate(self.stages) for _ in stage.blocks]
        for stage, (block, x_BNC) in zip(stage_of, self.attention_inputs(images), strict=True):
            if stage in wanted:
                maps[stage].append(block.attn.attention_map(x_BNC, block.query_grid))
        return [maps[index] for index in wanted]

    def attention_blocks(self, height: int, width: int) -> list[AttentionBlock]:
        """The attention of each block, for images of height x width."""
        blocks: list[AttentionBlock] = []
        grid: Grid = (height, width)
        for s, stage in enumerate(self.stages):
            grid = windows(grid, **stage.patch_embed.window)
            for index, block in enumerate(stage.blocks):
                name, stride = f"stage{s}.blocks.{index}", self.feature_strides[s]
                has_class_token = stage.cls_token is not None
                blocks.append(AttentionBlock(name, block.attn, grid, stride, has_class_token))
        return blocks

    def attention_inputs(self, images):
        """For each of `attention_blocks`, in their order, what its attention gets of these images,
        [B, N, C]. A block is computed when the next one is asked for.
        """
        blocks = iter(self.attention_blocks(*images.shape[-2:]))
        x = images
        for stage in self.stages:
            x_BNC, grid = stage.embed(x)
            for block in stage.blocks:
                yield next(blocks), block.attention_input(x_BNC)
                x_BNC = block(x_BNC, grid)
            x = to_map(split_class_token(x_BNC, grid)[1], grid)

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

    def _init_weights(self, init: str) -> None:
        for layer in self.sublayers():
            if isinstance(layer, nn.Linear):
                init_linear(layer, init)
            elif isinstance(layer, nn.Conv2D):
                init_conv(layer)
            elif isinstance(layer, Stage) and layer.cls_token is not None:
                trunc_normal_(layer.cls_token)
