"""Lists of experiments: filter, order, pages by key. Reads columns and summary rows alone, never points."""

from __future__ import annotations

import base64
import json
import math
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import sqlalchemy as sa

from incl_shared.errors import InvalidInput, UnavailableError
from incl_shared.filters import (
    EVERYTHING,
    Field,
    Filter,
    Kind,
    SortKey,
    Type,
    fields_of,
    parse,
    parse_sort,
    sort_text,
    unknown_metric,
)
from incl_shared.queries.tracker import ExperimentPage, ListExperiments
from incl_tracker import tables as t
from incl_tracker.domain.ordering import Candidate, Raw, after, by_blocks, first_of, parts_of
from incl_tracker.domain.selecting import COLUMN, NUMBER_OF, Key, both, keys_of, selected
from incl_tracker.statements import spelled
from incl_tracker.store_columns import Block, Cache, Index, Span
from incl_tracker.store_pages import shown
from incl_tracker.store_rows import Made, hot_rows

_STEPS = 20_000
"""Steps of SQLite's machine between two looks at the clock."""
_NEWEST = (SortKey(Field(Kind.COLUMN, "created"), descending=True),)
_FIRST = """
    SELECT created, id FROM experiments WHERE project = ? AND known AND trashed IS NULL
    ORDER BY created DESC, id DESC LIMIT ?
"""
_NEXT = _FIRST.replace("ORDER BY", "AND (created, id) < (?, ?) ORDER BY")
_KNOWN = "SELECT metric FROM known_metrics WHERE project = ? AND metric IN ({})"


