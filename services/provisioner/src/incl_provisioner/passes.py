"""One pass of the scheduler, in one transaction that only the holder of the lease can commit."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from incl_provisioner import admission, attempts, images, machines, store
from incl_provisioner.backends import Backend
from incl_provisioner.cloud import asking
from incl_provisioner.cloud.asking import Cloud
from incl_provisioner.control import Order
from incl_provisioner.domain.experiment import ExperimentFact, advance
from incl_provisioner.domain.reasons import why
from incl_provisioner.domain.scheduler import Assignment
from incl_provisioner.machines import newest_checkpoint
from incl_provisioner.model import Model
from incl_provisioner.store import Execution
from incl_provisioner.wanted import Attempt, job_spec
from incl_provisioner.work import Timer, Work
from incl_shared.events.experiments import AttemptAssigned, ExperimentWaiting, Placement, RankTimes
from incl_shared.states import AttemptState, ExperimentState

MOST = 500
"""Placements of one transaction."""
_LONGEST_NOTICE_S = 600.0
_NOTICE_REST_S = 0.2


@dataclass
class Outcome:
    """What a pass came to. again: there is more to place at once; due: when there is something to do by time."""

    orders: list[Order]
    again: bool
    due: float | None


def run(
    work: Work,
    model: Model,
    backend: Backend,
    *,
    silent: Mapping[str, float],
    floors: Mapping[str, int],
    republish: bool,
    notices: int,
    cloud: Cloud | None = None,
) -> Outcome:
    """Take in what changed, act on what is due, place what fits, order what nodes must know.

    silent: nodes that have said nothing for longer than their lease, with the seconds. floors: generations that ours
    must be above. notices: how many reasons of waiting may be said. cloud: makes machines for those that name one.
    """
    for node, seconds in silent.items():
        machines.lost(work, node, seconds)
    _timers(work, model, backend)
    model.refresh(work.connection, work.touched or ())
    assignments = [*model.scheduler.decide(work.now, MOST), *asking.run(work, model, cloud)]
    _assign(work, model, assignments)
    _notices(work, model, notices)
    if republish:
        model.fleet.dirty.update(model.generations)
    orders = _orders(work, model, floors)
    dues = [due for due in (store.next_due(work.connection), model.scheduler.next_due()) if due is not None]
    if model.notices:
        dues.append(max(model.notices[0][0] + work.settings.notice_after_s, work.now + _NOTICE_REST_S))
    return Outcome(orders, again=len(assignments) >= MOST, due=min(dues, default=None))


def _timers(work: Work, model: Model, backend: Backend) -> None:
    due = store.due_timers(work.connection, work.now)
    if not due:
        return
    rooms = store.shared_rooms(work.connection)
    for kind, key, at in due:
        match kind:
            case Timer.STOP:
                attempts.stop_overdue(work, key)
            case Timer.FEASIBLE:
                admission.judge(work, key, backend, rooms, at)
            case Timer.DRAIN:
                experiment, _, attempt = key.partition(":")
                asking.let_go(work, experiment, int(attempt))
            case Timer.CLOUD:
                store.disarm(work.connection, Timer.CLOUD, key)
                model.cloud_due.add(key)


def _assign(work: Work, model: Model, assignments: list[Assignment]) -> None:
    """Write the decisions down. One whose experiment has changed meanwhile is undone."""
    if not assignments:
        return
    ids = [each.waiting.experiment for each in assignments]
    executions = store.load_many(work.connection, ids)
    specs = images.pinned(
        work.connection,
        {key: job_spec(request) for key, request in store.requests(work.connection, ids).items()},
        {key: execution.attempt + 1 for key, execution in executions.items()},
    )
    saved: list[Execution] = []
    rows = []
    for assignment in assignments:
        execution = executions.get(assignment.waiting.experiment)
        state = advance(execution.state, ExperimentFact.ASSIGNED) if execution is not None else None
        if execution is None or state is None:
            model.drop(assignment.waiting.experiment)
            continue
        _begin(work, execution, state, assignment)
        saved.append(execution)
        rows += [
            (execution.id, execution.attempt, execution.demand, slot, RankTimes(rank=slot.rank).model_dump_json())
            for slot in assignment.slots
        ]
        model.said.pop(execution.id, None)
        model.begun(execution, assignment)
        model.fleet.specs[execution.id] = specs[execution.id]
        model.fleet.put(_attempt(execution, assignment, model))
    store.save(work.connection, *saved)
    store.insert_ranks(work.connection, rows)
    work.tx.after_commit(lambda: work.metrics.placed.inc(len(saved)))


def _begin(work: Work, execution: Execution, state: ExperimentState, assignment: Assignment) -> None:
    execution.state = state
    execution.attempt += 1
    execution.attempt_state = AttemptState.ASSIGNED
    execution.attempt_stopping, execution.port, execution.not_before = False, None, 0.0
    execution.attempt_checkpoint = execution.checkpoint
    execution.waiting, execution.blocked_since = "", None
    placements = tuple(
        Placement(rank=slot.rank, node=slot.node, address=slot.address, gpus=slot.gpus) for slot in assignment.slots
    )
    machines = asking.machines_of(work, execution) if execution.cloud else None
    work.emit(
        execution,
        AttemptAssigned(
            experiment=execution.id, attempt=execution.attempt, placements=placements, machines=machines
        ),
    )  # fmt: skip


def _attempt(execution: Execution, assignment: Assignment, model: Model) -> Attempt:
    return Attempt(
        execution=execution.id, project=execution.project, user=execution.user, number=execution.attempt,
        spec=model.fleet.specs[execution.id], addresses=tuple(slot.address for slot in assignment.slots),
        slots=assignment.slots, stopping=False, ready=False, port=None,
        checkpoint=newest_checkpoint(execution.attempt_checkpoint),
    )  # fmt: skip


def _notices(work: Work, model: Model, budget: int) -> None:
    """Say why some wait: those whose time has come, a few at a time, and only what is new."""
    settings, scheduler = work.settings, model.scheduler
    new: dict[str, str] = {}
    while model.notices and len(new) < budget and model.notices[0][0] + settings.notice_after_s <= work.now:
        _, experiment = heapq.heappop(model.notices)
        waiting = scheduler.waiting.get(experiment)
        if waiting is None:
            continue
        before, pause = model.said.get(experiment, ("", 0.0))
        reason = why(waiting, scheduler)
        pause = min(_LONGEST_NOTICE_S, max(settings.notice_every_s, 2 * pause))
        if reason != before:
            new[experiment] = reason
        model.said[experiment] = (reason, pause)
        heapq.heappush(model.notices, (work.now + pause - settings.notice_after_s, experiment))
    executions = store.load_many(work.connection, new) if new else {}
    for experiment, execution in executions.items():
        if execution.state is not ExperimentState.QUEUED:
            continue
        execution.waiting = new[experiment]
        execution.blocked_since = scheduler.waiting[experiment].blocked_since
        work.emit(execution, ExperimentWaiting(experiment=experiment, reason=new[experiment]))
        store.save(work.connection, execution)


def _orders(work: Work, model: Model, floors: Mapping[str, int]) -> list[Order]:
    orders: list[Order] = []
    for node in sorted(model.fleet.dirty | floors.keys()):
        known = model.generations.get(node)
        if known is None:
            continue
        generation = max(known, floors.get(node, 0)) + 1
        model.generations[node] = generation
        store.set_generation(work.connection, node, generation)
        life, refused = model.lives.get(node, ""), model.refused.get(node, "")
        message = model.fleet.message(node, generation, life, work.settings.node_lease_s, refused)
        orders.append(Order(node, generation, message))
    model.fleet.dirty.clear()
    return orders
