"""What the sampler is told of a sweep: the text that grows with it says what is known of all its trials."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from incl_hpo.domain.learning import Learned, known
from incl_hpo.domain.question import question
from incl_hpo.domain.trial import Finish, Trial
from incl_hpo.testing_runs import sweep_spec
from incl_shared.events import TrialState
from incl_shared.states import EndReason, ExperimentState
from incl_shared.sweep import SweepSpec

LOST = Finish(state=ExperimentState.FAILED, reason=EndReason.PREEMPTED)


def some_trial(number: int, rng: random.Random) -> Trial:
    state = rng.choice(list(TrialState))
    finish = LOST if rng.random() < 0.3 else Finish(state=ExperimentState.FAILED, reason=EndReason.ERROR)
    values: Any = (rng.choice([rng.gauss(0, 1), float("nan")]) if state is not TrialState.COMPLETE else rng.random(),)
    if state is not TrialState.COMPLETE and rng.random() < 0.2:
        values = ()
    point: Any = {"X": rng.uniform(-2, 2), "Y": rng.random()}
    return Trial(number, f"{number:026}", state, point, values, (rng.gauss(0, 1),), finish)


def as_told(spec: SweepSpec, trials: list[Trial]) -> tuple[Any, Any]:
    everything = known(spec, trials)
    return json.loads(json.dumps(everything.history)), json.loads(json.dumps(everything.pending))


@pytest.mark.parametrize("goal", ["min", "max"])
def test_the_text_grows_with_the_trials(goal: str) -> None:
    spec = sweep_spec(objective={"metric": "loss", "goal": goal}, constraints=["size"])
    trials: list[Trial] = []
    rng, learned = random.Random(3), Learned(spec)
    for number in range(120):
        trial = some_trial(number, rng)
        running = replace(trial, state=TrialState.RUNNING, values=(), finish=None)
        for one in (running, trial) if rng.random() < 0.5 else (trial,):
            trials = [*trials[:number], one]
            learned.note(one)
        if number % 7 == 3:
            again = some_trial(number // 2, rng)
            trials[again.number] = again
            learned.note(again)
        history, pending = as_told(spec, trials)
        assert repr(json.loads(f"[{learned.history()}]")) == repr(history)
        assert learned.pending() == pending


def test_a_question_has_what_others_taught_before_its_own() -> None:
    spec, rng = sweep_spec(), random.Random(5)
    trials = [replace(some_trial(n, rng), state=TrialState.COMPLETE, values=(float(n),)) for n in range(3)]
    learned = Learned(spec)
    for earlier in ([], [({"X": 1.0, "Y": 1.0}, (0.5,), ())]):
        asked = json.loads(question(spec, trials, learned, earlier, 4, 0.1))
        assert (asked["count"], asked["algorithm"], asked["pending"]) == (4, "tpe", [])
        assert [values for _, values, _ in asked["history"]] == [list(one[1]) for one in earlier]
    for trial in trials:
        learned.note(trial)
    asked = json.loads(question(spec, trials, learned, earlier, 4, 0.1))
    assert [values for _, values, _ in asked["history"]] == [[0.5], [0.0], [1.0], [2.0]]
