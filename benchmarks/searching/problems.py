"""What is searched: each problem has a space, a value for a point (None: the trial fails), its optimum and its scale.

The optimum is known exactly; `scale` is what regret is divided by. BBOB functions are those of the package ioh
(instance by the dimension), in [-5, 5].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import ioh
import numpy as np

from incl_hpo.search import Categorical, Float, Integer, Space
from searching import tables

Evaluate = Callable[[Mapping[str, Any]], float | None]

HELD_OUT = ("bbob-ill", "bbob-weak", "lightgbm")
"""Families that nothing was designed or tuned on."""


@dataclass(frozen=True)
class Problem:
    """One of them; `family` is the part of the name before the slash."""

    name: str
    space: Space
    evaluate: Evaluate
    optimum: float
    floor: float = 1e-3
    """Less regret counts as this: a thousandth of what 100 random trials leave."""

    @property
    def family(self) -> str:
        return self.name.partition("/")[0]


def _bbob(function: int, dimension: int) -> Any:
    return ioh.get_problem(function, instance=dimension, dimension=dimension, problem_class=ioh.ProblemClass.BBOB)


def _floats(dimension: int, first: int = 0) -> list[Float]:
    return [Float(f"x{number}", -5.0, 5.0) for number in range(first, dimension)]


def bbob(family: str, function: int, dimension: int) -> Problem:
    """A function as it is."""
    call = _bbob(function, dimension)
    names = [f"x{number}" for number in range(dimension)]
    return Problem(
        f"bbob-{family}/f{function}-{dimension}d",
        Space(tuple(_floats(dimension))),
        lambda point: float(call([point[name] for name in names])),
        float(call.optimum.y),
    )


def mixed(function: int, dimension: int) -> Problem:
    """A third whole numbers, a third choices of five, a third numbers, around the function's optimum.

    The whole numbers and choices are steps from the optimum, shuffled for the choices, so the optimum is that of the
    function.
    """
    call = _bbob(function, dimension)
    best = np.asarray(call.optimum.x)
    third = dimension // 3
    order = np.random.default_rng(function).permutation(5)
    space = [Integer(f"x{n}", 0, 12) for n in range(third)]
    space += [Categorical(f"x{n}", tuple("abcde")) for n in range(third, 2 * third)]  # type: ignore[arg-type]
    space += _floats(dimension, 2 * third)  # type: ignore[arg-type]
    at = np.random.default_rng(function + 100).integers(2, 11, size=dimension)

    def evaluate(point: Mapping[str, Any]) -> float:
        x = np.empty(dimension)
        for n in range(dimension):
            value = point[f"x{n}"]
            if n < third:
                x[n] = best[n] + (value - at[n]) * 0.75
            elif n < 2 * third:
                x[n] = best[n] + (int(order["abcde".index(value)]) - 2) * 1.5
            else:
                x[n] = value
        return float(call(np.clip(x, -10, 10)))

    return Problem(f"mixed/f{function}-{dimension}d", Space(tuple(space)), evaluate, float(call.optimum.y))


def conditional(first: int, second: int, dimension: int) -> Problem:
    """A choice between two functions, each with parameters of its own, and two that both share."""
    calls = {"a": _bbob(first, dimension), "b": _bbob(second, dimension)}
    middles = {name: _middle(call) for name, call in calls.items()}
    shared = [Float(f"x{n}", -5.0, 5.0) for n in range(2)]
    own = [Float(f"{m}{n}", -5.0, 5.0, when={"model": [m]}) for m in "ab" for n in range(2, dimension)]

    def evaluate(point: Mapping[str, Any]) -> float:
        model = point["model"]
        x = [point[f"x{n}"] for n in range(2)] + [point[f"{model}{n}"] for n in range(2, dimension)]
        value = (calls[model](x) - calls[model].optimum.y) / middles[model]
        return float(value + (0.05 if model == "b" else 0.0))

    space = Space((Categorical("model", ("a", "b")), *shared, *own))
    return Problem(f"conditional/f{first}-f{second}-{dimension}d", space, evaluate, 0.0)


def _middle(call: Any) -> float:
    rows = np.random.default_rng(0).uniform(-5, 5, size=(500, len(call.optimum.x)))
    return float(np.median([call(row) for row in rows]) - call.optimum.y)


def failing(function: int, dimension: int, kind: str) -> Problem:
    """A function of which a part fails: a corner (as a model too large), or stripes through which one must see."""
    plain = bbob("", function, dimension)
    best = np.asarray(_bbob(function, dimension).optimum.x)

    def evaluate(point: Mapping[str, Any]) -> float | None:
        off = np.asarray(list(point.values())) - best
        if kind == "corner" and off[0] + off[1] > 0.5:
            return None
        if kind == "ball" and float(off @ off) > 0.3 * 25 * dimension and off[0] > 0:
            return None
        return plain.evaluate(point)

    return Problem(f"failing/{kind}-f{function}-{dimension}d", plain.space, evaluate, plain.optimum)


def table(name: str) -> Problem:
    """A real tuning task, evaluated beforehand on all its points."""
    space, values = tables.load(name)
    return Problem(name, space, lambda point: values[tables.key(point)], min(values.values()), floor=0.05)


_MAKERS: dict[str, Callable[[], Problem]] = {}


def _register() -> None:
    groups = {
        "separable": [(2, 5), (3, 2), (3, 10), (5, 5)],
        "moderate": [(6, 5), (7, 2), (8, 5), (8, 10)],
        "ill": [(10, 5), (11, 2), (12, 10), (13, 5)],
        "multimodal": [(15, 2), (15, 5), (17, 10), (19, 5)],
        "weak": [(20, 5), (21, 2), (21, 5), (24, 10)],
    }
    for family, members in groups.items():
        for function, dimension in members:
            _MAKERS[f"bbob-{family}/f{function}-{dimension}d"] = _later(bbob, family, function, dimension)
    for function, dimension in ((1, 6), (8, 6), (15, 9)):
        _MAKERS[f"mixed/f{function}-{dimension}d"] = _later(mixed, function, dimension)
    for first, second, dimension in ((1, 8, 4), (15, 10, 4), (6, 20, 6)):
        _MAKERS[f"conditional/f{first}-f{second}-{dimension}d"] = _later(conditional, first, second, dimension)
    for function, dimension, kind in ((1, 5, "corner"), (8, 5, "corner"), (15, 2, "corner"), (6, 5, "ball")):
        _MAKERS[f"failing/{kind}-f{function}-{dimension}d"] = _later(failing, function, dimension, kind)
    for name in tables.NAMES:
        _MAKERS[name] = _later(table, name)


def _later(make: Callable[..., Problem], *arguments: Any) -> Callable[[], Problem]:
    return lambda: make(*arguments)


_register()


def names(held_out: bool | None = None) -> list[str]:
    """All of them, or those of the families held out, or of the others."""
    chosen = [name for name in _MAKERS if held_out is None or (name.partition("/")[0] in HELD_OUT) == held_out]
    return sorted(chosen)


@cache
def problem(name: str) -> Problem:
    """One by its name."""
    return _MAKERS[name]()


@cache
def scale(name: str) -> float:
    """Regret 1: how far from the optimum a random search of 100 trials ends, the median of 30.

    In a table, where that is often the optimum itself, at least a twentieth of how far a middling point is.
    """
    one = problem(name)
    rows = one.space.scale(np.random.default_rng(0).random((3000, len(one.space.parameters))))
    told = [one.evaluate(one.space.decode(row)) for row in rows]
    values = np.asarray([math.inf if value is None else value for value in told]) - one.optimum
    middle = float(np.median(values[np.isfinite(values)]))
    return max(float(np.median(values.reshape(30, 100).min(axis=1))), 0.05 * middle if one.floor > 1e-3 else 0.0)
