"""ConViT and CvT as backbones of PaddleSeg. Importing this module registers them."""

from __future__ import annotations

import paddle
from paddle import nn
from paddle.nn import functional as F

from passl.integrations import dense

try:
    from paddleseg import __version__ as version
    from paddleseg.cvlibs import manager
    from paddleseg.utils import metrics
except ModuleNotFoundError as error:
    raise ImportError(
        f"PaddleSeg cannot be imported, since there is no module {error.name!r}; "
        "pip install --no-deps paddleseg==2.8.0, with what docs/integrations.md names"
    ) from None


class _Cropped(dense.DenseBackbone):
    """Maps [B, C, ceil(height / stride), ceil(width / stride)], without what padding adds, since
    PaddleSeg's heads stretch a map to the size of the image.
    """

    def forward(self, images):
        """Images [B, in_channels, height, width] -> the maps."""
        height, width = images.shape[-2:]
        # Not super().forward, in which `paddle.jit.to_static` calls itself for ever.
        maps = self.feature_maps(images)
        for i, stride in enumerate(self.feature_strides):
            maps[i] = maps[i][:, :, : -(-height // stride), : -(-width // stride)]
        return maps

    @property
    def feat_channels(self) -> list[int]:
        """Channels of each map: what PaddleSeg's heads ask for."""
        return self.feature_channels


@manager.BACKBONES.add_component
class ConViT(_Cropped, dense.ConViT):
    """`passl.integrations.dense.ConViT` with what PaddleSeg asks a backbone for."""


@manager.BACKBONES.add_component
class CvT(_Cropped, dense.CvT):
    """`passl.integrations.dense.CvT` with what PaddleSeg asks a backbone for."""


# --------------------------------------------------------------------------------------------------
# What PaddleSeg 2.8.0, which is older than Paddle 3, cannot do there
# --------------------------------------------------------------------------------------------------
@manager.LOSSES.add_component
class PixelCrossEntropy(nn.Layer):
    """Cross-entropy, averaged over the pixels that are not ignored, as a tensor [1].

    PaddleSeg's CrossEntropyLoss multiplies a tensor of whole numbers by one of fractions, which
    Paddle 3 refuses, and its trainer logs `loss[0]`, which a scalar does not have.

    Args:
        ignore_index: label of the pixels that do not count.
    """

    def __init__(self, ignore_index=255):
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits, labels):
        """Logits [B, classes, height, width] and labels [B, height, width] -> [1]."""
        labels = labels.astype("int64").unsqueeze(1)
        loss = F.cross_entropy(logits, labels, ignore_index=self.ignore_index, axis=1)
        return loss.reshape([1])


def count_pixels(pred, label, num_classes, ignore_index=255):
    """Pixels of each class, [classes] int64: both predicted and labelled, predicted, labelled.

    Takes the place of PaddleSeg's `calculate_area`, which concatenates scalars.

    Args:
        pred, label: classes of pixels, of one shape.
        ignore_index: label of the pixels that do not count.
    """
    kept = label.flatten() != ignore_index
    pred = pred.flatten()[kept].astype("int64")
    label = label.flatten()[kept].astype("int64")
    pairs = paddle.bincount(label * num_classes + pred, minlength=num_classes**2)
    pairs = pairs.reshape([num_classes, num_classes])
    return pairs.diagonal(), pairs.sum(0), pairs.sum(1)


if version == "2.8.0":
    metrics.calculate_area = count_pixels
