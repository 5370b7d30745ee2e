"""What the scheduler's owner holds in memory: the queue, the room, the wanted lists. Made from the database, kept up by
what changes there, thrown away whenever a transaction did not commit."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

import sqlalchemy as sa

from incl_provisioner import images, store
from incl_provisioner.domain.cloud.names import rank_of
from incl_provisioner.domain.quotas import Quotas
from incl_provisioner.domain.scheduler import Assignment, Policy, Running, Scheduler, Waiting
from incl_provisioner.store import Execution, NodeRow, RankRow
from incl_provisioner.wanted import Fleet, attempt_of, job_spec
from incl_provisioner.work import Change
from incl_shared.states import ExperimentState


class Model:
    """Scheduler, wanted lists, generations, and the notices that are due."""

    def __init__(self, policy: Policy, quotas: Quotas | None = None) -> None:
        self.scheduler = Scheduler(policy, quotas)
        self.fleet = Fleet()
        self.generations: dict[str, int] = {}
        self.lives: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        """Machines that get no work though they speak, and why."""
        """Of each machine's agent, the life that said hello last."""
        self.seen: dict[str, float] = {}
        """When each living node was heard last, by the database."""
        self.notices: list[tuple[float, str]] = []
        self.said: dict[str, tuple[str, float]] = {}
        """Experiment -> (the reason said last, seconds until it may be said anew)."""
        self.cloud: dict[str, Execution] = {}
        """Those that wait for machines that are made for them."""
        self.cloud_due: set[str] = set()
        """Those of them to be looked at."""
        self.made: dict[str, NodeRow] = {}
        """The machines that were made for somebody, by name."""

    def load(self, connection: sa.Connection) -> None:
        """Everything that is live. Every node's list is to be written anew."""
        self.load_nodes(connection)
        executions = store.load_live(connection)
        active = {each.id: each.attempt for each in executions if each.state is not ExperimentState.QUEUED}
        self._specs(connection, active)
        ranks = store.current_ranks(connection)
        for execution in executions:
            self._put(execution, ranks.get(execution.id, []))
        self.fleet.dirty.update(self.generations)

    def load_nodes(self, connection: sa.Connection) -> None:
        """Every machine."""
        rows = store.load_nodes(connection)
        self.made = {row.node: row for row in rows if row.made_for is not None}
        self.generations = {row.node: max(row.generation, self.generations.get(row.node, 0)) for row in rows}
        self.lives = {row.node: row.life for row in rows}
        self.refused = {row.node: row.refused for row in rows if row.refused}
        for row in rows:
            if row.node not in self.made:
                self.scheduler.machine(row.room())
        self.seen = {row.node: row.seen for row in rows if row.alive}

    def _reload(self, connection: sa.Connection, names: set[str]) -> None:
        """Some machines, one of which may be gone."""
        rows = {row.node: row for row in store.load_nodes(connection, names)}
        for name in names - rows.keys():
            for known in (self.made, self.generations, self.lives, self.seen, self.refused):
                known.pop(name, None)
        for name, row in rows.items():
            self.generations[name] = max(row.generation, self.generations.get(name, 0))
            self.lives[name] = row.life
            self.refused.pop(name, None)
            if row.refused:
                self.refused[name] = row.refused
            if row.alive:
                self.seen[name] = row.seen
            else:
                self.seen.pop(name, None)
            if row.made_for is not None:
                self.made[name] = row
            else:
                self.scheduler.machine(row.room())

    def refresh(self, connection: sa.Connection, touched: Iterable[tuple[str, str]]) -> None:
        """What changed in the database."""
        changes = list(touched)
        nodes = {key for kind, key in changes if kind == Change.NODE}
        if nodes:
            self._reload(connection, nodes)
            self.fleet.dirty.update(nodes & self.generations.keys())
            self.cloud_due.update(place.experiment for node in nodes if (place := rank_of(node)) is not None)
        self.cloud_due.update(key for kind, key in changes if kind == Change.GANG)
        ids = {key for kind, key in changes if kind == Change.EXPERIMENT}
        if not ids:
            return
        executions = store.load_many(connection, ids)
        active = {
            each.id: each.attempt
            for each in executions.values()
            if each.live and each.state is not ExperimentState.QUEUED
        }
        self._specs(connection, active)
        ranks = store.current_ranks(connection, active) if active else {}
        for experiment in sorted(ids):
            execution = executions.get(experiment)
            if execution is None or not execution.live:
                self.drop(experiment)
            else:
                self._put(execution, ranks.get(experiment, []))

    def drop(self, experiment: str) -> None:
        """It neither waits nor runs."""
        self.cloud.pop(experiment, None)
        self.scheduler.dequeue(experiment)
        self.said.pop(experiment, None)
        self._vacate(experiment)

    def begun(self, execution: Execution, assignment: Assignment) -> None:
        """An attempt on machines of its own begins; one on those of all has its room already."""
        if not execution.cloud:
            return
        self.cloud.pop(execution.id, None)
        slots = {slot.rank: slot for slot in assignment.slots}
        self.scheduler.occupy(
            Running(
                execution.id, execution.attempt, execution.user, execution.project, execution.demand, slots, apart=True
            )
        )

    def _vacate(self, experiment: str) -> None:
        running = self.scheduler.running.get(experiment)
        if running is not None:
            self.scheduler.release(experiment, list(running.slots))
        self.fleet.drop(experiment)

    def _put(self, execution: Execution, rows: list[RankRow]) -> None:
        if execution.state is ExperimentState.QUEUED:
            self._vacate(execution.id)
            if execution.cloud:
                self.cloud[execution.id] = execution
                self.cloud_due.add(execution.id)
            else:
                self._enqueue(execution)
            return
        self.cloud.pop(execution.id, None)
        self.scheduler.dequeue(execution.id)
        self.said.pop(execution.id, None)
        live = {row.rank: row.slot for row in rows if row.live}
        running = self.scheduler.running.get(execution.id)
        if running is not None and running.attempt == execution.attempt:
            self.scheduler.release(execution.id, [rank for rank in running.slots if rank not in live])
        else:
            self._release(running)
            if live:
                self.scheduler.occupy(
                    Running(
                        execution.id, execution.attempt, execution.user, execution.project, execution.demand, live,
                        apart=execution.cloud,
                    )
                )  # fmt: skip
        self.fleet.put(attempt_of(execution, rows, self.fleet.specs[execution.id]))

    def _release(self, running: Running | None) -> None:
        if running is not None:
            self.scheduler.release(running.experiment, list(running.slots))

    def _enqueue(self, execution: Execution) -> None:
        new = execution.id not in self.scheduler.waiting
        self.scheduler.enqueue(waiting_of(execution))
        if new:
            self.said[execution.id] = (execution.waiting, 0.0)
            heapq.heappush(self.notices, (execution.created, execution.id))

    def _specs(self, connection: sa.Connection, attempts: Mapping[str, int]) -> None:
        missing = [each for each in attempts if each not in self.fleet.specs]
        specs = {key: job_spec(request) for key, request in store.requests(connection, missing).items()}
        self.fleet.specs.update(images.pinned(connection, specs, attempts))


def waiting_of(execution: Execution) -> Waiting:
    """A queued experiment, as the scheduler has it."""
    return Waiting(
        experiment=execution.id, user=execution.user, project=execution.project, priority=execution.priority,
        since=execution.created, attempt=execution.attempt + 1, demand=execution.demand,
        not_before=execution.not_before, blocked_since=execution.blocked_since,
    )  # fmt: skip
