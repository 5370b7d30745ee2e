"""Machines: they say hello, they live, they are lost, they come back. And the checkpoints that their jobs leave."""

from __future__ import annotations

import logging

from pydantic import BaseModel, ConfigDict

from incl_provisioner import protocols, store, store_gangs
from incl_provisioner.attempts import give_up
from incl_provisioner.domain.attempt import RankState
from incl_provisioner.domain.cloud.names import rank_of
from incl_provisioner.domain.placement import milli
from incl_provisioner.store import NodeRow, RankRow
from incl_provisioner.work import Change, Timer, Work
from incl_shared.control import CheckpointRef
from incl_shared.events.experiments import ArtifactStored, NodeLost, NodeReady
from incl_shared.ids import job_id
from incl_shared.reports import NodeHeartbeat, NodeHello, Report
from incl_shared.spec import Resources
from incl_shared.states import EndReason, ExperimentState
from incl_shared.subjects import SYSTEM_PROJECT

_log = logging.getLogger("incl.provisioner")


def hello(work: Work, report: Report, body: NodeHello) -> None:
    """An agent (re)started. What it holds goes on; what it should hold and does not is lost, or begins there.

    On a new disk (another journal) nothing begins that was meant for the old one: nobody knows how far it came. A hello
    that comes late says nothing of what has begun since; one that comes after a newer one says nothing at all. An agent
    that is too old gets no work.
    """
    node, journal = report.node, report.journal
    known = store.load_node(work.connection, node)
    if known is None and _deleted(work, node):
        _log.info("the hello of %s comes after its end", node)
        return
    if known is not None and known.journal == journal and report.seq < known.said:
        return
    row = NodeRow(
        node=node, alive=True, version=known.version if known else 0, address=body.address, cpu=milli(body.cpu),
        memory=body.memory, gpus=body.gpus, runtimes=body.runtimes, seen=work.said,
        generation=known.generation if known else 0, life=body.life, journal=journal,
        said=report.seq, refused=protocols.refusal(node, body.protocol),
    )  # fmt: skip
    if row.refused:
        _refused(work, row, known)
        return
    _ready(work, row, new=known is None)
    if known is None or _more(known, row):
        store.hasten(work.connection, Timer.FEASIBLE)
    held, other = set(body.jobs), known is not None and known.journal not in ("", journal)
    for rank in store.ranks_on(work.connection, node):
        if job_id(rank.experiment, rank.attempt, rank.rank) in held:
            continue
        if other or (rank.said <= report.seq and _begun(work, rank)):
            give_up(work, rank, EndReason.LOST, f"the agent of {node} came back without it", work.now)


def heartbeat(work: Work, node: str, body: NodeHeartbeat) -> None:
    """It lives. A lost machine that is heard again has room again; what it holds is not wanted any more."""
    if store.seen(work.connection, node, work.said, body.generation):
        return
    row = store.load_node(work.connection, node)
    if row is None:
        return
    if body.generation > row.generation:
        _log.warning("node %s has seen generation %d, we know %d", node, body.generation, row.generation)
        store.set_generation(work.connection, node, body.generation)
        work.touch(Change.NODE, node)
    row.seen, row.generation = work.said, max(row.generation, body.generation)
    if row.refused:
        store.put_node(work.connection, row, new=False)
    elif row.alive:
        store.seen(work.connection, node, work.said, row.generation)
    else:
        row.alive = True
        _ready(work, row, new=False)


def lost(work: Work, node: str, silent_s: float) -> None:
    """Silent for longer than its lease: what ran there is lost, from its last word on."""
    row = store.load_node(work.connection, node)
    if row is None or not row.alive:
        return
    row.alive, row.version = False, row.version + 1
    store.put_node(work.connection, row, new=False)
    work.tx.emit(NodeLost(node=node, silent_s=silent_s), project=SYSTEM_PROJECT, version=row.version)
    work.touch(Change.NODE, node)
    work.tx.after_commit(work.metrics.nodes_lost.inc)
    for rank in store.ranks_on(work.connection, node):
        give_up(work, rank, EndReason.LOST, f"machine {node} was silent for {silent_s:.0f} s", row.seen)


