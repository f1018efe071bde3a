"""Types of options: what a value is and the range that it lies in, as pydantic reads them.

A number with a range is finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import AllowInfNan, WithJsonSchema

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0), AllowInfNan(False)]
NonNegativeFloat = Annotated[float, Ge(0), AllowInfNan(False)]
Probability = Annotated[float, Ge(0), Le(1)]
Fraction = Annotated[float, Gt(0), Le(1)]
"""Above 0, up to 1."""
Rate = Annotated[float, Ge(0), Lt(1)]
"""Of dropout, decay or smoothing: from 0, below 1."""
NormEps = Annotated[float, Ge(0), Le(1e-3)]
"""The epsilon of a norm; Paddle's kernels refuse more."""
Betas = tuple[Rate, Rate]
"""Decay of two running means, as Adam has them."""

_Byte = Annotated[int, Ge(0), Le(255)]
Color = tuple[_Byte, _Byte, _Byte]
"""Red, green and blue."""
ImageSize = Annotated[
    PositiveInt | Annotated[Sequence[PositiveInt], Len(2, 2)],
    WithJsonSchema({"description": "one number of pixels, or [height, width]"}),
]
