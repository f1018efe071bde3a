"""Grad-CAM (Selvaraju et al., arXiv 1610.02391) and HiResCAM (Draelos and Carin, arXiv 2011.08891):
the places of a layer's map that raise a class's score.

Shapes in names: C channels, Y rows and X columns of the layer's map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from matplotlib.figure import Figure
from paddle import nn
from paddle.nn import functional as F

from passl.analysis.attention import check_forward
from passl.analysis.figures import Group, Panel, Shown, draw_panels, heat_over
from passl.analysis.layers import LayerPoint, Output, points_of, recorded
from passl.errors import ConfigError
from passl.evaluation.attention import evaluating
from passl.modeling.classifier import Model


@dataclass(frozen=True, eq=False)
class Cam:
    """The Grad-CAM of an image.

    Args:
        sums_YX: of each place the sum over its weighted channels.
        label: the class.
        probability: of the class; null for segmentation.
        point: the layer.
    """

    sums_YX: np.ndarray
    label: int
    probability: float | None
    point: LayerPoint

    @property
    def map_YX(self) -> np.ndarray:
        """The sums, those below 0 set to 0."""
        return np.maximum(self.sums_YX, 0)

    def over(self, height: int, width: int) -> np.ndarray:
        """The map at the size of the image, [height, width], from 0 to 1."""
        return self.point.lattice_of(len(self.map_YX), height).heat(self.map_YX, height, width)


def gradcam(
    model: Model,
    image: np.ndarray,
    label: int | None = None,
    point: LayerPoint | None = None,
    by_place: bool = False,
) -> Cam:
    """Compute the Grad-CAM of one image: the channels of a layer's map, each weighted by the mean
    gradient of the class's logit over the map, summed, and negative sums set to 0.

    Of a layer of tokens, the patches are the map.

    Args:
        model: a classifier; or a segmentation network, where the score is the mean logit of the
            class over the image.
        image: [channels, height, width].
        label: the class; null for the one with the highest score.
        point: the layer; null for the last one whose map the score depends on: where the class
            token is classified, the input of the last attention.
        by_place: HiResCAM: weight each place by its own gradient, not by the mean over the map.

    Raises:
        ConfigError: there is no such class, or the score does not depend on the layer's map.
    """
    check_forward(model, (1, *image.shape))
    points = points_of(model.backbone) if point is None else [point]
    with evaluating(model), _with_norm_gradients(model), recorded(points) as outputs:
        logits = model(paddle.to_tensor(image[None]))
        scores = logits[0] if logits.ndim == 2 else logits[0].mean([1, 2])
        label = _checked_label(scores, label)
        used = [output for output in outputs if point is not None or output.is_map]
        gradients = _gradients(scores[label], [output.tensor for output in used], model)
    for output, gradient in zip(reversed(used), reversed(gradients), strict=True):
        sums_YX = _weighted(output, gradient, by_place)
        if sums_YX is not None:
            probability = _probability(model, logits, label)
            return Cam(sums_YX, label, probability, output.point)
    where = "any layer" if point is None else f"layer {point.name}"
    raise ConfigError(
        f"the score of class {label} does not depend on the patches of {where}: of the last block, "
        "for example, only the class token is used; name an earlier layer"
    )


@contextmanager
def _with_norm_gradients(model: Model) -> Iterator[None]:
    """No weight of a norm is frozen: the gradient of the input of Paddle 3.3.1's LayerNorm is wrong
    on a CPU if those of its weight and bias are not computed.
    """
    norms = [layer for layer in model.sublayers() if isinstance(layer, nn.LayerNorm)]
    frozen = [one for norm in norms for one in norm.parameters() if one.stop_gradient]
    for parameter in frozen:
        parameter.stop_gradient = False
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.stop_gradient = True


def _gradients(score: Any, tensors: Sequence[Any], model: Model) -> list[Any]:
    """The gradient of each tensor, null for one that the score does not depend on. Those of the
    parameters are computed, for the reason above, and dropped.
    """
    trained = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    return paddle.grad(score, [*tensors, *trained], allow_unused=True)[: len(tensors)]


def _checked_label(scores: Any, label: int | None) -> int:
    if label is None:
        return int(scores.argmax().item())
    if not 0 <= label < len(scores):
        raise ConfigError(f"there is no class {label}; there are 0 to {len(scores) - 1}")
    return label


def _weighted(output: Output, gradient: Any, by_place: bool) -> np.ndarray | None:
    """The sums of a layer; null if the gradient of its patches is 0."""
    if gradient is None:
        return None
    gradient_CYX = output.as_map(gradient)[0].astype("float32").numpy()
    if not gradient_CYX.any():
        return None
    map_CYX = output.as_map()[0].astype("float32").numpy()
    if not by_place:
        gradient_CYX = gradient_CYX.mean((1, 2), keepdims=True)
    return (gradient_CYX * map_CYX).sum(0)


def _probability(model: Model, logits: Any, label: int) -> float | None:
    if logits.ndim != 2:
        return None
    is_multilabel = getattr(model.head, "task", "classification") == "multilabel"
    values = F.sigmoid(logits[0]) if is_multilabel else F.softmax(logits[0])
    return float(values[label].item())


def draw_gradcam(
    images: Sequence[Shown],
    cams: Sequence[Sequence[Cam]],
    names: Sequence[str],
    by_place: bool = False,
) -> Figure:
    """Draw each image beside its maps.

    Args:
        images: as drawn.
        cams: of each image, one for each class.
        names: of all classes.
        by_place: whether they are HiResCAM.
    """
    groups = []
    for image, found in zip(images, cams, strict=True):
        panels = [Panel(image.pixels)]
        for cam in found:
            heat = cam.over(*image.pixels.shape[:2])
            percent = "" if cam.probability is None else f" {100 * cam.probability:.0f} %"
            title = f"{names[cam.label]}{percent}"
            panels.append(
                Panel(
                    heat_over(image.pixels, heat), title if cam.map_YX.any() else f"{title}: none"
                )
            )
        groups.append(Group([panels], image.title))
    layers = ", ".join(dict.fromkeys(cam.point.name for found in cams for cam in found))
    method = "HiResCAM" if by_place else "Grad-CAM"
    note = (
        f"{method} of layer {layers}. The class and its probability are above each map. Yellow "
        "places raise its score the most, dark blue ones not at all (places that lower it are not "
        "told apart from those). Each map has its own scale."
    )
    return draw_panels(groups, note=note)
