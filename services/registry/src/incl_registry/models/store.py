"""All SQL of models. Functions take a connection and run in the database's threads."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from incl_registry.models.trail import Act, Row, append
from incl_registry.store import batches, entry_of
from incl_registry.store_purge import doom
from incl_registry.tables import entries, model_aliases, model_files, model_requests, model_trail, models, versions
from incl_shared.db import insert_ignore
from incl_shared.queries.models import AliasView, Lineage, ModelFile, ModelRow, VersionView
from incl_shared.queries.registry import Entry

_m, _v, _f, _a, _t = models.c, versions.c, model_files.c, model_aliases.c, model_trail.c
_r = model_requests.c
_TRAIL_PAGE = 500


def entries_of(connection: sa.Connection, experiment: str, kinds: Collection[str]) -> list[Entry]:
    """The experiment's files of these kinds."""
    mine = (entries.c.experiment == experiment) & entries.c.kind.in_(list(kinds))
    return [entry_of(row) for row in connection.execute(sa.select(entries).where(mine))]


def lock(connection: sa.Connection, project: str, name: str) -> Any:
    """The row of a model, held until the end of the transaction; none: there is no such model.

    Whatever changes a model begins here, so that two changes of one model follow each other, whoever makes them.
    """
    mine = (_m.project == project) & (_m.name == name)
    return connection.execute(sa.select(models).where(mine).with_for_update()).first()


def make(connection: sa.Connection, project: str, name: str, act: Act) -> bool:
    """Make a model unless it is there; whether it was made."""
    values = {"project": project, "name": name, "creator": act.by, "created": act.time, "changed": act.time}
    return bool(connection.execute(insert_ignore(connection, models), values).rowcount)


def note(connection: sa.Connection, project: str, model: Any, act: Act) -> Row:
    """Append to the audit trail of a model that is held (see `lock`).

    Returns:
        The new entry: its sequence is the version of the aggregate.
    """
    row = append(project, model.name, model.trail_length, model.trail_head, act)
    connection.execute(
        sa.insert(model_trail),
        {"project": project, "model": model.name, "sequence": row.sequence, "hash": row.hash, "body": row.body},
    )
    change_model(connection, project, model.name, trail_length=row.sequence, trail_head=row.hash, changed=act.time)
    return row


def change_model(connection: sa.Connection, project: str, name: str, **values: Any) -> None:
    """Set columns of a model."""
    connection.execute(sa.update(models).where((_m.project == project) & (_m.name == name)).values(**values))


def change_version(connection: sa.Connection, project: str, model: str, number: int, **values: Any) -> None:
    """Set columns of a version."""
    mine = (_v.project == project) & (_v.model == model) & (_v.number == number)
    connection.execute(sa.update(versions).where(mine).values(**values))


def put_version(connection: sa.Connection, row: Mapping[str, Any], files: Sequence[ModelFile]) -> None:
    """A new version with its files."""
    connection.execute(sa.insert(versions), dict(row))
    of = {"registration": row["registration"], "project": row["project"]}
    for batch in batches(files):
        connection.execute(sa.insert(model_files), [of | file.model_dump() for file in batch])


def registered(connection: sa.Connection, project: str, registration: str) -> Any:
    """The version that a registration has made; none: it has made none yet."""
    mine = (_v.project == project) & (_v.registration == registration)
    return connection.execute(sa.select(versions).where(mine)).first()


def model_of(connection: sa.Connection, project: str, name: str) -> Any:
    """The row of a model."""
    return connection.execute(sa.select(models).where((_m.project == project) & (_m.name == name))).first()


def version_of(connection: sa.Connection, project: str, model: str, number: int) -> Any:
    """The row of a version."""
    mine = (_v.project == project) & (_v.model == model) & (_v.number == number)
    return connection.execute(sa.select(versions).where(mine)).first()


def newest_of(connection: sa.Connection, project: str, model: str) -> Any:
    """The newest version that is there: neither in the trash nor purged."""
    mine = (_v.project == project) & (_v.model == model) & _v.trashed.is_(None) & _v.purged.is_(None)
    return connection.execute(sa.select(versions).where(mine).order_by(_v.number.desc()).limit(1)).first()


def versions_of(connection: sa.Connection, project: str, model: str, after: int | None, limit: int) -> list[Any]:
    """Versions that are not purged, the newest first."""
    where = [_v.project == project, _v.model == model, _v.purged.is_(None)]
    if after is not None:
        where.append(_v.number < after)
    columns = [column for column in versions.c if column.name != "lineage"]
    return list(connection.execute(sa.select(*columns).where(*where).order_by(_v.number.desc()).limit(limit)))


