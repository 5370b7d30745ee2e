"""The sampler of the platform: a tree-structured Parzen estimator that proposes, and a Gaussian process that ranks.

1. The first trials are points of a scrambled Sobol sequence.
2. Parzen densities of the good trials propose candidates (Bergstra et al. 2011, Falkner et al. 2018), beside mutations
   of the best trials and points from anywhere.
3. A Gaussian process on warped values ranks them by the log of the expected improvement (Ament et al. 2023), times the
   chance that a trial works there; trials that run are believed to bring what is expected of them.
4. The best are improved by mutations and along the slope.

Which of these parts is worth how much is measured: docs/mechanisms/search.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from incl_hpo.search import designs
from incl_hpo.search.acquisition import Acquisition, Below, Improvement, Term
from incl_hpo.search.climbing import around, ascend
from incl_hpo.search.gaussian import Prior, Process, filled, fit
from incl_hpo.search.objectives import scalarise
from incl_hpo.search.observations import Evidence, Observation, Point, evidence
from incl_hpo.search.parameters import Array, Value
from incl_hpo.search.parzen import Parzen
from incl_hpo.search.space import Space, new_rows, rows_known
from incl_hpo.search.threads import one_thread
from incl_hpo.search.warping import warp

_CLIMB = 5_000
"""Steps along the slope times trials."""
_RUNNING = 100
"""Trials that run and enter the process, at most: the latest."""
_FIT_SIZE = 2e5
"""Trials squared times parameters that the fit is given: it bounds its time."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The parts of the sampler, each of which can be turned off, and their sizes."""

    start: int = 8
    """Trials of the Sobol sequence at the beginning, at least."""
    warp: float = 1.0
    """How far values are bent to a normal distribution; 0: not."""
    densities: bool = True
    """Candidates from Parzen densities."""
    mutations: bool = True
    """Candidates around the best, and rounds of mutation."""
    slope: int = 3
    """How many candidates climb along the slope."""
    bad: float = 0.5
    """To which share of their differences the worse half of the values is drawn together."""
    believers: bool = True
    """Trials that run enter as believed."""
    feasibility: bool = True
    """Failures are learned from."""
    candidates: int = 512
    steps: int = 25
    """Of the fit of the process."""
    fitted: int = 140
    """Trials that the hyper-parameters are fitted to, at most."""
    modelled: int = 220
    """Of more trials than this, three quarters of it (fewer with several processes) are modelled: the best, and some of
    the rest."""
    prior: Prior = field(default_factory=Prior)


@dataclass(frozen=True, slots=True)
class Tpe:
    """See the module. Holds no state: everything comes in with the question."""

    recipe: Recipe = field(default_factory=Recipe)

    def ask(
        self, space: Space, history: Sequence[Observation], pending: Sequence[Point], seed: int
    ) -> dict[str, Value]:
        """See `Sampler.ask`."""
        known = evidence(space, history, pending)
        rng = designs.generator(seed, known.asked)
        seen = rows_known(np.concatenate([known.units, known.pending]))
        if len(known.units) + len(known.pending) < self.recipe.start or not len(known.units):
            row = _first_new(designs.sobol(space, seed, known.asked, 8), seen)
        else:
            with one_thread():
                row = _Question(space, known, seen, rng, self.recipe).answer()
        return space.decode(designs.any_new(space, seen, rng) if row is None else row)


