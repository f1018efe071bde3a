"""What a transform does with the mask of an image, for segmentation.

A mask is a Pillow image in mode L of the size of its image; its values are labels, or
`passl.io.masks.IGNORED`. A
transform treats it by two attributes:

* `apply_to_mask(mask, rng)` returns the mask after the change of the image. It is called with a
  generator in the state that the image's call starts with, so both draw the same numbers.
* `keeps_view`: whether the whole image stays in view. Evaluation and prediction use only such
  transforms: the network's output is resized to the mask, which is not transformed.

A transform without them is refused for segmentation.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageOps


class KeepsPixels:
    """A transform that moves no pixel: it changes colours."""

    keeps_view: ClassVar[bool] = True

    def apply_to_mask(self, mask: Image.Image, rng: np.random.Generator) -> Image.Image:
        return mask


class MovesPixels:
    """A dataclass that moves pixels, by its option `interpolation` if it has one."""

    keeps_view: ClassVar[bool] = False

    def apply_to_mask(self, mask: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Move the pixels of the mask likewise. They are not blended, and the area outside the
        image is ignored.
        """
        transform: Any = self
        if hasattr(self, "interpolation"):
            transform = dataclasses.replace(transform, interpolation="nearest")
        # The area outside gets the value 0, which is IGNORED in an inverted mask.
        return ImageOps.invert(transform(ImageOps.invert(mask), rng))


def masks_problem(transform: Any, in_training: bool) -> str | None:
    """Why a transform cannot be used for segmentation; null if it can."""
    name = type(transform).__name__
    if not callable(getattr(transform, "apply_to_mask", None)):
        return (
            f"{name} cannot be applied to masks, which segmentation needs; leave it out, or define "
            "apply_to_mask(mask, rng) if it is yours"
        )
    if not in_training and not getattr(transform, "keeps_view", False):
        return (
            f"{name} changes what is in view, but scores and predictions of segmentation are for "
            "whole images; use Resize, or no resizing and sampler.batch_size 1"
        )
    return None
