"""What the provisioner answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import sqlalchemy as sa
from pydantic import ValidationError

from incl_provisioner import protocols, store, store_gangs, store_trouble
from incl_provisioner.admission import wire_size
from incl_provisioner.backends import Backend
from incl_provisioner.domain.cloud.plan import Plan
from incl_provisioner.domain.feasibility import demand_of
from incl_provisioner.plan_view import machines_view, view
from incl_provisioner.planner import Planner
from incl_provisioner.usage import Usage, usage
from incl_shared.clock import Clock
from incl_shared.db import Database
from incl_shared.errors import InvalidInput, UnsupportedError
from incl_shared.queries.base import Answer, Done
from incl_shared.queries.provisioner import (
    CheckFeasible,
    Cluster,
    ExecutionView,
    GetCluster,
    GetExecution,
    GetMachines,
    Machines,
    NodeView,
    PlanExperiment,
    PlanView,
    QueuedView,
)
from incl_shared.spec import ExperimentSpec
from incl_shared.states import ExperimentState
from incl_shared.subjects import Asker

_QUEUE_HEAD = 100
_MACHINES = 200


class Queries:
    """The handlers of the provisioner's questions. cloud: the provider of machines; empty: there is none."""

    def __init__(
        self, database: Database, backend: Backend, clock: Clock, planner: Planner | None = None,
        advise: Callable[[Plan], Awaitable[bool]] | None = None, cloud: str = "",
    ) -> None:  # fmt: skip
        self._cloud = cloud
        self._advise = advise
        self._database = database
        self._backend = backend
        self._clock = clock
        self._planner = planner

    async def cluster(self, asker: Asker, _: GetCluster) -> Cluster:
        """The machines, how many wait and run, and the head of the asker's project's queue."""
        now = self._clock.now()
        return await self._database.read(lambda connection: _cluster(connection, asker.project, now))

    async def execution(self, asker: Asker, query: GetExecution) -> ExecutionView:
        """How far an experiment of the asker's project is."""
        found = await self._database.read(lambda connection: store.peek(connection, query.experiment))
        if found is None or found.project != asker.project:
            return ExecutionView(experiment=query.experiment, known=False)
        return ExecutionView(experiment=query.experiment, known=True, state=found.state, attempts=found.attempt)

    async def feasible(self, asker: Asker, query: CheckFeasible) -> Answer:
        """Nothing to say when it could run here.

        Raises:
            InvalidInput: it is no experiment, or belongs to another project.
            UnsupportedError: nothing here can honour it.
        """
        spec = _spec(asker, query.spec)
        rooms = await self._database.read(store.shared_rooms)
        refusal = self._backend.refusal(spec, demand_of(spec, wire_size(spec)).wire, rooms)
        if refusal is not None:
            raise UnsupportedError(refusal.message, hint=refusal.hint)
        return Done()

    async def machines(self, asker: Asker, query: GetMachines) -> Machines:
        """The machines of a cloud that are there for the asker's project, or were for one of its experiments."""

        def read(connection: sa.Connection) -> Machines:
            rows = store_gangs.of_project(connection, asker.project, query.experiment, _MACHINES)
            found = store_trouble.load(connection, self._cloud) if self._cloud else None
            trouble, hint = (found[0].message, found[0].hint) if found is not None else ("", "")
            return Machines(gangs=tuple(map(machines_view, rows)), trouble=trouble, hint=hint)

        return await self._database.read(read)

    async def plan(self, asker: Asker, query: PlanExperiment) -> PlanView:
        """What a cloud would be asked for; empty when none is configured, or the experiment names no instance.

        Raises:
            InvalidInput: it is no experiment, belongs to another project, or can nowhere be had.
        """
        spec = _spec(asker, query.spec)
        if self._planner is None or spec.instance is None:
            return PlanView(cloud="")
        plan = self._planner.plan(spec)
        if self._advise is not None and await self._advise(plan):
            plan = self._planner.plan(spec)
        return view(plan, self._clock.now())


def _spec(asker: Asker, values: dict[str, object]) -> ExperimentSpec:
    """The experiment that is asked about.

    Raises:
        InvalidInput: it is none, or belongs to another project.
    """
    try:
        spec = ExperimentSpec.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidInput(f"the experiment is not valid: {where}: {first['msg']}") from error
    if spec.project != asker.project:
        raise InvalidInput(
            f"the experiment says project {spec.project!r}, but you are in {asker.project!r}",
            hint=f"write project: {asker.project}, or log in to {spec.project}",
        )
    return spec


def _cluster(connection: sa.Connection, project: str, now: float) -> Cluster:
    taken = usage(connection)
    counts = store.state_counts(connection)
    views = []
    for node in store.load_nodes(connection):
        used = taken.get(node.node, Usage())
        views.append(
            NodeView(
                node=node.node, alive=node.alive, address=node.address, cpu=node.cpu / 1000, cpu_used=used.cpu / 1000,
                memory=node.memory, memory_used=used.memory, gpus=node.gpus, gpus_used=used.gpus,
                runtimes=node.runtimes, jobs=used.jobs, seen_s=max(0.0, now - node.seen),
                refused=node.refused, hint=protocols.remedy(node.node) if node.refused else "",
            )
        )  # fmt: skip
    queue = tuple(
        QueuedView(
            experiment=each.id, name=each.name, user=each.user, priority=each.priority,
            waiting_s=max(0.0, now - each.created), reason=each.waiting,
        )
        for each in store.queue_head(connection, project, _QUEUE_HEAD)
    )  # fmt: skip
    queued = counts.get(ExperimentState.QUEUED, 0)
    return Cluster(nodes=tuple(views), queue=queue, queued=queued, running=sum(counts.values()) - queued)
