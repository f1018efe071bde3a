"""The pictures that published weights were scored on, as the transforms of a config."""

from __future__ import annotations

import math
from typing import Any

from passl.porting.zoo import Preset


def transforms_of(preset: Preset) -> list[dict[str, Any]]:
    """The `transforms` list of a preset: squash, or resize the shorter side and crop the centre."""
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
