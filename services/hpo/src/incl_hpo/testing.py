"""Spaces that the contract suite asks about, and histories over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from incl_hpo.search import Categorical, Float, Integer, Observation, Sampler, Space

SPACES: dict[str, Space] = {
    "one": Space((Float("x", -1.0, 1.0),)),
    "numbers": Space((Float("x", -5.0, 5.0), Float("lr", 1e-6, 1.0, log=True), Integer("n", 1, 1000, log=True))),
    "steps": Space((Float("q", 0.0, 1.0, step=0.1), Integer("k", 3, 30, step=3), Float("x", 0.0, 1.0))),
    "choices": Space((Categorical("a", ("x", "y", "z")), Categorical("b", (None, True, 1, 0.5)), Float("x", 0.0, 1.0))),
    "conditional": Space(
        (
            Categorical("model", ("net", "tree", "none")),
            Float("lr", 1e-5, 1.0, log=True, when={"model": ["net"]}),
            Integer("depth", 1, 12, when={"model": ["tree"]}),
            Categorical("optimizer", ("sgd", "adam"), when={"model": ["net"]}),
            Float("momentum", 0.0, 1.0, when={"model": ["net"], "optimizer": ["sgd"]}),
            Float("shared", 0.0, 1.0),
        )
    ),
    "fixed": Space((Float("same", 2.0, 2.0), Categorical("only", ("one",)), Float("x", 0.0, 1.0))),
    "wide": Space(tuple(Float(f"x{n}", 0.0, 1.0) for n in range(20))),
}
FINITE = Space((Categorical("a", ("x", "y")), Integer("k", 1, 3), Float("q", 0.0, 1.0, step=0.5, when={"a": ["y"]})))
"""3 + 9 points."""


def score(point: Mapping[str, Any]) -> float:
    """Some value of any point: numbers near 0.3 are good, as are short texts."""
    total = 0.0
    for name, value in point.items():
        number = float(value) if isinstance(value, int | float) else float(len(str(value)))
        total += abs(math.atan(number) - 0.3) + 0.01 * len(name)
    return total


def drive(
    sampler: Sampler,
    space: Space,
    trials: int,
    outcome: Callable[[Mapping[str, Any]], Observation] | None = None,
    workers: int = 3,
    seed: int = 7,
) -> tuple[list[Observation], list[dict[str, Any]]]:
    """Asks and tells, `workers` at a time: the history, and all points in the order of asking."""
    tell = outcome or (lambda point: Observation(point, (score(point),)))
    history: list[Observation] = []
    pending: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []
    for _ in range(trials):
        point = sampler.ask(space, history, pending, seed)
        asked.append(point)
        pending.append(point)
        if len(pending) == workers:
            history.append(tell(pending.pop(0)))
    return history, asked


def spread(space: Space, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Random points."""
    rows = space.scale(np.random.default_rng(seed).random((count, len(space.parameters))))
    return [space.decode(row) for row in rows]
