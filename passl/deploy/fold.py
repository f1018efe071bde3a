"""Networks rewritten for inference on images of one size. The outputs are equal but for rounding.

Everything that does not depend on the image is computed once, in float64: BatchNorm goes into the
convolution before it, the scale of q k^T into the Linear of q, ConViT's gates into the Linear of v,
its positional attention and its resampled position embedding into constants, QuickGELU's factor
into the two Linear around it. If the head reads the class token only, the last block computes
nothing else. Comments give the reason where a graph is shaped for oneDNN.

Shapes in names: B batch, N tokens (queries), M tokens (keys), C channels, H heads, D channels of a
head, Y rows and X columns of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from passl.modeling.backbones.convit import ConViT, resample_positions
from passl.modeling.backbones.cvt import CvT
from passl.modeling.conv_attention import ConvAttention, ConvProjection
from passl.modeling.gpsa import GPSA
from passl.modeling.layers import (
    Mlp,
    QuickGELU,
    join_class_token,
    split_class_token,
    to_map,
    to_tokens,
)

SCORES = 800_000
"""Attention weights of an image that are computed at once. CvT's first stage has three times as
many. Computed in turns they stay in the processor's cache and need less memory.
"""
LEAST = 1e-12
"""Lower bound of 1 - gate, by which the positional half is divided. Anything smaller is lost in
float32 beside the gate.
"""
QUICK_GELU = 1.702


def fold(model: nn.Layer, height: int, width: int) -> nn.Layer:
    """Rewrite a `Model` in evaluation mode for images [B, channels, height, width]. The given model
    is not changed. A backbone without a rule stays as it is, and so does one for feature maps.
    """
    if getattr(model, "out_indices", None) is not None:
        return nn.Sequential(("model", model))
    rules: dict[type, Any] = {ConViT: FoldedConViT, CvT: FoldedCvT}
    rule = rules.get(type(model.backbone))
    backbone = model.backbone if rule is None else rule(model.backbone, height, width)
    folded = nn.Sequential(("backbone", backbone), ("head", model.head))
    folded.eval()
    return folded


# --------------------------------------------------------------------------------------------------
# Parts
# --------------------------------------------------------------------------------------------------
class Attention(nn.Layer):
    """softmax(q k^T) v and the Linear of the output; scales of q, k and v are in their Linear.

    q, k and v have a Linear each: oneDNN then reads the heads in place instead of copying slices.

    Args:
        heads: H.
        q, k, v, proj: the Linear layers.
        positions: computes from v [B, H, N, D] what is added to the attended values; null for
            nothing.
    """

    def __init__(
        self,
        heads: int,
        q: nn.Linear,
        k: nn.Linear,
        v: nn.Linear,
        proj: nn.Linear,
        positions: nn.Layer | None = None,
    ):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.proj = q, k, v, proj
        self.positions = positions

    def forward(self, q_BNC, k_BMC, v_BMC):
        q_BHND = self._split(self.q(q_BNC))
        k_BHMD, v_BHMD = self._split(self.k(k_BMC)), self._split(self.v(v_BMC))
        out_BHND = self._attend(q_BHND, k_BHMD, v_BHMD)
        if self.positions is not None:
            out_BHND = out_BHND + self.positions(v_BHMD)
        tokens, width = q_BNC.shape[1], self.proj.weight.shape[0]
        return self.proj(out_BHND.transpose([0, 2, 1, 3]).reshape([0, tokens, width]))

    def _split(self, x_BNC):
        shape = [0, x_BNC.shape[1], self.heads, x_BNC.shape[2] // self.heads]
        return x_BNC.reshape(shape).transpose([0, 2, 1, 3])

    def _attend(self, q_BHND, k_BHMD, v_BHMD):
        tokens, keys = q_BHND.shape[2], k_BHMD.shape[2]
        turns = min(tokens, -(-self.heads * tokens * keys // SCORES))
        rows = -(-tokens // turns)
        if turns == 1:
            return F.softmax(paddle.matmul(q_BHND, k_BHMD, transpose_y=True), axis=-1) @ v_BHMD
        parts = [rows] * (tokens // rows) + [tokens % rows] * (tokens % rows > 0)
        outs = [
            F.softmax(paddle.matmul(part_BHnD, k_BHMD, transpose_y=True), axis=-1) @ v_BHMD
            for part_BHnD in q_BHND.split(parts, axis=2)
        ]
        return paddle.concat(outs, axis=2)


class Positions(nn.Layer):
    """ConViT's positional attention, g / (1 - g) (P_y (x) P_x) v, with constant P for its grid.

    The gate's other half, 1 - g, is in the Linear of v, so that the content half needs no product
    over its output, which oneDNN would broadcast one element at a time.
    """

    def __init__(self, attn: GPSA, gate_H: np.ndarray, grid: tuple[int, int]):
        super().__init__()
        self.grid = grid
        weight_x, weight_y, weight_d = _array(attn.pos_proj.weight)
        y_HYY = _softmax_of(weight_y, weight_d, grid[0])
        x_HXX = _softmax_of(weight_x, weight_d, grid[1])
        ratio_H11 = (gate_H / (1 - gate_H))[:, None, None]
        self.y_1HYY = _constant(self, (ratio_H11 * y_HYY)[None])
        self.x_1H1XX = _constant(self, x_HXX[None, :, None])

    def forward(self, v_BHND):
        rows, columns = self.grid
        _, heads, tokens, width = v_BHND.shape
        v_BHYXD = self.x_1H1XX @ v_BHND.reshape([0, heads, rows, columns, width])
        v_BHYc = self.y_1HYY @ v_BHYXD.reshape([0, heads, rows, columns * width])
        return v_BHYc.reshape([0, heads, tokens, width])


class FoldedMlp(nn.Layer):
    """Linear, Swish, Linear: an `Mlp` with QuickGELU, x sigmoid(1.702 x) = swish(1.702 x) / 1.702.

    oneDNN computes Swish within the first Linear.
    """

    def __init__(self, mlp: Mlp):
        super().__init__()
        self.fc1 = _scaled(mlp.fc1, QUICK_GELU)
        self.fc2 = _linear(_array(mlp.fc2.weight) / QUICK_GELU, _array(mlp.fc2.bias))

    def forward(self, x_BNC):
        return self.fc2(F.swish(self.fc1(x_BNC)))


class Block(nn.Layer):
    """A block of either network around its folded attention.

    Args:
        block: the original.
        attn: [B, N, C] -> [B, N, C]; or, with only_first, [B, 1, C].
        only_first: whether only the first token of the output is used.
        pre_norm: whether the norms stand before attention and MLP.
    """

    def __init__(self, block: nn.Layer, attn: nn.Layer, only_first: bool, pre_norm: bool = True):
        super().__init__()
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.attn = attn
        self.mlp = FoldedMlp(block.mlp) if isinstance(block.mlp.act, QuickGELU) else block.mlp
        self.only_first, self.pre_norm = only_first, pre_norm

    def forward(self, x_BNC):
        out_BNC = self.attn(self.norm1(x_BNC) if self.pre_norm else x_BNC)
        x_BNC = (x_BNC[:, :1] if self.only_first else x_BNC) + out_BNC
        if self.pre_norm:
            return x_BNC + self.mlp(self.norm2(x_BNC))
        x_BNC = self.norm1(x_BNC)
        return self.norm2(x_BNC + self.mlp(x_BNC))


# --------------------------------------------------------------------------------------------------
# ConViT
# --------------------------------------------------------------------------------------------------
class SelfAttention(nn.Layer):
    """GPSA or MHSA of ConViT, folded."""

    def __init__(self, attn: nn.Layer, grid: tuple[int, int], only_first: bool):
        super().__init__()
        self.only_first = only_first
        if isinstance(attn, GPSA):
            gate_H = 1 / (1 + np.exp(-_array(attn.gating_param)))
            gate_H = np.minimum(gate_H, 1 - LEAST)
            q, k = _parts(attn.qk, 2)
            keep_C = np.repeat(1 - gate_H, attn.v.weight.shape[1] // attn.num_heads)
            v, positions = _scaled(attn.v, keep_C), Positions(attn, gate_H, grid)
        else:
            (q, k, v), positions = _parts(attn.qkv, 3), None
        q = _scaled(q, attn.attend.scale)
        self.attention = Attention(attn.num_heads, q, k, v, attn.proj, positions)

    def forward(self, x_BNC):
        return self.attention(x_BNC[:, :1] if self.only_first else x_BNC, x_BNC, x_BNC)


class FoldedConViT(nn.Layer):
    """ConViT for images of height x width."""

    def __init__(self, backbone: ConViT, height: int, width: int):
        super().__init__()
        stride = backbone.feature_strides[-1]
        self.grid = grid = (height // stride, width // stride)
        self.patch_embed = backbone.patch_embed
        positions = None
        if backbone.pos_embed is not None:
            positions = _array(resample_positions(backbone.pos_embed, backbone.grid, grid))
        self.positions_1NC = None if positions is None else _constant(self, positions)
        self.cls_token, self.local_up_to_layer = backbone.cls_token, backbone.local_up_to_layer
        self.by_token = backbone.global_pool == "token"
        self.blocks = nn.LayerList()
        for index, block in enumerate(backbone.blocks):
            only_first = self.by_token and index == len(backbone.blocks) - 1
            attn = SelfAttention(block.attn, grid, only_first)
            self.blocks.append(Block(block, attn, only_first, block.pre_norm))
        self.norm = backbone.norm

    def forward(self, images):
        x_BNC = to_tokens(self.patch_embed(images))
        if self.positions_1NC is not None:
            x_BNC = x_BNC + self.positions_1NC
        for index, block in enumerate(self.blocks):
            if index == self.local_up_to_layer:
                cls_B1C = self.cls_token.expand([x_BNC.shape[0], -1, -1])
                x_BNC = join_class_token(cls_B1C, x_BNC)
            x_BNC = block(x_BNC)
        x_BNC = self.norm(x_BNC)
        if self.by_token:
            return x_BNC.squeeze(1)
        return split_class_token(x_BNC, self.grid)[1].mean(1)


def _softmax_of(linear_H: np.ndarray, square_H: np.ndarray, length: int) -> np.ndarray:
    """Along one axis of the grid, softmax_j(w (j - i) + u (j - i)^2) [H, length, length]."""
    index = np.arange(length)
    offset = index[None, :] - index[:, None]
    scores = linear_H[:, None, None] * offset + square_H[:, None, None] * offset**2
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


# --------------------------------------------------------------------------------------------------
# CvT
# --------------------------------------------------------------------------------------------------
class ProjectedAttention(nn.Layer):
    """CvT's attention, folded, on the tokens of a grid."""

    def __init__(self, attn: ConvAttention, grid: tuple[int, int], only_first: bool):
        super().__init__()
        self.grid, self.only_first = grid, only_first
        self.conv_q = _projection(attn.conv_proj_q, grid)
        self.conv_k = _projection(attn.conv_proj_k, grid)
        self.conv_v = _projection(attn.conv_proj_v, grid)
        q = _scaled(attn.proj_q, attn.attend.scale)
        self.attention = Attention(attn.num_heads, q, attn.proj_k, attn.proj_v, attn.proj)

    def forward(self, x_BNC):
        cls_B1C, patches_BNC = split_class_token(x_BNC, self.grid)
        x_BCYX = to_map(patches_BNC, self.grid)
        q_BNC = cls_B1C if self.only_first else self._tokens(self.conv_q, cls_B1C, x_BCYX)
        k_BMC = self._tokens(self.conv_k, cls_B1C, x_BCYX)
        return self.attention(q_BNC, k_BMC, self._tokens(self.conv_v, cls_B1C, x_BCYX))

    def _tokens(self, conv: nn.Layer, cls_B1C, x_BCYX):
        return join_class_token(cls_B1C, to_tokens(conv(x_BCYX)))


