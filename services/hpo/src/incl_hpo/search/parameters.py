"""The kinds of parameters, each with its way to the unit interval and back.

A numeric parameter is a number in [0, 1] (the logarithm's share of its range, where it is logarithmic; the middle of
its cell, where it has steps), a categorical one the index of its choice.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from incl_hpo.search.errors import SpaceError

Array: TypeAlias = NDArray[np.float64]
Value: TypeAlias = float | int | str | bool | None
When: TypeAlias = Mapping[str, Sequence[Value]]

_LEVELS = 2**53


def key_of(value: Value) -> tuple[str, Value]:
    """What tells two choices apart: 1, 1.0 and True are three."""
    return type(value).__name__, value


def _numbers(values: Sequence[Any]) -> Array:
    """Numbers as floats; what is none (also True, a text, an integer beyond floats) as NaN."""
    if set(map(type, values)) <= {float, int}:
        with contextlib.suppress(OverflowError):
            return np.asarray(values, dtype=np.float64)
    return np.asarray([_number(value) for value in values], dtype=np.float64)


def _number(value: Any) -> float:
    if value is None or isinstance(value, bool | str):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


@dataclass(frozen=True, slots=True)
class Float:
    """A number in [low, high]; uniform, uniform in its logarithm (`log`), or in steps from low (`step`).

    Raises:
        SpaceError: an empty or infinite range, a log range that reaches 0, a log range with steps.
    """

    name: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    when: When = field(default_factory=dict)

    def __post_init__(self) -> None:
        low, high = self.low, self.high
        if not (math.isfinite(low) and math.isfinite(high) and low <= high and math.isfinite(high - low)):
            raise SpaceError(f"parameter {self.name}: [{low}, {high}] is no range", "low <= high, both finite")
        if self.log and low <= 0:
            raise SpaceError(f"parameter {self.name}: a log range begins at {low}", "it must be above 0")
        if self.step is not None and (self.log or not 0 < self.step < math.inf):
            raise SpaceError(f"parameter {self.name}: a step of {self.step}", "above 0, and not in a log range")
        if self.step is not None and (high - low) / self.step >= _LEVELS:
            raise SpaceError(f"parameter {self.name}: the step {self.step} is too fine", "leave the step out")

    @property
    def levels(self) -> int:
        """How many values there are; 0: a continuum."""
        if self.low == self.high:
            return 1
        return 0 if self.step is None else int((self.high - self.low) / self.step + 1e-9) + 1

    def to_units(self, values: Sequence[Any]) -> Array:
        """(n,) units of values; NaN for what is out of range."""
        numbers = _numbers(values)
        slack = 1e-9 * max(abs(self.low), abs(self.high))
        with np.errstate(invalid="ignore"):
            numbers = np.where((numbers < self.low - slack) | (numbers > self.high + slack), np.nan, numbers)
        if self.levels == 1:
            return np.where(np.isnan(numbers), np.nan, 0.5)
        if self.step is not None:
            return (np.clip(np.rint((numbers - self.low) / self.step), 0, self.levels - 1) + 0.5) / self.levels
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return np.clip((np.log(np.clip(numbers, self.low, self.high)) - low) / (high - low), 0, 1)
        return np.clip((numbers - self.low) / (self.high - self.low), 0, 1)

    def value(self, unit: float) -> float:
        """The value at a unit."""
        if self.levels:
            level = min(int(unit * self.levels), self.levels - 1)
            return min(self.low + level * (self.step or 0.0), self.high)
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return min(max(math.exp(low + unit * (high - low)), self.low), self.high)
        return min(max(self.low + unit * (self.high - self.low), self.low), self.high)

    def snap(self, units: Array) -> Array:
        """(n,) units moved to where there are values."""
        if not self.levels:
            return np.clip(units, 0.0, 1.0)
        return (np.clip(np.floor(units * self.levels), 0, self.levels - 1) + 0.5) / self.levels


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number in [low, high], in steps from low; `log`: each factor as likely as any other.

    Raises:
        SpaceError: an empty range, a log range that reaches 0, a log range with steps.
    """

    name: str
    low: int
    high: int
    log: bool = False
    step: int = 1
    when: When = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not -_LEVELS < self.low <= self.high < _LEVELS:
            raise SpaceError(f"parameter {self.name}: [{self.low}, {self.high}] is no range", "low <= high")
        if self.log and self.low < 1:
            raise SpaceError(f"parameter {self.name}: a log range begins at {self.low}", "it must be at least 1")
        if self.step < 1 or (self.log and self.step != 1):
            raise SpaceError(f"parameter {self.name}: a step of {self.step}", "at least 1, and not in a log range")

    @property
    def levels(self) -> int:
        """How many values there are."""
        return (self.high - self.low) // self.step + 1

    def _edges(self) -> tuple[float, float]:
        return math.log(self.low - 0.5), math.log(self.high + 0.5)

    def to_units(self, values: Sequence[Any]) -> Array:
        """(n,) units of values; NaN for what is out of range."""
        numbers = _numbers(values)
        with np.errstate(invalid="ignore"):
            numbers = np.where((numbers < self.low) | (numbers > self.high), np.nan, np.rint(numbers))
        if self.log:
            low, high = self._edges()
            return (np.log(numbers) - low) / (high - low)
        return (np.clip(np.rint((numbers - self.low) / self.step), 0, self.levels - 1) + 0.5) / self.levels

    def value(self, unit: float) -> int:
        """The value at a unit."""
        if self.log:
            low, high = self._edges()
            return min(max(round(math.exp(low + unit * (high - low))), self.low), self.high)
        return self.low + min(int(unit * self.levels), self.levels - 1) * self.step

    def snap(self, units: Array) -> Array:
        """(n,) units moved to where there are values."""
        if self.log:
            low, high = self._edges()
            numbers = np.clip(np.rint(np.exp(low + units * (high - low))), self.low, self.high)
            return np.asarray((np.log(numbers) - low) / (high - low))
        return (np.clip(np.floor(units * self.levels), 0, self.levels - 1) + 0.5) / self.levels


@dataclass(frozen=True, slots=True)
class Categorical:
    """One of several values without an order.

    Raises:
        SpaceError: no choice, or the same choice twice.
    """

    name: str
    choices: tuple[Value, ...]
    when: When = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.choices:
            raise SpaceError(f"parameter {self.name}: no choices", "give at least one")
        if len({key_of(choice) for choice in self.choices}) != len(self.choices):
            raise SpaceError(f"parameter {self.name}: a choice stands twice", "name each once")

    @property
    def levels(self) -> int:
        """How many values there are."""
        return len(self.choices)

    def to_units(self, values: Sequence[Any]) -> Array:
        """(n,) indices of values; NaN for what is none of the choices."""
        index = {key_of(choice): float(number) for number, choice in enumerate(self.choices)}
        return np.asarray([index.get((type(v).__name__, v), math.nan) for v in values], dtype=np.float64)

    def value(self, unit: float) -> Value:
        """The value at an index."""
        return self.choices[min(max(int(unit), 0), len(self.choices) - 1)]

    def snap(self, units: Array) -> Array:
        """(n,) indices moved to where there are choices."""
        return np.asarray(np.clip(np.floor(units), 0, len(self.choices) - 1))


Parameter: TypeAlias = Float | Integer | Categorical
