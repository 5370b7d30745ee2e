"""What is known of a search: trials that ended, and how, in rows of numbers.

Failures are kept apart from bad values (they say where not to go, not how good a place is). Objectives are always to be
minimised; who maximises gives the negative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from incl_hpo.search.parameters import Array, Value
from incl_hpo.search.space import Space

Point: TypeAlias = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Observation:
    """A trial that ended.

    `values`: one number for each objective, to be minimised; none, or one that is not finite: the trial failed.
    `constraints`: numbers of which none may be above 0; a trial that breaks one is no result, but teaches where to go.
    """

    parameters: Point
    values: tuple[float, ...] = ()
    constraints: tuple[float, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether there is no usable value."""
        return not self.values or not all(map(math.isfinite, self.values))


@dataclass(frozen=True, slots=True)
class Evidence:
    """A history in numbers: n trials of the space, m of them with values."""

    units: Array
    """(n, d) where each trial was; NaN: not active."""
    ok: NDArray[np.bool_]
    """(n,) whether it has values."""
    values: Array
    """(m, objectives) of those that have."""
    constraints: Array
    """(m, constraints) of those that have; a missing or infinite one counts as broken."""
    pending: Array
    """(p, d) where trials run now."""
    asked: int
    """How many trials there were, also those that are none of this space."""

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """(m,) whether no constraint is broken."""
        return np.asarray(np.all(self.constraints <= 0, axis=1))


def evidence(space: Space, history: Sequence[Observation], pending: Sequence[Point]) -> Evidence:
    """Trials that are none of the space (it was changed since) are left out."""
    units = space.encode([o.parameters for o in history])
    inside = ~np.all(np.isnan(units), axis=1)
    kept = [o for o, good in zip(history, inside, strict=True) if good]
    width = max((len(o.values) for o in kept), default=0)
    ok = np.asarray([not o.failed and len(o.values) == width for o in kept], dtype=bool)
    good = [o for o, fine in zip(kept, ok, strict=True) if fine]
    running = space.encode(pending)
    return Evidence(
        units[inside],
        ok,
        np.asarray([o.values for o in good], dtype=np.float64).reshape(len(good), width),
        _constraints(good),
        running[~np.all(np.isnan(running), axis=1)],
        len(history) + len(pending),
    )


def _constraints(good: Sequence[Observation]) -> Array:
    width = max((len(o.constraints) for o in good), default=0)
    table = np.full((len(good), width), np.nan)
    for row, one in enumerate(good):
        table[row, : len(one.constraints)] = one.constraints
    broken = ~np.isfinite(table)
    worst = np.where(broken, 0.0, table).max(axis=0, initial=0.0)
    return np.where(broken, np.maximum(worst, 1.0), table)
