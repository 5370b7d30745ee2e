"""Spot or on demand in its first form."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from incl_provisioner.domain.cloud.policy import AfterPreemptions, Situation, SpotPolicy

H = 3600.0


def test_on_demand_after_repeated_preemption_within_the_window() -> None:
    policy: SpotPolicy = AfterPreemptions(count=3, window_s=6 * H)
    taken = (1 * H, 2 * H, 3 * H)
    assert policy.choose(Situation(3 * H, asked=True, preemptions=taken[:2])).spot
    decision = policy.choose(Situation(3 * H, asked=True, preemptions=taken))
    assert not decision.spot
    assert decision.why == "taken 3 times within 6 h"
    assert policy.choose(Situation(7.1 * H, asked=True, preemptions=taken)).spot


def test_what_was_not_asked_for_or_does_not_exist_is_not_taken() -> None:
    assert not AfterPreemptions().choose(Situation(0.0, asked=False)).spot
    assert not AfterPreemptions().choose(Situation(0.0)).spot
    assert AfterPreemptions(default=True).choose(Situation(0.0)).spot
    assert not AfterPreemptions(default=True).choose(Situation(0.0, asked=False)).spot
    assert not AfterPreemptions().choose(Situation(0.0, asked=True, exists=False)).spot
    assert AfterPreemptions(count=0).choose(Situation(0.0, asked=True, preemptions=(0.0,) * 99)).spot


@given(st.lists(st.floats(0, 1e6), max_size=20), st.integers(0, 5), st.floats(1, 1e5))
def test_the_same_situation_gives_the_same_decision_with_a_reason(
    times: list[float], count: int, window: float
) -> None:
    policy = AfterPreemptions(count=count, window_s=window)
    situation = Situation(1e6, asked=True, preemptions=tuple(times))
    decision = policy.choose(situation)
    assert decision == policy.choose(situation)
    assert decision.why
    assert decision.spot == (count == 0 or sum(1e6 - at <= window for at in times) < count)
