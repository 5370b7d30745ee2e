"""How much each parameter matters: PED-ANOVA (Watanabe, Bansal & Hutter, IJCAI 2023).

For each parameter alone: how far the density of the best trials is from the density of all, as Pearson's divergence
(the variance of their ratio under the density of all). A parameter whose best values lie where all values lie matters
nothing. Densities are Parzen estimates on a grid, with a uniform kernel among them, as in a TPE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import pstdev

from incl_cli.sweep_scales import Ranked, Scale

LEAST = 4
"""Complete trials without which nothing can be said."""
BEST = 0.1
"""The share of trials that counts as the best; two at least."""
_CELLS = 40


def importance(scales: Sequence[Scale], found: Ranked) -> dict[str, float]:
    """The share of each parameter, all together 1; nothing for parameters of which too few trials are known.

    A conditional parameter is judged among the trials that have it.
    """
    raw: dict[str, float] = {}
    for scale in scales:
        places = [scale.place(t.parameters[scale.name]) for t in found.trials if scale.name in t.parameters]
        if len(places) >= LEAST:
            raw[scale.name] = _divergence(scale, places)
    total = sum(raw.values())
    return {name: value / total if total > 0 else 1 / len(raw) for name, value in raw.items()}


def counted(trials: int) -> int:
    """How many trials are the best ones."""
    return max(2, math.ceil(BEST * trials))


def _divergence(scale: Scale, places: Sequence[float]) -> float:
    """Of the first ones, which are the best, from all."""
    density = _counts if scale.choices else _parzen
    cells = len(scale.choices) or _CELLS
    best, everything = density(places[: counted(len(places))], cells), density(places, cells)
    return sum(of_all * (of_best / of_all - 1) ** 2 for of_best, of_all in zip(best, everything, strict=True))


def _counts(places: Sequence[float], cells: int) -> list[float]:
    found = [1 / cells] * cells
    for place in places:
        found[min(cells - 1, int(place * cells))] += 1
    return [count / (len(places) + 1) for count in found]


def _parzen(places: Sequence[float], cells: int) -> list[float]:
    """Normal kernels, their width by Scott's rule, but no less than a cell; each has weight 1 within the range."""
    width = max(1 / cells, 1.06 * pstdev(places) * len(places) ** -0.2)
    middles = [(cell + 0.5) / cells for cell in range(cells)]
    found = [1 / cells] * cells
    for place in places:
        kernel = [math.exp(-0.5 * ((middle - place) / width) ** 2) for middle in middles]
        total = sum(kernel)
        found = [before + one / total for before, one in zip(found, kernel, strict=True)]
    return [count / (len(places) + 1) for count in found]
