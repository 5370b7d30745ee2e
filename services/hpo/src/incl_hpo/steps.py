"""The steps of a sweep: each is one transaction in which rows change and events go out, shared by handlers and loop."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from incl_hpo import store, views
from incl_hpo.domain import ending
from incl_hpo.domain.ending import Closing
from incl_hpo.domain.pruning import goes_on
from incl_hpo.domain.spending import spending
from incl_hpo.domain.trial import Finish, Memo, Outcome, experiment_id, hint_of, score, signed, submission
from incl_hpo.store import Sweep
from incl_shared.events import (
    StopRequested,
    SweepFinished,
    SweepResumed,
    SweepResumeRequested,
    SweepStarted,
    SweepState,
    SweepSubmitted,
    TrialEnded,
    TrialPruned,
    TrialState,
    TrialSuggested,
)
from incl_shared.ids import short
from incl_shared.queries.provisioner import CostView
from incl_shared.sweep import Point, money_text

if TYPE_CHECKING:
    from incl_shared.db import Transaction
    from incl_shared.events.base import Event


@dataclass(frozen=True, slots=True)
class Proposed:
    """What is to be tried next. exhausted: there are no more points; refused: why there can be none, and
    hint what to do. memos: of the points, where the sampler notes anything.
    """

    points: tuple[Point, ...]
    exhausted: bool = False
    refused: str = ""
    memos: tuple[Memo, ...] = ()
    hint: str = ""


def begin(tx: Transaction, request: SweepSubmitted, project: str, user: str, refusal: str = "") -> None:
    """Take a sweep, or refuse it with the reason."""
    sweep = Sweep(
        id=request.sweep, project=project, user=user, name=request.spec.name or short(request.sweep),
        state=SweepState.RUNNING, closing=Closing.NOT, message="", hint="", version=0, revision=0, asked=0, open=0,
        good=0, request_text=request.model_dump_json(), created=tx.clock.now(),
    )  # fmt: skip
    _emit(tx, sweep, SweepStarted(sweep=sweep.id, user=user, spec=request.spec))
    store.insert(tx.connection, sweep)
    if refusal:
        _refuse(tx, sweep, refusal)
    settle(tx, sweep)


def _refuse(tx: Transaction, sweep: Sweep, refusal: str, hint: str = "") -> None:
    sweep.message, sweep.hint = refusal, hint or "mend the sweep file: docs/sweeps.md"
    close(tx, sweep, Closing.REFUSED)


def resume(tx: Transaction, sweep: Sweep, event: SweepResumeRequested, user: str) -> None:
    """It goes on, where it is over too, with what the request changes of its budget."""
    spec, age = sweep.spec, tx.clock.now() - sweep.created
    budget = spec.budget
    if event.trials is not None:
        budget = budget.model_copy(update={"trials": event.trials})
    if event.hours is not None:
        budget = budget.model_copy(update={"hours": age / 3600 + event.hours})
    if event.money is not None:
        budget = budget.model_copy(update={"money": event.money})
    changes = {"budget": budget, "parallel": event.parallel or spec.parallel}
    changed = sweep.request.model_copy(update={"spec": spec.model_copy(update=changes)})
    sweep.request_text = changed.model_dump_json()
    store.save_request(tx.connection, sweep)
    sweep.closing, sweep.state, sweep.ended, sweep.message, sweep.hint = Closing.NOT, SweepState.RUNNING, None, "", ""
    _emit(tx, sweep, SweepResumed(sweep=sweep.id, user=user, budget=budget, parallel=sweep.spec.parallel))
    settle(tx, sweep)


def suggest(tx: Transaction, sweep_id: str, expected: int, found: Proposed) -> bool:
    """Save suggestions and submit their trials, in one commit: what was suggested once never changes.

    expected: how many trials there were when the points were asked for. False: somebody else was quicker, or the
    sweep asks no more; nothing is done.
    """
    sweep = store.load(tx.connection, sweep_id, write=True)
    if sweep is None or sweep.closing or sweep.asked != expected:
        return False
    memos = found.memos or (None,) * len(found.points)
    for point, memo in list(zip(found.points, memos, strict=True))[: sweep.spec.most - sweep.asked]:
        _suggest_one(tx, sweep, point, memo)
    if found.refused:
        _refuse(tx, sweep, found.refused, found.hint)
    elif found.exhausted:
        close(tx, sweep, Closing.EXHAUSTED)
    settle(tx, sweep)
    return True


def _suggest_one(tx: Transaction, sweep: Sweep, point: Point, memo: Memo) -> None:
    number, experiment = sweep.asked, experiment_id(sweep.id, sweep.asked)
    sweep.asked += 1
    sweep.open += 1
    sweep.revision += 1
    store.add_trial(tx.connection, sweep, number, experiment, point, tx.clock.now(), memo)
    _emit(tx, sweep, TrialSuggested(sweep=sweep.id, trial=number, experiment=experiment, parameters=point))
    event = submission(sweep.request, sweep.name, number, point)
    tx.emit(event, project=sweep.project, version=0, cause=(sweep.id, number), user=sweep.user)


def spend(tx: Transaction, sweep_id: str, found: Mapping[int, CostView], currency: str) -> None:
    """What trials have cost, by number; and whether the money is spent."""
    sweep = store.load(tx.connection, sweep_id, write=True)
    if sweep is None or sweep.over:
        return
    sweep.currency = currency or sweep.currency
    for number, one in found.items():
        row = store.trial(tx.connection, sweep_id, number)
        if row is not None:
            final = row["over"] is not None and not one.live
            store.update_trial(tx.connection, sweep, number, cost=one.spent, cost_final=int(final))
    money = sweep.spec.budget.money
    if not sweep.closing and any(not one.priced for one in found.values()):
        sweep.message = "what its machines cost is not known, so its money cannot be kept to"
        sweep.hint = "see `incl run --dry-run` for what has no price; INCL_PROVISIONER_PRICES names a file of prices"
        close(tx, sweep, Closing.FAILING)
    elif not sweep.closing and money is not None:
        known = spending(store.changed_trials(tx.connection, sweep_id, -1))
        if known.exhausted(money):
            spent, each = money_text(known.spent), money_text(known.each)
            sweep.message = f"{spent} of {money:g} {sweep.currency} are spent, a trial costs {each}"
            close(tx, sweep, Closing.MONEY)
    settle(tx, sweep)


def see(tx: Transaction, sweep_id: str) -> None:
    """Its time may be over."""
    sweep = store.load(tx.connection, sweep_id, write=True)
    if sweep is not None and not sweep.over:
        settle(tx, sweep)


def over(
    tx: Transaction, sweep: Sweep, experiment: str, finish: Finish | None, attempts: int, settled: int
) -> str | None:
    """The experiment of a trial ended, or the records of one of its attempts are all stored. Returns what changed."""
    row = store.trial_by(tx.connection, experiment)
    if row is None or row["state"] != TrialState.RUNNING:
        return None
    values: dict[str, object] = {"settled": max(settled, row["settled"])}
    if finish is not None:
        values |= {"finish": finish.model_dump_json(), "attempts": attempts, "over": tx.clock.now()}
    tried = attempts if finish is not None else row["attempts"]
    if (finish is not None or row["finish"]) and int(str(values["settled"])) >= tried:
        values["state"] = TrialState.ENDED
    store.update_trial(tx.connection, sweep, row["number"], **values)
    store.save(tx.connection, sweep)
    return sweep.id


def give_up_waiting(tx: Transaction, sweep_id: str, numbers: Sequence[int]) -> None:
    """The records of these trials do not come: what is stored of them counts."""
    sweep = store.load(tx.connection, sweep_id, write=True)
    for number in numbers:
        row = store.trial(tx.connection, sweep_id, number)
        if sweep is not None and row is not None and row["state"] == TrialState.RUNNING and row["finish"]:
            store.update_trial(tx.connection, sweep, number, state=TrialState.ENDED)
    if sweep is not None:
        store.save(tx.connection, sweep)


def learn(tx: Transaction, sweep_id: str, number: int, found: Outcome) -> None:
    """What a trial came to. Said again, nothing changes."""
    sweep = store.load(tx.connection, sweep_id, write=True)
    row = store.trial(tx.connection, sweep_id, number)
    if sweep is None or row is None or row["state"] != TrialState.ENDED:
        return
    sweep.open -= 1
    sweep.good += found.state is TrialState.COMPLETE
    if found.state is TrialState.COMPLETE and not sweep.longest:
        sweep.longest = found.steps
    store.update_trial(
        tx.connection, sweep, number, state=found.state, values=json.dumps(found.values),
        constraints=json.dumps(found.constraints), score=score(sweep.spec, found), message=found.message,
        steps=found.steps,
        ended=tx.clock.now(),
    )  # fmt: skip
    told = TrialEnded(
        sweep=sweep.id, trial=number, experiment=row["experiment"], state=found.state, values=_finite(found.values),
        constraints=_finite(found.constraints), message=found.message,
    )  # fmt: skip
    _emit(tx, sweep, told)
    count = 0 if sweep.good or sweep.closing else store.without_value(tx.connection, sweep.id)
    if count and ending.closing_of(sweep.spec, 0, count, 0, 0.0):
        first = "the first trial has" if count == 1 else f"none of the first {count} trials has"
        sweep.message = f"{first} {'no' if count == 1 else 'a'} value; the last one: {found.message}"
        sweep.hint = hint_of(found.state, row["experiment"])
        close(tx, sweep, Closing.FAILING)
    settle(tx, sweep)


def judge(tx: Transaction, sweep_id: str, number: int, rung: int, step: int, value: float) -> bool:
    """A trial has come to a rung: it goes on (True), or is stopped. What was judged once is not judged again.

    value: of the objective, as it was logged, at the first step from the rung on.
    """
    sweep = store.load(tx.connection, sweep_id, write=True)
    row = store.trial(tx.connection, sweep_id, number)
    if sweep is None or row is None or row["state"] != TrialState.RUNNING or row["finish"] or row["rung"] >= rung:
        return row is not None and not row["pruned"]
    mine = signed(sweep.spec, (value,))[0] if math.isfinite(value) else None
    others = store.at_rung(tx.connection, sweep_id, rung, number)
    kept = goes_on(sweep.spec.early_stopping, mine, others)
    store.note_rung(tx.connection, sweep_id, rung, number, step, mine)
    store.update_trial(tx.connection, sweep, number, rung=rung, pruned=0 if kept else rung)
    if not kept:
        event = TrialPruned(
            sweep=sweep.id, trial=number, experiment=row["experiment"], rung=rung, step=step,
            value=value if math.isfinite(value) else None,
        )  # fmt: skip
        _emit(tx, sweep, event)
        stop = StopRequested(
            experiment=row["experiment"], reason=f"behind the other trials of its sweep at step {step}"
        )
        tx.emit(stop, project=sweep.project, version=0, cause=("rung", sweep.id, rung), user=sweep.user)
    store.save(tx.connection, sweep)
    return kept


def close(tx: Transaction, sweep: Sweep, why: Closing) -> None:
    """Nothing more is asked; where it is to end at once, the trials that run are told to stop. The caller settles."""
    sweep.closing = why
    if why in ending.ENDS_TRIALS:
        sweep.state = SweepState.STOPPING
        for experiment in store.running(tx.connection, sweep.id):
            stop = StopRequested(experiment=experiment, reason=f"its sweep {sweep.name} ends: {sweep.message}"[:1000])
            tx.emit(stop, project=sweep.project, version=0, cause=("sweep", sweep.id), user=sweep.user)


def settle(tx: Transaction, sweep: Sweep) -> None:
    """See whether it asks no more, and whether it is over; store it."""
    age = tx.clock.now() - sweep.created
    if not sweep.closing:
        sweep.closing = ending.closing_of(sweep.spec, sweep.asked, 0, 1, age)
    if sweep.closing and not sweep.open and not sweep.over:
        _finish(tx, sweep)
    sweep.revision += 1
    store.save(tx.connection, sweep)


def _finish(tx: Transaction, sweep: Sweep) -> None:
    sweep.state = ending.final_state(sweep.closing, sweep.good)
    sweep.message = ending.final_message(sweep.spec, sweep.closing, sweep.asked, sweep.good, sweep.message)
    if not sweep.good and not sweep.hint and (last := store.last_without_value(tx.connection, sweep.id)) is not None:
        sweep.message += f"; the last one: {last['message']}"
        sweep.hint = hint_of(TrialState(last["state"]), last["experiment"])
    sweep.ended = tx.clock.now()
    best = tuple(trial.number for trial in views.best_trials(tx.connection, sweep.id, sweep.spec))
    finished = SweepFinished(
        sweep=sweep.id, state=sweep.state, message=sweep.message, hint=sweep.hint, trials=sweep.asked, best=best[:100]
    )
    _emit(tx, sweep, finished)


def _finite(values: Sequence[float]) -> tuple[float, ...]:
    """Events carry numbers that JSON has."""
    return tuple(values) if all(abs(value) < float("inf") for value in values) else ()


def _emit(tx: Transaction, sweep: Sweep, event: Event) -> None:
    sweep.version += 1
    tx.emit(event, project=sweep.project, version=sweep.version)
