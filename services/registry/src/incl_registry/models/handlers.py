"""What the registry answers about models, and how a version comes to be."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from incl_registry import store as artifacts
from incl_registry.access import check, job_of
from incl_registry.grants import GrantScope, Verb, sign
from incl_registry.models import lineage, rules, store
from incl_registry.models.found import existing, present, version_found
from incl_registry.models.trail import Act
from incl_shared.errors import ConflictError
from incl_shared.events import ModelVersionRegistered
from incl_shared.queries.models import (
    FilePage,
    GetVersion,
    Lineage,
    ListModelFiles,
    ListModels,
    ListVersions,
    ModelFile,
    ModelGrant,
    ModelPage,
    RegisterModel,
    VersionPage,
    VersionView,
)
from incl_shared.queries.registry import Grant
from incl_shared.queries.tracker import GetExperiment
from incl_shared.states import FINAL_STATES

if TYPE_CHECKING:
    import sqlalchemy as sa

    from incl_shared.bus.runtime import Bus
    from incl_shared.clock import Clock
    from incl_shared.db import Database, Transaction
    from incl_shared.queries.base import AnswerT, Query
    from incl_shared.subjects import Asker

    class Ask(Protocol):
        """`Bus.ask`, or what stands for it."""

        async def __call__(self, query: Query[AnswerT], *, project: str, user: str) -> AnswerT:
            """The answer, or an InclError."""
            ...


_log = logging.getLogger("incl.registry")
USER = "registry"
"""Under which name the tracker is asked."""
_FILES_BYTES = 180_000
_FILE_BYTES = 240


class Models:
    """Versions: register, list, show, download.

    Args:
        ask: reaches the tracker, which knows what made the files.
        key, ttl_s, url: of grants, as the artifact store has them.
    """

    def __init__(
        self, database: Database, clock: Clock, ask: Ask, *, key: bytes, ttl_s: float, url: Callable[[], str]
    ) -> None:
        self._database = database
        self._clock = clock
        self._ask = ask
        self._key = key
        self._ttl = ttl_s
        self._url = url

    def register(self, bus: Bus) -> None:
        """Serve every query."""
        bus.serve(RegisterModel, self.add)
        bus.serve(ListModels, self.models)
        bus.serve(ListVersions, self.versions)
        bus.serve(GetVersion, self.version)
        bus.serve(ListModelFiles, self.files)
        bus.serve(ModelGrant, self.grant)

    async def add(self, asker: Asker, query: RegisterModel) -> VersionView:
        """A new version, or the one that this registration has made before."""
        rules.may_register(asker, query.experiment)
        rules.check_name(query.model)
        rules.check_metadata(query.metadata)
        rules.clean_path(query.path)
        known = await self._database.read(
            lambda at: (self._known(at, asker.project, query), artifacts.claim_of(at, query.experiment))
        )
        if known[0] is not None:
            return known[0]
        check(asker, query.experiment, Verb.GET, known[1])
        view = await self._ask(GetExperiment(ref=query.experiment), project=asker.project, user=USER)
        running = view.row.state not in FINAL_STATES

        def work(tx: Transaction) -> VersionView:
            check(asker, query.experiment, Verb.GET, artifacts.claim_of(tx.connection, query.experiment, hold=True))
            kept = store.entries_of(tx.connection, query.experiment, (*rules.KINDS, "media", "code", "provenance"))
            attempt, files = rules.choose(query, kept, running=running)
            record, needed = lineage.collect(view, attempt, kept)
            by = view.row.user if job_of(asker) is not None else asker.user
            return self._add(tx, asker.project, query, _New(by, attempt, files, needed, record))

        made = await self._database.write(work)
        _log.info("%s:%d of %s is %s of %s", made.model, made.number, asker.project, query.path[:100], made.experiment)
        return made

    def _add(self, tx: Transaction, project: str, query: RegisterModel, new: _New) -> VersionView:
        act = Act(new.by, self._clock.now(), "registered", {})
        fresh = store.make(tx.connection, project, query.model, act)
        model = store.lock(tx.connection, project, query.model)
        if (known := self._known(tx.connection, project, query)) is not None:
            return known
        if model.trashed is not None:
            raise ConflictError(
                f"the model {query.model} is in the trash", hint=f"incl model restore {query.model}, or another name"
            )
        if fresh:
            store.note(tx.connection, project, model, Act(new.by, act.time, "made", {}))
            model = store.lock(tx.connection, project, query.model)
        number = model.numbers + 1
        row = _row(project, query, new, number, act.time)
        store.put_version(tx.connection, row, (*new.files, *new.needed))
        store.change_model(tx.connection, project, query.model, numbers=number)
        said = store.note(tx.connection, project, model, Act(new.by, act.time, act.action, _details(row)))
        event = ModelVersionRegistered(
            model=query.model, by=new.by, trail=said.hash, number=number, experiment=query.experiment,
            attempt=new.attempt, files=row["files"], size=row["size"], manifest=row["manifest"],
        )  # fmt: skip
        tx.emit(event, project=project, version=said.sequence)
        return store.version_view(store.version_of(tx.connection, project, query.model, number), (), lineage=True)

    def _known(self, connection: sa.Connection, project: str, query: RegisterModel) -> VersionView | None:
        row = store.registered(connection, project, query.registration)
        if row is None:
            return None
        if (row.model, row.experiment) != (query.model, query.experiment):
            raise ConflictError(f"this registration is that of {row.model}:{row.number}", hint="use an id of its own")
        aliases = store.aliases_of(connection, project, [row.model])[row.model]
        return store.version_view(row, aliases, lineage=True)

    async def models(self, asker: Asker, query: ListModels) -> ModelPage:
        """A page of the project's models."""

        def read(connection: sa.Connection) -> ModelPage:
            rows = store.page(
                connection, asker.project, contains=query.contains, trash=query.trash, after=query.cursor,
                limit=query.limit + 1,
            )  # fmt: skip
            fitting = _fitting([len(row.note) + len(row.tags) + len(row.metadata) for row in rows[: query.limit]])
            shown = rows[:fitting]
            aliases = store.aliases_of(connection, asker.project, [row.name for row in shown])
            views = tuple(store.model_view(row, aliases[row.name]) for row in shown)
            return ModelPage(models=views, cursor=shown[-1].name if fitting < len(rows) else None)

        return await self._database.read(read)

    async def versions(self, asker: Asker, query: ListVersions) -> VersionPage:
        """A model, and a page of its versions."""

        def read(connection: sa.Connection) -> VersionPage:
            model = existing(store.model_of(connection, asker.project, query.model), query.model)
            rows = store.versions_of(connection, asker.project, model.name, query.cursor, query.limit + 1)
            own = len(model.note) + len(model.metadata)
            sizes = [len(row.note) + len(row.tags) + len(row.metadata) for row in rows[: query.limit]]
            shown = rows[: _fitting(sizes, own)]
            every = store.every_alias(connection, asker.project, model.name)
            aliases = [one for one in every if one.number is not None]
            return VersionPage(
                model=store.model_view(model, aliases),
                versions=tuple(store.version_view(row, aliases) for row in shown),
                cursor=shown[-1].number if len(shown) < len(rows) else None,
                every_alias=tuple(every),
            )

        return await self._database.read(read)

    async def version(self, asker: Asker, query: GetVersion) -> VersionView:
        """One version, with its lineage."""

        def read(connection: sa.Connection) -> VersionView:
            row = version_found(connection, asker.project, query)
            aliases = store.aliases_of(connection, asker.project, [row.model])[row.model]
            return store.version_view(row, aliases, lineage=True)

        return await self._database.read(read)

    async def files(self, asker: Asker, query: ListModelFiles) -> FilePage:
        """A page of a version's files."""

        def read(connection: sa.Connection) -> FilePage:
            row = self._there(connection, asker, query.model, query.number)
            rows = store.files_of(connection, asker.project, row.registration, query.cursor, query.limit + 1)
            shown = rows[: _fitting([_FILE_BYTES + 6 * len(file.path) for file in rows[: query.limit]])]
            cursor = (shown[-1].kind, shown[-1].path) if len(shown) < len(rows) else None
            return FilePage(files=tuple(shown), cursor=cursor)

        return await self._database.read(read)

    async def grant(self, asker: Asker, query: ModelGrant) -> Grant:
        """A door to the files of a version."""
        row = await self._database.read(lambda at: self._there(at, asker, query.model, query.number))
        expires = self._clock.now() + self._ttl
        scope = GrantScope(asker.project, row.registration, Verb.MODEL, expires)
        return Grant(url=self._url(), token=sign(self._key, scope), expires=expires)

    def _there(self, connection: sa.Connection, asker: Asker, model: str, number: int) -> Any:
        existing(store.model_of(connection, asker.project, model), model)
        return present(store.version_of(connection, asker.project, model, number), model, number)


