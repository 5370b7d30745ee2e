"""The summaries of an experiment's metrics: those that its view shows, and pages of all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from incl_shared.queries.tracker import ListMetrics, MetricPage, MetricSummary
from incl_tracker import tables as t
from incl_tracker.store_summaries import summary_of

MAX_SHOWN = 500
PAGE_BYTES = 200_000
_FIXED_BYTES = 250
_BATCH = 1000


def listed(connection: sa.Connection, experiment: sa.RowMapping, query: ListMetrics) -> MetricPage:
    """A page of summaries, by name."""
    declared = json.loads(experiment["declared"])
    found: list[MetricSummary] = []
    size, sought = 0, query.contains.casefold()
    for row in _after(connection, query.experiment, query.cursor):
        if sought not in row["metric"].casefold():
            continue
        size += _FIXED_BYTES + 2 * len(row["metric"].encode())
        if len(found) >= query.limit or (found and size > PAGE_BYTES):
            return MetricPage(metrics=tuple(found), cursor=found[-1].name)
        found.append(_shown(row, declared))
    return MetricPage(metrics=tuple(found))


def shown(connection: sa.Connection, experiment: str, declared: Mapping[str, Any]) -> tuple[list[MetricSummary], int]:
    """(the summaries that a view has: those declared first, in their order, then others by name; how many in all)."""
    c = t.metrics.c
    mine = sa.select(t.metrics).where(c.experiment == experiment)
    wanted = mine.where(c.metric.in_(list(declared))) if declared else None
    first = connection.execute(wanted).mappings().all() if wanted is not None else []
    others = mine.where(c.metric.not_in(list(declared))) if declared else mine
    rest = connection.execute(others.order_by(c.metric).limit(max(0, MAX_SHOWN - len(first)))).mappings().all()
    order = {name: place for place, name in enumerate(declared)}
    rows = [*sorted(first, key=lambda row: order[row["metric"]]), *rest]
    total = len(rows)
    if total >= MAX_SHOWN:
        count = sa.select(sa.func.count()).select_from(t.metrics).where(c.experiment == experiment)
        total = connection.execute(count).scalar_one()
    return [_shown(row, declared) for row in rows], total


def _after(connection: sa.Connection, experiment: str, name: str | None) -> Iterator[sa.RowMapping]:
    c = t.metrics.c
    mine = sa.select(t.metrics).where(c.experiment == experiment).order_by(c.metric).limit(_BATCH)
    while True:
        rows = connection.execute(mine if name is None else mine.where(c.metric > name)).mappings().all()
        yield from rows
        if len(rows) < _BATCH:
            return
        name = rows[-1]["metric"]


def _shown(row: sa.RowMapping, declared: Mapping[str, Any]) -> MetricSummary:
    summary = summary_of(row)
    goal = declared.get(row["metric"])
    best = summary.maximum if goal == "max" else summary.minimum if goal == "min" else None
    return MetricSummary(
        name=row["metric"],
        last=summary.last,
        last_step=summary.last_step,
        minimum=summary.minimum.value if summary.minimum else None,
        maximum=summary.maximum.value if summary.maximum else None,
        best=best.value if best else None,
        best_step=best.step if best else None,
        goal=goal,
        points=summary.points,
    )