def every_version(connection: sa.Connection, project: str, model: str) -> list[Any]:
    """All that were ever registered."""
    return list(connection.execute(sa.select(versions).where((_v.project == project) & (_v.model == model))))


def page(
    connection: sa.Connection, project: str, *, contains: str, trash: bool, after: str | None, limit: int
) -> list[Any]:
    """Models by name."""
    where = [_m.project == project, _m.trashed.isnot(None) if trash else _m.trashed.is_(None)]
    if after is not None:
        where.append(_m.name > after)
    if contains:
        where.append(sa.func.lower(_m.name).contains(contains.lower(), autoescape=True))
    return list(connection.execute(sa.select(models).where(*where).order_by(_m.name).limit(limit)))


def aliases_of(connection: sa.Connection, project: str, names: Collection[str]) -> dict[str, list[AliasView]]:
    """model -> its aliases that point somewhere, by name."""
    found: dict[str, list[AliasView]] = {name: [] for name in names}
    mine = (_a.project == project) & _a.model.in_(list(names)) & _a.number.isnot(None)
    for row in connection.execute(sa.select(model_aliases).where(mine).order_by(_a.alias)):
        found[row.model].append(alias_view(row))
    return found


def every_alias(connection: sa.Connection, project: str, model: str) -> list[AliasView]:
    """All aliases that a model ever had, by name."""
    mine = (_a.project == project) & (_a.model == model)
    return [alias_view(row) for row in connection.execute(sa.select(model_aliases).where(mine).order_by(_a.alias))]


def alias_of(connection: sa.Connection, project: str, model: str, alias: str) -> Any:
    """The row of an alias, also of one that was taken away."""
    mine = (_a.project == project) & (_a.model == model) & (_a.alias == alias)
    return connection.execute(sa.select(model_aliases).where(mine)).first()


def put_alias(connection: sa.Connection, project: str, model: str, view: AliasView) -> None:
    """Where an alias points from now on."""
    place = {"project": project, "model": model, "alias": view.alias}
    values = {"number": view.number, "revision": view.revision, "mover": view.by, "moved": view.moved}
    connection.execute(insert_ignore(connection, model_aliases), place | values)
    mine = (_a.project == project) & (_a.model == model) & (_a.alias == view.alias)
    connection.execute(sa.update(model_aliases).where(mine).values(**values))


def protect_alias(connection: sa.Connection, project: str, model: str, alias: str, act: Act, *, on: bool) -> None:
    """Protect an alias, be it there already or not, or end that."""
    place = {"project": project, "model": model, "alias": alias}
    values = {"number": None, "revision": 0, "mover": act.by, "moved": act.time}
    connection.execute(insert_ignore(connection, model_aliases), place | values)
    mine = (_a.project == project) & (_a.model == model) & (_a.alias == alias)
    connection.execute(sa.update(model_aliases).where(mine).values(protected=act.time if on else None))


def put_request(connection: sa.Connection, project: str, row: Mapping[str, Any]) -> int:
    """A new request of a model that is held; its number."""
    mine = (_r.project == project) & (_r.model == row["model"])
    last = connection.execute(sa.select(sa.func.max(_r.request)).where(mine)).scalar() or 0
    connection.execute(sa.insert(model_requests), {**row, "project": project, "request": last + 1, "state": "open"})
    return int(last) + 1


def request_of(connection: sa.Connection, project: str, model: str, request: int) -> Any:
    """The row of a request."""
    mine = (_r.project == project) & (_r.model == model) & (_r.request == request)
    return connection.execute(sa.select(model_requests).where(mine)).first()


def open_request(connection: sa.Connection, project: str, model: str, alias: str) -> Any:
    """The request of an alias that waits for a decision."""
    mine = (_r.project == project) & (_r.model == model) & (_r.alias == alias) & (_r.state == "open")
    return connection.execute(sa.select(model_requests).where(mine)).first()


def decide(connection: sa.Connection, project: str, model: str, request: int, **values: Any) -> None:
    """Write down what was decided."""
    mine = (_r.project == project) & (_r.model == model) & (_r.request == request)
    connection.execute(sa.update(model_requests).where(mine).values(**values))


def every_request(connection: sa.Connection, project: str, model: str) -> list[Any]:
    """All that was ever asked for of a model."""
    mine = (_r.project == project) & (_r.model == model)
    return list(connection.execute(sa.select(_r.request, _r.asked_by, _r.state).where(mine)))


