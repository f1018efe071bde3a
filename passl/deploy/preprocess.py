"""From an image to a network's input, by the transforms of an exported folder. It needs neither the
config system nor pydantic, unless a transform does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from passl.data import TRANSFORMS
from passl.data.transforms.evaluation import FUNCTIONS, transformed
from passl.errors import ConfigError


class Preprocessing:
    """Transforms, called with an image.

    Args:
        nodes: a config's list of transforms.

    Raises:
        ConfigError: there is no such transform, or what it needs is not installed.
    """

    def __init__(self, nodes: Sequence[Mapping[str, Any]]):
        self._functions: list[Callable[[Any], Any]] | None = None
        if all(node["name"] in FUNCTIONS for node in nodes):
            self._functions = [partial(FUNCTIONS[node["name"]], **_options(node)) for node in nodes]
        else:
            self._transforms = [_registered(node) for node in nodes]

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return float32 [channels, height, width]."""
        if self._functions is None:
            return transformed(image, self._transforms)
        made: Any = image
        for function in self._functions:
            made = function(made)
        return made

    def check(self, mode: str, shape: Sequence[int]) -> None:
        """Check options by transforming an image, of the size that the network takes: transforms
        need not resize.

        Args:
            mode: of the images.
            shape: channels, height and width of what the transforms must make.

        Raises:
            ValueError: the transforms fail, or make something else.
        """
        try:
            made = self(Image.new(mode, (shape[2], shape[1])))
        except Exception as error:  # whatever wrong options lead to
            raise ValueError(f"{type(error).__name__}: {error}") from None
        found = list(getattr(made, "shape", ()))
        if getattr(made, "dtype", None) != np.float32 or found != list(shape):
            raise ValueError(f"they make {found}, not float32 {list(shape)}")
        if not np.isfinite(made).all():
            raise ValueError("they make numbers that are not finite")


def _options(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key != "name"}


def _registered(node: Mapping[str, Any]) -> Any:
    try:
        return TRANSFORMS.build(node)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"transform {node['name']!r} needs {error.name}, which is not installed; install all "
            "of passl's requirements, or export with Resize, CenterCrop and Normalize only"
        ) from None
