"""What options of networks, heads and losses must fulfil beyond their types. The constructors and
the check of a config call the same functions, which need no paddle.

A function has the name of the class that it belongs to, takes its arguments by name, and raises a
ValueError for values that are out of range or do not go together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from passl.modeling.backbones import BACKBONES

T = TypeVar("T")
Each = int | Sequence[int]
"""One number for all stages, or one for each."""


def convit(
    *,
    img_size: int | Sequence[int],
    patch_size: int,
    in_chans: int,
    embed_dim: int,
    depth: int,
    num_heads: int | None,
    head_dim: int | None,
    mlp_ratio: float,
    ff_dim: int | None,
    drop_rate: float,
    pos_drop_rate: float | None,
    proj_drop_rate: float | None,
    ff_dropout: float | None,
    token_dropout: float,
    attn_drop_rate: float,
    drop_path_rate: float,
    norm_layer: str,
    norm_eps: float,
    local_up_to_layer: int,
    global_pool: str,
    hybrid_backbone: Mapping | None,
    **_: Any,
) -> None:
    """`ConViT`."""
    check_counts(patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, depth=depth)
    if not 0 <= local_up_to_layer <= depth:
        raise ValueError(
            f"local_up_to_layer {local_up_to_layer} must lie between 0 and depth {depth}"
        )
    if local_up_to_layer == depth and global_pool == "token":
        raise ValueError(
            f"local_up_to_layer {local_up_to_layer} leaves no block for the class token to join; "
            f"lower it below depth {depth}, or set global_pool: avg"
        )
    convit_heads(embed_dim, num_heads, head_dim)
    _check_hidden(embed_dim, mlp_ratio, ff_dim)
    _check_eps(norm_layer, norm_eps)
    own = {
        "pos_drop_rate": pos_drop_rate,
        "proj_drop_rate": proj_drop_rate,
        "ff_dropout": ff_dropout,
    }
    check_rates(
        drop_rate=drop_rate,
        token_dropout=token_dropout,
        attn_drop_rate=attn_drop_rate,
        drop_path_rate=drop_path_rate,
        **{name: rate for name, rate in own.items() if rate is not None},
    )
    sides = [img_size, img_size] if isinstance(img_size, int) else list(img_size)
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"img_size {sides} must be one number of pixels, or [height, width]")
    if hybrid_backbone is None:
        check_patches(*sides, patch_size)
    else:
        BACKBONES.check(hybrid_backbone)


def convit_heads(embed_dim: int, num_heads: int | None, head_dim: int | None) -> int:
    """The number of heads of a ConViT."""
    if head_dim is not None:
        check_counts(head_dim=head_dim)
    if num_heads is None:
        num_heads = 4 if head_dim is None else max(1, embed_dim // head_dim)
    check_counts(num_heads=num_heads)
    if embed_dim % num_heads or (head_dim and num_heads * head_dim != embed_dim):
        width = f"{num_heads} heads of {head_dim}" if head_dim else f"{num_heads} heads"
        raise ValueError(
            f"embed_dim {embed_dim} does not divide into {width}; embed_dim is num_heads * head_dim"
        )
    return num_heads


def check_patches(height: int, width: int, patch_size: int) -> None:
    """Raise a ValueError unless patches of that size divide an image."""
    if height % patch_size or width % patch_size or min(height, width) < patch_size:
        near = [max(1, round(side / patch_size)) * patch_size for side in (height, width)]
        raise ValueError(
            f"an image of {height}x{width} does not divide into patches of {patch_size} pixels; "
            f"use multiples of {patch_size}, for example {near[0]}x{near[1]}"
        )


def cvt(
    *,
    in_chans: int,
    norm_layer: str,
    norm_eps: float,
    num_stages: int | None,
    embed_dim: Sequence[int],
    patch_size: Each,
    patch_stride: Each,
    patch_padding: Each,
    depth: Each,
    num_heads: Each,
    mlp_ratio: float | Sequence[float],
    qkv_bias: bool | Sequence[bool],
    drop_rate: float | Sequence[float],
    attn_drop_rate: float | Sequence[float],
    drop_path_rate: float | Sequence[float],
    with_cls_token: bool | Sequence[bool],
    method: str | Sequence[str],
    kernel_size: Each,
    padding_q: Each,
    padding_kv: Each,
    stride_q: Each,
    stride_kv: Each,
    **_: Any,
) -> None:
    """`CvT`."""
    stages = len(embed_dim)
    if not stages:
        raise ValueError("embed_dim [] must have a width for each stage")
    if num_stages not in (None, stages):
        raise ValueError(
            f"num_stages {num_stages} is not the length of embed_dim {list(embed_dim)}"
        )
    check_counts(in_chans=in_chans)
    _check_eps(norm_layer, norm_eps)
    counts = {"embed_dim": embed_dim, "num_heads": num_heads, "depth": depth}
    counts |= {"patch_size": patch_size, "patch_stride": patch_stride}
    counts |= {"kernel_size": kernel_size, "stride_q": stride_q, "stride_kv": stride_kv}
    paddings = {"patch_padding": patch_padding, "padding_q": padding_q, "padding_kv": padding_kv}
    rates = {"drop_rate": drop_rate, "attn_drop_rate": attn_drop_rate}
    rates |= {"drop_path_rate": drop_path_rate}
    others = {"mlp_ratio": mlp_ratio, "qkv_bias": qkv_bias, "with_cls_token": with_cls_token}
    options = counts | paddings | rates | others | {"method": method}
    each = {name: per_stage(name, value, stages) for name, value in options.items()}
    for s in range(stages):
        own = {name: values[s] for name, values in each.items()}
        check_counts(**{name: own[name] for name in counts})
        check_rates(**{name: own[name] for name in rates})
        for name in paddings:
            if own[name] < 0:
                raise ValueError(f"{name} {own[name]} must be at least 0")
        _check_hidden(own["embed_dim"], own["mlp_ratio"])
        _check_stage(s, **own)


def per_stage(name: str, value: T | Sequence[T], stages: int) -> Sequence[T]:
    """One value for each stage of a CvT, from one for all or from a list."""
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
    *,
    embed_dim: int,
    num_heads: int,
    method: str,
    kernel_size: int,
    stride_q: int,
    padding_q: int,
    **_: Any,
) -> None:
    if embed_dim % num_heads:
        raise ValueError(
            f"embed_dim {embed_dim} of stage {stage} does not divide into {num_heads} heads; "
            "num_heads must divide it"
        )
    if method not in ("dw_bn", "avg", "linear"):
        raise ValueError(f"method {method!r} of stage {stage} is not one of dw_bn, avg, linear")
    if method == "dw_bn" and kernel_size % 2 == 0:
        raise ValueError(f"kernel_size {kernel_size} of stage {stage} must be odd, such as 3")
    if method == "dw_bn" and (stride_q != 1 or 2 * padding_q != kernel_size - 1):
        raise ValueError(
            f"stage {stage}: stride_q {stride_q}, padding_q {padding_q} and kernel_size "
            f"{kernel_size} change the number of tokens; use stride_q 1 and padding_q "
            f"{(kernel_size - 1) // 2}"
        )


def cls_head(*, num_classes: int, in_channels: int, drop_rate: float, **_: Any) -> None:
    """`ClsHead`."""
    check_counts(num_classes=num_classes, in_channels=in_channels)
    check_rates(drop_rate=drop_rate)


def cross_entropy(
    *, label_smoothing: float, class_weights: str | Sequence[float] | None, **_: Any
) -> None:
    """`CrossEntropy`."""
    check_rates(label_smoothing=label_smoothing)
    _check_class_weights(class_weights)


def binary_cross_entropy(
    *,
    label_smoothing: float,
    target_threshold: float | None,
    class_weights: str | Sequence[float] | None,
    **_: Any,
) -> None:
    """`BinaryCrossEntropy`."""
    check_rates(label_smoothing=label_smoothing)
    _check_class_weights(class_weights)
    if target_threshold is not None:
        check_rates(target_threshold=target_threshold)


def distilled(*, kind: str, alpha: float, temperature: float, **_: Any) -> None:
    """`Distilled`."""
    if kind not in ("hard", "soft"):
        raise ValueError(f"distillation.kind {kind!r} is neither hard nor soft")
    if not (0 <= alpha <= 1 and 0 < temperature < math.inf):
        raise ValueError(
            f"distillation.alpha {alpha} must lie between 0 and 1, and distillation.temperature "
            f"{temperature} above 0"
        )


def check_counts(**counts: int) -> None:
    """Raise a ValueError unless every number is at least 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} {count} must be at least 1")


def check_rates(**rates: float) -> None:
    """Raise a ValueError unless every probability is in [0, 1)."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name} {rate} must be at least 0 and below 1")


def _check_class_weights(weights: str | Sequence[float] | None) -> None:
    if weights is None or isinstance(weights, str):
        return
    wrong = next((w for w in weights if not 0 <= w < math.inf), None)
    if wrong is not None:
        raise ValueError(f"class_weights: {wrong} must be finite and not negative")
    if not any(weights):
        raise ValueError("class_weights are all 0, so that no class would count")


def _check_hidden(width: int, mlp_ratio: float, ff_dim: int | None = None) -> None:
    if ff_dim is not None:
        check_counts(ff_dim=ff_dim)
    elif not (0 < mlp_ratio < math.inf and int(width * mlp_ratio) >= 1):
        raise ValueError(f"mlp_ratio {mlp_ratio} of width {width} leaves no feed-forward")


def _check_eps(norm_layer: str, norm_eps: float) -> None:
    most = 1e-3 if norm_layer == "layer_norm" else math.inf  # more is refused by Paddle's kernel
    if not 0 <= norm_eps <= most:
        raise ValueError(f"norm_eps {norm_eps} must lie between 0 and {most}")