class _Question:
    """One ask: the models of this moment, and the search for their best point."""

    def __init__(
        self, space: Space, known: Evidence, seen: set[bytes], rng: np.random.Generator, recipe: Recipe
    ) -> None:
        self._space, self._known, self._seen, self._rng, self._recipe = space, known, seen, rng, recipe
        found = known.units[known.ok]
        self._y = warp(scalarise(known.values, rng), recipe.warp, recipe.bad) if len(found) else np.empty(0)
        order = np.lexsort((self._y, ~known.feasible)) if len(found) else np.empty(0, dtype=np.int64)
        self._found, self._y, self._feasible = found[order], self._y[order], known.feasible[order]
        self._constraints = known.constraints[order]
        self._models = 1 + (not known.ok.all()) + known.constraints.shape[1]

    def answer(self) -> Array | None:
        """The best point that was not asked for; None: only seen ones were found."""
        acquisition = Acquisition(self._terms())
        rows = self._candidates()
        scores = self._score(acquisition, rows)
        rows, scores = self._improve(acquisition, rows, scores)
        order = np.argsort(-scores, kind="stable")
        return _first_new(rows[order], self._seen)

    def _terms(self) -> list[Term]:
        terms: list[Term] = []
        if self._feasible.any():
            kept = self._kept(len(self._found))
            process = self._process(self._found[kept], self._y[kept])
            best = np.concatenate([filled(self._found[self._feasible][:50], self._space.categorical), self._running()])
            mean, _ = process.predict(best)
            terms.append(Improvement(process, float(mean.min())))
        return terms + self._chances()

    def _chances(self) -> list[Term]:
        """That a trial works, and that it keeps each constraint."""
        if not self._recipe.feasibility:
            return []
        terms: list[Term] = [self._works()] if not self._known.ok.all() else []
        for column in self._constraints.T:
            bent = warp(np.concatenate([column, [0.0]]))
            kept = self._kept(len(self._found))
            terms.append(Below(self._process(self._found[kept], bent[:-1][kept]), float(bent[-1])))
        return terms

    def _works(self) -> Term:
        """The chance that a trial does not fail: a process on 1 (failed) and -1."""
        labels = np.where(self._known.ok, -1.0, 1.0)
        kept = self._kept(len(labels))
        prior = Prior(length=-0.5, noise=-4.0)
        return Below(self._process(self._known.units[kept], labels[kept], prior), 0.0, 0.3)

    def _kept(self, count: int) -> NDArray[np.int64]:
        """Which of `count` ordered trials are modelled."""
        most = self._recipe.modelled
        if count <= most:
            return np.arange(count)
        most = max(most * 3 // (2 + 2 * self._models), min(most, 60))
        rest = self._rng.permutation(np.arange(most // 2, count))[: most - most // 2]
        return np.concatenate([np.arange(most // 2), np.sort(rest)])

    def _process(self, units: Array, y: Array, prior: Prior | None = None) -> Process:
        categorical = self._space.categorical
        x = filled(units, categorical)
        some, steps = np.arange(len(x)), self._recipe.steps
        most = min(self._recipe.fitted, int((_FIT_SIZE / x.shape[1] / self._models) ** 0.5))
        if len(x) > most:
            some, steps = self._rng.permutation(len(x))[:most], max(steps // 2, 1)
        hyper = fit(x[some], y[some], categorical, prior or self._recipe.prior, steps)
        return Process(x, y, categorical, hyper, self._running())

    def _running(self) -> Array:
        """(p, d) filled rows of the trials that run and are believed."""
        rows = self._known.pending[-_RUNNING:] if self._recipe.believers else self._known.pending[:0]
        return filled(rows, self._space.categorical)

    def _candidates(self) -> Array:
        space, rng, recipe = self._space, self._rng, self._recipe
        part = recipe.candidates // 3
        parts = [space.scale(rng.random((part, len(space.parameters))))]
        best = self._found if len(self._found) else self._known.units
        if recipe.densities:
            good = best[: max(3, min(25, int(0.15 * len(best)) + 1))]
            parts.append(Parzen(space, good).sample(rng, part))
        if recipe.mutations:
            parts += [around(space, best[:4], rng, part // 3, scale) for scale in (0.2, 0.05, 0.01)]
        return np.concatenate(parts)

    def _score(self, acquisition: Acquisition, rows: Array) -> Array:
        return acquisition(filled(rows, self._space.categorical))

    def _improve(self, acquisition: Acquisition, rows: Array, scores: Array) -> tuple[Array, Array]:
        recipe = self._recipe
        if recipe.mutations:
            for scale in (0.1, 0.03, 0.01):
                best = rows[np.argsort(-scores, kind="stable")[:6]]
                more = around(self._space, best, self._rng, 64, scale)
                rows = np.concatenate([rows, more])
                scores = np.concatenate([scores, self._score(acquisition, more)])
        if recipe.slope:
            starts = recipe.slope if len(self._found) <= recipe.modelled else 1
            best = rows[np.argsort(-scores, kind="stable")[:starts]]
            steps = max(10, min(25, _CLIMB // max(len(self._found), 1)))
            more = np.stack([ascend(self._space, acquisition, row, steps) for row in best])
            rows = np.concatenate([rows, more])
            scores = np.concatenate([scores, self._score(acquisition, more)])
        return rows, scores


def _first_new(rows: Array, seen: set[bytes]) -> Array | None:
    fresh = new_rows(rows, seen)
    return np.asarray(rows[int(np.argmax(fresh))]) if fresh.any() else None
