"""What the provisioner can be asked."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from incl_shared.ids import Id
from incl_shared.queries.base import Answer, Query
from incl_shared.states import ExperimentState


class NodeView(Answer):
    """One machine."""

    node: str
    alive: bool
    address: str
    cpu: float
    cpu_used: float
    memory: int
    memory_used: int
    gpus: int
    gpus_used: int
    runtimes: tuple[str, ...]
    jobs: int
    seen_s: float = Field(description="Seconds since its last word.")


class QueuedView(Answer):
    """One that waits."""

    experiment: Id
    name: str
    user: str
    priority: int
    waiting_s: float
    reason: str


class Cluster(Answer):
    """The machines and the queue."""

    nodes: tuple[NodeView, ...]
    queue: tuple[QueuedView, ...]
    queued: int
    running: int


class GetCluster(Query[Cluster]):
    """The machines and the head of the queue."""

    service: ClassVar[str] = "provisioner"
    name: ClassVar[str] = "cluster"
    answer: ClassVar[type[Answer]] = Cluster


class ExecutionView(Answer):
    """What the owner of an experiment knows of it: the truth that the tracker projects."""

    experiment: Id
    known: bool
    state: ExperimentState | None = None
    attempts: int = 0


class GetExecution(Query[ExecutionView]):
    """Whether a submission has arrived, and how far it is."""

    service: ClassVar[str] = "provisioner"
    name: ClassVar[str] = "execution"
    answer: ClassVar[type[Answer]] = ExecutionView

    experiment: Id


class CheckFeasible(Query[Answer]):
    """Whether some machine that could exist here honours this; refused with the reason otherwise (dry run)."""

    service: ClassVar[str] = "provisioner"
    name: ClassVar[str] = "feasible"
    answer: ClassVar[type[Answer]] = Answer

    spec: dict[str, object] = Field(description="An ExperimentSpec.")
