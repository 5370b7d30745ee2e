"""From good candidates to better ones: mutations around the best, then the slope of the acquisition."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from incl_hpo.search.acquisition import Acquisition
from incl_hpo.search.gaussian import filled
from incl_hpo.search.parameters import Array
from incl_hpo.search.space import Space


def around(space: Space, rows: Array, rng: np.random.Generator, count: int, scale: float) -> Array:
    """(count, d) points near rows: some parameters of one moved by about `scale` units, or to another choice."""
    d = len(space.parameters)
    drawn = space.scale_loose(rng.random((count, d)))
    parents = rows[rng.integers(len(rows), size=count)]
    whole = np.where(np.isnan(parents), drawn, parents)
    share = rng.choice([1.0 / d, 0.3, 1.0], size=(count, 1))
    moved = rng.random((count, d)) < share
    moved[np.arange(count), rng.integers(d, size=count)] = True
    reach = np.maximum(scale, np.where(space.levels > 0, 0.8 / np.maximum(space.levels, 1), 0.0))
    stepped = np.abs(whole + reach * rng.standard_normal((count, d)))
    stepped = np.clip(np.where(stepped > 1.0, 2.0 - stepped, stepped), 0.0, 1.0)
    switched = np.where(rng.random((count, d)) < 0.5, drawn, whole)
    changed = np.where(space.categorical, switched, stepped)
    return space.snap(np.where(moved, changed, whole))


def ascend(space: Space, acquisition: Acquisition, row: Array, steps: int) -> Array:
    """(d,) where the slope leads from a row in its continuous parameters (those of 16 steps and more count as such)."""
    free = ~space.categorical & ((space.levels == 0) | (space.levels >= 16)) & ~np.isnan(row)
    columns = np.flatnonzero(free)
    if not len(columns):
        return row
    whole = filled(row[None, :], space.categorical)[0]

    def loss(part: Array) -> tuple[float, Array]:
        whole[columns] = part
        value, slope = acquisition.with_slope(whole)
        return -value, -slope[columns]

    options = {"maxiter": steps, "maxfun": steps + 10}
    bounds = [(0.0, 1.0)] * len(columns)
    found = minimize(
        loss,
        row[columns],
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options=options,
    )
    better = row.copy()
    if np.isfinite(found.x).all():
        better[columns] = found.x
    return np.asarray(space.snap(np.where(np.isnan(better), 0.0, better)[None, :])[0])
