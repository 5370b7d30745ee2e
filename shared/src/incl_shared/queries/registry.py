"""What the artifact store can be asked over the bus. The bytes themselves go over HTTP, by grants."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from incl_shared.events.experiments import Medium
from incl_shared.ids import Id, Sha256
from incl_shared.queries.base import Answer, Query
from incl_shared.spec import CheckpointPolicy


class Grant(Answer):
    """A door to the bytes of one experiment: url + '/blobs/<sha256>', with `Authorization: Bearer <token>`."""

    url: str
    token: str
    expires: float = Field(description="Seconds since the epoch.")


class UploadGrant(Query[Grant]):
    """May write blobs for this experiment. A person's credential may ask for its own, a job's only for its own."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "upload_grant"
    answer: ClassVar[type[Answer]] = Grant

    experiment: Id


class DownloadGrant(Query[Grant]):
    """May read the blobs that this experiment refers to."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "download_grant"
    answer: ClassVar[type[Answer]] = Grant

    experiment: Id


class Entry(Answer):
    """One file of an experiment: kind is output, checkpoint, media, code, provenance."""

    attempt: int = Field(0, ge=0)
    rank: int = Field(0, ge=0)
    kind: str = Field(max_length=32)
    path: str = Field(min_length=1, max_length=2048)
    sha256: Sha256
    size: int = Field(ge=0)
    step: int | None = None
    mode: int = 0o644
    score: float | None = Field(
        None, allow_inf_nan=False, description="Of a checkpoint: how good it is, higher is better."
    )
    medium: Medium | None = Field(None, description="Of kind media: what the script said of it, and its thumbnail.")


class Committed(Answer):
    """How many entries are new."""

    new: int


class CommitArtifacts(Query[Committed]):
    """List uploaded blobs as files of the experiment. A blob that is not there is refused. Idempotent."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "commit"
    answer: ClassVar[type[Answer]] = Committed

    experiment: Id
    entries: tuple[Entry, ...] = Field(max_length=2000)
    keep: CheckpointPolicy | None = Field(
        None,
        description="latest: checkpoints older than the newest one of every rank leave the list. "
        "best: the same, but the one with the highest score stays; without any score all do.",
    )


class ArtifactPage(Answer):
    """A page of files."""

    entries: tuple[Entry, ...]
    cursor: int | None = None


class ListArtifacts(Query[ArtifactPage]):
    """The files of an experiment, newest attempt first, then newest step, then by path."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "artifacts"
    answer: ClassVar[type[Answer]] = ArtifactPage

    experiment: Id
    kind: str | None = None
    attempt: int | None = None
    cursor: int | None = None
    limit: int = Field(500, ge=1, le=1000)


class Shared(Answer):
    """A link to one file, for whoever has it."""

    url: str
    expires: float = Field(description="Seconds since the epoch.")


class ShareFile(Query[Shared]):
    """A link to one listed file that works without an account until it expires. Jobs get none."""

    service: ClassVar[str] = "registry"
    name: ClassVar[str] = "share"
    answer: ClassVar[type[Answer]] = Shared

    experiment: Id
    path: str = Field(min_length=1, max_length=2048)
    sha256: Sha256 = Field(description="Which of the files with this path.")
    seconds: int = Field(86_400, ge=60, le=604_800, description="How long the link is good.")
