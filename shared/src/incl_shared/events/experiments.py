"""Events of an experiment's managed execution. The provisioner owns them, but for requests and settlement."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from incl_shared.events.base import Event
from incl_shared.ids import Id, Sha256, Token
from incl_shared.spec import ExperimentSpec, Resources
from incl_shared.states import EndReason, ExperimentState


class Part(BaseModel):
    """A part of an event: the same rules."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class CodeRef(Part):
    """The packed working directory in the artifact store."""

    sha256: Sha256
    size: int = Field(ge=0, description="Bytes of the tar.zst.")
    files: int = Field(ge=0)


class Provenance(Part):
    """Where the code came from. The diff and the package list lie in the artifact store."""

    command_line: str = ""
    git_commit: str | None = None
    git_branch: str | None = None
    git_remote: str | None = None
    git_dirty: bool = False
    diff_sha256: Sha256 | None = None
    packages_sha256: Sha256 | None = None
    python: str = ""
    rerun_of: Id | None = None
    sweep: Id | None = Field(None, description="The sweep that it is a trial of.")
    trial: int | None = Field(None, ge=0, description="Its number there, from 0.")


class Submitter(Part):
    """The submitter's own machine, so that the same machine can offer the same tools (local mode)."""

    machine: str = Field("", description="A hash that names the machine, not its address.")
    environment: dict[str, str] = Field(default_factory=dict, description="PATH, VIRTUAL_ENV, CONDA_PREFIX …")


class ClientTimes(Part):
    """Seconds since the epoch, by the client's clock."""

    started: float
    packed: float
    uploaded: float


class ExperimentSubmitted(Event):
    """Somebody wants an experiment. Published by the CLI itself; the id is the client's own."""

    stream: ClassVar[str] = "REQUESTS"

    experiment: Id
    spec: ExperimentSpec
    code: CodeRef | None = None
    provenance: Provenance = Field(default_factory=Provenance)
    submitter: Submitter = Field(default_factory=Submitter)
    times: ClientTimes | None = None


class StopRequested(Event):
    """Somebody wants an experiment to stop."""

    stream: ClassVar[str] = "REQUESTS"
    aggregate: ClassVar[str] = "stop"

    experiment: Id
    reason: str = Field("", max_length=1000)


class ExperimentQueued(Event):
    """Admitted: it waits for room. Carries all that others need to know of it."""

    experiment: Id
    user: Token
    spec: ExperimentSpec
    code: CodeRef | None = None
    provenance: Provenance = Field(default_factory=Provenance)
    times: ClientTimes | None = None


class ExperimentWaiting(Event):
    """Why an experiment that is queued does not start yet. Said when the reason changes."""

    experiment: Id
    reason: str


class Placement(Part):
    """One rank of an attempt on one node."""

    rank: int = Field(ge=0)
    node: Token
    address: str
    gpus: tuple[int, ...] = ()


class MachinesMade(Part):
    """The machines that a cloud made for an attempt, one for each rank. Times in seconds since the epoch.

    wanted: when the attempt's machines were first wanted; asked, made: of the try that came to something. kept: how
    many of them the attempt before had had, and handed on.
    """

    cloud: str
    machine: str
    zone: str
    spot: bool
    wanted: float
    asked: float
    made: float
    kept: int = Field(0, ge=0)


class AttemptAssigned(Event):
    """Room was found for all ranks of an attempt."""

    experiment: Id
    attempt: int = Field(ge=1)
    placements: tuple[Placement, ...]
    machines: MachinesMade | None = Field(None, description="None: on machines that were there.")


class RankTimes(Part):
    """When one rank did what, by its node's clock (seconds since the epoch); none: not reached."""

    rank: int = Field(ge=0)
    preparing: float | None = None
    prepared: float | None = None
    started: float | None = None
    ended: float | None = None
    uploaded: float | None = None
    pulling: float | None = None
    pulled: float | None = None
    image: str | None = Field(None, max_length=128, description="The digest of the image that it runs.")
    mounting: float | None = None
    mounted: float | None = None


class AttemptStarted(Event):
    """The first process of every rank runs."""

    experiment: Id
    attempt: int = Field(ge=1)
    ranks: tuple[RankTimes, ...]


class WriterCount(Part):
    """How many records one writer wrote: what settlement counts against."""

    writer: Token
    records: int = Field(ge=0)
    stream: Literal["metrics", "logs"] | None = Field(None, description="None: whichever stream has this writer.")
    dropped: int = Field(0, ge=0, description="Records lost on the node (disk full), known and counted.")


class RankEnd(Part):
    """How one rank ended."""

    rank: int = Field(ge=0)
    node: Token
    reason: EndReason
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""
    writers: tuple[WriterCount, ...] = ()
    times: RankTimes


class AttemptEnded(Event):
    """Every rank ended, or is given up."""

    experiment: Id
    attempt: int = Field(ge=1)
    reason: EndReason
    message: str = ""
    retry: bool = Field(description="Whether another attempt follows.")
    ranks: tuple[RankEnd, ...]


class ExperimentStopping(Event):
    """A stop was asked for and is under way."""

    experiment: Id
    by: Token
    reason: str = ""


