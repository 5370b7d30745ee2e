"""Optuna's samplers in a sweep: points of the space, none twice, the same again from what is stored, clear refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from incl_hpo.from_optuna import OptunaSampler, Tried, made_up
from incl_hpo.search import SamplerUnknownError, SamplerUnusableError, Space, SpaceExhaustedError
from incl_hpo.testing import FINITE, SPACES, score, spread

NAMES = ["TPESampler", "CmaEsSampler", "NSGAIISampler", "NSGAIIISampler", "QMCSampler", "RandomSampler"]
SMALL: dict[str, Any] = {"NSGAIISampler": {"population_size": 4}, "NSGAIIISampler": {"population_size": 4}}
Outcome = Callable[[int, Tried], Tried]


def sampler(name: str, **more: Any) -> OptunaSampler:
    return OptunaSampler(name, SMALL.get(name, {}), **more)


def ended(number: int, one: Tried) -> Tried:
    """Every fifth fails, every seventh is pruned."""
    if number % 5 == 4:
        return replace(one, state="failed")
    state = "pruned" if number % 7 == 6 else "complete"
    return replace(one, state=state, values=(score(one.point),), steps=3)


def search(
    asked: OptunaSampler, space: Space, trials: int, outcome: Outcome = ended, workers: int = 3,
    earlier: Sequence[Tried] = (), kills: bool = False,
) -> list[Tried]:  # fmt: skip
    """As a sweep does it: `workers` run at once, and the oldest ends first. kills: each question is asked twice."""
    known: list[Tried] = []
    for number in range(trials):
        text = json.dumps([(one.point, one.memo) for one in known])  # as it is stored
        stored = [replace(one, point=p, memo=m) for one, (p, m) in zip(known, json.loads(text), strict=True)]
        point, memo = next(asked.asks(space, earlier, stored, 7))
        if kills:
            assert next(asked.asks(space, earlier, stored, 7))[0] == point
        known.append(Tried(point, memo=memo))
        if number + 1 >= workers:
            oldest = number + 1 - workers
            known[oldest] = outcome(oldest, known[oldest])
    return known


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("space", sorted(set(SPACES) - {"wide"}))
def test_points_are_of_the_space_and_none_comes_twice(name: str, space: str) -> None:
    trials = search(sampler(name), SPACES[space], 14)
    for one in trials:
        SPACES[space].check(one.point)
        assert list(one.point) == [p.name for p in SPACES[space].parameters if p.name in one.point]
    assert len({repr(sorted(one.point.items())) for one in trials}) == 14


@pytest.mark.parametrize("name", NAMES)
def test_equal_questions_have_equal_answers(name: str) -> None:
    first = search(sampler(name), SPACES["numbers"], 16, kills=True)
    again = search(sampler(name), SPACES["numbers"], 16)
    assert [one.point for one in again] == [one.point for one in first]


def test_several_at_once_are_those_that_come_one_by_one() -> None:
    for name in NAMES:
        trials = search(sampler(name), SPACES["numbers"], 12)
        many = list(islice(sampler(name).asks(SPACES["numbers"], [], trials, 7), 3))
        one = next(sampler(name).asks(SPACES["numbers"], [], trials, 7))
        more = [*trials, Tried(one[0], memo=one[1])]
        rest = islice(sampler(name).asks(SPACES["numbers"], [], more, 7), 2)
        assert [point for point, _ in many] == [one[0], *(point for point, _ in rest)], name


def test_a_finite_space_is_gone_through_and_then_it_is_said() -> None:
    for name in ("TPESampler", "RandomSampler", "BruteForceSampler"):
        trials = search(sampler(name), FINITE, 12)
        assert len({repr(sorted(one.point.items())) for one in trials}) == 12
        with pytest.raises(SpaceExhaustedError, match="tried"):
            next(sampler(name).asks(FINITE, [], trials, 7))


def best(trials: Sequence[Tried]) -> float:
    return min(one.values[0] for one in trials if one.values)


def all_end(number: int, one: Tried) -> Tried:
    x, lr = float(one.point["x"] or 0), float(one.point["lr"] or 0)  # type: ignore[arg-type]
    return replace(one, state="complete", values=((x - 2) ** 2 + abs(lr - 1e-2) * 10,))


@pytest.mark.parametrize("name", ["TPESampler", "CmaEsSampler", "NSGAIISampler"])
def test_it_learns(name: str) -> None:
    """What was stored is told: the later half is better than random points are."""
    space = SPACES["numbers"]
    trials = search(sampler(name), space, 90, all_end)
    late = sorted(one.values[0] for one in trials[60:] if one.values)
    chance = sorted(all_end(0, Tried(point)).values[0] for point in spread(space, 300))
    assert late[len(late) // 2] < chance[60], "the median of the last is in the best fifth of random ones"


def test_what_a_sampler_notes_goes_with_the_trials() -> None:
    """Without its memos CMA-ES never comes to a second generation, NSGA-II has no parents."""
    space = SPACES["numbers"]
    cma = search(sampler("CmaEsSampler"), space, 24, all_end)
    assert max((one.memo or {}).get("trial", {}).get("cma:generation", 0) for one in cma) > 0
    genes = search(sampler("NSGAIISampler"), space, 24, all_end, earlier=[Tried(cma[0].point, "complete", (1.0,))])
    parents = [key for one in genes for key in (one.memo or {}).get("study", {})]
    assert any(":parent:" in key for key in parents)
    numbers = [n for one in genes for k, v in (one.memo or {}).get("study", {}).items() if ":parent:" in k for n in v]
    assert set(numbers) < set(range(24)), "parents are numbers of the sweep's own trials"


def test_trials_of_other_sweeps_are_learned_from() -> None:
    space = SPACES["one"]
    points = spread(space, 40)
    good = [Tried(one, "complete", ((float(one["x"]) - 0.7) ** 2,)) for one in points]  # type: ignore[arg-type]
    other = Tried({"y": 1.0}, "complete", (0.0,))
    asked = sampler("TPESampler")
    near = [float(p["x"]) for p, _ in islice(asked.asks(space, [*good, other], [], 3), 5)]  # type: ignore[arg-type]
    assert sum(abs(x - 0.7) < 0.3 for x in near) >= 4, near


def test_several_objectives_and_constraints() -> None:
    def two(number: int, one: Tried) -> Tried:
        x = float(one.point["x"])  # type: ignore[arg-type]
        return replace(one, state="complete", values=(x, -x), constraints=(x - 0.5,))

    for name in ("TPESampler", "NSGAIISampler", "NSGAIIISampler"):
        trials = search(sampler(name, objectives=2, constraints=1), SPACES["one"], 30, two)
        late = [float(one.point["x"]) for one in trials[15:]]  # type: ignore[arg-type]
        assert sum(x <= 0.5 for x in late) > 10, (name, late)


@pytest.mark.parametrize(
    ("name", "options", "more", "said"),
    [
        ("TPESampler", {"n_startup_trials": "ten"}, {}, "n_startup_trials is int, not 'ten'"),
        ("TPESampler", {"n_startup_trials": True}, {}, "n_startup_trials is int, not True"),
        ("TPESampler", {"startup": 3}, {}, r"no option startup \(it has .*multivariate"),
        ("TPESampler", {"gamma": "x"}, {}, "gamma is an object of Python"),
        ("TPESampler", {"seed": 1}, {}, "seed is the sweep's"),
        ("TPESampler", {"constraints_func": 1}, {}, "constraints_func is an object"),
        ("NSGAIISampler", {"population_size": 1}, {}, "cannot be made: ValueError"),
        ("QMCSampler", {"qmc_type": "other"}, {}, "qmc_type"),
        ("CmaEsSampler", {}, {"objectives": 2}, "one objective only"),
        ("CmaEsSampler", {}, {"constraints": 1}, "knows no constraints"),
        ("GridSampler", {}, {}, "use grid"),
    ],
)
def test_what_a_sampler_cannot_do_is_said_at_once(
    name: str, options: dict[str, Any], more: dict[str, int], said: str
) -> None:
    with pytest.raises(SamplerUnusableError, match=said):
        OptunaSampler(name, options, **more)


@pytest.mark.parametrize("name", ["TpeSampler", "BaseSampler", "nsgaii", "os"])
def test_a_name_that_optuna_has_not(name: str) -> None:
    with pytest.raises(SamplerUnknownError, match=r"optuna\.TPESampler"):
        OptunaSampler(name)


def test_what_optuna_refuses_is_said() -> None:
    with pytest.raises(SamplerUnusableError, match="cannot say what to try: ValueError"):
        next(sampler("BruteForceSampler").asks(SPACES["one"], [], [], 0))


def test_the_gaussian_process_needs_torch() -> None:
    asked, made = sampler("GPSampler"), made_up(SPACES["numbers"], 1, 0)
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(SamplerUnusableError, match="needs the package torch"):
            next(asked.asks(SPACES["numbers"], made, [], 0))
        return
    point, _ = next(asked.asks(SPACES["numbers"], made, [], 0))
    assert next(asked.asks(SPACES["numbers"], made, [], 0))[0] == point
