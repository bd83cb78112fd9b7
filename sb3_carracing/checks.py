"""Argument checks that return the value or raise a `UserError` naming the argument, its value and the valid ones."""

import math
import operator
from collections.abc import Iterable
from numbers import Real

from sb3_carracing.errors import UserError


def whole_number(name: str, value: int, low: int, high: int | None = None) -> int:
    """Return `value` as an int, or raise UserError unless it is a whole number from `low` to `high`."""
    bounds = f"from {low} to {high}" if high is not None else f"of at least {low}"
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if isinstance(value, bool) or number < low or (high is not None and number > high):
        raise UserError(f"{name} must be a whole number {bounds}, got {value!r}")
    return number


def finite_number(name: str, value: float, low: float = -math.inf, high: float = math.inf) -> float:
    """Return `value` as a float, or raise UserError unless it is finite and from `low` to `high`."""
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value) or not low <= value <= high:
        bounds = "a finite number"
        if high < math.inf:
            bounds = f"a number from {low:g} to {high:g}"
        elif low > -math.inf:
            bounds = f"a finite number of at least {low:g}"
        raise UserError(f"{name} must be {bounds}, got {value!r}")
    return float(value)


def one_of(name: str, value: str, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`.

    Raises:
        UserError: if it is not.
    """
    choices = tuple(choices)
    if value not in choices:
        raise UserError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value
