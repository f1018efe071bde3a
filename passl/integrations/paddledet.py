"""ConViT and CvT as backbones of PaddleDetection. Importing this module registers them."""

from __future__ import annotations

from passl.integrations import dense

try:
    from ppdet.core.workspace import register, serializable
    from ppdet.modeling.shape_spec import ShapeSpec
except ModuleNotFoundError as error:
    raise ImportError(
        f"PaddleDetection cannot be imported, since there is no module {error.name!r}; "
        "pip install --no-deps paddledet==2.6.0, with what docs/integrations.md names"
    ) from None


class _Detection(dense.DenseBackbone):
    """The maps of the padded image: PaddleDetection's necks need sizes that halve exactly, and
    anchors are counted from the top left.
    """

    def forward(self, inputs):
        """A batch with "image" [B, in_channels, height, width] -> the maps."""
        return self.feature_maps(inputs["image"])

    @property
    def out_shape(self) -> list[ShapeSpec]:
        """Channels and stride of each map: what PaddleDetection's necks ask for."""
        pairs = zip(self.feature_channels, self.feature_strides, strict=True)
        return [ShapeSpec(channels=channels, stride=stride) for channels, stride in pairs]


@register
@serializable
class ConViT(_Detection, dense.ConViT):
    """`passl.integrations.dense.ConViT` with what PaddleDetection asks a backbone for."""


@register
@serializable
class CvT(_Detection, dense.CvT):
    """`passl.integrations.dense.CvT` with what PaddleDetection asks a backbone for."""
