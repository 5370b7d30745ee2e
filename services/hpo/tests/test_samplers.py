"""The contract of the port: what every sampler owes, whatever it has been told."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from incl_hpo.search import SAMPLERS, Observation, Sampler, SamplerUnknownError, Space, SpaceExhaustedError, sampler
from incl_hpo.testing import FINITE, SPACES, drive, score, spread

NAMES = sorted(SAMPLERS)


@pytest.fixture(params=NAMES)
def one(request: pytest.FixtureRequest) -> Sampler:
    return sampler(request.param)


def key(point: Mapping[str, Any]) -> str:
    return repr(sorted(point.items(), key=lambda item: item[0]))


@pytest.mark.parametrize("name", sorted(SPACES))
def test_points_are_of_the_space_and_none_comes_twice(one: Sampler, name: str) -> None:
    space = SPACES[name]
    trials = 5 if name in ("one", "fixed") and not hasattr(one, "recipe") else 18
    _, asked = drive(one, space, trials)
    for point in asked:
        space.check(point)
    assert len({key(point) for point in asked}) == trials


def test_conditional_parameters_are_there_just_when_their_conditions_hold(one: Sampler) -> None:
    _, asked = drive(one, SPACES["conditional"], 25)
    for point in asked:
        assert ("lr" in point) == (point["model"] == "net")
        assert ("depth" in point) == (point["model"] == "tree")
        assert ("momentum" in point) == (point.get("optimizer") == "sgd")
        assert "shared" in point


def test_equal_questions_have_equal_answers(one: Sampler) -> None:
    space = SPACES["conditional"]
    history, _ = drive(one, space, 16)
    pending = spread(space, 2)
    first = one.ask(space, history, pending, 3)
    again = pickle.loads(pickle.dumps(one)).ask(copy.deepcopy(space), copy.deepcopy(history), list(pending), 3)
    assert first == again


def test_another_process_gives_the_same_answer(one: Sampler) -> None:
    space = SPACES["numbers"]
    history, _ = drive(one, space, 14)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = pool.submit(one.ask, space, history, [], 5).result(timeout=60)
    assert there == one.ask(space, history, [], 5)


def test_seeds_differ(one: Sampler) -> None:
    answers = {
        key(one.ask(SPACES["wide"] if not hasattr(one, "continuous") else SPACES["numbers"], [], [], seed))
        for seed in range(5)
    }
    assert len(answers) > 1


def test_nothing_is_changed_that_was_handed_in(one: Sampler) -> None:
    space = SPACES["numbers"]
    history, _ = drive(one, space, 14)
    pending = spread(space, 1)
    before = copy.deepcopy((history, pending))
    one.ask(space, history, pending, 1)
    assert (history, pending) == before


def test_a_finite_space_is_gone_through_and_then_it_is_said(one: Sampler) -> None:
    assert FINITE.size == 12
    _, asked = drive(one, FINITE, 12)
    assert len({key(point) for point in asked}) == 12
    with pytest.raises(SpaceExhaustedError, match="tried"):
        one.ask(FINITE, [Observation(point, (1.0,)) for point in asked], [], 7)


OUTCOMES: dict[str, Any] = {
    "constant": lambda point: (1.0,),
    "nan": lambda point: (math.nan,),
    "inf": lambda point: (math.inf,) if score(point) > 1 else (score(point),),
    "minus inf": lambda point: (-math.inf,) if score(point) > 1 else (score(point),),
    "failing": lambda point: (),
    "half failing": lambda point: () if score(point) > 1.5 else (score(point),),
    "huge": lambda point: (math.exp(min(score(point) * 200, 700)),),
    "hugest": lambda point: (1.7e308 if score(point) > 1.5 else -1.7e308,),
    "tiny": lambda point: (score(point) * 5e-324,),
    "one outlier": lambda point: (1e300 if 1.4 < score(point) < 1.6 else score(point),),
    "a large offset": lambda point: (1e15 + score(point),),
    "two objectives": lambda point: (score(point), -score(point)),
    "one of two missing": lambda point: (score(point), math.nan if score(point) > 1 else 0.0),
}


@pytest.mark.parametrize("outcome", sorted(OUTCOMES))
def test_any_outcome_is_survived(one: Sampler, outcome: str) -> None:
    space = SPACES["numbers"]
    _, asked = drive(one, space, 16, lambda point: Observation(point, OUTCOMES[outcome](point)))
    for point in asked:
        space.check(point)


@pytest.mark.parametrize(
    "constraints", [(1.0,), (-1.0,), (math.nan,), (0.0, 1e300), (), (math.inf, -math.inf)], ids=repr
)
def test_any_constraint_is_survived(one: Sampler, constraints: tuple[float, ...]) -> None:
    space = SPACES["numbers"]
    _, asked = drive(one, space, 14, lambda point: Observation(point, (score(point),), constraints))
    for point in asked:
        space.check(point)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_observations(one: Sampler, count: int) -> None:
    space = SPACES["conditional"]
    history = [Observation(point, (score(point),)) for point in spread(space, count)]
    space.check(one.ask(space, history, spread(space, 8, 1), 0))


def test_a_thousand_observations_and_a_thousand_running(one: Sampler) -> None:
    space = SPACES["conditional"] if not hasattr(one, "continuous") else SPACES["wide"]
    history = [Observation(point, (score(point),)) for point in spread(space, 1000)]
    if not hasattr(one, "continuous"):
        space.check(one.ask(space, history, spread(space, 1000, 1), 0))


def test_the_same_point_a_hundred_times_is_no_singular_matrix(one: Sampler) -> None:
    space = SPACES["numbers"]
    (point,) = spread(space, 1)
    history = [Observation(point, (score(point),))] * 100
    answer = one.ask(space, history, [point] * 20, 0)
    space.check(answer)
    assert answer != point


def test_trials_that_are_none_of_the_space_are_ignored(one: Sampler) -> None:
    space: Space = SPACES["numbers"]
    strange = [{}, {"x": "text"}, {"x": 99.0, "lr": 0.1, "n": 3}, {"x": None, "lr": True, "n": 10**400}]
    history = [Observation(point, (1.0,)) for point in strange] * 4  # type: ignore[arg-type]
    space.check(one.ask(space, history, strange, 0))  # type: ignore[arg-type]


def test_a_name_that_no_sampler_has() -> None:
    with pytest.raises(SamplerUnknownError, match="tpe, random, grid, sobol"):
        sampler("gp")
