"""The sampler of the platform: a tree-structured Parzen estimator that proposes, and a Gaussian process that ranks.

1. The first trials are points of a scrambled Sobol sequence.
2. Parzen densities of the good trials propose candidates (Bergstra et al. 2011, Falkner et al. 2018), beside mutations
   of the best trials and points from anywhere.
3. A Gaussian process on warped values ranks them by the log of the expected improvement (Ament et al. 2023), times the
   chance that a trial works there; trials that run are believed to bring what is expected of them. Each third question
   is answered by one that takes hills for noise, and a fifth within one branch of the space. Any branch but that of the
   best trial is searched by a process of its own.
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
_OUTSIDE = 1e6
"""So much less than its score a point outside of the branch that is asked for is worth."""
_ALONE = 4
"""Trials of a branch with which it is searched by itself."""
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
    branches: float = 0.2
    """Share of the questions that are answered within one branch of the space, taken at random."""
    wide: int = 3
    """Each so many-th question is answered with the wide prior: hills are noise to it, the country counts; 0: none."""
    candidates: int = 512
    steps: int = 25
    """Of the fit of the process."""
    fitted: int = 140
    """Trials that the hyper-parameters are fitted to, at most."""
    modelled: int = 220
    """Of more trials than this, three quarters of it (fewer with several processes) are modelled: the best, and some of
    the rest."""
    prior: Prior = field(default_factory=Prior)
    wide_prior: Prior = field(default_factory=lambda: Prior(length=1.0, noise=-2.0))


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
                row = self._modelled(space, known, seen, rng)
        return space.decode(designs.any_new(space, seen, rng) if row is None else row)

    def _modelled(self, space: Space, known: Evidence, seen: set[bytes], rng: np.random.Generator) -> Array | None:
        """The answer of the models: of all trials, or of a branch's own where that is not where the best trial lies.

        Beside a branch that is nearly at its best, the differences within another are small, and nothing is learned of
        them: each question there would go to one more corner. Searched as if there were nothing else, it shows soon
        how good it is.
        """
        parents = _parents(space)
        branch = None
        if parents and rng.random() < self.recipe.branches:
            column = int(rng.choice(parents))
            branch = column, float(rng.integers(space.levels[column]))
        question = _Question(space, known, seen, rng, self.recipe, branch)
        row = question.answer()
        if branch is not None or row is None or not parents or not self.recipe.branches:
            return row
        column = int(rng.choice(parents))
        if question.best is None or row[column] == question.best[column] or np.isnan(row[column]):
            return row
        alone = _Question(space, known, seen, rng, self.recipe, (column, float(row[column]))).answer()
        return row if alone is None else alone


def _parents(space: Space) -> list[int]:
    """The columns of choices that decide what else there is."""
    every = {parent for pairs in space.conditions.values() for parent, _ in pairs}
    return [parent for parent in sorted(every) if space.categorical[parent]]


class _Question:
    """One ask: the models of this moment, and the search for their best point."""

    def __init__(
        self, space: Space, known: Evidence, seen: set[bytes], rng: np.random.Generator, recipe: Recipe,
        branch: tuple[int, float] | None,
    ) -> None:  # fmt: skip
        """branch: (column, unit) that points must have; from a few trials on only those within it are looked at."""
        self._space, self._known, self._seen, self._rng, self._recipe = space, known, seen, rng, recipe
        self._branch = branch
        found = known.units[known.ok]
        which = np.flatnonzero(self._inside(found))
        if len(which) < _ALONE:
            which = np.arange(len(found))
        values = scalarise(known.values[which], rng) if len(which) else np.empty(0)
        y = warp(values, recipe.warp, recipe.bad)
        order = np.lexsort((y, ~known.feasible[which]))
        self._y, which = y[order], which[order]
        self._found, self._feasible, self._constraints = found[which], known.feasible[which], known.constraints[which]
        self._models = 1 + (not known.ok.all()) + known.constraints.shape[1]

    @property
    def best(self) -> Array | None:
        """(d,) the best trial; none where all have failed."""
        return self._found[0] if len(self._found) else None

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
        hyper = fit(x[some], y[some], categorical, prior or self._prior(), steps)
        return Process(x, y, categorical, hyper, self._running())

    def _prior(self) -> Prior:
        recipe = self._recipe
        wide = recipe.wide and self._known.asked % recipe.wide == recipe.wide - 1
        return recipe.wide_prior if wide else recipe.prior

    def _running(self) -> Array:
        """(p, d) filled rows of the trials that run and are believed."""
        rows = self._known.pending[-_RUNNING:] if self._recipe.believers else self._known.pending[:0]
        return filled(rows[self._inside(rows)], self._space.categorical)

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
        scores = acquisition(filled(rows, self._space.categorical))
        return np.where(self._inside(rows), scores, scores - _OUTSIDE)

    def _inside(self, rows: Array) -> NDArray[np.bool_]:
        """(n,) which rows are of the branch that is asked for; all, where none is."""
        if self._branch is None:
            return np.ones(len(rows), dtype=bool)
        column, level = self._branch
        return np.asarray(rows[:, column] == level)

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