class FoldedStage(nn.Layer):
    """A stage of CvT, [B, C_in, h, w] -> tokens [B, N, C].

    Args:
        stage: the original.
        grid: of its tokens.
        only_first: whether only the class token is used.
    """

    def __init__(self, stage: nn.Layer, grid: tuple[int, int], only_first: bool):
        super().__init__()
        self.proj, self.norm = stage.patch_embed.proj, stage.patch_embed.norm
        self.cls_token = stage.cls_token
        self.blocks = nn.LayerList()
        for index, block in enumerate(stage.blocks):
            alone = only_first and index == len(stage.blocks) - 1
            self.blocks.append(Block(block, ProjectedAttention(block.attn, grid, alone), alone))

    def forward(self, x):
        x_BNC = self.norm(to_tokens(self.proj(x)))
        if self.cls_token is not None:
            cls_B1C = self.cls_token.expand([x_BNC.shape[0], -1, -1])
            x_BNC = join_class_token(cls_B1C, x_BNC)
        for block in self.blocks:
            x_BNC = block(x_BNC)
        return x_BNC


class FoldedCvT(nn.Layer):
    """CvT for images of height x width."""

    def __init__(self, backbone: CvT, height: int, width: int):
        super().__init__()
        self.grids = _grids(backbone, height, width)
        self.by_token = backbone.stages[-1].cls_token is not None
        self.stages = nn.LayerList()
        for index, (stage, grid) in enumerate(zip(backbone.stages, self.grids, strict=True)):
            last = index == len(self.grids) - 1
            self.stages.append(FoldedStage(stage, grid, self.by_token and last))
        self.norm = backbone.norm

    def forward(self, images):
        x_BNC = self.stages[0](images)
        for index, stage in enumerate(self.stages[1:]):  # (tracing knows no strict zip)
            grid = self.grids[index]
            x_BNC = stage(to_map(split_class_token(x_BNC, grid)[1], grid))
        x_BNC = self.norm(x_BNC)
        return x_BNC.squeeze(1) if self.by_token else x_BNC.mean(1)


