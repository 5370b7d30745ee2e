"""The parameters of a sweep file as the sampler's space."""

from __future__ import annotations

from collections.abc import Mapping

from incl_hpo.search import Categorical, Float, Integer, Parameter, Space
from incl_shared.sweep import ParameterKind, SweepParameter


def space_of(parameters: Mapping[str, SweepParameter]) -> Space:
    """The space.

    Raises:
        SpaceError: it is empty or contradicts itself.
    """
    return Space(tuple(_parameter(name, one) for name, one in parameters.items()))


def _parameter(name: str, one: SweepParameter) -> Parameter:
    when = {parent: list(values) for parent, values in one.when.items()}
    if one.type is ParameterKind.CATEGORICAL:
        return Categorical(name, one.choices, when=when)
    low, high = one.low or 0, one.high or 0
    if one.type is ParameterKind.INT:
        return Integer(name, int(low), int(high), log=one.log, step=int(one.step or 1), when=when)
    log = one.type is ParameterKind.LOGUNIFORM
    return Float(name, float(low), float(high), log=log, step=float(one.step) if one.step else None, when=when)
