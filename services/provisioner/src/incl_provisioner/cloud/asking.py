"""The scheduler's part: machines are wanted for what waits, what waits gets them once they are all there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from incl_provisioner import admission, store, store_gangs
from incl_provisioner.cloud import keeping
from incl_provisioner.domain.cloud.errors import Meaning, Verdict
from incl_provisioner.domain.cloud.gangs import Gang, Phase
from incl_provisioner.domain.feasibility import Refusal, RefusalKind
from incl_provisioner.domain.placement import Slot
from incl_provisioner.domain.scheduler import Assignment
from incl_provisioner.model import Model, waiting_of
from incl_provisioner.store import Execution
from incl_provisioner.store_gangs import Enrolled, GangRow, Key
from incl_provisioner.work import Change, Timer, Work
from incl_shared.events.experiments import ExperimentWaiting, MachinesMade
from incl_shared.states import ExperimentState

_SOON_S = 1.0
_TRIES = frozenset({Meaning.TRANSIENT, Meaning.BACK_OFF, Meaning.CREDENTIALS})


class Cloud(Protocol):
    """What a pass needs to know of the loop that makes the machines."""

    def why(self, experiment: str) -> str:
        """Why nothing can be tried for it now."""
        ...

    def wake(self) -> None:
        """Something is wanted, or is no more."""
        ...


@dataclass(frozen=True, slots=True)
class _Seen:
    """Read once for all who are looked at."""

    rows: Mapping[Key, GangRow]
    enrolled: Mapping[Key, Mapping[int, Enrolled]]


def run(work: Work, model: Model, cloud: Cloud | None) -> list[Assignment]:
    """Look at those whose time has come. What all machines are there for is to be assigned."""
    due, model.cloud_due = model.cloud_due, set()
    if not due:
        return []
    made: list[Assignment] = []
    ids = sorted(due & model.cloud.keys())
    executions = store.load_many(work.connection, ids)
    seen = _Seen(store_gangs.load_all(work.connection, ids), store_gangs.enrolled_all(work.connection, ids))
    for experiment in ids:
        execution = executions.get(experiment)
        if execution is None or execution.state is not ExperimentState.QUEUED:
            continue
        model.cloud[experiment] = execution
        assignment = _one(work, model, execution, cloud, seen)
        if assignment is not None:
            made.append(assignment)
    if due and cloud is not None:
        work.tx.after_commit(cloud.wake)
    return made


def _one(work: Work, model: Model, execution: Execution, cloud: Cloud | None, seen: _Seen) -> Assignment | None:
    if execution.not_before > work.now:
        store.arm(work.connection, Timer.CLOUD, execution.id, execution.not_before)
        return None
    if cloud is None:
        _say(work, execution, "no cloud is configured any more, so its machines cannot be made")
        return None
    row = seen.rows.get((execution.id, execution.attempt + 1))
    if row is None:
        wanted = _want(work, model, execution, seen.rows.get((execution.id, execution.attempt)))
        why = cloud.why(execution.id) if wanted else ""
        if why:  # what keeps the cloud from being used may have been told to all before this one came
            _say(work, execution, why)
        return None
    hopeless = row.gang.verdict is not None and _hopeless(row.gang, row.gang.verdict)
    if row.gang.phase is Phase.FAILED or hopeless:
        _refuse(work, execution, row.gang)
        model.drop(execution.id)
        return None
    ready = _ready(model, row.gang, seen.enrolled.get(row.gang.key, {}))
    if row.gang.phase is Phase.MADE and row.gang.zone and len(ready) == row.gang.nodes:
        return Assignment(waiting_of(execution), tuple(ready))
    _say(work, execution, reason(row, len(ready), cloud.why(execution.id)))
    return None


def _want(work: Work, model: Model, execution: Execution, before: GangRow | None) -> bool:
    """Whether its machines are wanted now."""
    refusal = model.scheduler.quotas.refusal(execution.user, execution.project, execution.demand)
    if refusal:
        _say(work, execution, refusal)
        store.arm(work.connection, Timer.CLOUD, execution.id, work.now + _SOON_S)
        return False
    gang = keeping.take_over(work, execution, before, model.made) if before is not None else None
    if gang is None:
        gang = Gang(execution.id, execution.attempt + 1, execution.demand.nodes, since=work.now)
    store_gangs.want(work.connection, gang, work.now)
    return True


def _hopeless(gang: Gang, verdict: Verdict) -> bool:
    return gang.phase is Phase.CLEANING and not verdict.waits and verdict.meaning is not Meaning.CREDENTIALS


def _refuse(work: Work, execution: Execution, gang: Gang) -> None:
    verdict = gang.verdict
    message = verdict.message if verdict is not None else "its machines could not be made"
    said = f" ({verdict.said})" if verdict is not None and verdict.said else ""
    hint = verdict.hint if verdict is not None else ""
    admission.refuse(work, execution, Refusal(RefusalKind.INSTANCE, message + said, hint))
    store.save(work.connection, execution)


def _ready(model: Model, gang: Gang, enrolled: Mapping[int, Enrolled]) -> list[Slot]:
    """The ranks whose machines have said hello in this try."""
    if gang.phase not in (Phase.ASKED, Phase.MADE):
        return []
    slots = []
    for rank, name in enumerate(gang.names):
        node, one = model.made.get(name), enrolled.get(rank)
        in_time = rank in gang.kept or (one is not None and one.turn == gang.turn)
        if node is not None and node.alive and node.life and in_time:
            slots.append(Slot(rank, name, node.address, tuple(range(node.gpus))))
    return slots


def reason(row: GangRow, ready: int, why: str) -> str:
    """What an experiment waits for, in a few words."""
    gang = row.gang
    count = len(gang.asks) if gang.phase is Phase.ASKED else gang.nodes
    what = f"{count} x {gang.machine}" if gang.nodes > 1 else gang.machine
    kind = f"{what} (spot)" if gang.spot else what
    verdict = gang.verdict
    if gang.phase is Phase.PLANNED:
        if gang.origins:
            return f"{len(gang.kept)} of {gang.nodes} machines are kept; the others are asked for"
        if why:
            return why
        return f"{verdict.message}; the next place is asked" if verdict is not None else "its machines are asked for"
    if gang.phase is Phase.ASKED:
        rest = f", {len(gang.kept)} are kept" if gang.origins else ""
        asked = f"creating {kind} in {', '.join(gang.zones)}{rest}"
        trouble = verdict.message if verdict is not None and verdict.meaning in _TRIES else why
        return f"{asked}: {trouble}" if trouble else asked
    if gang.phase is Phase.MADE:
        booting = "booting" if gang.nodes == 1 else f"booting, {ready} of {gang.nodes} are ready"
        return f"{kind} in {gang.zone or gang.region}: {booting}"
    return f"{verdict.message}; what may be left is removed" if verdict is not None else "what is left is removed"


def _say(work: Work, execution: Execution, text: str) -> None:
    if execution.waiting == text:
        return
    execution.waiting = text
    work.emit(execution, ExperimentWaiting(experiment=execution.id, reason=text))
    store.save(work.connection, execution)


def machines_of(work: Work, execution: Execution) -> MachinesMade | None:
    """What was made for the attempt that is about to begin."""
    options = work.settings.cloud
    row = store_gangs.load(work.connection, execution.id, execution.attempt)
    if row is None or options is None:
        return None
    gang = row.gang
    return MachinesMade(
        cloud=options.provider, machine=gang.machine, zone=gang.zone, spot=gang.spot, wanted=row.created,
        asked=row.asked or row.created, made=row.made or work.now, kept=len(gang.kept),
    )  # fmt: skip


def let_go(work: Work, experiment: str, attempt: int) -> None:
    """The machines of an attempt have done all that they were for."""
    key = f"{experiment}:{attempt}"
    if keeping.awaited(work, experiment, attempt):
        store.arm(work.connection, Timer.DRAIN, key, work.now + _SOON_S)
        return
    store.disarm(work.connection, Timer.DRAIN, key)
    if store_gangs.unwant_one(work.connection, experiment, attempt):
        work.touch(Change.GANG, experiment)
