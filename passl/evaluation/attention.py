"""The attention of a network: its blocks, and what each of them gets of given images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from paddle import nn

from passl.errors import ConfigError
from passl.modeling.layers import AttentionBlock, padded


def attention_blocks(model: nn.Layer, height: int, width: int) -> list[AttentionBlock]:
    """The attentions of a network for images of height x width, in order. Nothing is computed from
    images.

    Args:
        model: a `Model` or a backbone, accelerated or not.

    Raises:
        ConfigError: the network has no attention, or does not take images of this size.
    """
    backbone = _backbone(model)
    stride = _pads_to(model)
    height, width = height + -height % stride, width + -width % stride
    try:
        return backbone.attention_blocks(height, width)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None


def attention_inputs(model: nn.Layer, images: Any) -> Iterator[tuple[AttentionBlock, Any]]:
    """For each attention, in order, what it gets of these images, [B, N, C]: the output of the
    block before, behind the norm, in the model's mode. A block is computed when the next one is
    asked for.
    """
    yield from _backbone(model).attention_inputs(as_the_backbone_takes(model, images))


def as_the_backbone_takes(model: nn.Layer, images: Any) -> Any:
    """The images, padded as the model does for a head that takes maps."""
    return padded(images, _pads_to(model))


@contextmanager
def evaluating(model: nn.Layer) -> Iterator[None]:
    """The model in evaluation mode; then as before."""
    training = [layer for layer in model.sublayers(include_self=True) if layer.training]
    model.eval()
    try:
        yield
    finally:
        for layer in training:
            layer.training = True


def has_attention(backbone: Any) -> bool:
    """Whether networks of this class show their attention."""
    return hasattr(backbone, "attention_inputs") and hasattr(backbone, "attention_blocks")


def no_attention(name: str) -> str:
    """What to say of a network that does not."""
    return (
        f"{name} has no attention to show; use ConViT, CvT or a backbone with attention_blocks and "
        "attention_inputs (passl/modeling/backbones/__init__.py)"
    )


def _backbone(model: nn.Layer) -> Any:
    backbone = getattr(model, "backbone", model)
    if not has_attention(type(backbone)):
        raise ConfigError(no_attention(type(backbone).__name__))
    return backbone


def _pads_to(model: nn.Layer) -> int:
    """What the sides of images are padded to multiples of: the stride for a head that takes maps;
    nothing else is padded.
    """
    if getattr(model, "head", None) is None or getattr(model, "out_indices", None) is None:
        return 1
    return model.backbone.feature_strides[-1]