class Deadline:
    """Until when a list may take."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    def check(self) -> None:
        """Go on, or not.

        Raises:
            UnavailableError: it is over.
        """
        if time.monotonic() > self._at:
            raise _too_slow(self.seconds)


def search(
    connection: sa.Connection,
    project: str,
    query: ListExperiments,
    now: float,
    limit_s: float,
    cache: Cache | None = None,
) -> ExperimentPage:
    """A page of a project's experiments. cache: columns that were read before.

    Raises:
        InvalidInput: for a filter, an order or a cursor that means nothing here.
        UnavailableError: when it takes longer than limit_s seconds.
    """
    node, order = parse(query.filter), parse_sort(query.sort)
    mark = zlib.crc32(f"{project} {query.trash} {query.filter} {sort_text(order)}".encode())
    cursor = _read_cursor(query.cursor, mark) if query.cursor else None
    moment = cursor["now"] if cursor else now
    limit, deadline = query.limit + 1, Deadline(limit_s)
    last = None if cursor is None else (cursor["keys"], cursor["id"])
    with time_limit(connection, limit_s):
        fields = [*fields_of(node), *(key.field for key in order)]
        check_metrics(connection, project, fields)
        named = {field.name for field in fields if field.kind is Kind.METRIC}
        known: dict[str, dict[str, float]] = {}
        if node == EVERYTHING and order == _NEWEST and not query.trash:
            found = _newest(connection, project, last, limit)
        else:
            walk = _Walk(connection, project, node, order, moment, cache or Cache())
            found = walk.first(last, limit, query.trash, deadline)
            known = walk.values(found, named)
        page, more = found[: query.limit], len(found) > query.limit
        rows = shown(connection, [candidate.id for candidate in page], named, known)
    written = None
    if more:
        written = _write_cursor({"now": moment, "keys": page[-1].raws, "id": page[-1].id, "of": mark})
    return ExperimentPage.model_construct(rows=rows, cursor=written)


def _newest(connection: sa.Connection, project: str, last: tuple[list[Raw], str] | None, limit: int) -> list[Candidate]:
    """The newest by the index of the rows, which is quicker than columns and has the hot ones too."""
    text = _FIRST
    values: tuple[str | float, ...] = (project, limit)
    if last is not None:
        keys, identifier = last
        if len(keys) != 1 or not isinstance(keys[0], int | float):
            raise _bad_cursor()
        text, values = _NEXT, (project, float(keys[0]), identifier, limit)
    rows = connection.exec_driver_sql(spelled(text, connection.dialect.paramstyle), values)
    return [Candidate((), (created,), identifier) for created, identifier in rows]


class _Walk:
    """A way over the experiments of a project, those with the best values first."""

    def __init__(
        self, connection: sa.Connection, project: str, node: Filter, order: Sequence[SortKey], now: float, cache: Cache
    ) -> None:
        self._connection = connection
        self._project = project
        self._node = node
        self._order = order
        self._now = now
        index = Index(connection, project, cache)
        steps: list[Block] | list[Span] = [*map(index.rows, index.walk)] if by_blocks(order) else index.spans()
        self._key = _number_key(order[0].field) if order else None
        self._from: dict[str, Made | Block | Span] = {}
        self._steps: list[tuple[float | None, Block | Span]] = [(self._best(rows), rows) for rows in steps]
        if self._key is not None:
            down = order[0].descending
            self._steps.sort(key=lambda step: (step[0] is None, -(step[0] or 0.0) if down else step[0] or 0.0))

    def _best(self, rows: Block | Span) -> float | None:
        """The best value of the first key among these experiments, as far as that can be told."""
        bounds = None if self._key is None else rows.bounds(self._key)
        return None if bounds is None else bounds[1] if self._order[0].descending else bounds[0]

    def first(self, last: tuple[list[Raw], str] | None, limit: int, trash: bool, deadline: Deadline) -> list[Candidate]:
        """The first `limit` experiments of the list, after the last one of the page before."""
        keys = {key for field in (*fields_of(self._node), *(k.field for k in self._order)) for key in keys_of(field)}
        found: list[Candidate] = []
        hot = hot_rows(self._connection, self._project, keys, trash)
        if hot is not None:
            found = self._join(found, hot, last, limit, trash)
        for best, rows in self._steps:
            deadline.check()
            if len(found) == limit and self._is_beyond(best, found[-1]):
                break
            found = self._join(found, rows, last, limit, trash)
        return found

    def values(self, found: Sequence[Candidate], names: set[str]) -> dict[str, dict[str, float]]:
        """What the columns say of metrics of those found. A value that is none, or not a number, is left out."""
        result: dict[str, dict[str, float]] = {candidate.id: {} for candidate in found}
        for candidate in found:
            for name in names:
                column = self._from[candidate.id].numbers(("metric", name))
                value = math.nan if column is None else float(column.values[candidate.place])
                if not math.isnan(value):
                    result[candidate.id][name] = value
        return result

    def _is_beyond(self, best: float | None, worst: Candidate) -> bool:
        """Whether experiments with this best value, and so all that follow, cannot come before the last one found."""
        if self._key is None or worst.raws[0] is None:
            return False
        limit = worst.raws[0]
        if best is None or not isinstance(limit, int | float):
            return best is None
        return best < limit if self._order[0].descending else best > limit

    def _join(
        self,
        found: list[Candidate],
        rows: Made | Block | Span,
        last: tuple[list[Raw], str] | None,
        limit: int,
        trash: bool,
    ) -> list[Candidate]:
        """The first of those found and those of a block."""
        parts = parts_of(self._order, rows, self._now)

        def ids() -> Any:
            return rows.texts((COLUMN, "id"))

        mask = rows.shown(trash)
        if last is not None:
            raws, identifier = last
            _check_raws(raws, parts)
            mask = both(mask, after(parts, raws, identifier, ids, rows.count))
        if len(found) == limit:
            mask = both(mask, ~after(parts, found[-1].raws, found[-1].id, ids, rows.count))
        if mask is False or not np.any(mask):
            return found
        mask = both(mask, selected(self._node, rows, self._now))
        if mask is False:
            return found
        places = np.arange(rows.count) if mask is True else np.flatnonzero(mask)
        if not len(places):
            return found
        new = first_of(parts, places, ids, limit)
        self._from.update({candidate.id: rows for candidate in new})
        joined = found + new
        joined.sort(key=lambda candidate: candidate.key)
        return joined[:limit]


def _check_raws(raws: Sequence[Raw], parts: Sequence[Any]) -> None:
    """The values of a cursor are of the kinds of the keys."""
    if len(raws) != len(parts):
        raise _bad_cursor()
    for raw, part in zip(raws, parts, strict=True):
        if part.texts is not None and not isinstance(raw, str | None):
            raise _bad_cursor()
        if part.numbers is not None and not isinstance(raw, int | float | None):
            raise _bad_cursor()


def _number_key(field: Field) -> Key | None:
    """The one column of numbers that a key goes by first, if there is one."""
    if field.kind is Kind.METRIC:
        return ("metric", field.name)
    if field.kind is Kind.COLUMN:
        return (COLUMN, field.name) if field.type in (Type.NUMBER, Type.TIME) else None
    return None if field.kind is Kind.PARAM else (NUMBER_OF[field.kind.value], field.name)


def metric_names(connection: sa.Connection, project: str, limit: int = 2000) -> list[str]:
    """The metrics that experiments of a project have logged or declared."""
    c = t.known_metrics.c
    query = sa.select(c.metric).where(c.project == project).order_by(c.metric).limit(limit)
    return list(connection.execute(query).scalars())


def check_metrics(connection: sa.Connection, project: str, fields: Sequence[Field]) -> None:
    """That the project has the metrics among these fields.

    Raises:
        InvalidInput: with the nearest names.
    """
    named = {field.name for field in fields if field.kind is Kind.METRIC}
    if not named:
        return
    text = spelled(_KNOWN.format(", ".join("?" * len(named))), connection.dialect.paramstyle)
    unknown = named - set(connection.exec_driver_sql(text, (project, *named)).scalars())
    if unknown:
        raise unknown_metric(min(unknown), metric_names(connection, project), f"project {project!r}", fields=True)


@contextmanager
def time_limit(connection: sa.Connection, seconds: float) -> Iterator[None]:
    """Stop a statement that takes longer.

    Raises:
        UnavailableError: then.
    """
    postgres = connection.dialect.name == "postgresql"
    raw = connection.connection.driver_connection
    deadline = time.monotonic() + seconds
    if postgres:
        connection.execute(sa.text(f"SET LOCAL statement_timeout = {int(seconds * 1000)}"))
    elif raw is not None:
        raw.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        yield
    except sa.exc.OperationalError as error:
        stopped = getattr(error.orig, "sqlite_errorname", "") == "SQLITE_INTERRUPT"
        if not stopped and getattr(error.orig, "sqlstate", "") != "57014":
            raise
        raise _too_slow(seconds) from error
    finally:
        if not postgres and raw is not None:
            raw.set_progress_handler(None, 0)


def _write_cursor(content: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def _read_cursor(cursor: str, mark: int) -> dict[str, Any]:
    try:
        content = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if content["of"] == mark and isinstance(content["keys"], list):
            return {"now": float(content["now"]), "keys": content["keys"], "id": str(content["id"])}
    except (ValueError, KeyError, TypeError):
        raise _bad_cursor() from None
    raise _bad_cursor()


def _bad_cursor() -> InvalidInput:
    return InvalidInput("the cursor is not one of this list", hint="ask for the first page again, without a cursor")


def _too_slow(seconds: float) -> UnavailableError:
    hint = "narrow it, for example with created > 7d or a status"
    return UnavailableError(f"the search took longer than {seconds:g} s and was stopped", hint=hint)
