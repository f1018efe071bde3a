"""ConViT and CvT for dense tasks of other frameworks: feature maps of an image of any size, at the
strides that a neck expects.

Shapes in names: B batch, C channels, Y rows and X columns of a feature map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from paddle import nn

from passl.errors import ConfigError
from passl.modeling.classifier import create_model
from passl.modeling.layers import padded
from passl.modeling.resample import MapNorm, Resample
from passl.utils.schema import validated
from passl.utils.types import PositiveInt


@validated
class DenseBackbone(nn.Layer):
    """A published variant without its classifier: images of any size to feature maps.

    Images are padded with zeros, at the right and at the bottom, to a multiple of the largest
    stride; the maps are those of the padded image.

    Args:
        family: "ConViT" or "CvT", which the variant must belong to.
        variant: one of `passl.list_models()`.
        pretrained: weights of the variant, as for `passl.create_model`.
        out_indices: the blocks of ConViT or stages of CvT whose maps are used; negative ones from
            the end; null for all.
        strides: of the returned maps; null for those of the network. There are as many as
            out_indices, or all are made from the map of a single one.
        freeze_at: the layers up to this one are not trained: 0 is what embeds the image, then the
            blocks of all stages count from 1. -1 freezes nothing.
        freeze_norm: whether the BatchNorms of CvT keep their weights and statistics. Those of a
            frozen layer always do.
        options: other options of the backbone.

    Attributes:
        feature_channels: of each returned map.
        feature_strides: pixels of the image between two neighbours of each map.

    Raises:
        ConfigError: the variant is unknown or of the other network, or an option is wrong.
        RunError: the weights cannot be found or read, or are another network's.
    """

    def __init__(
        self,
        family: str,
        /,
        *,
        variant: str,
        pretrained: bool | str | None = False,
        out_indices: Sequence[int] | None = None,
        strides: Sequence[PositiveInt] | None = None,
        freeze_at: int = -1,
        freeze_norm: bool = False,
        options: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        maps = create_model(
            variant,
            pretrained or False,
            features_only=True,
            out_indices=out_indices,
            **(options or {}),
        )
        self.network = maps.backbone
        own = type(self.network).__name__
        if own != family:
            raise ConfigError(
                f"variant {variant!r} is a {own}, not a {family}; choose the backbone {own}, or "
                "another variant"
            )
        self.out_indices = maps.out_indices
        self.norms = nn.LayerList([MapNorm(channels) for channels in maps.feature_channels])
        self.feature_strides = list(strides or maps.feature_strides)
        self._sources = _sources(len(maps.feature_channels), len(self.feature_strides))
        self.levels = nn.LayerList()
        for source, stride in zip(self._sources, self.feature_strides, strict=True):
            old = maps.feature_strides[source]
            _check_stride(stride, old, maps.feature_channels[source])
            self.levels.append(Resample(maps.feature_channels[source], old / stride))
        self.feature_channels = [level.channels for level in self.levels]
        self.multiple = math.lcm(self.network.feature_strides[-1], *self.feature_strides)
        self._freeze(freeze_at, freeze_norm)

    def forward(self, images):
        """As `feature_maps`."""
        return self.feature_maps(images)

    def feature_maps(self, images):
        """Images [B, in_channels, height, width] -> a list of maps [B, C, Y, X] of the padded
        images.
        """
        self._keep_statistics()
        found = self.network.forward_features(padded(images, self.multiple), self.out_indices)
        # By numbers: `paddle.jit.to_static` does not know zip's `strict`.
        found = [self.norms[i](found[i]) for i in range(len(found))]
        return [self.levels[i](found[self._sources[i]]) for i in range(len(self.levels))]

    def _freeze(self, freeze_at: int, freeze_norm: bool) -> None:
        if not -1 <= freeze_at <= self.network.num_layers:
            raise ConfigError(
                f"freeze_at {freeze_at} must lie between -1 and {self.network.num_layers}"
            )
        for name, parameter in self.network.named_parameters():
            if self.network.layer_index(name) <= freeze_at:
                parameter.stop_gradient = True
        if freeze_norm:
            for layer in self._batch_norms():
                layer.weight.stop_gradient = layer.bias.stop_gradient = True

    def _batch_norms(self) -> list[nn.Layer]:
        kinds = (nn.BatchNorm2D, nn.SyncBatchNorm)
        return [layer for layer in self.network.sublayers() if isinstance(layer, kinds)]

    def _keep_statistics(self) -> None:
        """Keep frozen norms in evaluation mode. Trainers set the mode of all layers before each
        epoch, and may have exchanged BatchNorm for SyncBatchNorm, so this is done at each step.
        """
        if self.training:
            for layer in self._batch_norms():
                layer.training = not layer.weight.stop_gradient


def _sources(found: int, wanted: int) -> list[int]:
    """The position in out_indices of the map that each returned map is made from."""
    if found not in (1, wanted):
        raise ConfigError(
            f"there are {found} out_indices for {wanted} strides; name one, or one for each stride"
        )
    return list(range(wanted)) if found > 1 else [0] * wanted


def _check_stride(new: int, old: int, channels: int) -> None:
    """Raise a ConfigError unless a map can be resampled to that stride."""
    ratio = max(new, old) / min(new, old)
    if not math.log2(ratio).is_integer():
        raise ConfigError(
            f"stride {new} cannot be made from a map of stride {old}; it is {old} times a power "
            f"of two, such as {old * 2}"
        )
    if new < old and channels % ratio:
        raise ConfigError(
            f"stride {new} needs channels divisible by {ratio:g}, and the map of stride {old} has "
            f"{channels}; choose a larger stride"
        )


class ConViT(DenseBackbone):
    """ConViT as a backbone of a dense task. By default the last block's map becomes a pyramid of
    four strides (arXiv 2203.16527).

    Args:
        variant: such as convit_small.
        pretrained: True for the variant's published weights, or a file, an https address or a name
            of the model zoo.
        in_channels: channels of an image.
        out_indices: blocks, counted from 0; one for all strides, or one for each.
        strides: of the maps; null for the stride of the patches.
        freeze_at: -1, or the last layer that is not trained (0 is the patch embedding).
        freeze_norm: has no effect, since ConViT has no BatchNorm.
        overrides: other options of the backbone (docs/options.md).
    """

    def __init__(
        self,
        variant="convit_tiny",
        pretrained=False,
        in_channels=3,
        out_indices=(-1,),
        strides=(4, 8, 16, 32),
        freeze_at=-1,
        freeze_norm=False,
        **overrides,
    ):
        super().__init__(
            "ConViT",
            variant=variant,
            pretrained=pretrained,
            out_indices=out_indices,
            strides=strides,
            freeze_at=freeze_at,
            freeze_norm=freeze_norm,
            options={"in_chans": in_channels, **overrides},
        )


class CvT(DenseBackbone):
    """CvT as a backbone of a dense task. By default the maps of its stages, at strides 4, 8 and 16.

    Args:
        variant: such as cvt_13_224.
        pretrained: True for the variant's published weights, or a file, an https address or a name
            of the model zoo.
        in_channels: channels of an image.
        out_indices: stages, counted from 0; null for all. [0, 1, 2, 2] with strides [4, 8, 16, 32]
            adds a coarser map of the last stage.
        strides: of the maps; null for those of the stages.
        freeze_at: -1, or the last layer that is not trained (0 is the first token embedding).
        freeze_norm: whether BatchNorm keeps its weights and statistics, for small batches.
        overrides: other options of the backbone (docs/options.md).
    """

    def __init__(
        self,
        variant="cvt_13_224",
        pretrained=False,
        in_channels=3,
        out_indices=None,
        strides=None,
        freeze_at=-1,
        freeze_norm=False,
        **overrides,
    ):
        super().__init__(
            "CvT",
            variant=variant,
            pretrained=pretrained,
            out_indices=out_indices,
            strides=strides,
            freeze_at=freeze_at,
            freeze_norm=freeze_norm,
            options={"in_chans": in_channels, **overrides},
        )
