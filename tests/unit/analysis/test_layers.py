"""Layers by name, and where the cells of their maps lie in the image."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.analysis.layers import Lattice, find_point, points_of, recorded
from passl.errors import ConfigError
from passl.modeling.backbones import build_backbone

CONVIT = {"name": "ConViT", "img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3}
CONVIT |= {"local_up_to_layer": 1}
CVT = {"name": "CvT", "embed_dim": [8, 12, 16], "depth": [1, 2, 3], "num_heads": [1, 2, 4]}


def network(node):
    paddle.seed(0)
    backbone = build_backbone(node)
    backbone.eval()
    return backbone


@pytest.mark.parametrize(
    ("node", "names"),
    [
        (
            CONVIT,
            {
                "0": "blocks.0",
                "-1": "blocks.2",
                "embed": "patch_embed",
                "blocks.1": "blocks.1",
                "-1.norm1": "blocks.2.norm1",
            },
        ),
        (CVT, {"0": "stage0.blocks.0", "1": "stage1.blocks.1", "-1": "stage2.blocks.2"}),
        (
            CVT,
            {
                "-1.0": "stage2.blocks.0",
                "1.-1": "stage1.blocks.1",
                "2.-1.norm1": "stage2.blocks.2.norm1",
            },
        ),
    ],
)
def test_names(node, names):
    backbone = network(node)
    assert {name: find_point(backbone, name).name for name in names} == names
    for wrong in ("3", "-4", "2.3", "embedd", "", "1.x"):
        with pytest.raises(ConfigError, match=f"no layer '?{wrong}.*(blocks|embed)"):
            find_point(backbone, wrong)


@pytest.mark.parametrize("node", [CONVIT, CVT])
def test_recorded_maps_are_those_of_forward_features(node):
    """Of a rectangle. The class token is left out."""
    backbone = network(node)
    images = paddle.randn([2, 3, 32, 64])
    names = ["0", "1", "2"]
    with paddle.no_grad(), recorded([find_point(backbone, name) for name in names]) as outputs:
        backbone(images)
        wanted = backbone.forward_features(images, [0, 1, 2])
    for output, map_BCYX in zip(outputs, wanted, strict=True):
        assert np.array_equal(output.as_map().numpy(), map_BCYX.numpy())


@pytest.mark.parametrize("node", [CONVIT, CVT])
def test_lattice_is_the_centre_of_what_a_cell_sees(node):
    """With kernels of ones, the gradient of a cell far from the border is symmetric about it."""
    convs = []
    for point in points_of(network(node)):
        if not point.name.endswith("embed"):
            continue
        convs.append(point.layer.proj)
        image = y = paddle.zeros([1, 1, 64, 96])
        image.stop_gradient = False
        for conv in convs:
            ones = paddle.ones([1, 1, *conv._kernel_size])
            y = nn.functional.conv2d(y, ones, None, conv._stride, conv._padding)
        cell = y.shape[2] // 2, y.shape[3] // 2
        (gradient,) = paddle.grad(y[0, 0, cell[0], cell[1]], image)
        weights = gradient[0, 0].numpy() / gradient.sum().item()
        centre = weights.sum(1) @ np.arange(64), weights.sum(0) @ np.arange(96)
        wanted = [point.lattice.offset + point.lattice.stride * index for index in cell]
        assert np.allclose(centre, wanted, atol=1e-4), point.name


def test_upsampled_is_exact_for_a_linear_map():
    lattice = Lattice(stride=4, offset=1.5)
    centres = 1.5 + 4 * np.arange(6)
    cells = centres[:, None] * 3 + centres[None, :5] * 7
    found = lattice.upsampled(cells, 26, 20)
    rows, columns = np.clip(np.arange(26), 1.5, 21.5), np.clip(np.arange(20), 1.5, 17.5)
    assert np.allclose(found, rows[:, None] * 3 + columns[None] * 7)


def test_another_backbone_has_its_sublayers():
    backbone = nn.Sequential(nn.Conv2D(3, 4, 3, stride=2, padding=1), nn.ReLU())
    with recorded([find_point(backbone, "0")]) as (output,):
        backbone(paddle.zeros([1, 3, 8, 12]))
    assert output.as_map().shape == [1, 4, 4, 6]
    assert output.point.lattice_of(4, 8) == Lattice(2, 0.5)
