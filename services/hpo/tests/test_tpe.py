"""The platform's sampler: that it learns, from what, and what each part does."""

from __future__ import annotations

import math

import pytest

from incl_hpo.search import Categorical, Float, Integer, Observation, Point, Random, Recipe, Space, Tpe
from incl_hpo.testing import drive, spread

BOWL = Space(tuple(Float(f"x{n}", -5.0, 5.0) for n in range(3)))


def bowl(point: Point) -> float:
    return sum((float(value) - 1.3) ** 2 * 10**n for n, value in enumerate(point.values()))  # type: ignore[arg-type]


def best(history: list[Observation]) -> float:
    return min(one.values[0] for one in history if not one.failed)


def test_a_bowl_is_gone_down_a_thousand_times_deeper_than_by_chance() -> None:
    ours, _ = drive(Tpe(), BOWL, 45, lambda point: Observation(point, (bowl(point),)))
    chance, _ = drive(Random(), BOWL, 45, lambda point: Observation(point, (bowl(point),)))
    assert best(ours) < best(chance) / 1000


def test_where_trials_fail_fewer_are_sent_again() -> None:
    def outcome(point: Point) -> Observation:
        return Observation(point, () if float(point["x0"]) > 1.0 else (bowl(point),))  # type: ignore[arg-type]

    history, _ = drive(Tpe(), BOWL, 45, outcome)
    careless, _ = drive(Tpe(Recipe(feasibility=False)), BOWL, 45, outcome)
    assert sum(one.failed for one in history[20:]) < 0.8 * sum(one.failed for one in careless[20:])
    assert best(history) < 0.3


def test_a_constraint_is_kept_to() -> None:
    def outcome(point: Point) -> Observation:
        return Observation(point, (bowl(point),), (float(point["x0"]) + 1.0,))  # type: ignore[arg-type]

    history, _ = drive(Tpe(), BOWL, 45, outcome)
    kept = [one for one in history if one.constraints[0] <= 0]
    assert sum(one.constraints[0] <= 0 for one in history[20:]) >= 12
    assert min(one.values[0] for one in kept) < 1.3 * 2.3**2


def test_when_all_fail_it_goes_where_nothing_was_tried() -> None:
    history, _ = drive(Tpe(), BOWL, 25, lambda point: Observation(point))
    after = [one.parameters["x0"] for one in history[10:]]
    assert max(after) - min(after) > 5.0  # type: ignore[operator,type-var]


def test_the_better_branch_of_a_condition_is_found() -> None:
    space = Space(
        (
            Categorical("model", ("a", "b", "c")),
            Float("lr", 1e-5, 1.0, log=True, when={"model": ["a", "b"]}),
            Integer("k", 1, 20, when={"model": ["c"]}),
        )
    )

    def outcome(point: Point) -> Observation:
        if point["model"] == "c":
            return Observation(point, (1.0 + 0.01 * abs(float(point["k"]) - 9),))  # type: ignore[arg-type]
        off = abs(math.log10(float(point["lr"])) + 2.0)  # type: ignore[arg-type]
        return Observation(point, (off + (0.4 if point["model"] == "b" else 0.0),))

    history, asked = drive(Tpe(), space, 40, outcome)
    assert best(history) < 0.05
    assert sum(point["model"] == "a" for point in asked[25:]) > 8


def test_a_branch_that_begins_badly_is_learned_to_the_end() -> None:
    """One that is soon at its best hides the other: nearly all trials of that would go to corners."""
    hard = [Float(f"h{n}", -5.0, 5.0, when={"model": ["hard"]}) for n in range(3)]
    space = Space((Categorical("model", ("easy", "hard")), Float("x", -5.0, 5.0), *hard))

    def outcome(point: Point) -> Observation:
        off = 0.1 * (float(point["x"]) - 1.0) ** 2  # type: ignore[arg-type]
        if point["model"] == "easy":
            return Observation(point, (0.3 + off,))
        return Observation(point, (off + sum(0.1 * (float(point[f"h{n}"]) - 2.0) ** 2 for n in range(3)),))  # type: ignore[arg-type]

    assert best(drive(Tpe(), space, 90, outcome, seed=3)[0]) < 0.01
    assert best(drive(Tpe(Recipe(branches=0.0)), space, 90, outcome, seed=3)[0]) > 0.29


def apart(sampler: Tpe) -> float:
    """How near the nearest two of six questions without an answer are."""
    history = [Observation(point, (bowl(point),)) for point in spread(BOWL, 30)]
    pending: list[Point] = []
    for _ in range(6):
        pending.append(sampler.ask(BOWL, history, pending, 1))
    return min(
        max(abs(float(a[name]) - float(b[name])) for name in a)  # type: ignore[arg-type]
        for number, a in enumerate(pending)
        for b in pending[:number]
    )


def test_trials_that_run_are_kept_away_from() -> None:
    assert apart(Tpe()) > 10 * apart(Tpe(Recipe(believers=False)))


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(warp=0.0),
        Recipe(densities=False),
        Recipe(mutations=False),
        Recipe(slope=0),
        Recipe(believers=False),
        Recipe(branches=0.0),
        Recipe(wide=0),
        Recipe(fitted=10, modelled=20),
    ],
    ids=["warp", "densities", "mutations", "slope", "believers", "branches", "wide", "few"],
)
def test_every_part_may_be_left_out(recipe: Recipe) -> None:
    history, asked = drive(Tpe(recipe), BOWL, 30, lambda point: Observation(point, (bowl(point),)))
    for point in asked:
        BOWL.check(point)
    assert best(history) < 60
