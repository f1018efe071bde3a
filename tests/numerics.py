"""How far a result may lie from its formula: tolerances that follow from the arithmetic.

A floating-point result is not the same on every processor: libraries sum in another order, fuse
products with sums and approximate exp by other polynomials. What holds on all of them is a bound.
`Rounded` evaluates a formula in float64 and carries, beside each value, how many roundings it may
be off, by a running error analysis to first order. With u the unit roundoff (2^-24 in float32), an
operation is off by at most u times its result, and a sum of n terms, in any order, by at most
(n - 1) u times the sum of their absolute values (N. J. Higham, Accuracy and Stability of Numerical
Algorithms, 2nd edition, 2002, sections 2.2, 3.1, 3.3 and 4.2).

    weights = (Rounded(q) @ Rounded(k).map(np.transpose) * 0.3).softmax()
    (weights @ v).check(found)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

FUNCTION = 8
"""The roundings that exp, log, erf and tanh count as: 4 ulp, as MKL states for its less accurate
versions; oneDNN's and Paddle's own are as good.
"""
UNDERFLOW = 2.0**-100
"""Below it float32 keeps no digits, and rounding is no longer in proportion."""
VALUES, GRADIENTS = 1e-5, 1e-4
"""What two correct implementations of a whole network agree to in float32, of the largest value:
the statement of the golden cases, which tests/golden holds the networks to.
"""


class Rounded:
    """An array and by how much arithmetic may miss it.

    Args:
        value: the exact value, to float64's precision.
        error: a bound of the distance, in units of the unit roundoff; 0 for inputs.
    """

    __array_ufunc__ = None  # so that `array * rounded` is ours

    def __init__(self, value, error=0.0):
        self.value = np.asarray(value, np.float64)
        self.error = np.broadcast_to(np.asarray(error, np.float64), self.value.shape)

    def check(self, found, dtype=None) -> None:
        """Fail unless an array is within the bound of arithmetic in its dtype, or in that given."""
        found = np.asarray(found)
        assert found.shape == self.value.shape
        # Ours is off by float64's roundings itself. 1 % is for the products of two errors.
        u = np.finfo(dtype or found.dtype).eps / 2 + np.finfo(np.float64).eps / 2
        bound = 1.01 * u * self.error + UNDERFLOW
        distance = np.abs(found - self.value)
        if not (distance <= bound).all():
            worst = np.unravel_index(np.argmax(distance - bound), distance.shape)
            raise AssertionError(
                f"{(~(distance <= bound)).sum()} of {found.size} values are further from the "
                f"formula than rounding can take them, the first at {worst}: {found[worst]!r} for "
                f"{self.value[worst]!r}, bound {bound[worst]:.3g}"
            )

    # A rearrangement moves values and errors alike.
    def map(self, rearrange: Callable[[np.ndarray], np.ndarray]) -> Rounded:
        """Indexing, transposition and the like; also a mean in higher precision."""
        return Rounded(rearrange(self.value), rearrange(self.error))

    def __getitem__(self, key) -> Rounded:
        return self.map(lambda array: array[key])

    def __add__(self, other) -> Rounded:
        other = _rounded(other)
        value = self.value + other.value
        return Rounded(value, self.error + other.error + np.abs(value))

    __radd__ = __add__

    def __neg__(self) -> Rounded:
        return Rounded(-self.value, self.error)

    def __sub__(self, other) -> Rounded:
        return self + -_rounded(other)

    def __rsub__(self, other) -> Rounded:
        return -self + other

    def __mul__(self, other) -> Rounded:
        other = _rounded(other)
        value = self.value * other.value
        passed = np.abs(self.value) * other.error + np.abs(other.value) * self.error
        return Rounded(value, passed + np.abs(value))

    __rmul__ = __mul__

    def __truediv__(self, other) -> Rounded:
        return self * _rounded(other).reciprocal()

    def __rtruediv__(self, other) -> Rounded:
        return other * self.reciprocal()

    def __matmul__(self, other) -> Rounded:
        other = _rounded(other)
        mine, theirs = np.abs(self.value), np.abs(other.value)
        passed = mine @ other.error + self.error @ theirs
        return Rounded(self.value @ other.value, passed + mine.shape[-1] * (mine @ theirs))

    def reciprocal(self) -> Rounded:
        """1 / x."""
        return self._function(1 / self.value, 1 / self.value**2, 1)

    def __pow__(self, power: int) -> Rounded:
        value = self.value**power
        slope = power * self.value ** (power - 1)
        return self._function(value, slope, power - 1)

    def sum(self, axis: int | tuple[int, ...] | None = -1) -> Rounded:
        """Over axes, which stay with length 1; None for all."""
        value, terms = (part.sum(axis, keepdims=True) for part in (self.value, np.abs(self.value)))
        roundings = self.value.size // value.size - 1
        return Rounded(value, self.error.sum(axis, keepdims=True) + roundings * terms)

    def mean(self, axis: int | tuple[int, ...] | None = -1) -> Rounded:
        """Over axes, which stay with length 1; None for all."""
        total = self.sum(axis)
        return total * (total.value.size / self.value.size)

    def exp(self) -> Rounded:
        """e^x."""
        value = np.exp(self.value)
        return self._function(value, value)

    def log(self) -> Rounded:
        """The natural logarithm."""
        return self._function(np.log(self.value), 1 / np.abs(self.value))

    def sqrt(self) -> Rounded:
        """The square root."""
        value = np.sqrt(self.value)
        assert not self.error[value == 0].any()  # there its slope is infinite
        return self._function(value, 0.5 / np.where(value == 0, 1, value), 1)

    def tanh(self) -> Rounded:
        """The hyperbolic tangent."""
        value = np.tanh(self.value)
        return self._function(value, 1 - value**2)

    def sigmoid(self) -> Rounded:
        """1 / (1 + e^-x)."""
        value = (1 + np.tanh(self.value / 2)) / 2
        return self._function(value, value * (1 - value), FUNCTION + 2)

    def erf(self) -> Rounded:
        """The error function. Approximations of it have an absolute error, as of 1."""
        value = np.vectorize(math.erf)(self.value)
        slope = 2 / math.sqrt(math.pi) * np.exp(-(self.value**2))
        return Rounded(value, slope * self.error + FUNCTION)

    def softmax(self) -> Rounded:
        """Along the last axis."""
        # Whichever number is taken for the largest, the result is the same.
        exponentials = (self - self.value.max(-1, keepdims=True)).exp()
        return exponentials / exponentials.sum()

    def log_softmax(self) -> Rounded:
        """Along the last axis."""
        largest = self.value.max(-1, keepdims=True)
        return self - ((self - largest).exp().sum().log() + largest)

    def _function(self, value, slope, roundings: int = FUNCTION) -> Rounded:
        return Rounded(value, np.abs(slope) * self.error + roundings * np.abs(value))


def _rounded(value) -> Rounded:
    return value if isinstance(value, Rounded) else Rounded(value)


def check_network(found, expected, tolerance: float = VALUES, size: float | None = None) -> None:
    """Fail unless two results of networks agree to VALUES, or GRADIENTS, of the largest value.

    Args:
        size: of the largest, where it is not one of `expected`.
    """
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    error = np.abs(found - expected).max() / (size or np.abs(expected).max())
    assert error <= tolerance, f"off by {error:.2e} of the largest value"


def check_forms(found, expected, size: float | None = None) -> None:
    """Fail unless two forms of one formula, both in float64, agree. Rounding is in proportion to
    the unit roundoff, so what float32 would give to a thousandth of `size`, float64 gives to a
    thousandth times 2^-29.

    Args:
        size: of the terms that are summed, where they cancel; else the largest value's.
    """
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype == np.float64
    assert found.shape == expected.shape
    worst, size = np.abs(found - expected).max(), size or np.abs(expected).max()
    assert worst <= 1e-3 * 2.0**-29 * size, f"they differ by {worst:.3g}, of {size:.3g}"


# --------------------------------------------------------------------------------------------------
# Formulas that several tests have
# --------------------------------------------------------------------------------------------------
def gelu(x) -> Rounded:
    """x times the normal distribution's integral."""
    return x * (1 + (Rounded(x) / math.sqrt(2)).erf()) / 2


def quick_gelu(x) -> Rounded:
    """x sigmoid(1.702 x)."""
    return x * (1.702 * Rounded(x)).sigmoid()


def layer_norm(x, eps: float) -> Rounded:
    """Along the last axis, without weights."""
    centred = Rounded(x) - Rounded(x).mean()
    return centred / ((centred * centred).mean() + eps).sqrt()


def attention(q_BHND, k_BHMD, v_BHMD, scale: float) -> tuple[Rounded, Rounded]:
    """The weights [B, H, N, M] and what they make of v."""
    weights = (Rounded(q_BHND) @ np.swapaxes(k_BHMD, -1, -2) * scale).softmax()
    return weights, weights @ v_BHMD
