"""What the registry can be asked about models, and what it can be told to do with them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, StringConstraints

from incl_shared.ids import Id, Sha256, Token
from incl_shared.queries.base import Answer, Done, Query
from incl_shared.queries.registry import Grant
from incl_shared.spec import ExperimentSpec

MOST_NOTE = 20_000
"""Characters of a note."""
MOST_METADATA = 65_536
"""Bytes of metadata, as JSON."""
MOST_TAGS = 100
MOST_ALIASES = 100
"""Of one model, those that were taken away included."""
MOST_FILES = 10_000
"""Of one version."""

Note = Annotated[str, StringConstraints(max_length=MOST_NOTE)]
Tag = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x20\x7f,][^\x00-\x1f\x7f,]{0,62}$")]
Reason = Annotated[str, StringConstraints(max_length=2000)]
Number = Annotated[int, Field(ge=1, lt=2**31)]
Metadata = dict[str, JsonValue]


class Hardware(Answer):
    """What one rank ran on."""

    rank: int
    node: str
    gpus: int = 0
    machine: str = Field("", description="The machine type of a cloud; empty: a node that joined.")
    zone: str = ""
    spot: bool = False


class Measured(Answer):
    """A metric of the experiment as it was when the version was registered."""

    last: float
    best: float | None = None
    goal: Literal["max", "min"] | None = None


class Lineage(Answer):
    """What made a version, as it was known when it was registered."""

    experiment: Id
    name: str = ""
    user: str = ""
    attempt: int = Field(0, description="That stored the files.")
    command: str = ""
    outside: bool = Field(False, description="Run outside the platform (incl.init()).")
    submitted: float | None = None
    code: Sha256 | None = Field(None, description="The archive of its code.")
    git_commit: str | None = None
    git_branch: str | None = None
    git_remote: str | None = None
    git_dirty: bool = False
    diff: Sha256 | None = Field(None, description="Of what was not committed.")
    packages: Sha256 | None = Field(None, description="The list of installed packages.")
    python: str = ""
    image: str | None = None
    image_digests: tuple[str, ...] = ()
    data: tuple[str, ...] = Field((), description="kind=what, of each mount.")
    environment: dict[str, str] = Field(default_factory=dict)
    config: dict[str, str] = Field(default_factory=dict)
    seed: str | None = None
    hardware: tuple[Hardware, ...] = ()
    metrics: dict[str, Measured] = Field(default_factory=dict)
    spec: ExperimentSpec | None = Field(None, description="What its author asked for: `incl rerun` asks for the same.")
    code_files: int = Field(0, description="Files in the archive of its code.")
    missing: tuple[str, ...] = Field((), description="What is not known of it, each with the reason; empty: complete.")


class ModelFile(Answer):
    """One file of a version. kind: file; code and provenance are what its lineage needs."""

    kind: str
    path: str
    sha256: Sha256
    size: int
    mode: int = 0o644


class AliasView(Answer):
    """An alias. number: none after it was taken away. Times in seconds since the epoch."""

    alias: str
    number: int | None
    revision: int = Field(description="Grows by one with each move.")
    by: str
    moved: float
    protected: bool = Field(False, description="It moves only once another person has approved.")
    request: int | None = Field(None, description="Nothing has moved yet: this request waits for another person.")


class VersionView(Answer):
    """One version of a model."""

    model: str
    number: int
    experiment: Id
    attempt: int
    by: str = Field(description="Who registered it.")
    created: float = Field(description="Seconds since the epoch.")
    manifest: Sha256 = Field(description="Of the list of its files; the same files have the same.")
    files: int
    size: int
    note: str = ""
    tags: tuple[str, ...] = ()
    metadata: Metadata = Field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    trashed: float | None = None
    purged: float | None = None
    lineage: Lineage | None = Field(None, description="Of one version that was asked for; not in lists.")


class ModelRow(Answer):
    """One model. Times in seconds since the epoch."""

    name: str
    by: str
    created: float
    changed: float
    newest: int = Field(description="The last number that was given; it may be in the trash.")
    note: str = ""
    tags: tuple[str, ...] = ()
    metadata: Metadata = Field(default_factory=dict)
    aliases: tuple[AliasView, ...] = ()
    trashed: float | None = None


class ModelPage(Answer):
    """Models by name; no cursor: the last page."""

    models: tuple[ModelRow, ...]
    cursor: str | None = None


class VersionPage(Answer):
    """A model and its versions, the newest first; no cursor: the last page."""

    model: ModelRow
    versions: tuple[VersionView, ...]
    cursor: int | None = None
    every_alias: tuple[AliasView, ...] = Field((), description="Also those that were taken away.")


class RegisterModel(Query[VersionView]):
    """Make files of an experiment a version. The same registration again is the same version.

    A job may do so with the files of its own experiment, a person with those of its project.
    """

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "register_model"
    answer: ClassVar[type[Answer]] = VersionView

    registration: Id = Field(description="The asker's own, so that a repeat is recognised.")
    model: Token
    experiment: Id
    path: str = Field(min_length=1, max_length=2048, description="A file, or a folder: all below it.")
    kind: Literal["output", "checkpoint", "media", "model"] | None = None
    attempt: int | None = Field(None, ge=0, description="None: the newest that has the path.")
    rank: int | None = Field(None, ge=0)
    note: Note = ""
    tags: tuple[Tag, ...] = Field((), max_length=MOST_TAGS)
    metadata: Metadata = Field(default_factory=dict)


class ListModels(Query[ModelPage]):
    """The models of the project."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "models"
    answer: ClassVar[type[Answer]] = ModelPage

    contains: str = Field("", max_length=63, description="Only names that contain this, cases folded.")
    trash: bool = Field(False, description="What lies in the trash, and nothing else.")
    limit: int = Field(50, ge=1, le=200)
    cursor: str | None = Field(None, max_length=64)


