"""What the provisioner waits for, and why: experiments, attempts, machines, the scheduler. Reads by index only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from incl_provisioner import protocols, store_trouble
from incl_provisioner.domain.attempt import RankState
from incl_provisioner.domain.cloud.names import rank_of
from incl_provisioner.tables import experiments, nodes, ranks, timers
from incl_provisioner.work import Timer
from incl_shared.disk import room
from incl_shared.events.experiments import RankTimes
from incl_shared.ids import short
from incl_shared.queries.stuck import Finding, ProvisionerStuck
from incl_shared.states import ExperimentState

if TYPE_CHECKING:
    from incl_provisioner.loop import Reconciler
    from incl_provisioner.settings import ProvisionerSettings
    from incl_provisioner.vitals import Vitals
    from incl_shared.clock import Clock
    from incl_shared.db import Database

QUEUED_S = 600.0
BEGIN_S = 300.0
UPLOAD_S = 600.0
STOP_S = 60.0
"""Beyond the grace that the job was given."""
SCHEDULER_S = 30.0
DRAIN_S = 600.0
CLOUD_S = 900.0
AWAY_S = 30.0
_REPORTS = 50
_FORGOTTEN_S = 86_400.0
_SILENT_S = 10.0
_ROWS = 200

_e, _r = experiments.c, ranks.c
_QUEUED = (
    sa.select(_e.id, _e.name, _e.user, _e.created, _e.blocked_since, _e.waiting, _e.attempt)
    .where(sa.text("experiments.live = 1"), _e.state == ExperimentState.QUEUED, _e.created < sa.bindparam("before"))
    .order_by(_e.created)
    .limit(_ROWS)
)
_RANKS = (
    sa.select(_r.experiment, _r.attempt, _r.rank, _r.node, _r.state, _r.times, _e.attempt_stopping, _e.grace)
    .join(experiments, sa.and_(_e.id == _r.experiment, _e.attempt == _r.attempt))
    .where(sa.text("ranks.live = 1"), sa.or_(_r.state != RankState.RUNNING, _e.attempt_stopping == 1))
    .limit(_ROWS)
)
_STOPS = sa.select(timers.c.key, timers.c.due).where(timers.c.kind == Timer.STOP).limit(_ROWS)
_NODES = sa.select(nodes.c.node, nodes.c.alive, nodes.c.seen, nodes.c.refused)


class Stuck:
    """Looks at all of it when it is asked."""

    def __init__(
        self, settings: ProvisionerSettings, database: Database, clock: Clock, reconciler: Reconciler, vitals: Vitals
    ) -> None:
        self._settings = settings
        self._database = database
        self._clock = clock
        self._reconciler = reconciler
        self._vitals = vitals

    async def find(self, query: ProvisionerStuck) -> Sequence[Finding]:
        """Everything that has not moved for longer than is usual."""
        now = self._clock.now()
        return [*self._scheduler(query), *self._machines(query), *await self._database.read(
            lambda connection: [
                *_queued(connection, query, now),
                *self._ranks(connection, query, now),
                *_nodes(connection, query, now),
                *self._cloud(connection, query, now),
            ]
        )]  # fmt: skip

    def _scheduler(self, query: ProvisionerStuck) -> Iterator[Finding]:
        loop = self._reconciler
        if loop.idle_s > query.patience(SCHEDULER_S):
            yield Finding(
                kind="scheduler.stalled", severity="error", subject="scheduler", since_s=loop.idle_s,
                reason=f"no pass has succeeded: {loop.trouble or 'one hangs'}", hint="see the log of the provisioner",
            )  # fmt: skip

    def _ranks(self, connection: sa.Connection, query: ProvisionerStuck, now: float) -> Iterator[Finding]:
        told = {key: due - self._settings.stop_margin_s for key, due in connection.execute(_STOPS)}
        for row in connection.execute(_RANKS):
            stop_due = told.get(f"{row.experiment}:{row.attempt}")
            if stop_due is not None:
                found = _stopping(row, stop_due, query, now)
            else:
                found = _slow(row, self._reconciler.assigned.get(row.experiment), query, now)
            if found is not None:
                yield found

    def _cloud(self, connection: sa.Connection, query: ProvisionerStuck, now: float) -> Iterator[Finding]:
        """What keeps the machines of a cloud from being looked after."""
        options = self._settings.cloud
        found = store_trouble.load(connection, options.provider) if options is not None else None
        if found is None:
            return
        trouble, since = found
        if trouble.refused or now - since > query.patience(AWAY_S):
            yield Finding(
                kind="cloud.refused" if trouble.refused else "cloud.away", severity="error",
                subject=f"cloud {options.provider}" if options is not None else "cloud", since_s=max(0.0, now - since),
                reason=trouble.message, hint=trouble.hint or "incl machines",
            )  # fmt: skip

    def _machines(self, query: ProvisionerStuck) -> Iterator[Finding]:
        """What nodes say of themselves."""
        for node, said in self._vitals.known().items():
            if said.disk_total:
                yield from room("disk", said.disk_free, said.disk_total, where=f"node {node}")
            if said.draining_s > query.patience(DRAIN_S):
                yield Finding(
                    kind="telemetry.draining", severity="warning", subject=f"node {node}", since_s=said.draining_s,
                    reason=f"{said.draining} ended jobs, {said.draining_bytes / 1e6:,.1f} MB, are not stored yet",
                    hint="is the tracker up, and does it keep up? incl status",
                )  # fmt: skip
            if said.unsent > _REPORTS:
                yield Finding(
                    kind="reports.waiting", severity="warning", subject=f"node {node}",
                    reason=f"{said.unsent} reports of its journal are not sent", hint="see the log of its agent",
                )  # fmt: skip


def _queued(connection: sa.Connection, query: ProvisionerStuck, now: float) -> Iterator[Finding]:
    for row in connection.execute(_QUEUED, {"before": now - query.patience(QUEUED_S)}):
        since = row.blocked_since if row.attempt and row.blocked_since else row.created
        yield Finding(
            kind="experiment.queued", severity="warning", subject=f"{short(row.id)} {row.name}",
            since_s=now - since, reason=row.waiting or "nobody has said yet why",
            hint=f"incl queue   or give it up: incl stop {short(row.id)}",
        )  # fmt: skip


_SLOW = {
    RankState.ASSIGNED: (BEGIN_S, "the machine has not begun with it"),
    RankState.PREPARING: (BEGIN_S, "its code, data or image is being fetched"),
    RankState.READY: (BEGIN_S, "waits for the other machines of its gang"),
    RankState.UPLOADING: (UPLOAD_S, "its outputs are being stored"),
}


def _slow(row: Any, assigned: float | None, query: ProvisionerStuck, now: float) -> Finding | None:
    """A rank that is in a passing state for too long."""
    state, times = RankState(row.state), RankTimes.model_validate_json(row.times)
    since = {
        RankState.ASSIGNED: assigned, RankState.PREPARING: times.preparing, RankState.READY: times.prepared,
        RankState.UPLOADING: times.ended,
    }.get(state)  # fmt: skip
    limit, reason = _SLOW.get(state, (UPLOAD_S, ""))
    if since is None or now - since <= query.patience(limit):
        return None
    return _attempt(row, str(state), now - since, reason)


def _stopping(row: Any, grace_over: float, query: ProvisionerStuck, now: float) -> Finding | None:
    """A rank that was told to stop. grace_over: until when it might take."""
    since = now - (grace_over - row.grace)
    if since <= query.patience(STOP_S + row.grace):
        return None
    return _attempt(row, "stopping", since, "it was told to stop, and has not ended; it is given up in the end")


def _attempt(row: Any, state: str, since: float, reason: str) -> Finding:
    name = short(row.experiment)
    return Finding(
        kind=f"attempt.{state}", severity="warning", subject=f"{name} attempt {row.attempt} rank {row.rank}",
        since_s=since, reason=f"on node {row.node}: {reason}", hint=f"incl logs {name}   or end it: incl stop {name}",
    )  # fmt: skip


_SILENT_CLOUD = "none: when it stays so, its attempt goes on on another machine, and it is deleted: incl machines"


def _nodes(connection: sa.Connection, query: ProvisionerStuck, now: float) -> Iterator[Finding]:
    for row in connection.execute(_NODES):
        silent = now - row.seen
        if row.refused:
            yield Finding(
                kind="node.refused", severity="error", subject=f"node {row.node}", reason=row.refused,
                hint=protocols.remedy(row.node),
            )  # fmt: skip
        elif row.alive and silent > max(_SILENT_S, query.patience(_SILENT_S)):
            yield Finding(
                kind="node.silent", severity="warning", subject=f"node {row.node}", since_s=silent,
                reason="its agent says nothing; what it runs is given up when its lease is over",
                hint=_SILENT_CLOUD if rank_of(row.node) is not None else "is its agent up, and does it reach the bus?",
            )  # fmt: skip
        elif not row.alive and rank_of(row.node) is not None:
            yield _gone(row.node, silent, query)
        elif not row.alive:
            old = silent > _FORGOTTEN_S
            yield Finding(
                kind="node.lost", severity="note" if old else "error", subject=f"node {row.node}", since_s=silent,
                reason="silent for longer than its lease: what ran there was given up",
                hint="start its agent again; it has room at once",
            )  # fmt: skip


def _gone(node: str, silent: float, query: ProvisionerStuck) -> Finding:
    """A machine of a cloud that is lost: nobody has to do anything, unless it stays."""
    late = silent > query.patience(CLOUD_S)
    return Finding(
        kind="node.lost", severity="error" if late else "note", subject=f"node {node}", since_s=silent,
        reason="a machine of the cloud is lost: what ran there was given up",
        hint="does the provider answer? incl machines" if late else "none: it is deleted once its attempt is stored",
    )  # fmt: skip