class _New:
    """What a version is made of. by: who registers it."""

    def __init__(
        self, by: str, attempt: int, files: tuple[ModelFile, ...], needed: tuple[ModelFile, ...], record: Lineage
    ) -> None:
        self.by = by
        self.attempt = attempt
        self.files = files
        self.needed = needed
        self.record = record


def _row(project: str, query: RegisterModel, new: _New, number: int, now: float) -> dict[str, Any]:
    return {
        "project": project,
        "model": query.model,
        "number": number,
        "registration": query.registration,
        "experiment": query.experiment,
        "attempt": new.attempt,
        "creator": new.by,
        "created": now,
        "manifest": rules.manifest(new.files),
        "files": len(new.files),
        "size": sum(file.size for file in new.files),
        "note": query.note,
        "tags": json.dumps(rules.tags_of(query.tags)),
        "metadata": json.dumps(rules.merged({}, query.metadata)),
        "lineage": new.record.model_dump_json(),
    }


def _details(row: dict[str, Any]) -> dict[str, Any]:
    """What the audit trail tells of a registration. Long texts are told of by their sha256."""
    told = ("number", "registration", "experiment", "attempt", "manifest", "files", "size")
    return {name: row[name] for name in told} | rules.sealed(row) | {"lineage": rules.seal(row["lineage"])}


def _fitting(sizes: list[int], taken: int = 0) -> int:
    """How many things of these sizes fit into one answer; at least one where there is one."""
    for count, size in enumerate(sizes):
        taken += size + _FILE_BYTES
        if taken > _FILES_BYTES and count:
            return count
    return len(sizes)
