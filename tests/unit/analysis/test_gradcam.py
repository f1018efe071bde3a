"""Grad-CAM: the formula, where the map is, and which layers can have one."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from passl.accelerate import accelerate
from passl.analysis.gradcam import gradcam
from passl.analysis.layers import find_point, recorded
from passl.errors import ConfigError
from passl.modeling import Model
from tests.attention_nets import CONVIT, CVT, images_of, model_of
from tests.unit.analysis.planted import PATCH, image_with, planted_model


@pytest.mark.parametrize(("name", "row", "column"), [("ConViT", 1, 4), ("CvT", 2, 4)])
def test_peak_is_where_the_class_is_read(name, row, column):
    """The only block adds up how bright the cells are; the map is that of its input."""
    model, image = planted_model(name, sharpness=0.2), image_with(row, column, 32, 48)
    cam = gradcam(model, image, label=0)
    assert cam.point.name.endswith("blocks.0.norm1")
    peak = np.unravel_index(cam.over(32, 48).argmax(), (32, 48))
    assert (peak[0] // PATCH, peak[1] // PATCH) == (row, column)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("architecture", "size", "layer", "default"),
    [
        (CONVIT, (32, 48), "1", "blocks.2.norm1"),
        (CONVIT, (32, 48), "embed", "blocks.2.norm1"),
        (CONVIT, (32, 48), "2.norm1", "blocks.2.norm1"),
        ({**CONVIT, "local_up_to_layer": 3, "global_pool": "avg"}, (32, 48), "2", "blocks.2"),
        (CVT, (35, 61), "1", "stage2.blocks.1.norm1"),
        ({**CVT, "with_cls_token": False}, (35, 61), "-1", "stage2.blocks.1"),
    ],
)
def test_formula_by_finite_differences(architecture, size, layer, default, fast):
    """The mean gradient of a channel is the slope of the score when the channel is raised
    everywhere; the layer is changed by a bias.
    """
    model, image = model_of(architecture), images_of(1, *size)[0].numpy()
    if fast:
        accelerate(model)
    assert gradcam(model, image).point.name == default
    point = find_point(model.backbone, layer)
    cam = gradcam(model, image, 2, point)
    step = 1e-2

    def raise_each(_, inputs, output):
        """Image 2 c of the batch has channel c of its patches raised, and image 2 c + 1 lowered."""
        shift = np.zeros(output.shape, np.float32)
        patches = np.s_[:] if output.ndim == 4 else np.s_[-cam.map_YX.size :]
        for channel in range(len(output) // 2):
            for image, by in ((2 * channel, step), (2 * channel + 1, -step)):
                changed = shift[image] if output.ndim == 4 else shift[image].T
                changed[channel][patches] = by
        return output + paddle.to_tensor(shift)

    with recorded([point]) as (output,):
        model(paddle.to_tensor(image[None]))
    width = output.as_map().shape[1]
    handle = point.layer.register_forward_post_hook(raise_each)
    scores = model(paddle.to_tensor(np.repeat(image[None], 2 * width, 0))).numpy()[:, 2]
    handle.remove()
    slopes = (scores[::2] - scores[1::2]) / (2 * step) / cam.map_YX.size
    wanted = np.maximum(np.tensordot(slopes, output.as_map()[0].numpy(), 1), 0)
    assert np.abs(cam.map_YX - wanted).max() < 0.03 * wanted.max()


@pytest.mark.parametrize("architecture", [CONVIT, CVT])
def test_by_place_is_the_slope_when_a_place_is_scaled(architecture):
    """HiResCAM's sum at a place is the slope of the score when all channels there are scaled."""
    model, image = model_of(architecture), images_of(1, 32, 48)[0].numpy()
    point, step = find_point(model.backbone, "0.embed" if architecture is CVT else "embed"), 1e-2
    cam = gradcam(model, image, 1, point, by_place=True)
    rows, columns = cam.map_YX.shape

    def scale_each(_, inputs, output):
        factors = np.ones([len(output), 1, rows * columns], np.float32)
        for place in range(rows * columns):
            factors[2 * place, 0, place] += step
            factors[2 * place + 1, 0, place] -= step
        return output * paddle.to_tensor(factors.reshape([-1, 1, rows, columns]))

    handle = point.layer.register_forward_post_hook(scale_each)
    scores = model(paddle.to_tensor(np.repeat(image[None], 2 * cam.map_YX.size, 0))).numpy()[:, 1]
    handle.remove()
    slopes = (scores[::2] - scores[1::2]) / (2 * step)
    wanted = np.maximum(slopes, 0).reshape(rows, columns)
    assert np.abs(cam.map_YX - wanted).max() < 0.03 * wanted.max()


@pytest.mark.parametrize("architecture", [CONVIT, CVT])
def test_layer_that_the_score_does_not_depend_on(architecture):
    """Of the last block only the class token is used."""
    model, image = model_of(architecture), images_of(1, 32, 32)[0].numpy()
    with pytest.raises(ConfigError, match="class token is used; name an earlier layer"):
        gradcam(model, image, 0, find_point(model.backbone, "-1"))
    with pytest.raises(ConfigError, match="no class 3; there are 0 to 2"):
        gradcam(model, image, 3)
    assert not any(
        parameter.stop_gradient for parameter in model.parameters() if parameter.ndim > 1
    )
    assert all(parameter.grad is None for parameter in model.parameters())


def test_segmentation_and_multilabel():
    head = {"name": "FPNHead", "num_classes": 4, "channels": 8}
    model = Model({"model": {"architecture": {"name": "CvT", **CVT}, "head": head}})
    cam = gradcam(model, images_of(1, 35, 61)[0].numpy(), 1)
    assert (cam.probability, cam.point.name) == (None, "stage2.blocks.1")
    head = {"name": "MultilabelHead", "num_classes": 4}
    model = Model({"model": {"architecture": {"name": "CvT", **CVT}, "head": head}})
    image = images_of(1, 32, 32)
    cam = gradcam(model, image[0].numpy(), 1)
    model.eval()
    assert cam.probability == pytest.approx(float(paddle.sigmoid(model(image))[0, 1]), rel=1e-5)
