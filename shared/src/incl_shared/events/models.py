"""Events of models. The registry owns them; the aggregate's version is the length of the model's audit trail.

`by`: a person. `trail`: the hash of the model's audit trail once it holds this: whoever keeps the event can tell later
that the trail was not written anew.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from incl_shared.events.base import Event
from incl_shared.ids import Id, Sha256, Token


class ModelVersionRegistered(Event):
    """Files of an experiment are a version of a model. Its number is never given to another one."""

    aggregate: ClassVar[str] = "model"

    model: Token
    by: Token
    trail: Sha256
    number: int = Field(ge=1)
    experiment: Id
    attempt: int = Field(ge=0)
    files: int = Field(ge=1)
    size: int = Field(ge=0, description="Bytes of all files.")
    manifest: Sha256 = Field(description="Of the list of its files, each with its sha256.")


class AliasMoved(Event):
    """An alias points at another version, or at none."""

    aggregate: ClassVar[str] = "model"

    model: Token
    by: Token
    trail: Sha256
    alias: Token
    number: int | None = Field(ge=1, description="Where it points now; none: it was taken away.")
    previous: int | None = Field(ge=1, description="Where it pointed before; none: it is new.")
    revision: int = Field(ge=1, description="Grows by one with each move of this alias.")
    reason: str = ""


class ModelChanged(Event):
    """What people say of a model, or of one of its versions, has changed."""

    aggregate: ClassVar[str] = "model"

    model: Token
    by: Token
    trail: Sha256
    number: int | None = Field(None, ge=1, description="Which version; none: the model itself.")
    fields: tuple[str, ...] = Field(description="note, tags, metadata.")


class ModelTrashed(Event):
    """A version, or a whole model, is in the trash: it is found no more, and its files are kept."""

    aggregate: ClassVar[str] = "model"

    model: Token
    by: Token
    trail: Sha256
    number: int | None = Field(None, ge=1)


class ModelRestored(Event):
    """It is out of the trash again."""

    aggregate: ClassVar[str] = "model"

    model: Token
    by: Token
    trail: Sha256
    number: int | None = Field(None, ge=1)


class ModelPurged(Event):
    """The files of versions are kept no more for their sake. The numbers stay taken, and the audit trail stays."""

    aggregate: ClassVar[str] = "model"

    model: Token
    by: Token
    trail: Sha256
    numbers: tuple[int, ...] = Field(max_length=1000)


class AliasProtected(Event):
    """From now on an alias moves only once another person has approved, or it needs nobody's approval any more."""

    aggregate: ClassVar[str] = "model"

    model: Token
    by: Token
    trail: Sha256
    alias: Token
    protected: bool


class ApprovalRequested(Event):
    """Somebody wants a protected alias to move, or to be protected no more. Another person is to decide."""

    aggregate: ClassVar[str] = "model"

    model: Token
    by: Token
    trail: Sha256
    request: int = Field(ge=1, description="Its number among those of the model.")
    alias: Token
    unprotect: bool = False
    number: int | None = Field(ge=1, description="Where it is to point; none: it is to be taken away, or unprotected.")
    reason: str = ""


class ApprovalGiven(Event):
    """Another person approved, and it is done: the event of the deed follows."""

    aggregate: ClassVar[str] = "model"

    model: Token
    by: Token
    trail: Sha256
    request: int = Field(ge=1)
    asked_by: Token
    alias: Token
    reason: str = ""


class ApprovalRefused(Event):
    """Another person refused, or whoever asked took it back. Nothing has moved."""

    aggregate: ClassVar[str] = "model"

    model: Token
    by: Token
    trail: Sha256
    request: int = Field(ge=1)
    asked_by: Token
    alias: Token
    reason: str = ""
