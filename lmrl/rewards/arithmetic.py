"""What `+`, `-`, `*` and `/` make of rewards."""

from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # combinations are rewards, and rewards have these operators
    from .base import Reward

Operand = Callable[..., Any] | float


class Arithmetic:
    """
    The operators of a reward. The other side is a reward, a plain function that is one, or a number.

    | written | made |
    |---|---|
    | `0.7 * a + 0.3 * b`, `a + b - c` | one [`Weighted`] of all that is added up |
    | `0.7 * a`, `a / 2`, `-a` | a [`Weighted`] of one |
    | `a * b`, `a * b * c` | one [`Product`] |
    | `a + 1`, `1 - a` | a [`Scaled`] |

    A sum or a product that was given a name of its own stays whole in a longer one, and is logged under its name.
    """

    def __add__(self, other: Operand) -> "Reward":
        return _sum(self, other)

    def __radd__(self, other: Operand) -> "Reward":
        return _sum(other, self)

    def __sub__(self, other: Operand) -> "Reward":
        return _sum(self, other, sign=-1.0)

    def __rsub__(self, other: Operand) -> "Reward":
        return _sum(other, self, sign=-1.0)

    def __neg__(self) -> "Reward":
        return _product(self, -1.0)

    def __mul__(self, other: Operand) -> "Reward":
        return _product(self, other)

    def __rmul__(self, other: Operand) -> "Reward":
        return _product(other, self)

    def __truediv__(self, number: float) -> "Reward":
        if not isinstance(number, Real):
            raise TypeError(f"A reward can be divided by a number, not by {number!r}.")
        return _product(self, 1 / number)


def _sum(left: Any, right: Any, sign: float = 1.0) -> "Reward":
    from .combine import Weighted
    from .transform import Scaled

    if isinstance(right, Real):
        return Scaled(left, shift=sign * float(right))
    if isinstance(left, Real):
        zero: bool = left == 0 and sign == 1  # where Python's `sum` begins
        return right if zero else Scaled(right, scale=sign, shift=float(left))
    _check_callable("added", left, right)
    return Weighted([*_terms(left, 1.0), *_terms(right, sign)])


def _product(left: Any, right: Any) -> "Reward":
    from .combine import Product, Weighted

    for number, reward in ((left, right), (right, left)):
        if isinstance(number, Real):
            return Weighted(_terms(reward, float(number)))
    _check_callable("multiplied", left, right)
    return Product([*_factors(left), *_factors(right)])


def _check_callable(done: str, *operands: Any) -> None:
    for operand in operands:
        if not callable(operand):
            raise TypeError(f"Rewards, functions and numbers can be {done}, got {operand!r}.")


def _terms(reward: Any, factor: float) -> list[tuple[Any, float]]:
    from .combine import Weighted

    if isinstance(reward, Weighted) and reward.__name__ == reward.default_name:
        return [(part, factor * weight) for part, weight in zip(reward.components, reward.weights, strict=True)]
    return [(reward, factor)]


def _factors(reward: Any) -> tuple[Any, ...]:
    from .combine import Product

    return reward.components if isinstance(reward, Product) and reward.__name__ == reward.default_name else (reward,)
