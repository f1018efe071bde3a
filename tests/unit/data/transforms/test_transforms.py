"""Normalize, and properties of all transforms."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from passl.data import TRANSFORMS
from passl.data.transforms.normalize import Normalize
from tests.images import noise


@pytest.mark.parametrize(("width", "height"), [(256, 3), (3, 257), (1, 1)])
def test_normalize_rounds_like_torchvision(rng, width, height):
    """torchvision's ToTensor and Normalize: three steps in float32 for each pixel."""
    pixels = np.arange(width * height * 3).astype(np.uint8).reshape(height, width, 3)
    array = Normalize()(Image.fromarray(pixels), rng)
    for channel, (mean, std) in enumerate(
        zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ):
        table = np.array(
            [
                (np.float32(level) / np.float32(255) - np.float32(mean)) / np.float32(std)
                for level in range(256)
            ]
        )
        assert table.dtype == np.float32
        np.testing.assert_array_equal(array[channel], table[pixels[..., channel]])


NODES = [
    {"name": "Resize", "size": 10},
    {"name": "CenterCrop", "size": 10},
    {"name": "CenterCrop", "size": 40},
    {"name": "RandomResizedCrop", "size": 10},
    {"name": "RandomHorizontalFlip", "p": 0.5},
    {"name": "RandomCrop", "size": 10, "padding": 2},
    {"name": "RandomScale", "size": 10},
    {"name": "ColorJitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    {"name": "RandomGrayscale", "p": 0.5},
    {"name": "GaussianBlur"},
    {"name": "RandAugment", "policy": "rand-m9-mstd0.5-inc1"},
    {"name": "AutoAugment", "policy": "original-mstd0.5"},
    {"name": "ThreeAugment"},
    {"name": "Corruption", "kind": "gaussian_noise", "severity": 3},
    {"name": "Normalize"},
    {"name": "RandomErasing", "mode": "pixel"},
]


@pytest.mark.parametrize("node", NODES, ids=lambda node: node["name"])
def test_input_and_global_generators_are_not_modified(rng, node):
    transform = TRANSFORMS.build(node)
    given = (
        Normalize()(noise(30, 20), rng) if getattr(transform, "on_arrays", False) else noise(30, 20)
    )
    before = given.tobytes()
    states = np.random.get_state()[1].tobytes(), random.getstate()
    for _ in range(20):
        transform(given, rng)
    assert given.tobytes() == before
    assert (np.random.get_state()[1].tobytes(), random.getstate()) == states


def test_every_transform_is_tested_here():
    assert {node["name"] for node in NODES} == set(TRANSFORMS.names())
