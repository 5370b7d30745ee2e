"""The samplers: NumPy and SciPy only, no state, no clock, no I/O.

space = Space((Float("lr", 1e-5, 1.0, log=True), Integer("layers", 1, 8)))
point = Tpe().ask(space, history, pending, seed=1)
"""

from incl_hpo.search.designs import Grid, Random, Sobol
from incl_hpo.search.errors import (
    PointError,
    SamplerUnknownError,
    SamplerUnusableError,
    SearchError,
    SpaceError,
    SpaceExhaustedError,
)
from incl_hpo.search.observations import Observation, Point
from incl_hpo.search.parameters import Categorical, Float, Integer, Parameter, Value
from incl_hpo.search.port import SAMPLERS, Sampler, sampler
from incl_hpo.search.space import Space
from incl_hpo.search.tpe import Recipe, Tpe

__all__ = [
    "SAMPLERS",
    "Categorical",
    "Float",
    "Grid",
    "Integer",
    "Observation",
    "Parameter",
    "Point",
    "PointError",
    "Random",
    "Recipe",
    "Sampler",
    "SamplerUnknownError",
    "SamplerUnusableError",
    "SearchError",
    "Sobol",
    "Space",
    "SpaceError",
    "SpaceExhaustedError",
    "Tpe",
    "Value",
    "sampler",
]
