"""From curves to figures: normalised regret, ratios, ranks, wins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

Regrets = Mapping[str, Mapping[str, Sequence[float]]]
"""optimiser -> problem -> regret of each seed."""


def regret(best: float | None, optimum: float, scale: float, floor: float) -> float:
    """0 at the optimum, 1 at what a random search of 100 trials leaves; a search without a value has 100."""
    if best is None:
        return 100.0
    return min(max((best - optimum) / scale, floor), 100.0)


def ratio(regrets: Regrets, ours: str, theirs: str, problems: Sequence[str]) -> tuple[float, float, float]:
    """The geometric mean over problems of mean regret over mean regret; its 95 % interval (bootstrap of problems)."""
    logs = np.asarray([math.log(np.mean(regrets[ours][p]) / np.mean(regrets[theirs][p])) for p in problems])
    draws = np.random.default_rng(0).choice(logs, size=(2000, len(logs)))
    low, high = np.quantile(draws.mean(axis=1), [0.025, 0.975])
    return float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high))


def ranks(regrets: Regrets, problems: Sequence[str]) -> dict[str, float]:
    """The average rank of each optimiser over problems and seeds (1 is the best; ties share)."""
    names = sorted(regrets)
    rows = []
    for task in problems:
        for values in zip(*(regrets[name][task] for name in names), strict=True):
            array = np.asarray(values)
            rows.append([(array < one).sum() + ((array == one).sum() + 1) / 2 for one in array])
    middle = np.mean(rows, axis=0)
    return {name: float(one) for name, one in zip(names, middle, strict=True)}


def wins(regrets: Regrets, ours: str, theirs: str, problems: Sequence[str]) -> tuple[int, int, int]:
    """(won, even, lost) over problems and seeds."""
    pairs = [pair for p in problems for pair in zip(regrets[ours][p], regrets[theirs][p], strict=True)]
    won, lost = sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)
    return won, len(pairs) - won - lost, lost
