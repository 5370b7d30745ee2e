"""The state machines: every pair of state and fact, and that they only go forward."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from incl_provisioner.domain.attempt import (
    ATTEMPT_TRANSITIONS,
    RANK_TRANSITIONS,
    AttemptFact,
    End,
    RankFact,
    RankState,
    advance_attempt,
    advance_rank,
    all_ready,
    summary,
    verdict,
)
from incl_provisioner.domain.experiment import TRANSITIONS, ExperimentFact, advance, conclusion
from incl_provisioner.domain.retry import RETRY_REASONS, backoff_s, retries
from incl_shared.spec import Retry, RetryReason
from incl_shared.states import FINAL_STATES, AttemptState, EndReason, ExperimentState

_RANK_ORDER = list(RankState)
_ATTEMPT_ORDER = list(AttemptState)


@pytest.mark.parametrize(("state", "fact"), list(itertools.product(ExperimentState, ExperimentFact)))
def test_every_pair_of_an_experiment(state: ExperimentState, fact: ExperimentFact) -> None:
    after = advance(state, fact)
    assert after == TRANSITIONS.get((state, fact))
    if state in FINAL_STATES:
        assert after is None
    elif after is not None and after is not ExperimentState.QUEUED:
        order = list(ExperimentState)
        assert order.index(after) > order.index(state)
    if after is ExperimentState.QUEUED:
        assert fact is ExperimentFact.RETRIED


@pytest.mark.parametrize(("state", "fact"), list(itertools.product(RankState, RankFact)))
def test_every_pair_of_a_rank_goes_forward_or_is_late(state: RankState, fact: RankFact) -> None:
    target = {
        RankFact.PREPARING: RankState.PREPARING, RankFact.READY: RankState.READY, RankFact.STARTED: RankState.RUNNING,
        RankFact.UPLOADING: RankState.UPLOADING, RankFact.ENDED: RankState.ENDED, RankFact.GIVEN_UP: RankState.ENDED,
    }[fact]  # fmt: skip
    forward = _RANK_ORDER.index(target) > _RANK_ORDER.index(state)
    assert advance_rank(state, fact) == (target if forward else None) == RANK_TRANSITIONS.get((state, fact))


@pytest.mark.parametrize(("state", "fact"), list(itertools.product(AttemptState, AttemptFact)))
def test_every_pair_of_an_attempt_goes_forward_or_is_late(state: AttemptState, fact: AttemptFact) -> None:
    target = {
        AttemptFact.PREPARING: AttemptState.PREPARING, AttemptFact.STARTED: AttemptState.RUNNING,
        AttemptFact.UPLOADING: AttemptState.UPLOADING, AttemptFact.ENDED: AttemptState.ENDED,
    }[fact]  # fmt: skip
    forward = _ATTEMPT_ORDER.index(target) > _ATTEMPT_ORDER.index(state)
    assert advance_attempt(state, fact) == (target if forward else None) == ATTEMPT_TRANSITIONS.get((state, fact))


def test_every_state_that_is_not_final_can_reach_a_final_one() -> None:
    ends = set(FINAL_STATES)
    while True:
        more = {state for (state, _), after in TRANSITIONS.items() if after in ends} - ends
        if not more:
            break
        ends |= more
    assert ends == set(ExperimentState) - {ExperimentState.LOST}  # of runs outside the platform alone


@pytest.mark.parametrize("reason", list(EndReason))
@pytest.mark.parametrize("state", [ExperimentState.STARTING, ExperimentState.RUNNING, ExperimentState.STOPPING])
def test_every_end_of_a_last_attempt_ends_the_experiment(state: ExperimentState, reason: EndReason) -> None:
    after = advance(state, conclusion(reason, retry=False))
    assert after in FINAL_STATES
    assert (after is ExperimentState.FINISHED) == (reason is EndReason.COMPLETED)
    if state is ExperimentState.STOPPING and reason in (EndReason.LOST, EndReason.PREEMPTED, EndReason.INFRA):
        assert after is ExperimentState.STOPPED


@pytest.mark.parametrize(
    ("counts", "fact"),
    [
        ({RankState.ASSIGNED: 2}, None),
        ({RankState.ASSIGNED: 1, RankState.PREPARING: 1}, AttemptFact.PREPARING),
        ({RankState.READY: 2}, AttemptFact.PREPARING),
        ({RankState.READY: 1, RankState.RUNNING: 1}, AttemptFact.PREPARING),
        ({RankState.RUNNING: 2}, AttemptFact.STARTED),
        ({RankState.RUNNING: 1, RankState.ENDED: 1}, AttemptFact.STARTED),
        ({RankState.UPLOADING: 1, RankState.ENDED: 1}, AttemptFact.UPLOADING),
        ({RankState.ENDED: 2}, AttemptFact.ENDED),
    ],
)
def test_what_the_ranks_amount_to(counts: dict[RankState, int], fact: AttemptFact | None) -> None:
    assert summary(counts) == fact


def test_the_meeting_is_when_none_still_prepares() -> None:
    assert all_ready([RankState.READY, RankState.RUNNING])
    assert not all_ready([RankState.READY, RankState.PREPARING])


def _end(rank: int, reason: EndReason, at: float, *, induced: bool = False) -> End:
    return End(rank, reason, "", "", at, induced)


@pytest.mark.parametrize(
    ("ends", "rank"),
    [
        ([_end(0, EndReason.COMPLETED, 2), _end(1, EndReason.COMPLETED, 1)], 1),
        ([_end(0, EndReason.STOPPED, 1, induced=True), _end(1, EndReason.ERROR, 2)], 1),
        ([_end(0, EndReason.ERROR, 5), _end(1, EndReason.LOST, 4)], 1),
        ([_end(0, EndReason.ERROR, 5), _end(1, EndReason.LOST, 6)], 0),
        ([_end(0, EndReason.COMPLETED, 1), _end(1, EndReason.STOPPED, 2, induced=True)], 1),
        ([_end(0, EndReason.STOPPED, 2, induced=True), _end(1, EndReason.STOPPED, 1, induced=True)], 1),
    ],
)
def test_the_first_failure_of_its_own_speaks_for_all(ends: list[End], rank: int) -> None:
    assert verdict(ends).rank == rank
    assert verdict(reversed(ends)).rank == rank


@pytest.mark.parametrize(
    ("ends", "reason", "rank"),
    [
        ([_end(0, EndReason.ERROR, 101), _end(1, EndReason.PREEMPTED, 120)], EndReason.PREEMPTED, 1),
        ([_end(0, EndReason.ERROR, 101), _end(1, EndReason.STOPPED, 102, induced=True)], EndReason.PREEMPTED, 0),
        ([_end(0, EndReason.ERROR, 98)], EndReason.PREEMPTED, 0),
        ([_end(0, EndReason.LOST, 101), _end(1, EndReason.STOPPED, 102, induced=True)], EndReason.PREEMPTED, 0),
        ([_end(0, EndReason.ERROR, 90), _end(1, EndReason.PREEMPTED, 120)], EndReason.ERROR, 0),
        ([_end(0, EndReason.COMPLETED, 101), _end(1, EndReason.COMPLETED, 102)], EndReason.COMPLETED, 0),
        ([_end(0, EndReason.STOPPED, 101, induced=True)], EndReason.STOPPED, 0),
        ([_end(0, EndReason.MAX_DURATION, 101)], EndReason.MAX_DURATION, 0),
        ([_end(0, EndReason.COMMAND, 101)], EndReason.COMMAND, 0),
    ],
)
def test_what_fails_once_a_machine_is_taken_back_is_preempted(ends: list[End], reason: EndReason, rank: int) -> None:
    """The provider's notice came at 100."""
    for order in (ends, ends[::-1]):
        said = verdict(order, 100.0)
        assert (said.reason, said.rank) == (reason, rank)


