"""Random erasing, as in timm 1.0.31: Zhong et al. 2017, https://arxiv.org/abs/1708.04896."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from passl.data import TRANSFORMS
from passl.utils.types import PositiveInt, Probability


@TRANSFORMS.register
@dataclass(frozen=True, kw_only=True)
class RandomErasing:
    """Overwrite random boxes of the array that `Normalize` returns. A box that does not fit is
    drawn again, at most ten times.

    Args:
        p: probability.
        mode: new values of a box: `const` 0, the mean colour; `rand` one colour, drawn from the
            standard normal distribution; `pixel` such a colour for each pixel.
        min_area: smallest part of the image that all boxes together cover.
        max_area: largest part.
        min_aspect: smallest height over width of a box, drawn uniformly on a logarithmic scale.
        max_aspect: largest height over width; null for 1 / min_aspect.
        min_count: smallest number of boxes.
        max_count: largest number of boxes; null for min_count.

    Example:
        {name: RandomErasing, p: 0.25, mode: pixel}
    """

    on_arrays: ClassVar[bool] = True
    p: Probability = 0.5
    mode: Literal["const", "rand", "pixel"] = "const"
    min_area: float = 0.02
    max_area: float = 0.3333333333333333
    min_aspect: float = 0.3
    max_aspect: float | None = None
    min_count: PositiveInt = 1
    max_count: PositiveInt | None = None

    def __post_init__(self):
        if not 0 < self.min_area <= self.max_area <= 1:
            raise ValueError(
                f"min_area {self.min_area} and max_area {self.max_area} must be above 0 and at "
                "most 1, in ascending order"
            )
        if not (self.min_aspect > 0 and self.min_aspect <= self._max_aspect < math.inf):
            raise ValueError(
                f"min_aspect {self.min_aspect} must be above 0 and max_aspect, here "
                f"{self.max_aspect}, at least that and finite; null is 1 / min_aspect"
            )
        if not 1 <= self.min_count <= self._max_count:
            raise ValueError(
                f"min_count {self.min_count} must be at least 1 and max_count {self.max_count} at "
                "least that"
            )

    @property
    def _max_aspect(self) -> float:
        return 1 / self.min_aspect if self.max_aspect is None else self.max_aspect

    @property
    def _max_count(self) -> int:
        return self.min_count if self.max_count is None else self.max_count

    def __call__(self, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return a changed copy of an array, float32 [channels, height, width]."""
        if rng.random() >= self.p:
            return array
        array = array.copy()
        channels, height, width = array.shape
        count = int(rng.integers(self.min_count, self._max_count + 1))
        for _ in range(count):
            left, top, w, h = self.box(width, height, count, rng)
            array[:, top : top + h, left : left + w] = self._content((channels, h, w), rng)
        return array

    def box(
        self, width: int, height: int, count: int, rng: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Draw the left, top, width and height of one of `count` boxes; all are 0 if ten draws do
        not fit.
        """
        log_aspects = math.log(self.min_aspect), math.log(self._max_aspect)
        for _ in range(10):
            area = rng.uniform(self.min_area, self.max_area) * (width * height) / count
            aspect = math.exp(rng.uniform(*log_aspects))
            w, h = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if w < width and h < height:
                top = int(rng.integers(height - h + 1))
                return int(rng.integers(width - w + 1)), top, w, h
        return 0, 0, 0, 0

    def _content(
        self, shape: tuple[int, int, int], rng: np.random.Generator
    ) -> np.ndarray | np.float32:
        if self.mode == "const":
            return np.float32(0)
        drawn = shape if self.mode == "pixel" else (shape[0], 1, 1)
        return rng.standard_normal(drawn, dtype=np.float32)
