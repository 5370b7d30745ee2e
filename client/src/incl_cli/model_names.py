"""How a person names a model, or one of its versions: chest-xray, chest-xray:3, chest-xray@production."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from incl_cli.arguments import UsageProblem

if TYPE_CHECKING:
    from incl_cli.platform import Platform
    from incl_shared.queries.models import ModelFile, VersionView

_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
_REFERENCE = re.compile(rf"({_NAME})(?::([1-9][0-9]{{0,8}})|@({_NAME}))?")


class Reference(NamedTuple):
    """What was named. Neither number nor alias: the model, or its newest version."""

    model: str
    number: int | None = None
    alias: str | None = None

    def __str__(self) -> str:
        behind = f":{self.number}" if self.number is not None else f"@{self.alias}" if self.alias else ""
        return self.model + behind


def parse(text: str) -> Reference:
    """A reference.

    Raises:
        UsageProblem: it is none.
    """
    found = _REFERENCE.fullmatch(text)
    if found is None:
        raise UsageProblem(
            f"{text[:80]!r} names no model",
            cause="a name has letters, digits, - and _, at most 63",
            hint="chest-xray, chest-xray:3, chest-xray@production; incl model ls",
        )
    return Reference(found[1], int(found[2]) if found[2] else None, found[3])


def is_version(text: str) -> bool:
    """Whether a text names one version, by its number or an alias."""
    found = _REFERENCE.fullmatch(text)
    return found is not None and (found[2] or found[3]) is not None


def name(text: str) -> str:
    """The name of a model, or of an alias, alone.

    Raises:
        UsageProblem: it is none, or names a version.
    """
    if re.fullmatch(_NAME, text) is None:
        raise UsageProblem(
            f"{text[:80]!r} is not a name", cause="it has letters, digits, - and _, at most 63", hint="chest-xray"
        )
    return text


async def version(platform: Platform, reference: Reference) -> VersionView:
    """The version that is meant.

    Raises:
        NotFoundError: there is none.
    """
    from incl_shared.queries.models import GetVersion

    return await platform.ask(GetVersion(model=reference.model, number=reference.number, alias=reference.alias))


async def numbered(platform: Platform, reference: Reference) -> int | None:
    """The number of the version that is meant; none: the model itself is."""
    if reference.alias is None:
        return reference.number
    return (await version(platform, reference)).number


async def files(platform: Platform, view: VersionView, kinds: tuple[str, ...] = ("file",)) -> list[ModelFile]:
    """The files of a version; kinds code and provenance are those of its lineage."""
    from incl_shared.queries.models import ListModelFiles

    found: list[ModelFile] = []
    cursor: tuple[str, str] | None = None
    while True:
        page = await platform.ask(ListModelFiles(model=view.model, number=view.number, cursor=cursor))
        found += page.files
        cursor = page.cursor
        if cursor is None:
            return [file for file in found if file.kind in kinds]
