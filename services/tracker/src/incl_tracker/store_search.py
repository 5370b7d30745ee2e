"""Lists of experiments: filter, order, pages by key. Reads summary rows alone, never points."""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from incl_shared.errors import InvalidInput, UnavailableError
from incl_shared.filters import Filter, Kind, SortKey, fields_of, parse, parse_sort, sort_text, unknown_metric
from incl_shared.queries.tracker import ExperimentPage, ExperimentRow, ListExperiments
from incl_tracker import tables as t
from incl_tracker.sqlfilter import Compiler
from incl_tracker.store_views import list_row

_e = t.experiments.c
_STEPS = 20_000
"""Steps of SQLite's machine between two looks at the clock."""
_SAMPLE = 5
_COLUMNS = 3


def search(
    connection: sa.Connection, project: str, query: ListExperiments, now: float, limit_s: float
) -> ExperimentPage:
    """A page of a project's experiments.

    Raises:
        InvalidInput: for a filter, an order or a cursor that means nothing here.
        UnavailableError: when it takes longer than limit_s seconds.
    """
    node, order = parse(query.filter), parse_sort(query.sort)
    _check_metrics(connection, project, node, order)
    mark = zlib.crc32(f"{project} {query.filter} {sort_text(order)}".encode())
    after = _read_cursor(query.cursor, mark) if query.cursor else None
    moment = after["now"] if after else now
    compiler = Compiler(connection.dialect.name, moment)
    keys = [(expression, key.descending) for key in order for expression in compiler.keys(key)]
    columns = [expression.label(f"key_{place}") for place, (expression, _) in enumerate(keys)]
    statement = sa.select(t.experiments, *columns).where(_e.project == project, _e.known, compiler.condition(node))
    if after:
        statement = statement.where(_following(keys, after["keys"], after["id"]))
    for expression, descending in keys:
        statement = statement.order_by(expression.is_(None), expression.desc() if descending else expression.asc())
    with time_limit(connection, limit_s):
        rows = connection.execute(statement.order_by(_e.id.desc()).limit(query.limit + 1)).mappings().all()
    page, more = rows[: query.limit], len(rows) > query.limit
    cursor = None
    if more:
        values = [page[-1][f"key_{place}"] for place in range(len(keys))]
        cursor = _write_cursor({"now": moment, "keys": values, "id": page[-1]["id"], "of": mark})
    named = _metrics_named(node, order)
    return ExperimentPage(rows=tuple(_with_metrics(connection, page, named)), cursor=cursor)


def metric_names(connection: sa.Connection, project: str, limit: int = 2000) -> list[str]:
    """The metrics that experiments of a project have logged or declared."""
    c = t.known_metrics.c
    query = sa.select(c.metric).where(c.project == project).order_by(c.metric).limit(limit)
    return list(connection.execute(query).scalars())


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
        hint = "narrow it, for example with created > 7d or a status"
        raise UnavailableError(f"the search took longer than {seconds:g} s and was stopped", hint=hint) from error
    finally:
        if not postgres and raw is not None:
            raw.set_progress_handler(None, 0)


def _metrics_named(node: Filter, order: Iterable[SortKey]) -> set[str]:
    return {f.name for f in (*fields_of(node), *(key.field for key in order)) if f.kind is Kind.METRIC}


def _check_metrics(connection: sa.Connection, project: str, node: Filter, order: Iterable[SortKey]) -> None:
    named = _metrics_named(node, order)
    if not named:
        return
    c = t.known_metrics.c
    query = sa.select(c.metric).where(c.project == project, c.metric.in_(named))
    unknown = named - set(connection.execute(query).scalars())
    if unknown:
        raise unknown_metric(min(unknown), metric_names(connection, project), f"project {project!r}", fields=True)


def _following(
    keys: Sequence[tuple[sa.ColumnElement[Any], bool]], values: list[Any], last: str
) -> sa.ColumnElement[bool]:
    """What comes after the row with these key values."""
    if len(values) != len(keys):
        raise _bad_cursor()
    later: list[sa.ColumnElement[bool]] = []
    ties: list[sa.ColumnElement[bool]] = []
    for (expression, descending), value in zip(keys, values, strict=True):
        if value is None:
            ties.append(expression.is_(None))
            continue
        beyond = expression < value if descending else expression > value
        later.append(sa.and_(*ties, sa.or_(beyond, expression.is_(None))))
        ties.append(expression == value)
    later.append(sa.and_(*ties, _e.id < last))
    return sa.or_(*later)


def _with_metrics(connection: sa.Connection, rows: Sequence[sa.RowMapping], named: set[str]) -> Iterator[ExperimentRow]:
    """With the values of the metrics that the question names and that any row declares; else of a few that exist."""
    ids = [row["id"] for row in rows]
    declared = {name for row in rows for name in json.loads(row["declared"])}
    names = named | declared or _some_metrics(connection, [row["id"] for row in rows if row["points"]][:_SAMPLE])
    found: dict[str, dict[str, float]] = {}
    if names:
        c = t.metrics.c
        query = sa.select(c.experiment, c.metric, c.last).where(c.experiment.in_(ids), c.metric.in_(names))
        for experiment, metric, last in connection.execute(query.order_by(c.metric)):
            found.setdefault(experiment, {})[metric] = float("nan") if last is None else last
    for row in rows:
        yield list_row(row, found.get(row["id"], {}))


def _some_metrics(connection: sa.Connection, experiments: Sequence[str]) -> set[str]:
    c = t.metrics.c
    query = sa.select(c.metric).where(c.experiment.in_(experiments), c.metric.not_like("system/%")).distinct()
    return set(connection.execute(query.order_by(c.metric).limit(_COLUMNS)).scalars()) if experiments else set()


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