def preempting(work: Work, node: str) -> None:
    """The provider takes a machine back: its agent ends what runs there, and says so itself."""
    _log.warning("node %s is about to be preempted", node)
    holder = store_gangs.holder(work.connection, node)
    if holder is not None and store_gangs.note_preempted(work.connection, *holder, work.said):
        work.touch(Change.GANG, holder[0])


def _deleted(work: Work, node: str) -> bool:
    """Whether it was made for an attempt whose machines are all gone: its last words may be delivered later."""
    place = rank_of(node)
    row = store_gangs.load(work.connection, place.experiment, place.attempt) if place is not None else None
    return row is not None and not row.live


def _ready(work: Work, row: NodeRow, *, new: bool) -> None:
    row.version += 1
    store.put_node(work.connection, row, new=new)
    ready = NodeReady(
        node=row.node, address=row.address, runtimes=row.runtimes,
        resources=Resources(cpu=row.cpu / 1000, memory=row.memory, gpu=row.gpus),
    )  # fmt: skip
    work.tx.emit(ready, project=SYSTEM_PROJECT, version=row.version)
    work.touch(Change.NODE, row.node)


def _refused(work: Work, row: NodeRow, known: NodeRow | None) -> None:
    """It is known and gets no work; what it was given is lost."""
    _log.error("%s; %s", row.refused, protocols.remedy(row.node))
    row.alive = False
    if known is not None and known.alive:
        row.version += 1
        work.tx.emit(NodeLost(node=row.node, silent_s=0.0), project=SYSTEM_PROJECT, version=row.version)
    store.put_node(work.connection, row, new=known is None)
    work.touch(Change.NODE, row.node)
    for rank in store.ranks_on(work.connection, row.node):
        give_up(work, rank, EndReason.LOST, row.refused, work.now)


def _more(known: NodeRow, row: NodeRow) -> bool:
    return (known.cpu, known.memory, known.gpus, known.runtimes) != (row.cpu, row.memory, row.gpus, row.runtimes)


def _begun(work: Work, rank: RankRow) -> bool:
    """Whether it cannot begin (again) on its machine by being wanted alone."""
    if rank.state in (RankState.ASSIGNED, RankState.PREPARING):
        return False
    if rank.state is not RankState.READY:
        return True
    execution = store.load(work.connection, rank.experiment)
    return execution is not None and execution.demand.nodes > 1


class _Newest(BaseModel):
    """The newest checkpoint of an experiment, with what tells which is newer."""

    model_config = ConfigDict(frozen=True)

    attempt: int
    rank: int
    ref: CheckpointRef

    def after(self, other: _Newest) -> bool:
        """Whether this one is newer; the same step of a higher rank is not."""
        own = (self.attempt, -1 if self.ref.step is None else self.ref.step)
        its = (other.attempt, -1 if other.ref.step is None else other.ref.step)
        return own > its or (own == its and self.rank <= other.rank)


def checkpoint_stored(work: Work, project: str, event: ArtifactStored) -> None:
    """A checkpoint lies in the artifact store: the next attempt begins from the newest."""
    if event.kind != "checkpoint":
        return
    execution = store.load(work.connection, event.experiment)
    if execution is None or execution.project != project or not execution.live:
        return
    ref = CheckpointRef(sha256=event.sha256, size=event.size, path=event.path, step=event.step)
    newest = _Newest(attempt=event.attempt, rank=event.rank, ref=ref)
    if execution.checkpoint is not None and not newest.after(_Newest.model_validate_json(execution.checkpoint)):
        return
    execution.checkpoint = newest.model_dump_json()
    store.save(work.connection, execution)
    if execution.state is ExperimentState.QUEUED:
        work.touch(Change.EXPERIMENT, execution.id)


def newest_checkpoint(text: str | None) -> CheckpointRef | None:
    """The checkpoint in a row's column."""
    return None if text is None else _Newest.model_validate_json(text).ref
