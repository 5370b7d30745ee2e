"""The files of experiments: listed as events tell of them, read in pages by two indexes (by key, and by path)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from incl_shared.errors import InvalidInput
from incl_shared.events import ArtifactsDropped, ArtifactStored, Medium
from incl_shared.queries.tracker import (
    ArtifactList,
    ArtifactView,
    ListArtifacts,
    ListMediaKeys,
    MediaKey,
    MediaKeys,
)
from incl_tracker import tables as t
from incl_tracker.domain.text import clean
from incl_tracker.sql import upsert

MEDIA: Final = "media"
TYPES: Final = ("file", "image", "table", "text")
SHORT_LIST: Final = 500
PAGE_BYTES: Final = 180_000
_HEAD: Final = 200
_NO_STEP: Final = -1
_a = t.artifacts.c
_BY_KEY = (_a.kind, _a.type, _a.key, _a.at, _a.head, _a.path_key, _a.attempt, _a.rank)
_BY_PATH = (_a.head, _a.path_key, _a.kind, _a.attempt, _a.rank)


def _at(table: sa.Table) -> list[sa.ColumnElement[bool]]:
    return [column == sa.bindparam(f"at_{column.name}") for column in table.primary_key]


_DROPPED = sa.select(t.dropped_artifacts.c.version).where(*_at(t.dropped_artifacts))
_DROP = sa.delete(t.artifacts).where(*_at(t.artifacts), _a.version < sa.bindparam("before"))


def set_artifact(connection: sa.Connection, event: ArtifactStored, version: int) -> None:
    """List a stored file, unless a later version is listed or took it off the list."""
    path, medium = clean(event.path), _clean(event.medium)
    row: dict[str, Any] = event.model_dump(exclude={"medium"}) | {
        "version": version,
        "path": path,
        "path_key": _path_key(path),
        "kind": clean(event.kind, 32),
        "type": medium.type if medium else "",
        "key": medium.key if medium else "",
        "at": _NO_STEP if event.step is None else event.step,
        "head": path[:_HEAD],
        "medium": medium.model_dump_json(exclude_defaults=True) if medium else None,
    }
    place = {f"at_{column.name}": row[column.name] for column in t.dropped_artifacts.primary_key}
    dropped = connection.execute(_DROPPED, place).scalar()
    if dropped is None or dropped < version:
        upsert(connection, t.artifacts, [row], where="version")


def drop_artifacts(connection: sa.Connection, event: ArtifactsDropped, version: int) -> None:
    """Take files off the list but those that were stored later; what was stored before and comes late stays away."""
    rows = {
        (file.attempt, file.rank, clean(file.kind, 32), _path_key(clean(file.path))): None for file in event.entries
    }
    names = ("attempt", "rank", "kind", "path_key")
    places = [{"experiment": event.experiment, **dict(zip(names, row, strict=True))} for row in rows]
    upsert(connection, t.dropped_artifacts, [place | {"version": version} for place in places], where="version")
    values = [{f"at_{name}": value for name, value in place.items()} for place in places]
    connection.execute(_DROP, [value | {"before": version} for value in values])


def short_list(connection: sa.Connection, experiment: str) -> tuple[list[ArtifactView], int]:
    """What a view shows of the files, media after all others, newest attempt first; and how many there are in all.

    Of a kind the newest step comes first, as a number: the list may be cut.
    """
    mine = _a.experiment == experiment
    total = int(connection.execute(sa.select(sa.func.count()).where(mine)).scalar_one())
    if not total:
        return [], 0
    others = [kind for kind in _kinds(connection, experiment) if kind != MEDIA]
    order = (_a.attempt.desc(), _a.kind, _a.at.desc(), _a.path, _a.rank)
    query = sa.select(t.artifacts).where(mine, _a.kind.in_(others)).order_by(*order).limit(SHORT_LIST)
    found = [_view(row) for row in connection.execute(query).mappings()] if others else []
    if len(found) < SHORT_LIST:
        media = sa.select(t.artifacts).where(mine, _a.kind == MEDIA).order_by(*_BY_KEY)
        found += [_view(row) for row in connection.execute(media.limit(SHORT_LIST - len(found))).mappings()]
    return found, total


def artifacts(connection: sa.Connection, query: ListArtifacts) -> ArtifactList:
    """A page of the files that are asked for.

    Raises:
        InvalidInput: the cursor is none of this question's.
    """
    order = _BY_PATH if query.prefix else _BY_KEY
    where = _conditions(connection, query)
    if query.cursor is not None:
        place = _read_cursor(query.cursor, order)
        where.append(sa.tuple_(*order) > sa.tuple_(*(sa.literal(value) for value in place)))
    wanted = sa.select(t.artifacts).where(*where).order_by(*order).limit(query.limit + 1)
    rows = connection.execute(wanted).mappings().all()
    views: list[ArtifactView] = []
    size = 0
    for row in rows[: query.limit]:
        view = _view(row)
        size += len(view.model_dump_json()) + 1
        if views and size > PAGE_BYTES:
            break
        views.append(view)
    more = len(views) < len(rows)
    return ArtifactList(artifacts=tuple(views), cursor=_cursor(rows[len(views) - 1], order) if more else None)


def media_keys(connection: sa.Connection, query: ListMediaKeys) -> MediaKeys:
    """A page of the keys of media, each with what there is of it.

    Raises:
        InvalidInput: the cursor is none of this question's.
    """
    where = [_a.experiment == query.experiment, _a.kind == MEDIA]
    if query.cursor is not None:
        place = _read_cursor(query.cursor, (_a.key, _a.type))
        where.append(sa.tuple_(_a.key, _a.type) > sa.tuple_(*(sa.literal(value) for value in place)))
    found = (
        sa.select(
            _a.key,
            _a.type,
            sa.func.count().label("count"),
            sa.func.min(_a.at).label("first"),
            sa.func.max(_a.at).label("last"),
            sa.func.sum(_a.size).label("bytes"),
        )
        .where(*where)
        .group_by(_a.key, _a.type)
        .order_by(_a.key, _a.type)
        .limit(query.limit + 1)
    )
    rows = connection.execute(found).mappings().all()
    keys: list[MediaKey] = []
    size = 0
    for row in rows[: query.limit]:
        key = MediaKey(
            key=row["key"],
            type=row["type"] or "file",
            count=row["count"],
            first_step=row["first"],
            last_step=row["last"],
            bytes=int(row["bytes"]),
        )
        size += len(key.model_dump_json()) + 1
        if keys and size > PAGE_BYTES:
            break
        keys.append(key)
    more = len(keys) < len(rows)
    return MediaKeys(keys=tuple(keys), cursor=_cursor(rows[len(keys) - 1], (_a.key, _a.type)) if more else None)


def _conditions(connection: sa.Connection, query: ListArtifacts) -> list[sa.ColumnElement[bool]]:
    where: list[sa.ColumnElement[bool]] = [_a.experiment == query.experiment]
    is_media = query.medium is not None or query.key is not None
    if query.kind is not None or is_media:
        where.append(_a.kind == (query.kind or MEDIA))
    if query.medium is not None:
        where.append(_a.type == query.medium)
    elif query.key is not None:
        where.append(_a.type.in_(_types_of(connection, query.experiment, query.key)))
    if query.key is not None:
        where.append(_a.key == query.key)
    if query.from_step is not None:
        where.append(_a.step >= query.from_step)
        where.append(_a.at >= query.from_step)
    if query.to_step is not None:
        where.append(_a.step <= query.to_step)
        where.append(_a.at <= query.to_step)
    if query.attempt is not None:
        where.append(_a.attempt == query.attempt)
    if query.rank is not None:
        where.append(_a.rank == query.rank)
    if query.prefix:
        where += _begins(query.prefix)
    return where


def _begins(prefix: str) -> list[sa.ColumnElement[bool]]:
    """Paths with this beginning; the index is entered at the first of them, and left after the last."""
    head = clean(prefix)[:_HEAD]
    above = head[:-1] + chr(ord(head[-1]) + 1) if ord(head[-1]) < 0xD7FF else None
    where = [_a.head >= head, sa.func.substr(_a.path, 1, len(prefix)) == clean(prefix)]
    if above is not None:
        where.append(_a.head < above)
    return where


def _types_of(connection: sa.Connection, experiment: str, key: str) -> list[str]:
    """Nearly always one: a key is of images, or of tables."""
    mine = (_a.experiment == experiment, _a.kind == MEDIA, _a.key == key)
    found = [
        type_
        for type_ in TYPES
        if connection.execute(sa.select(sa.literal(1)).where(*mine, _a.type == type_).limit(1)).first() is not None
    ]
    return found or [""]


def _kinds(connection: sa.Connection, experiment: str) -> list[str]:
    """The kinds of files that there are, one step through the index for each."""
    found: list[str] = []
    while True:
        after = [_a.kind > found[-1]] if found else []
        kind = connection.execute(sa.select(sa.func.min(_a.kind)).where(_a.experiment == experiment, *after)).scalar()
        if kind is None:
            return found
        found.append(str(kind))


def _view(row: sa.RowMapping) -> ArtifactView:
    fields = {name: row[name] for name in ("path", "kind", "sha256", "size", "attempt", "rank", "step")}
    medium = Medium.model_validate_json(row["medium"], extra="ignore") if row["medium"] else None
    return ArtifactView(**fields, medium=medium)


def _path_key(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()


def _clean(medium: Medium | None) -> Medium | None:
    if medium is None:
        return None
    return medium.model_copy(update={"key": clean(medium.key, 250), "caption": clean(medium.caption, 1000)})


def _cursor(row: sa.RowMapping, order: Sequence[sa.ColumnElement[Any]]) -> str:
    place = [row[str(column.key)] for column in order]
    return base64.urlsafe_b64encode(json.dumps(place, ensure_ascii=False).encode()).decode()


def _read_cursor(text: str, order: Sequence[sa.ColumnElement[Any]]) -> list[Any]:
    try:
        place = json.loads(base64.b64decode(text, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, UnicodeDecodeError, RecursionError):
        place = None
    if not isinstance(place, list) or len(place) != len(order):
        raise InvalidInput("the cursor is not one of this list", hint="read it again from its beginning")
    for value, column in zip(place, order, strict=True):
        kind = int if isinstance(column.type, sa.Integer) else str
        if type(value) is not kind or (isinstance(value, int) and not -(1 << 63) <= value < 1 << 63):
            raise InvalidInput("the cursor is not one of this list", hint="read it again from its beginning")
    return place
