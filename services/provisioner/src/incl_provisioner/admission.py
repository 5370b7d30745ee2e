"""What people ask for: an experiment, a stop."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

from incl_provisioner import store
from incl_provisioner.attempts import begin_stop, finish
from incl_provisioner.backends import Backend
from incl_provisioner.domain.experiment import ExperimentFact, advance
from incl_provisioner.domain.feasibility import Refusal, RefusalKind, demand_of
from incl_provisioner.domain.placement import Room
from incl_provisioner.store import Execution
from incl_provisioner.work import Change, Timer, Work
from incl_shared.events.experiments import ExperimentQueued, ExperimentStopping, ExperimentSubmitted, Submitter
from incl_shared.ids import short
from incl_shared.spec import ExperimentSpec
from incl_shared.states import EndReason, ExperimentState
from incl_shared.subjects import Asker

_log = logging.getLogger("incl.provisioner")
_WIRE_EXTRA = 2_048
"""Bytes of a job's description besides the spec: ids, rendezvous, checkpoint."""


def submit(work: Work, asker: Asker, event: ExperimentSubmitted, backend: Backend) -> None:
    """Admit an experiment, or refuse it with the reason. The same one again changes nothing."""
    digest = _digest(event)
    known = store.identity(work.connection, event.experiment)
    if known is not None:
        if known != (asker.project, asker.user, digest):
            _log.warning("experiment %s was submitted again, by another one or with other content", event.experiment)
        return
    wire = wire_size(event.spec, event.submitter)
    rooms = work.rooms()
    refusal = _foreign(event, asker) or backend.refusal(event.spec, wire, rooms)
    spec = event.spec.model_copy(update={"project": asker.project})
    execution = _queue(work, asker, event.model_copy(update={"spec": spec}), wire, cloud=backend.cloud(spec))
    if refusal is not None:
        refuse(work, execution, refusal)
    else:
        if not rooms and not execution.cloud:
            store.arm(work.connection, Timer.FEASIBLE, execution.id, work.now + work.settings.machine_wait_s)
        work.touch(Change.EXPERIMENT, execution.id)
    store.insert(work.connection, execution, event.model_dump_json(), digest)


def _queue(work: Work, asker: Asker, event: ExperimentSubmitted, wire: int, *, cloud: bool) -> Execution:
    spec = event.spec
    execution = Execution(
        id=event.experiment, project=asker.project, user=asker.user, name=spec.name or short(event.experiment),
        live=True, state=ExperimentState.QUEUED, version=0, priority=spec.priority, demand=demand_of(spec, wire),
        retry=spec.retry.model_dump_json(), grace=spec.checkpoint.grace, created=work.now,
        cloud=cloud,
    )  # fmt: skip
    queued = ExperimentQueued(
        experiment=event.experiment, user=asker.user, spec=spec, code=event.code, provenance=event.provenance,
        times=event.times,
    )  # fmt: skip
    work.emit(execution, queued)
    return execution


def refuse(work: Work, execution: Execution, refusal: Refusal) -> None:
    """End an experiment that nothing here can honour. The caller saves."""
    state = advance(execution.state, ExperimentFact.REFUSED)
    if state is not None:
        finish(work, execution, state, EndReason.UNSUPPORTED, refusal.message, refusal.hint)


def judge(work: Work, experiment: str, backend: Backend, rooms: Sequence[Room], due: float) -> None:
    """A machine has said hello, or none has for too long: decide about one that was queued before."""
    execution = store.load(work.connection, experiment)
    if execution is None or execution.state is not ExperimentState.QUEUED:
        store.disarm(work.connection, Timer.FEASIBLE, experiment)
        return
    request = store.requests(work.connection, [experiment])[experiment]
    event = ExperimentSubmitted.model_validate_json(request)
    refusal = backend.refusal(event.spec, execution.demand.wire, rooms)
    if refusal is None and not rooms and due > 0:
        refusal = Refusal(
            RefusalKind.NO_MACHINE,
            f"no machine has said hello in {work.settings.machine_wait_s:.0f} s",
            "see what is wrong with: incl doctor",
        )
    if refusal is None and not rooms:
        return
    store.disarm(work.connection, Timer.FEASIBLE, experiment)
    if refusal is not None:
        refuse(work, execution, refusal)
        store.save(work.connection, execution)


def stop(work: Work, asker: Asker, experiment: str, reason: str) -> bool:
    """Stop an experiment; False: it is not known (yet). What is finished or stopping already is left alone."""
    execution = store.load(work.connection, experiment)
    if execution is None:
        return False
    if execution.project != asker.project:
        _log.warning("%s of project %s may not stop %s of another one", asker.user, asker.project, experiment)
        return True
    state = advance(execution.state, ExperimentFact.STOP_ASKED)
    if state is None:
        return True
    why = f": {reason}" if reason else ""
    if state is ExperimentState.STOPPED:
        finish(work, execution, state, EndReason.STOPPED, f"stopped by {asker.user} before it started{why}", "")
    else:
        execution.state = state
        work.emit(execution, ExperimentStopping(experiment=experiment, by=asker.user, reason=reason))
        begin_stop(work, execution)
    store.save(work.connection, execution)
    return True


def wire_size(spec: ExperimentSpec, submitter: Submitter | None = None) -> int:
    """Bytes that the description of one rank takes in its node's wanted list, at most."""
    environment = len(submitter.model_dump_json().encode()) if submitter is not None else 0
    return _WIRE_EXTRA + len(spec.model_dump_json().encode()) + environment


def _digest(event: ExperimentSubmitted) -> str:
    code = event.code.sha256 if event.code is not None else ""
    return hashlib.sha256(f"{event.spec.model_dump_json()}{code}".encode()).hexdigest()


def _foreign(event: ExperimentSubmitted, asker: Asker) -> Refusal | None:
    if event.spec.project == asker.project:
        return None
    return Refusal(
        RefusalKind.PROJECT,
        f"the experiment says project {event.spec.project!r}, but it was submitted to {asker.project!r}",
        f"write project: {asker.project}, or log in to {event.spec.project}",
    )
