"""What the provisioner can be asked."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from incl_shared.ids import Id, Token
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
    refused: str = Field("", description="Why it gets no work though it speaks; empty: it is not refused.")
    hint: str = ""


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


class ZonePlan(Answer):
    """One place where it may be tried."""

    zone: str
    machine: str
    price: float | None = Field(description="An hour of all nodes there; none where it is not known.")
    score: float = Field(description="What a useful hour of all nodes costs there; the least is tried first.")
    why: str = Field(description="The parts of the score, in words.")
    wait_s: float | None = Field(None, description="Not tried before so long, after an error; none: it can be tried.")
    wait_reason: str = ""


class PlanView(Answer):
    """What a cloud would be asked for. Prices are an hour of all nodes, disks included."""

    cloud: str = Field(description="The provider; empty: no cloud is used, and the rest says nothing.")
    summary: str = ""
    nodes: int = 0
    machine: str = ""
    cores: int = Field(0, description="Of each node.")
    memory: int = Field(0, description="Bytes of each node.")
    gpu: str = ""
    gpus: int = Field(0, description="Of each node.")
    spot: bool = False
    spot_why: str = ""
    price_on_demand: float | None = None
    price_spot: float | None = None
    saving: float | None = Field(None, description="The share that spot saves, from 0 to 1.")
    currency: str = ""
    price_date: str = Field("", description="The day of the list of prices.")
    zones: tuple[ZonePlan, ...] = Field((), description="The first of them, in order.")
    zones_in_all: int = 0
    image: str = ""
    disks: tuple[str, ...] = ()
    network: str = ""
    service_account: str = ""
    max_run_duration_s: int = Field(0, description="After so long the provider deletes the machines by itself.")
    notes: tuple[str, ...] = ()


class PlanExperiment(Query[PlanView]):
    """Where in a cloud this would run, on what, and what it would cost (dry run); nothing is made."""

    service: ClassVar[str] = "provisioner"
    name: ClassVar[str] = "plan"
    answer: ClassVar[type[Answer]] = PlanView

    spec: dict[str, object] = Field(description="An ExperimentSpec.")


class CostView(Answer):
    """What one experiment has cost so far."""

    experiment: Id
    spent: float = Field(description="Of all its attempts' machines, by the list of prices.")
    rate: float = Field(0.0, description="An hour of the machines that are there now.")
    live: bool = Field(False, description="Whether machines are there; it costs more.")
    priced: bool = Field(True, description="Whether every price is known; else `spent` has what is.")


class Costs(Answer):
    """Those that have had machines of a cloud; all others have cost nothing."""

    costs: tuple[CostView, ...]
    currency: str = ""


class GetCosts(Query[Costs]):
    """What experiments of the project have cost."""

    service: ClassVar[str] = "provisioner"
    name: ClassVar[str] = "costs"
    answer: ClassVar[type[Answer]] = Costs

    experiments: tuple[Id, ...] = Field(max_length=1000)


class GangView(Answer):
    """The machines of one attempt in a cloud. Times in seconds since the epoch; asked, made: of the last try."""

    experiment: Id
    attempt: int
    nodes: tuple[str, ...] = Field(description="The names of the machines, by rank.")
    machine: str = Field("", description="Empty: none was asked for yet.")
    zone: str = Field("", description="Where they were made; empty: not yet.")
    zones: tuple[str, ...] = Field((), description="Where they were asked for.")
    spot: bool = False
    phase: str = Field(description="planned, asked, made, cleaning, ending, gone, failed.")
    tries: int = 0
    trouble: str = Field("", description="Why the last try came to nothing.")
    hint: str = ""
    wanted: bool
    created: float
    asked: float | None = None
    made: float | None = None
    preempted: float | None = None
    deleted: float | None = Field(None, description="When the provider said that nothing is left.")
    gone: tuple[int, ...] = Field((), description="Of those that were made, ranks that the provider shows no more.")
    going: tuple[int, ...] = Field((), description="Ranks that it is deleting, though they are wanted.")


class Machines(Answer):
    """Machines of a cloud, by attempt; the newest first."""

    gangs: tuple[GangView, ...]
    trouble: str = Field("", description="What keeps all of them from being looked after; empty: nothing.")
    hint: str = ""


class GetMachines(Query[Machines]):
    """The machines of a cloud that are there for the asker's project, or those that one experiment ever had."""

    service: ClassVar[str] = "provisioner"
    name: ClassVar[str] = "machines"
    answer: ClassVar[type[Answer]] = Machines

    experiment: Id | None = None


class SnapshotView(Answer):
    """A snapshot in the cloud's project."""

    name: str
    gib: int
    ready: bool


class DataDiskView(Answer):
    """A read-only disk of a snapshot. Times in seconds since the epoch."""

    name: str
    snapshot: str
    zone: str
    kind: str
    gib: int = Field(0, description="0: not known yet.")
    phase: str = Field(description="planned, asked, ready, ending, gone.")
    since: float
    used: float = Field(description="When somebody was last seen to use it.")
    machines: int = Field(0, description="That have it, or are about to.")
    experiments: tuple[Id, ...] = Field((), description="Of the asker's project, whose machines these are.")
    others: int = Field(0, description="How many experiments of other projects have it.")
    month: float | None = Field(None, description="What it costs in a month, without throughput; none: not known.")
    currency: str = ""
    trouble: str = ""
    hint: str = ""


class DataDisks(Answer):
    """Snapshots, and the disks that are made of them."""

    snapshots: tuple[SnapshotView, ...] = ()
    disks: tuple[DataDiskView, ...] = ()
    trouble: str = Field("", description="Why the snapshots could not be listed.")


class GetData(Query[DataDisks]):
    """The snapshots of the cloud's project, and the disks that are made of them or could not be, lately."""

    service: ClassVar[str] = "provisioner"
    name: ClassVar[str] = "data"
    answer: ClassVar[type[Answer]] = DataDisks


class PrepareData(Query[DataDiskView]):
    """Make the disk of a snapshot ahead of who will read it; the one that there is, is as good."""

    service: ClassVar[str] = "provisioner"
    name: ClassVar[str] = "prepare_data"
    answer: ClassVar[type[Answer]] = DataDiskView

    snapshot: str = Field(pattern=r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")
    zone: str | None = Field(None, pattern=r"^[a-z][a-z0-9-]{0,62}$", description="None: where the instance is tried.")
    instance: str = Field("auto", min_length=1, max_length=128, description="The machines that will read it.")


class RemoveData(Query[DataDisks]):
    """Delete the disks of a snapshot; refused while somebody has one."""

    service: ClassVar[str] = "provisioner"
    name: ClassVar[str] = "remove_data"
    answer: ClassVar[type[Answer]] = DataDisks

    snapshot: str = Field(pattern=r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$", description="Its name, or that of a disk.")
    zone: str | None = Field(None, pattern=r"^[a-z][a-z0-9-]{0,62}$", description="None: in all zones.")


class NodeAdmitted(Answer):
    """A machine may have a credential for this many seconds."""

    ttl_s: float


class EnrollNode(Query[NodeAdmitted]):
    """The gateway asks: is this machine one that was made, and does it show the token for the first time?"""

    service: ClassVar[str] = "provisioner"
    name: ClassVar[str] = "enroll"
    answer: ClassVar[type[Answer]] = NodeAdmitted

    node: Token
    key: str = Field(pattern=r"^U[A-Z2-7]{55}$", description="The public key that the machine made.")
    token: str = Field(min_length=16, max_length=200, repr=False)
    protocol: int = Field(0, ge=0, description="What its agent speaks (incl_shared.protocol); 0: it does not say.")