def requests_of(connection: sa.Connection, project: str, model: str | None, *, decided: bool, limit: int) -> list[Any]:
    """Requests, the newest first."""
    where = [_r.project == project]
    if model is not None:
        where.append(_r.model == model)
    if not decided:
        where.append(_r.state == "open")
    order = (_r.asked.desc(), _r.model, _r.request.desc())
    return list(connection.execute(sa.select(model_requests).where(*where).order_by(*order).limit(limit)))


def files_of(
    connection: sa.Connection, project: str, registration: str, after: tuple[str, str] | None = None, limit: int = -1
) -> list[ModelFile]:
    """Files of a version by kind and path; limit: all when negative."""
    where = [_f.registration == registration, _f.project == project]
    if after is not None:
        where.append(sa.tuple_(_f.kind, _f.path) > sa.tuple_(*(sa.literal(part) for part in after)))
    wanted = sa.select(_f.kind, _f.path, _f.sha256, _f.size, _f.mode).where(*where).order_by(_f.kind, _f.path)
    rows = connection.execute(wanted if limit < 0 else wanted.limit(limit)).mappings()
    return [ModelFile(**row) for row in rows]


def give_up(connection: sa.Connection, project: str, registration: str, now: float) -> None:
    """A version needs its files no more: those that nobody else needs go with the next round of the purge."""
    mine = (_f.registration == registration) & (_f.project == project)
    names = set(connection.execute(sa.select(_f.sha256).where(mine)).scalars())
    connection.execute(sa.delete(model_files).where(mine))
    for batch in batches(names):
        doom(connection, batch, now)


def may_read(connection: sa.Connection, project: str, registration: str, sha256: str) -> bool:
    """Whether the version needs this blob; one that is purged needs none."""
    mine = (_f.registration == registration) & (_f.project == project) & (_f.sha256 == sha256)
    return connection.execute(sa.select(sa.literal(1)).where(mine).limit(1)).first() is not None


def trail(connection: sa.Connection, project: str, model: str) -> Iterator[Row]:
    """The whole audit trail, oldest first, a page at a time."""
    after = -1
    while True:
        mine = (_t.project == project) & (_t.model == model) & (_t.sequence > after)
        rows = connection.execute(
            sa.select(_t.sequence, _t.hash, _t.body).where(mine).order_by(_t.sequence).limit(_TRAIL_PAGE)
        ).all()
        yield from (Row(*row) for row in rows)
        if len(rows) < _TRAIL_PAGE:
            return
        after = rows[-1].sequence


def newest_entries(connection: sa.Connection, project: str, model: str, before: int | None) -> Iterator[Row]:
    """The audit trail from its end, a page at a time."""
    while True:
        where = [_t.project == project, _t.model == model]
        if before is not None:
            where.append(_t.sequence < before)
        wanted = sa.select(_t.sequence, _t.hash, _t.body).where(*where).order_by(_t.sequence.desc())
        rows = connection.execute(wanted.limit(_TRAIL_PAGE)).all()
        yield from (Row(*row) for row in rows)
        if len(rows) < _TRAIL_PAGE:
            return
        before = rows[-1].sequence


def alias_view(row: Any) -> AliasView:
    """A row of model_aliases as it is shown."""
    return AliasView(
        alias=row.alias, number=row.number, revision=row.revision, by=row.mover, moved=row.moved,
        protected=row.protected is not None,
    )  # fmt: skip


def model_view(row: Any, aliases: Sequence[AliasView]) -> ModelRow:
    """A row of models as it is shown."""
    return ModelRow(
        name=row.name, by=row.creator, created=row.created, changed=row.changed, newest=row.numbers, note=row.note,
        tags=tuple(json.loads(row.tags)), metadata=json.loads(row.metadata), aliases=tuple(aliases),
        trashed=row.trashed,
    )  # fmt: skip


def version_view(row: Any, aliases: Sequence[AliasView], *, lineage: bool = False) -> VersionView:
    """A row of model_versions as it is shown. aliases: of its model."""
    return VersionView(
        model=row.model, number=row.number, experiment=row.experiment, attempt=row.attempt, by=row.creator,
        created=row.created, manifest=row.manifest, files=row.files, size=row.size, note=row.note,
        tags=tuple(json.loads(row.tags)), metadata=json.loads(row.metadata),
        aliases=tuple(one.alias for one in aliases if one.number == row.number), trashed=row.trashed,
        purged=row.purged, lineage=Lineage.model_validate_json(row.lineage) if lineage else None,
    )  # fmt: skip
