"""Samplers that learn nothing: random, Sobol's sequence, a grid. They are also what the model begins with.

Bergstra & Bengio (2012) for random search; Owen's scrambling of Sobol's sequence by SciPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

from incl_hpo.search.errors import SpaceExhaustedError
from incl_hpo.search.observations import Observation, Point
from incl_hpo.search.parameters import Array, Value
from incl_hpo.search.space import Space, new_rows, rows_known

_TRIES = 64
_MOST = 20_000
"""A grid with more points is drawn from, not gone through."""
_SEEDS = 2**63


def generator(seed: int, asked: int) -> np.random.Generator:
    """The chance of one question: of the seed, and of how many questions came before."""
    return np.random.default_rng([seed % _SEEDS, asked])


def sobol(space: Space, seed: int, first: int, count: int) -> Array:
    """(count, d) points of the scrambled sequence, from number `first` on."""
    engine = qmc.Sobol(len(space.parameters), scramble=True, rng=np.random.default_rng([seed % _SEEDS, 1]))
    if first:
        engine.fast_forward(first)
    power = int(count).bit_length()
    return space.scale(engine.random_base2(power)[:count] if not first else engine.random(count))


def known(space: Space, history: Sequence[Observation], pending: Sequence[Point]) -> set[bytes]:
    """What tells apart the points that were asked for already."""
    return rows_known(space.encode([*(one.parameters for one in history), *pending]))


def any_new(space: Space, seen: set[bytes], rng: np.random.Generator) -> Array:
    """(d,) a random point that was not asked for.

    Raises:
        SpaceExhaustedError: there is none.
    """
    for _ in range(_TRIES):
        rows = space.scale(rng.random((16, len(space.parameters))))
        fresh = new_rows(rows, seen)
        if fresh.any():
            return np.asarray(rows[fresh][0])
    if space.size is not None:
        rows = space.grid()
        left = rows[new_rows(rows, seen)]
        if len(left):
            return np.asarray(left[rng.integers(len(left))])
    raise SpaceExhaustedError("every point of the space was tried", "end the sweep, or widen its space")


@dataclass(frozen=True, slots=True)
class Random:
    """Uniform in the units of the space."""

    def ask(
        self, space: Space, history: Sequence[Observation], pending: Sequence[Point], seed: int
    ) -> dict[str, Value]:
        """See `Sampler.ask`."""
        rng = generator(seed, len(history) + len(pending))
        return space.decode(any_new(space, known(space, history, pending), rng))


@dataclass(frozen=True, slots=True)
class Sobol:
    """The scrambled sequence of Sobol: as even as it can be after any number of trials."""

    def ask(
        self, space: Space, history: Sequence[Observation], pending: Sequence[Point], seed: int
    ) -> dict[str, Value]:
        """See `Sampler.ask`."""
        asked = len(history) + len(pending)
        seen = known(space, history, pending)
        rows = sobol(space, seed, asked, 4)
        fresh = new_rows(rows, seen)
        row = rows[fresh][0] if fresh.any() else any_new(space, seen, generator(seed, asked))
        return space.decode(row)


@dataclass(frozen=True, slots=True)
class Grid:
    """All combinations, in a random order; a continuum is cut into `continuous` cells, and the middles are taken."""

    continuous: int = 5

    def ask(
        self, space: Space, history: Sequence[Observation], pending: Sequence[Point], seed: int
    ) -> dict[str, Value]:
        """See `Sampler.ask`."""
        rows = space.grid(self.continuous, _MOST + 1)
        if len(rows) > _MOST:
            rows = self._some(space, generator(seed, len(history) + len(pending)))
        rows = rows[np.random.default_rng([seed % _SEEDS, 2]).permutation(len(rows))]
        fresh = new_rows(rows, known(space, history, pending))
        if not fresh.any():
            raise SpaceExhaustedError("every point of the grid was tried", "end the sweep, or make the grid finer")
        return space.decode(rows[int(np.argmax(fresh))])

    def _some(self, space: Space, rng: np.random.Generator) -> Array:
        """Points of a grid that is too large to be written down."""
        cube = rng.random((_TRIES, len(space.parameters)))
        middles = (np.floor(cube * self.continuous) + 0.5) / self.continuous
        return space.scale(np.where(space.levels == 0, middles, cube))
