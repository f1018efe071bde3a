"""The mask of an image follows it through the transforms."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from PIL import Image

from passl.data import TRANSFORMS
from passl.data.transforms.masks import masks_problem
from passl.io.masks import IGNORED

MOVING = [
    {"name": "Resize", "size": 19},
    {"name": "Resize", "size": [50, 23]},
    {"name": "CenterCrop", "size": 21},
    {"name": "CenterCrop", "size": [60, 20]},
    {"name": "RandomResizedCrop", "size": [18, 26]},
    {"name": "RandomScale", "size": 30, "scale": [0.5, 2.0]},
    {"name": "RandomCrop", "size": 24, "padding": 9},
    {"name": "RandomCrop", "size": [20, 64], "pad_if_needed": True},
    {"name": "RandomHorizontalFlip"},
]
KEEPING = [
    {"name": "ColorJitter", "brightness": 0.4, "hue": 0.1},
    {"name": "RandomGrayscale", "p": 1.0},
    {"name": "GaussianBlur", "p": 1.0},
    {"name": "ThreeAugment"},
    {"name": "Normalize"},
    {"name": "Corruption", "kind": "pixelate", "severity": 5},
]


def labels(height: int = 40, width: int = 33) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 20, (height, width), np.uint8)


def build(node):
    if "interpolation" in TRANSFORMS.options(node["name"]):
        node = {**node, "interpolation": "nearest"}
    return TRANSFORMS.build(node)


@pytest.mark.parametrize("node", MOVING, ids=lambda node: f"{node['name']}-{node.get('size')}")
def test_mask_follows_the_image(node):
    """The image shows the mask: its red is 255 - label, so black, which is outside, is ignored."""
    transform = build(node)
    mask = Image.fromarray(labels())
    image = Image.fromarray(np.repeat(255 - labels()[..., None], 3, 2))
    rng = np.random.default_rng(1)
    outcomes = set()
    for _ in range(8):
        moved_mask = transform.apply_to_mask(mask, copy.deepcopy(rng))
        moved = transform(image, rng)
        np.testing.assert_array_equal(np.asarray(moved_mask), 255 - np.asarray(moved)[..., 0])
        outcomes.add(moved_mask.tobytes())
    assert len(outcomes) > 1 or not node["name"].startswith("Random")


def test_outside_is_ignored():
    mask = Image.fromarray(np.full((4, 4), 3, np.uint8))
    transform = TRANSFORMS.build({"name": "CenterCrop", "size": 6})
    moved = np.asarray(transform.apply_to_mask(mask, np.random.default_rng(0)))
    assert (moved[1:5, 1:5] == 3).all()
    assert (moved == IGNORED).sum() == 20


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "random"])
def test_labels_are_not_blended(interpolation):
    """Whatever filter the image has, which must not change the draws of the mask's box either."""
    square = np.zeros((64, 64), np.uint8)
    square[20:44, 20:44] = 9
    node = {"name": "RandomResizedCrop", "size": 48, "scale": [0.4, 0.9]}
    transform = TRANSFORMS.build({**node, "interpolation": interpolation})
    image = Image.fromarray(np.repeat(square[..., None] * 28, 3, 2))  # 252
    rng = np.random.default_rng(2)
    for _ in range(5):
        moved_mask = np.asarray(
            transform.apply_to_mask(Image.fromarray(square), copy.deepcopy(rng))
        )
        shown = np.asarray(transform(image, rng))[..., 0] > 126
        assert set(np.unique(moved_mask)) <= {0, 9}
        # But for the border, where the image is blended.
        assert ((moved_mask == 9) != shown).mean() < 0.05


@pytest.mark.parametrize("node", KEEPING, ids=lambda node: node["name"])
def test_colours_leave_the_mask_alone(node):
    transform, mask = TRANSFORMS.build(node), Image.fromarray(labels())
    kept = transform.apply_to_mask(mask, np.random.default_rng(0))
    np.testing.assert_array_equal(np.asarray(kept), labels())
    assert transform.keeps_view


def test_every_transform_is_allowed_or_refused_by_name():
    refused = {"AutoAugment", "RandAugment", "RandomErasing"}
    assert set(TRANSFORMS.names()) == refused | {n["name"] for n in [*MOVING, *KEEPING]}
    nodes = {"RandAugment": {"policy": "rand-m9"}, "AutoAugment": {"policy": "original"}}
    for name in refused:
        problem = masks_problem(TRANSFORMS.build({"name": name, **nodes.get(name, {})}), True)
        assert problem.startswith(name)


@pytest.mark.parametrize("node", [*MOVING, *KEEPING], ids=lambda node: node["name"])
def test_evaluation_keeps_the_view(node):
    transform = TRANSFORMS.build(node)
    assert masks_problem(transform, in_training=True) is None
    refused = node["name"] not in ("Resize", *(kept["name"] for kept in KEEPING))
    assert (masks_problem(transform, in_training=False) is not None) == refused


def test_random_scale_is_relative_to_the_shorter_side(rng):
    transform = TRANSFORMS.build({"name": "RandomScale", "size": 20, "scale": [0.5, 2.0]})
    sizes = [transform(Image.new("RGB", (80, 40)), rng).size for _ in range(50)]
    heights = [height for _, height in sizes]
    assert min(heights) >= 10 and max(heights) <= 40 and max(heights) - min(heights) > 15
    assert all(width == 2 * height for width, height in sizes)
