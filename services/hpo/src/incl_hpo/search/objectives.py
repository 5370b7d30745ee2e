"""Several objectives as one: another random weighing for every question (ParEGO, Knowles 2006)."""

from __future__ import annotations

import numpy as np

from incl_hpo.search.parameters import Array
from incl_hpo.search.warping import warp

_REST = 0.05


def scalarise(values: Array, rng: np.random.Generator) -> Array:
    """(m,) one number for each of (m, k) rows: the worst weighted objective (augmented Tchebycheff), warped before."""
    if values.shape[1] == 1:
        return values[:, 0]
    level = np.stack([warp(column) for column in values.T], axis=1)
    level = level - level.min(axis=0)
    level = level / np.maximum(level.max(axis=0), 1e-12)
    weighted = level * rng.dirichlet(np.ones(values.shape[1]))
    return np.asarray(weighted.max(axis=1) + _REST * weighted.sum(axis=1))


def pareto(values: Array) -> Array:
    """(m,) true where no other of (m, k) rows is as good in all and better in one."""
    kept = np.ones(len(values), dtype=bool)
    for number, row in enumerate(values):
        kept[number] = not ((values <= row).all(axis=1) & (values < row).any(axis=1)).any()
    return kept
