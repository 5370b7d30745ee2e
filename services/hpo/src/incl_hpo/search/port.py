"""The port that all samplers stand behind: state in, suggestion out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from incl_hpo.search.designs import Grid, Random, Sobol
from incl_hpo.search.errors import SamplerUnknownError
from incl_hpo.search.observations import Observation, Point
from incl_hpo.search.parameters import Value
from incl_hpo.search.space import Space
from incl_hpo.search.tpe import Tpe


class Sampler(Protocol):
    """Anything that says what to try next. Samplers, spaces, observations and answers can be pickled."""

    def ask(
        self, space: Space, history: Sequence[Observation], pending: Sequence[Point], seed: int
    ) -> dict[str, Value]:
        """The next point: the active parameters, each in its range.

        The same arguments give the same answer, in any process. `seed` stays the same for all questions of a search.
        `pending` are the points of trials that run. Trials and points that are none of the space are ignored.

        Raises:
            SpaceExhaustedError: every point of a finite space (or of the grid) is in history or pending.
        """


SAMPLERS: Mapping[str, Callable[[], Sampler]] = {"tpe": Tpe, "random": Random, "grid": Grid, "sobol": Sobol}


def sampler(name: str) -> Sampler:
    """A sampler by its name.

    Raises:
        SamplerUnknownError: there is none.
    """
    if name not in SAMPLERS:
        raise SamplerUnknownError(f"no sampler is called {name}", f"one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name]()