def test_what_a_rank_said_is_kept_beside_the_preemption() -> None:
    said = verdict([End(0, EndReason.ERROR, "ConnectionResetError: peer", "a hint", 101, induced=False)], 100.0)
    assert said.message == "the provider takes a machine back (preemption); then: ConnectionResetError: peer"
    assert said.hint == ""


def test_an_attempt_without_ends_has_no_verdict() -> None:
    with pytest.raises(ValueError, match="without ranks"):
        verdict([])


@pytest.mark.parametrize("reason", list(EndReason))
@pytest.mark.parametrize("stopping", [False, True])
@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_the_retry_policy(reason: EndReason, attempts: int, stopping: bool) -> None:
    everything = Retry(on=tuple(RetryReason), attempts=3)
    named = RETRY_REASONS[reason]
    assert retries(reason, attempts, everything, stopping=stopping) == (
        named is not None and not stopping and attempts < 3
    )
    assert not retries(reason, attempts, Retry(on=(), attempts=3), stopping=stopping)
    assert (named is not None) == (reason.value in {each.value for each in RetryReason})


def test_pauses_grow_only_for_what_may_fail_again() -> None:
    assert [backoff_s(EndReason.LOST, attempts, 0.5) for attempts in (1, 5)] == [0.5, 0.5]
    assert [backoff_s(EndReason.ERROR, attempts, 0.5) for attempts in (1, 2, 3, 30)] == [0.5, 1.0, 2.0, 60.0]


_DOCS = Path(__file__).parents[3] / "docs" / "mechanisms" / "attempts.md"


@pytest.mark.parametrize(
    "table", [TRANSITIONS, RANK_TRANSITIONS, ATTEMPT_TRANSITIONS], ids=["experiment", "rank", "attempt"]
)
def test_the_page_shows_the_tables_as_they_are(table: dict[tuple[str, str], str]) -> None:
    page = _DOCS.read_text(encoding="utf-8")
    for (state, fact), after in table.items():
        assert f"| {state} | {fact} | {after} |" in page
    rows = [line for line in page.splitlines() if line.startswith("| ") and line.count("|") == 4]
    known = {
        f"| {state} | {fact} | {after} |"
        for each in (TRANSITIONS, RANK_TRANSITIONS, ATTEMPT_TRANSITIONS)
        for (state, fact), after in each.items()
    }
    assert {row for row in rows if not row.startswith("| state ")} == known
