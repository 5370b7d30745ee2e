"""Parzen densities over a space: where good trials lie (Bergstra et al. 2011, 2013).

One kernel for each good trial over all parameters at once (BOHB, Falkner et al. 2018), with the magic of a prior among
them (Watanabe 2023): truncated normals where there is an order, "the same or any" where there is none.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri

from incl_hpo.search.parameters import Array
from incl_hpo.search.space import Space

_SAME = 0.8
_LEAST = 0.02


class Parzen:
    """A density with a kernel on each of (m, d) rows (NaN: not active), the first the heaviest, and a uniform prior."""

    def __init__(self, space: Space, rows: Array) -> None:
        self._space = space
        self._rows = rows
        m, d = rows.shape
        ranks = np.arange(m, 0, -1, dtype=np.float64)
        self._weights = np.concatenate([ranks / ranks.sum() * m, [1.0]]) / (m + 1.0)
        spread = np.full(d, 0.3)
        for column in range(d):
            active = rows[~np.isnan(rows[:, column]), column]
            if len(active) > 1:
                spread[column] = float(active.std())
        shrink = m ** (-1.0 / (min(d, 6) + 4.0)) if m else 1.0
        cells = np.where(space.levels > 0, 0.5 / np.maximum(space.levels, 1), 0.0)
        self._width = np.clip(1.06 * spread * shrink, np.maximum(_LEAST, cells), 0.5)

    def sample(self, rng: np.random.Generator, count: int) -> Array:
        """(count, d) points."""
        space, d = self._space, len(self._space.parameters)
        chosen = rng.choice(len(self._weights), size=count, p=self._weights)
        drawn = space.scale_loose(rng.random((count, d)))
        if not len(self._rows):
            return space.snap(drawn)
        centre = self._rows[np.minimum(chosen, len(self._rows) - 1)]
        from_kernel = (chosen < len(self._rows))[:, None] & ~np.isnan(centre)
        centre = np.where(from_kernel, centre, 0.5)
        low, high = ndtr(-centre / self._width), ndtr((1.0 - centre) / self._width)
        normal = np.clip(centre + self._width * ndtri(low + rng.random((count, d)) * (high - low)), 0.0, 1.0)
        kept = np.where(rng.random((count, d)) < _SAME, centre, drawn)
        near = np.where(space.categorical, kept, normal)
        return space.snap(np.where(from_kernel, near, drawn))