class ListVersions(Query[VersionPage]):
    """One model, and a page of its versions. Those in the trash are among them, those that are purged are not."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "versions"
    answer: ClassVar[type[Answer]] = VersionPage

    model: Token
    limit: int = Field(50, ge=1, le=100)
    cursor: int | None = Field(None, ge=1)


class GetVersion(Query[VersionView]):
    """One version by its number or an alias; neither: the newest one that is not in the trash."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "version"
    answer: ClassVar[type[Answer]] = VersionView

    model: Token
    number: Number | None = None
    alias: Token | None = None


class FilePage(Answer):
    """Files by kind and path. cursor: the last of the page; none: there are no more."""

    files: tuple[ModelFile, ...]
    cursor: tuple[str, str] | None = None


class ListModelFiles(Query[FilePage]):
    """The files of a version."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "model_files"
    answer: ClassVar[type[Answer]] = FilePage

    model: Token
    number: Number
    limit: int = Field(500, ge=1, le=500)
    cursor: tuple[str, str] | None = None


class ModelGrant(Query[Grant]):
    """May read the files of one version, whatever became of its experiment."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "model_grant"
    answer: ClassVar[type[Answer]] = Grant

    model: Token
    number: Number


class ChangeModel(Query[Done]):
    """Say something else of a model, or of a version; what is none stays."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "change_model"
    answer: ClassVar[type[Answer]] = Done

    model: Token
    number: Number | None = None
    note: Note | None = None
    add_tags: tuple[Tag, ...] = Field((), max_length=MOST_TAGS)
    remove_tags: tuple[Tag, ...] = Field((), max_length=MOST_TAGS)
    metadata: Metadata = Field(default_factory=dict, description="Keys to set; null takes one away.")


class MoveAlias(Query[AliasView]):
    """Point an alias at a version, or at none. Of two at the same time one is refused, and told of the other."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "move_alias"
    answer: ClassVar[type[Answer]] = AliasView

    model: Token
    alias: Token
    number: Number | None = Field(description="None takes the alias away.")
    revision: int = Field(ge=0, description="That the asker has seen; 0: there was no such alias.")
    reason: Reason = ""


class ProtectAlias(Query[AliasView]):
    """From now on an alias moves only with the approval of another person; to end that needs one as well."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "protect_alias"
    answer: ClassVar[type[Answer]] = AliasView

    model: Token
    alias: Token
    protected: bool = True
    reason: Reason = ""


class RequestView(Answer):
    """What somebody asked for, and what another person made of it. Times in seconds since the epoch."""

    model: str
    request: int
    alias: str
    unprotect: bool = False
    number: int | None
    state: Literal["open", "approved", "refused"]
    asked_by: str
    asked: float
    reason: str = ""
    decided_by: str = ""
    decided: float | None = None
    answer: str = Field("", description="The reason of the decision.")


class RequestPage(Answer):
    """Requests, the newest first."""

    requests: tuple[RequestView, ...]


class ListRequests(Query[RequestPage]):
    """What waits for a decision in the project, or all that was ever asked for of one model: the newest hundred."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "model_requests"
    answer: ClassVar[type[Answer]] = RequestPage

    model: Token | None = None
    decided: bool = Field(False, description="Also those that are decided.")


class DecideRequest(Query[RequestView]):
    """Approve or refuse. Nobody approves what he asked for himself; he may take it back, by refusing it."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "decide_request"
    answer: ClassVar[type[Answer]] = RequestView

    model: Token
    request: Number
    approve: bool
    reason: Reason = ""


class TrailEntry(Answer):
    """One entry of an audit trail. time: seconds since the epoch."""

    sequence: int
    time: float
    by: str
    action: str
    details: dict[str, Any]
    previous: str = Field(description="The hash of the entry before; empty: it is the first.")
    hash: Sha256


class TrailPage(Answer):
    """Entries, the newest first; no cursor: the last page."""

    entries: tuple[TrailEntry, ...]
    cursor: int | None = None


class GetTrail(Query[TrailPage]):
    """The audit trail of a model: all that was ever done with it, and by whom."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "model_trail"
    answer: ClassVar[type[Answer]] = TrailPage

    model: Token
    action: str | None = Field(None, max_length=32)
    alias: Token | None = Field(None, description="Only moves of this alias.")
    limit: int = Field(50, ge=1, le=100)
    cursor: int | None = Field(None, ge=1)


class Verification(Answer):
    """What a look at a model's audit trail found. No problems: it is whole, and what is stored is what it tells."""

    model: str
    entries: int
    head: str = Field(description="The hash of the last entry; kept elsewhere it proves later that none was changed.")
    versions: int
    problems: tuple[str, ...] = ()


class VerifyModel(Query[Verification]):
    """Look at every entry of a model's audit trail, and compare it with the versions, files and aliases."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "verify_model"
    answer: ClassVar[type[Answer]] = Verification

    model: Token
    head: Sha256 | None = Field(None, description="One that was written down before: the trail must hold it.")


class TrashModel(Query[Done]):
    """Put a version, or the whole model, into the trash; not while an alias points at it."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "trash_model"
    answer: ClassVar[type[Answer]] = Done

    model: Token
    number: Number | None = None


class RestoreModel(Query[Done]):
    """Take it out of the trash."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "restore_model"
    answer: ClassVar[type[Answer]] = Done

    model: Token
    number: Number | None = None


class PurgeModel(Query[Done]):
    """Give up the files of a version in the trash, or of all versions of a model in the trash. Operators alone."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "purge_model"
    answer: ClassVar[type[Answer]] = Done
    operators: ClassVar[bool] = True

    project: Token
    model: Token
    number: Number | None = None
