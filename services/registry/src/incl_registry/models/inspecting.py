"""The audit trail as people read it, and the look at whether all of it is true."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from incl_registry.models import rules, store
from incl_registry.models.found import existing
from incl_registry.models.trail import check, read
from incl_registry.threads import Threads
from incl_shared.queries.models import GetTrail, TrailEntry, TrailPage, Verification, VerifyModel

if TYPE_CHECKING:
    import sqlalchemy as sa

    from incl_registry.blobs import BlobStore
    from incl_shared.bus.runtime import Bus
    from incl_shared.db import Database
    from incl_shared.subjects import Asker

_MOST_PROBLEMS = 100
_NO_WORDS = rules.sealed({"note": "", "tags": "[]", "metadata": "{}"})
_BODIES = 150_000


class Inspection:
    """Audit trails."""

    def __init__(self, database: Database, blobs: BlobStore, threads: Threads | None = None) -> None:
        self._database = database
        self._blobs = blobs
        self._threads = threads or Threads()

    def register(self, bus: Bus) -> None:
        """Serve every query."""
        bus.serve(GetTrail, self.trail)
        bus.serve(VerifyModel, self.verify)

    async def trail(self, asker: Asker, query: GetTrail) -> TrailPage:
        """Entries, the newest first. One that cannot be read any more is left out here: `verify` tells of it."""

        def page(connection: sa.Connection) -> TrailPage:
            existing(store.model_of(connection, asker.project, query.model), query.model)
            shown: list[TrailEntry] = []
            size = 0
            for row in store.newest_entries(connection, asker.project, query.model, query.cursor):
                size += len(row.body)
                if len(shown) == query.limit or (shown and size > _BODIES):
                    return TrailPage(entries=tuple(shown), cursor=shown[-1].sequence)
                try:
                    entry = read(row)
                except (ValueError, TypeError):
                    continue
                if _wanted(entry, query):
                    shown.append(entry)
                else:
                    size -= len(row.body)
            return TrailPage(entries=tuple(shown))

        return await self._database.read(page)

    async def verify(self, asker: Asker, query: VerifyModel) -> Verification:
        """Every entry, then every version, file and alias, then whether the bytes are there."""

        def look(connection: sa.Connection) -> tuple[Verification, dict[str, str]]:
            model = existing(store.model_of(connection, asker.project, query.model), query.model)
            rows = store.trail(connection, asker.project, model.name)
            chain = check(asker.project, model.name, rows, model.trail_length, model.trail_head)
            problems = chain.problems
            if query.head is not None and query.head not in chain.hashes:
                problems.append(
                    f"the trail has no entry {query.head}: it was written anew, or belongs to another model"
                )
            told = Told()
            for entry in chain.entries:
                told.take(entry)
            blobs: dict[str, str] = {}
            problems.extend(_differences(connection, asker.project, model, told, blobs))
            found = Verification(
                model=model.name, entries=chain.length, head=chain.head, versions=len(told.versions),
                problems=tuple(problems),
            )  # fmt: skip
            return found, blobs

        found, blobs = await self._database.read(look)
        gone = await self._threads.run(self._blobs.missing, set(blobs))
        lost = sorted(f"{blobs[sha256]} is not in the artifact store" for sha256 in gone)
        problems = (*found.problems, *lost)
        if len(problems) > _MOST_PROBLEMS:
            problems = (*problems[:_MOST_PROBLEMS], f"and {len(problems) - _MOST_PROBLEMS:,} more")
        return found.model_copy(update={"problems": problems})


def _wanted(entry: TrailEntry, query: GetTrail) -> bool:
    if query.alias is not None and (entry.action != "alias" or entry.details.get("alias") != query.alias):
        return False
    return query.action in (None, entry.action)


@dataclass
class Told:
    """What there should be, by the audit trail."""

    versions: dict[int, dict[str, Any]] = field(default_factory=dict)
    aliases: dict[str, int | None] = field(default_factory=dict)
    words: dict[int | None, dict[str, Any]] = field(default_factory=lambda: {None: dict(_NO_WORDS)})
    trashed: set[int | None] = field(default_factory=set)
    purged: set[int] = field(default_factory=set)
    protected: set[str] = field(default_factory=set)
    asked: dict[int, TrailEntry] = field(default_factory=dict)
    approved: dict[int, TrailEntry] = field(default_factory=dict)
    decided: dict[int, str] = field(default_factory=dict)
    unapproved: list[str] = field(default_factory=list)

    def take(self, entry: TrailEntry) -> None:
        """One more entry."""
        details, number = entry.details, entry.details.get("number")
        if entry.action in ("alias", "protected", "unprotected", "asked", "approved", "refused"):
            self._take_alias(entry, str(details.get("alias")))
        if entry.action == "registered" and isinstance(number, int):
            self.versions[number] = details
            self.words[number] = {name: details.get(name) for name in _NO_WORDS}
        elif entry.action == "changed":
            words = self.words.setdefault(number, {})
            words.update({name: value for name, value in details.items() if name in _NO_WORDS})
        elif entry.action == "trashed":
            self.trashed.add(number)
        elif entry.action == "restored":
            self.trashed.discard(number)
        elif entry.action == "purged":
            self.purged.update(details.get("numbers", ()))

    def _take_alias(self, entry: TrailEntry, alias: str) -> None:
        details, request = entry.details, int(entry.details.get("request") or 0)
        if entry.action == "asked":
            self.asked[request] = entry
            self.decided[request] = "open"
        elif entry.action in ("approved", "refused"):
            self.decided[request] = entry.action
            if entry.action == "approved":
                self.approved[request] = entry
        elif entry.action == "protected":
            self.protected.add(alias)
        else:
            if alias in self.protected and not self._is_approved(entry, request):
                self.unapproved.append(f"entry {entry.sequence} moved the protected alias {alias} without an approval")
            if entry.action == "alias":
                self.aliases[alias] = details.get("number")
            else:
                self.protected.discard(alias)

    def _is_approved(self, entry: TrailEntry, request: int) -> bool:
        """Whether another person approved just this."""
        asked, approved = self.asked.get(request), self.approved.pop(request, None)
        if asked is None or approved is None or asked.by == approved.by:
            return False
        wanted = (asked.details.get("alias"), asked.details.get("number"), asked.details.get("unprotect"))
        return wanted == (entry.details.get("alias"), entry.details.get("number"), entry.action == "unprotected")


_FACTS = ("registration", "experiment", "attempt", "manifest", "files", "size")


def _differences(
    connection: sa.Connection, project: str, model: Any, told: Told, blobs: dict[str, str]
) -> Iterator[str]:
    """How what is stored differs from what the trail tells. blobs: filled with what must be in the artifact store."""
    if model.numbers != max(told.versions, default=0):
        yield f"{model.numbers} numbers were given to versions, the trail tells of {max(told.versions, default=0)}"
    yield from _words(model.name, model, told, None)
    stored = {row.number: row for row in store.every_version(connection, project, model.name)}
    for number in sorted(told.versions.keys() | stored.keys()):
        name, row = f"{model.name}:{number}", stored.get(number)
        if row is None:
            yield f"{name} is not stored any more"
        elif number not in told.versions:
            yield f"{name} is stored, and the trail does not tell of it"
        else:
            yield from _version(connection, project, row, told, blobs)
    aliases = {one.alias: one.number for one in store.aliases_of(connection, project, [model.name])[model.name]}
    for alias in sorted(told.aliases.keys() | aliases.keys()):
        if told.aliases.get(alias) != aliases.get(alias):
            where, should = aliases.get(alias) or "no version", told.aliases.get(alias) or "none"
            yield f"the alias {alias} points at {where}, and should at {should}"
    yield from told.unapproved
    every = store.every_alias(connection, project, model.name)
    for alias in sorted({one.alias for one in every if one.protected} ^ told.protected):
        yield f"the alias {alias}: whether it is protected was changed without the trail"
    requests = {row.request: (row.asked_by, row.state) for row in store.every_request(connection, project, model.name)}
    should_be = {number: (entry.by, told.decided[number]) for number, entry in told.asked.items()}
    for number in sorted(requests.keys() | should_be.keys()):
        if requests.get(number) != should_be.get(number):
            yield f"the request {number} was changed without the trail"


def _version(connection: sa.Connection, project: str, row: Any, told: Told, blobs: dict[str, str]) -> Iterator[str]:
    name, facts = f"{row.model}:{row.number}", told.versions[row.number]
    for fact in _FACTS:
        if facts.get(fact) != getattr(row, fact):
            yield f"{name}: {fact} was changed"
    if (row.purged is not None) != (row.number in told.purged):
        yield f"{name}: that it is purged is told of in one place only"
    if row.purged is not None:
        return
    if facts.get("lineage") != rules.seal(row.lineage):
        yield f"{name}: the lineage was changed"
    yield from _words(name, row, told, row.number)
    files = store.files_of(connection, project, row.registration)
    if rules.manifest(files) != facts.get("manifest"):
        yield f"{name}: its list of files was changed"
    blobs.update({file.sha256: f"{name}: {file.path}" for file in files})


def _words(name: str, row: Any, told: Told, number: int | None) -> Iterator[str]:
    now = rules.sealed({"note": row.note, "tags": row.tags, "metadata": row.metadata})
    for word, value in told.words.get(number, {}).items():
        if now[word] != value:
            yield f"{name}: {word} was changed without the trail"
    if (row.trashed is not None) != (number in told.trashed):
        yield f"{name}: whether it is in the trash was changed without the trail"
