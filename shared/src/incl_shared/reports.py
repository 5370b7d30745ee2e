"""What agents say (stream REPORTS): journaled on the node, numbered, consumed by the provisioner.

The Nats-Msg-Id is '<node>:<journal>:<seq>'. `journal` names one life of the node's journal file (a new file, a new
name), `seq` counts from 1 within it without holes; the pair makes a repeat recognisable.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from incl_shared.events.experiments import RankTimes, WriterCount
from incl_shared.ids import Id, Token
from incl_shared.states import EndReason


class _Report(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)


class NodeHello(_Report):
    """The agent (re)started: what the machine has, which jobs it still holds."""

    kind: Literal["node_hello"] = "node_hello"
    cpu: float
    memory: int
    gpus: int
    gpu_name: str = ""
    address: str
    runtimes: tuple[str, ...] = Field(description="host, bubblewrap, podman, docker: what works here.")
    machine: str = ""
    agent_version: str = ""
    protocol: int = Field(1, ge=0, description="What the agent speaks; see incl_shared.protocol.")
    life: str = Field("", description="Names the agent's process: another one after every start.")
    jobs: tuple[str, ...] = ()


class NodeVitals(_Report):
    """How a node is: bytes, seconds. draining: ended jobs whose telemetry is not stored; draining_s: the first since.

    unsent: reports of its journal that the bus has not taken.
    """

    disk_free: int = 0
    disk_total: int = 0
    draining: int = 0
    draining_bytes: int = 0
    draining_s: float = 0.0
    unsent: int = 0


class NodeHeartbeat(_Report):
    """The node lives. Never journaled: an old one is worth nothing."""

    kind: Literal["node_heartbeat"] = "node_heartbeat"
    jobs: tuple[str, ...] = ()
    generation: int = 0
    vitals: NodeVitals | None = None


class _JobReport(_Report):
    experiment: Id
    attempt: int
    rank: int


class JobPreparing(_JobReport):
    """Fetching code, image, checkpoint."""

    kind: Literal["job_preparing"] = "job_preparing"
    times: RankTimes


class JobReady(_JobReport):
    """Prepared; with a free port for the rendezvous should this be rank 0."""

    kind: Literal["job_ready"] = "job_ready"
    times: RankTimes
    port: int


class JobStarted(_JobReport):
    """The user's process runs."""

    kind: Literal["job_started"] = "job_started"
    times: RankTimes


class JobUploading(_JobReport):
    """The process ended; outputs and the rest of the telemetry are on their way."""

    kind: Literal["job_uploading"] = "job_uploading"
    times: RankTimes
    exit_code: int | None = None
    signal: int | None = None


class JobEnded(_JobReport):
    """All is done on this node. Final."""

    kind: Literal["job_ended"] = "job_ended"
    times: RankTimes
    reason: EndReason
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""
    hint: str = ""
    writers: tuple[WriterCount, ...] = ()


class PreemptionNotice(_Report):
    """The provider will take this machine away."""

    kind: Literal["preemption_notice"] = "preemption_notice"
    seconds_left: float


AnyReport = Annotated[
    NodeHello | NodeHeartbeat | JobPreparing | JobReady | JobStarted | JobUploading | JobEnded | PreemptionNotice,
    Field(discriminator="kind"),
]


class Report(_Report):
    """One numbered report. A heartbeat has seq 0."""

    node: Token
    journal: str
    seq: int = Field(ge=0)
    time: float
    body: AnyReport
