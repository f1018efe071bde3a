"""The transforms of an evaluation: those of published scores, and another crop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from passl.data.transforms.evaluation import pair
from passl.errors import ConfigError
from passl.porting.zoo import Preset


def transforms_of(preset: Preset) -> list[dict[str, Any]]:
    """Return a preset as a list of transforms: squash, or resize the shorter side and crop the
    centre.
    """
    if preset.crop == "squash":
        size: list[int] | int = [preset.size, preset.size]
        frame = [{"name": "Resize", "size": size, "interpolation": preset.interpolation}]
    else:
        size = math.floor(preset.size / float(preset.crop))  # timm's and MindCV's rounding
        frame = [
            {"name": "Resize", "size": size, "interpolation": preset.interpolation},
            {"name": "CenterCrop", "size": preset.size},
        ]
    return [*frame, {"name": "Normalize", "mean": list(preset.mean), "std": list(preset.std)}]


def with_crop(
    transforms: Sequence[Mapping[str, Any]], crop: Literal["squash", "resize"]
) -> list[dict[str, Any]]:
    """Return the transforms with another crop; size, interpolation, mean and deviation stay.

    Args:
        transforms: the list of a config: Resize, CenterCrop and Normalize.
        crop: `squash` resizes the whole image to the square (microsoft/CvT's rule at 384 pixels);
            `resize` resizes the shorter side and crops the centre (PASSL's and PaddleViT's). The
            shorter side gets the size of Resize or, if that squashes, the side of the square.

    Raises:
        ConfigError: the list has other transforms, or no size.
    """
    place = "dataloader.val.dataset.transforms"
    frame = [node for node in transforms if node["name"] in ("Resize", "CenterCrop")]
    others = [node for node in transforms if node not in frame]
    if [node["name"] for node in others] != ["Normalize"]:
        names = ", ".join(node["name"] for node in transforms)
        raise ConfigError(
            f"{place}: --crop {crop} is for lists of Resize, CenterCrop and Normalize, not {names};"
            f" set the transforms by -o {place}=[...] instead"
        )
    if not frame:
        raise ConfigError(
            f"{place}: --crop {crop} takes its size from Resize or CenterCrop, and there is neither"
        )
    size = list(pair(frame[-1]["size"]))
    resize = next((dict(node) for node in frame if node["name"] == "Resize"), {"name": "Resize"})
    if crop == "squash":
        return [{**resize, "size": size}, dict(others[0])]
    shorter = resize.get("size")
    shorter = shorter if isinstance(shorter, int) else max(size)
    crops = [{**resize, "size": shorter}, {"name": "CenterCrop", "size": size}]
    return [*crops, dict(others[0])]


def at_size(transforms: Sequence[Mapping[str, Any]], size: Sequence[int]) -> list[dict[str, Any]]:
    """Return the transforms with the whole image resized to a height and width, in place of every
    Resize and CenterCrop.
    """
    frame = [node for node in transforms if node["name"] in ("Resize", "CenterCrop")]
    resize = next((node for node in frame if node["name"] == "Resize"), {"name": "Resize"})
    others = [dict(node) for node in transforms if node not in frame]
    return [{**resize, "size": list(size)}, *others]
