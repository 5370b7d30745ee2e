"""The invariants judge by the events: whatever way the provisioner's table allows is one that they accept."""

from __future__ import annotations

import pytest

from incl_provisioner.domain.experiment import TRANSITIONS, ExperimentFact
from incl_shared.states import FINAL_STATES, ExperimentState
from incl_shared.testing.invariants.history import FORWARD

_F = ExperimentFact
SAID = {
    _F.ASSIGNED: ("AttemptAssigned",),
    _F.STARTED: ("AttemptStarted",),
    _F.STOP_ASKED: ("ExperimentStopping",),
    _F.RETRIED: ("retried",),
    _F.REFUSED: ("ExperimentFinished",),
}
"""Which events each fact is told by; all others end the last attempt, and the experiment."""


@pytest.mark.parametrize(("state", "fact"), TRANSITIONS, ids=str)
def test_every_transition_is_one_of_the_events_too(state: ExperimentState, fact: ExperimentFact) -> None:
    after = TRANSITIONS[state, fact]
    names = SAID.get(fact, ("AttemptEnded", "ExperimentFinished"))
    if (state, fact) == (ExperimentState.QUEUED, _F.STOP_ASKED):
        names = ("ExperimentFinished",)
    told = str(state)
    for name in names:
        told = FORWARD[told, name]
    assert told == ("final" if after in FINAL_STATES else after)
