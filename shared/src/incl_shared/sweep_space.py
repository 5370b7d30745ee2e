"""Whether the parameters of a sweep make a space, and points are of it. Pure; complaints are ValueErrors.

The sampler checks the same again with its own means (`incl_hpo.domain.space`): here it is said where it was written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from incl_shared.sweep import Scalar, SweepParameter

_NUMERIC = ("uniform", "loguniform", "int", "quantised")
_STEPS = 2**53
Parameters = Mapping[str, "SweepParameter"]


def check_space(parameters: Parameters) -> None:
    """Whether there are values for each parameter, and conditions that can be met.

    Raises:
        ValueError: 'parameters.LR: …'.
    """
    if not parameters:
        raise ValueError("parameters: there are none; name at least one")
    for name, one in parameters.items():
        problem = _choices(one) if one.type == "categorical" else _range(one)
        if problem:
            raise ValueError(f"parameters: {name}: {problem}")
    for name, one in parameters.items():
        for parent, values in one.when.items():
            _check_condition(parameters, name, parent, values)
    _check_circles(parameters)


def _choices(one: SweepParameter) -> str:
    if not one.choices:
        return "it has no choices; give choices: [a, b]"
    if (one.low, one.high, one.step, one.log) != (None, None, None, False):
        return "choices have no range: leave out low, high, step and log"
    if len({key_of(value) for value in one.choices}) < len(one.choices):
        return "a choice stands twice"
    if any(isinstance(value, float) and not math.isfinite(value) for value in one.choices):
        return "a choice is no number; put it in quotes if it is a text"
    if any(isinstance(value, str) and "\x00" in value for value in one.choices):
        return "a choice has a NUL character"
    return ""


def _range(one: SweepParameter) -> str:
    low, high = one.low, one.high
    if one.choices:
        return "it has choices, so its type is categorical"
    if low is None or high is None:
        return "it needs low and high"
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        return f"[{low}, {high}] is empty or without end; low is at most high"
    if one.log and one.type != "int":
        return "log is of int; for other numbers there is the type loguniform"
    if (one.type == "loguniform" or one.log) and low <= 0:
        return f"a logarithmic range cannot begin at {low}; it must be above 0"
    if one.type == "int" and not all(isinstance(value, int) for value in (low, high, one.step or 1)):
        return "low, high and step of int are whole numbers"
    return _step(one, float(low), float(high))


def _step(one: SweepParameter, low: float, high: float) -> str:
    if one.type == "quantised" and one.step is None:
        return "quantised needs a step"
    if one.step is None:
        return ""
    if one.type not in ("int", "quantised") or one.log:
        return "a step is of int without log, and of quantised"
    if not 0 < one.step < math.inf or (high - low) / one.step >= _STEPS:
        return f"a step of {one.step}: it must be above 0, and not too fine"
    return ""


def key_of(value: Scalar) -> tuple[str, Scalar]:
    """What tells two values apart: 1, 1.0 and true are three."""
    return type(value).__name__, value


def has(one: SweepParameter, value: Scalar) -> bool:
    """Whether a parameter can have a value."""
    if one.type == "categorical":
        return key_of(value) in {key_of(choice) for choice in one.choices}
    if isinstance(value, bool | str) or (one.type == "int" and not isinstance(value, int)):
        return False
    low, high = float(one.low or 0), float(one.high or 0)
    slack = 1e-9 * max(abs(low), abs(high))
    if not low - slack <= value <= high + slack:
        return False
    steps = (value - low) / one.step if one.step else 0.0
    return abs(steps - round(steps)) < 1e-6


def _check_condition(parameters: Parameters, name: str, parent: str, values: Sequence[Scalar]) -> None:
    if parent not in parameters:
        raise ValueError(f"parameters: {name}: it depends on {parent}, which there is not")
    impossible = [value for value in values if not has(parameters[parent], value)]
    if impossible:
        raise ValueError(f"parameters: {name}: when {parent} is {impossible[0]!r}, which it never is")


def _check_circles(parameters: Parameters) -> None:
    placed: set[str] = set()
    while len(placed) < len(parameters):
        ready = {name for name, one in parameters.items() if name not in placed and set(one.when) <= placed}
        if not ready:
            left = ", ".join(sorted(set(parameters) - placed))
            raise ValueError(f"parameters: conditions go in a circle: {left}")
        placed |= ready


def active(parameters: Parameters, point: Mapping[str, Scalar]) -> set[str]:
    """The parameters that exist at a point."""
    found: set[str] = set()
    more = True
    while more:
        ready = {
            name
            for name, one in parameters.items()
            if name not in found and all(_met(point, found, parent, values) for parent, values in one.when.items())
        }
        found |= ready
        more = bool(ready)
    return found


def _met(point: Mapping[str, Scalar], found: set[str], parent: str, values: Sequence[Scalar]) -> bool:
    if parent not in found or parent not in point:
        return False
    given = point[parent]
    return any(given == value and isinstance(given, bool) is isinstance(value, bool) for value in values)


def check_initial(parameters: Parameters, points: Sequence[Mapping[str, Scalar]]) -> None:
    """Whether points are points of the space, each of them once.

    Raises:
        ValueError: 'initial: …'.
    """
    seen: set[frozenset[tuple[str, tuple[str, Scalar]]]] = set()
    for number, point in enumerate(points, 1):
        wanted = active(parameters, point)
        for name in sorted(set(point) ^ wanted):
            what = "is missing" if name in wanted else "does not exist there"
            raise ValueError(f"initial: point {number}: {name} {what}")
        for name, value in point.items():
            if not has(parameters[name], value):
                raise ValueError(f"initial: point {number}: {name} cannot be {value!r}")
        key = frozenset((name, key_of(value)) for name, value in point.items())
        if key in seen:
            raise ValueError(f"initial: point {number} stands there twice")
        seen.add(key)
