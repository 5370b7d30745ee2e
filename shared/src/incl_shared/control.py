"""The wanted state of a node (stream CONTROL): one message with a generation.

Written by the provisioner alone, with expected-last-subject-sequence. An agent ignores a lower generation, and never
reads "not found" as "stop". The list is complete: a job that is not in it is not wanted any more.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from incl_shared.events.experiments import CodeRef, Submitter
from incl_shared.ids import Id, Sha256, Token, job_id
from incl_shared.spec import CheckpointPolicy, DataMount, Goal


class Wire(BaseModel):
    """Unknown fields are ignored, values do not change."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)


class Wanted(StrEnum):
    """What a node is to do with a job; it only goes forward."""

    PREPARE = "prepare"
    RUN = "run"
    STOP = "stop"


class Rendezvous(Wire):
    """How the ranks of an attempt find each other."""

    node_ips: tuple[str, ...]
    master_addr: str
    master_port: int = Field(ge=1, le=65_535)


class CheckpointRef(Wire):
    """A checkpoint of an earlier attempt."""

    sha256: Sha256
    size: int
    path: str
    step: int | None = None


class JobSpec(Wire):
    """What to run: the part of the experiment's spec that a node needs, in plain units."""

    name: str
    command: tuple[str, ...]
    env: dict[str, str] = Field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    image: str | None = None
    image_digest: str | None = Field(None, description="What the image's name meant in the first attempt.")
    image_login: str | None = Field(None, description="The secret by which the image is pulled; not for the job.")
    sandbox: bool = False
    nodes: int = 1
    cpu: float = 1.0
    cpu_asked: bool = Field(False, description="Whether the author named a number of cores.")
    memory: int | None = None
    gpus: tuple[int, ...] = Field((), description="Indices of the GPUs that are this job's own.")
    data: tuple[DataMount, ...] = ()
    outputs: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    goals: dict[str, Goal] = Field(
        default_factory=dict, description="Which way each of the metrics is better, in the author's order."
    )
    max_duration_s: float | None = None
    grace_s: float = 30.0
    keep_checkpoints: CheckpointPolicy = CheckpointPolicy.LATEST
    sweep: Id | None = Field(None, description="The sweep that it is a trial of.")
    trial: int | None = Field(None, ge=0, description="Its number there, from 0.")
    code: CodeRef | None = None
    submitter: Submitter = Field(default_factory=Submitter)

    @property
    def read_secrets(self) -> tuple[str, ...]:
        """Every secret that its node may read for it."""
        return (*self.secrets, *((self.image_login,) if self.image_login else ()))


class JobWanted(Wire):
    """One rank of one attempt on this node."""

    experiment: Id
    project: Token
    user: Token
    attempt: int = Field(ge=1)
    rank: int = Field(ge=0)
    wanted: Wanted
    address: str = "127.0.0.1"
    spec: JobSpec
    rendezvous: Rendezvous | None = None
    checkpoint: CheckpointRef | None = None

    @property
    def job(self) -> str:
        """The job's id."""
        return job_id(self.experiment, self.attempt, self.rank)


class NodeWanted(Wire):
    """Everything that a node is to do."""

    node: Token
    generation: int = Field(ge=0)
    lease_s: float | None = Field(
        None, gt=0, description="Silent for so long, the node's work is given to others; a node ends it before."
    )
    life: str = Field(
        "", description="The agent's life whose hello this list knows of; jobs begin in that one only. Empty: in any."
    )
    refused: str = Field("", description="Why this agent gets no work; empty: it is not refused.")
    jobs: tuple[JobWanted, ...] = ()