class ExperimentFinished(Event):
    """The final state: nothing more will run."""

    experiment: Id
    state: ExperimentState
    reason: EndReason
    message: str = ""
    hint: str = ""
    attempts: int = Field(ge=0)


class AttemptSettled(Event):
    """Every numbered record of an attempt is stored, or known lost. By the tracker."""

    aggregate: ClassVar[str] = "settlement"

    experiment: Id
    attempt: int = Field(ge=1)
    points: int = Field(ge=0)
    lines: int = Field(ge=0)
    gaps: int = Field(ge=0, description="Records that are known to be lost.")


class AlertRaised(Event):
    """A script called incl.alert. By the tracker."""

    aggregate: ClassVar[str] = "alert"

    experiment: Id
    attempt: int = Field(ge=1)
    rank: int = Field(ge=0)
    title: str
    text: str = ""
    level: str = "info"


class TrashRequested(Event):
    """A person puts an experiment that has ended into the trash, or has it purged at once."""

    stream: ClassVar[str] = "REQUESTS"
    aggregate: ClassVar[str] = "trash"

    experiment: Id
    purge: bool = False


class RestoreRequested(Event):
    """A person takes an experiment out of the trash, or its points and lines back from the archive."""

    stream: ClassVar[str] = "REQUESTS"
    aggregate: ClassVar[str] = "restore"

    experiment: Id


class ExperimentTrashed(Event):
    """An experiment is in the trash: in no list, and purged when its time has come. By the tracker."""

    aggregate: ClassVar[str] = "trash"

    experiment: Id
    by: Token
    purge_at: float = Field(description="Seconds since the epoch.")


class ExperimentRestored(Event):
    """An experiment is out of the trash again. By the tracker."""

    aggregate: ClassVar[str] = "trash"

    experiment: Id
    by: Token


class ExperimentPurged(Event):
    """Nothing is kept of an experiment any more but that it was purged. By the tracker."""

    aggregate: ClassVar[str] = "trash"

    experiment: Id
    purged_by: str = Field("", description="A user, or nobody: its time in the trash was over.")


class RunStarted(Event):
    """A run outside the platform began (incl.init()). The tracker owns its whole life."""

    stream: ClassVar[str] = "REQUESTS"
    aggregate: ClassVar[str] = "run"

    experiment: Id
    name: str | None = None
    config: dict[str, str] = Field(default_factory=dict)
    tags: tuple[str, ...] = ()
    started: float
    provenance: Provenance = Field(default_factory=Provenance)


class RunEnded(Event):
    """A run outside the platform ended, and its spool is shipped."""

    stream: ClassVar[str] = "REQUESTS"
    aggregate: ClassVar[str] = "runend"

    experiment: Id
    state: ExperimentState
    message: str = ""
    ended: float
    writers: tuple[WriterCount, ...] = ()


class NodeReady(Event):
    """A node said hello and has room."""

    aggregate: ClassVar[str] = "node"

    node: Token
    resources: Resources
    address: str
    runtimes: tuple[str, ...]


class NodeLost(Event):
    """A node was silent for longer than its lease."""

    aggregate: ClassVar[str] = "node"

    node: Token
    silent_s: float


class NodeDeleted(Event):
    """A machine of a cloud that was made for an attempt is gone: the provider has said so."""

    aggregate: ClassVar[str] = "node"

    node: Token
    experiment: Id
    attempt: int = Field(ge=1)
    zone: str


class Thumbnail(Part):
    """A small picture of a medium, stored as a blob of its own: an image, or the first rows of a table as JSON."""

    sha256: Sha256
    size: int = Field(ge=0, description="Bytes of the thumbnail.")
    format: Literal["webp", "png", "jpeg", "gif", "json"]
    width: int | None = Field(None, ge=1, description="Pixels of the image itself.")
    height: int | None = Field(None, ge=1)
    rows: int | None = Field(None, ge=0, description="Of the table itself; none: too long to be counted.")
    columns: int | None = Field(None, ge=0)


class Medium(Part):
    """What a script said of an image, table, text or file that it logged."""

    type: Literal["image", "table", "text", "file"]
    key: str = Field(max_length=250)
    caption: str = Field("", max_length=1000)
    thumbnail: Thumbnail | None = None


class ArtifactStored(Event):
    """An output, checkpoint, image or table of an experiment lies in the artifact store. By the registry."""

    aggregate: ClassVar[str] = "artifact"

    experiment: Id
    attempt: int = Field(ge=0)
    rank: int = Field(ge=0)
    kind: str
    path: str
    sha256: Sha256
    size: int = Field(ge=0)
    step: int | None = None
    medium: Medium | None = Field(None, description="Of kind media.")


class DroppedFile(Part):
    """The place of a file: what ArtifactStored said of it."""

    attempt: int = Field(ge=0)
    rank: int = Field(ge=0)
    kind: str
    path: str


class ArtifactsDropped(Event):
    """Files are listed no more: newer checkpoints took their place (`checkpoint.keep`). By the registry.

    One that is stored again later has a higher version of the same aggregate.
    """

    aggregate: ClassVar[str] = "artifact"

    experiment: Id
    entries: tuple[DroppedFile, ...] = Field(min_length=1, max_length=500)
