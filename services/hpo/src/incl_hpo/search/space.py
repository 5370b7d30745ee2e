"""A space of parameters, some of which exist only `when` others have certain values.

Points are mappings of name to value, with the active parameters alone. The samplers work on rows of (d,) units, where
NaN marks a parameter that is not active.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from incl_hpo.search.errors import PointError, SpaceError
from incl_hpo.search.parameters import Array, Categorical, Integer, Parameter, Value

FINITE = 100_000
"""A space with more combinations than this counts as one without end."""


@dataclass(frozen=True)
class Space:
    """Parameters, in an order in which each stands after those that it depends on.

    Raises:
        SpaceError: no parameter, a name twice, a condition on an unknown name, on what cannot be, or in a circle.
    """

    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        if not self.parameters:
            raise SpaceError("the space has no parameters", "name at least one")
        names = [parameter.name for parameter in self.parameters]
        if len(set(names)) != len(names):
            raise SpaceError(f"a parameter stands twice: {max(names, key=names.count)}", "name each once")
        object.__setattr__(self, "parameters", _in_order(self.parameters))
        for parameter in self.parameters:
            self._check_condition(parameter)

    def _check_condition(self, parameter: Parameter) -> None:
        for name, values in parameter.when.items():
            parent = self.parameters[self.index[name]]
            if not len(values) or np.isnan(parent.to_units(values)).any():
                raise SpaceError(
                    f"parameter {parameter.name}: when {name} is {list(values)}, which it never is",
                    f"give values that {name} can have",
                )

    @cached_property
    def index(self) -> dict[str, int]:
        """The column of each name."""
        return {parameter.name: number for number, parameter in enumerate(self.parameters)}

    @cached_property
    def categorical(self) -> NDArray[np.bool_]:
        """(d,) which parameters have no order."""
        return np.asarray([isinstance(parameter, Categorical) for parameter in self.parameters])

    @cached_property
    def levels(self) -> NDArray[np.int64]:
        """(d,) how many values each parameter has; 0: a continuum."""
        return np.asarray([parameter.levels for parameter in self.parameters], dtype=np.int64)

    @cached_property
    def conditions(self) -> dict[int, tuple[tuple[int, Array], ...]]:
        """Each conditional column, with the columns and the units that it waits for."""
        return {
            column: tuple((self.index[n], self.parameters[self.index[n]].to_units(v)) for n, v in p.when.items())
            for column, p in enumerate(self.parameters)
            if p.when
        }

    def exists(self, parameter: Parameter, point: Mapping[str, Any]) -> bool:
        """Whether a parameter exists at a point that has all that it depends on."""
        row = [one.to_units([point[one.name]])[0] if one.name in point else math.nan for one in self.parameters]
        return bool(self._active(np.asarray([row]), self.index[parameter.name])[0])

    def activate(self, units: Array) -> Array:
        """(n, d) the same rows with NaN where a condition does not hold; changes them in place."""
        for column in self.conditions:
            units[~self._active(units, column), column] = np.nan
        return units

    def _active(self, units: Array, column: int) -> NDArray[np.bool_]:
        """(n,) whether a column is active in rows whose earlier columns are settled."""
        active = np.ones(len(units), dtype=bool)
        for parent, wanted in self.conditions.get(column, ()):
            active &= (np.abs(units[:, parent, None] - wanted) < 1e-9).any(axis=1)
        return active

    def snap(self, units: Array) -> Array:
        """(n, d) rows without NaN, moved to the nearest points that exist."""
        moved = np.empty_like(units)
        for column, parameter in enumerate(self.parameters):
            moved[:, column] = parameter.snap(units[:, column])
        return self.activate(moved)

    def scale(self, cube: Array) -> Array:
        """(n, d) points of the unit cube as points of the space: categorical columns become indices."""
        return self.snap(self.scale_loose(cube))

    def scale_loose(self, cube: Array) -> Array:
        """(n, d) the same, not yet moved to points that exist."""
        return np.where(self.categorical, cube * np.maximum(self.levels, 1), cube)

    def encode(self, points: Sequence[Mapping[str, Any]]) -> Array:
        """(n, d) rows of points; a row that is none of the space (a value missing or out of range) is all NaN."""
        units = np.empty((len(points), len(self.parameters)))
        for column, parameter in enumerate(self.parameters):
            units[:, column] = parameter.to_units([point.get(parameter.name) for point in points])
        missing = np.isnan(units)
        inactive = np.isnan(self.activate(np.where(missing, -1.0, units)))
        units[inactive] = np.nan
        units[(missing & ~inactive).any(axis=1)] = np.nan
        return units

    def decode(self, row: Array) -> dict[str, Value]:
        """The point of a row: its active parameters, in the order of the space."""
        return {
            parameter.name: parameter.value(float(unit))
            for parameter, unit in zip(self.parameters, row, strict=True)
            if not math.isnan(unit)
        }

    def check(self, point: Mapping[str, Any]) -> None:
        """Whether a point is one of the space.

        Raises:
            PointError: it has a name too many or too few, or a value out of range.
        """
        row = self.encode([point])[0]
        if np.isnan(row).all():
            raise PointError("the point is none of the space: a value is missing or out of range")
        active = {parameter.name for parameter, unit in zip(self.parameters, row, strict=True) if not math.isnan(unit)}
        if set(point) != active:
            raise PointError(f"not active here: {sorted(set(point) - active)}", "leave it out")

    @cached_property
    def size(self) -> int | None:
        """How many points there are; None: more than FINITE, or a continuum."""
        if (self.levels == 0).any():
            return None
        count = len(self.grid(limit=FINITE + 1))
        return count if count <= FINITE else None

    def grid(self, continuous: int = 1, limit: int = FINITE) -> Array:
        """(n, d) all combinations (the first `limit`), the last parameter changing fastest.

        `continuous`: how many values of a continuum are taken, in the middles of as many cells.
        """
        rows = np.full((1, len(self.parameters)), np.nan)
        for column, parameter in enumerate(self.parameters):
            active = self._active(rows, column)
            values = _units_of(parameter, parameter.levels or continuous)[: limit + 1]
            counts = np.where(active, len(values), 1)
            counts = counts[: int(np.searchsorted(np.cumsum(counts), limit)) + 1]
            starts = np.repeat(np.cumsum(counts) - counts, counts)
            chosen = np.repeat(np.arange(len(counts)), counts)
            rows = rows[chosen]
            rows[:, column] = np.where(active[chosen], values[np.arange(len(rows)) - starts], np.nan)
            rows = rows[:limit]
        return rows


def _units_of(parameter: Parameter, count: int) -> Array:
    """(count,) the units of a parameter's values, at most FINITE + 1 of them."""
    cells = np.arange(min(count, FINITE + 1), dtype=np.float64)
    if isinstance(parameter, Categorical):
        return cells
    if isinstance(parameter, Integer) and parameter.log:
        return parameter.to_units(list(parameter.low + cells))
    return (cells + 0.5) / count


def _in_order(parameters: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
    """Parents before children, else as given."""
    known = {parameter.name for parameter in parameters}
    for parameter in parameters:
        for name in parameter.when:
            if name not in known:
                raise SpaceError(f"parameter {parameter.name} depends on {name}, which there is not", "name it")
    placed: list[Parameter] = []
    left = list(parameters)
    while left:
        done = {parameter.name for parameter in placed}
        ready = [parameter for parameter in left if set(parameter.when) <= done]
        if not ready:
            names = ", ".join(parameter.name for parameter in left)
            raise SpaceError(f"conditions go in a circle: {names}", "let one of them stand alone")
        placed.append(ready[0])
        left.remove(ready[0])
    return tuple(placed)


def rows_known(units: Array) -> set[bytes]:
    """What tells rows apart, to 12 digits."""
    rounded = np.round(np.nan_to_num(units, nan=-1.0), 12) + 0.0
    return {row.tobytes() for row in rounded}


def new_rows(units: Array, known: set[bytes]) -> NDArray[np.bool_]:
    """(n,) which rows are none of the known."""
    rounded = np.round(np.nan_to_num(units, nan=-1.0), 12) + 0.0
    return np.asarray([row.tobytes() not in known for row in rounded], dtype=bool)