@paddle.no_grad()
def _grids(backbone: CvT, height: int, width: int) -> list[tuple[int, int]]:
    """The grid of each stage, by running one image through the original."""
    channels = backbone.stages[0].patch_embed.proj.weight.shape[1]
    maps = backbone.forward_features(paddle.zeros([1, channels, height, width]))
    return [tuple(map_BCYX.shape[-2:]) for map_BCYX in maps]


class Pool(nn.Layer):
    """The `avg` projection of a grid [B, C, Y, X], as a product with a constant matrix along each
    axis: oneDNN's pooling divides the last windows by another number than Paddle's.
    """

    def __init__(self, pool: nn.AvgPool2D, grid: tuple[int, int]):
        super().__init__()
        y_YY, x_XX = (_window_means(length, pool) for length in grid)
        self.y_11YY = _constant(self, y_YY[None, None])
        self.x_11XX = _constant(self, x_XX.T[None, None])

    def forward(self, x_BCYX):
        return self.y_11YY @ (x_BCYX @ self.x_11XX)


def _window_means(length: int, pool: nn.AvgPool2D) -> np.ndarray:
    """Along one axis, the means of windows [windows, length]. Padding counts as zeros; the part of
    the last window beyond it does not count.
    """
    size, stride, padding = pool.ksize, pool.stride, pool.padding
    windows = -(-(length + 2 * padding - size) // stride) + 1
    means = np.zeros((windows, length))
    for row, start in enumerate(range(-padding, windows * stride - padding, stride)):
        end = min(start + size, length + padding)
        means[row, max(start, 0) : min(end, length)] = 1 / (end - start)
    return means


def _projection(layer: nn.Layer, grid: tuple[int, int]) -> nn.Layer:
    """Fold the projection before the Linear of q, k or v."""
    if isinstance(layer, nn.AvgPool2D):
        return Pool(layer, grid)
    if not isinstance(layer, ConvProjection):
        return layer
    conv, bn = layer.conv, layer.bn
    scale_C = _array(bn.weight) / np.sqrt(_array(bn._variance) + bn._epsilon)
    folded = nn.Conv2D(
        conv._in_channels,
        conv._out_channels,
        conv._kernel_size,
        stride=conv._stride,
        padding=conv._padding,
        groups=conv._groups,
    )
    _set(folded.weight, _array(conv.weight) * scale_C[:, None, None, None])
    _set(folded.bias, _array(bn.bias) - _array(bn._mean) * scale_C)
    return folded


# --------------------------------------------------------------------------------------------------
# Weights
# --------------------------------------------------------------------------------------------------
def _array(tensor) -> np.ndarray:
    return tensor.numpy().astype(np.float64)


def _set(parameter, array: np.ndarray) -> None:
    parameter.set_value(array.astype(np.float32))


def _constant(layer: nn.Layer, array: np.ndarray):
    """A parameter of the layer that holds the array; an attribute makes it one."""
    value = nn.initializer.Assign(array.astype(np.float32))
    return layer.create_parameter(list(array.shape), default_initializer=value)


def _linear(weight: np.ndarray, bias: np.ndarray) -> nn.Linear:
    layer = nn.Linear(*weight.shape)
    _set(layer.weight, weight)
    _set(layer.bias, bias)
    return layer


def _scaled(layer: nn.Linear, factor: float | np.ndarray) -> nn.Linear:
    """The Linear whose output is that of `layer` times a number, or one for each channel."""
    return _linear(_array(layer.weight) * factor, _bias(layer) * factor)


def _parts(layer: nn.Linear, count: int) -> Sequence[nn.Linear]:
    """A Linear as that many, each of which gives its part of the output."""
    weights = np.split(_array(layer.weight), count, axis=1)
    return [_linear(*pair) for pair in zip(weights, np.split(_bias(layer), count), strict=True)]


def _bias(layer: nn.Linear) -> np.ndarray:
    """Of zeros where there is none: oneDNN's fast Linear is the one that has a bias."""
    return np.zeros(layer.weight.shape[1]) if layer.bias is None else _array(layer.bias)
