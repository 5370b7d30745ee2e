"""Groups as the fake platform counts them: one experiment after the other, by the evaluator of the grammar."""

from __future__ import annotations

import itertools
import statistics
import time
from collections import Counter
from collections.abc import Iterable

from incl_shared.filters import FilterRow, matches, parse, parse_field, values_of
from incl_shared.queries.tracker import Aggregate, ExperimentGroup, ExperimentView, GroupExperiments

Values = tuple[str | None, ...]


def grouped(views: Iterable[ExperimentView], query: GroupExperiments) -> list[ExperimentGroup]:
    """All groups, the greatest first."""
    node, fields, now = parse(query.filter), [parse_field(text) for text in query.by], time.time()
    members: dict[Values, list[ExperimentView]] = {}
    for view in views:
        row = filter_row(view)
        if query.trash != (view.trashed is not None) or not matches(node, row, now):
            continue
        values: list[list[str | None]] = [[*map(str, values_of(row, field, now))] or [None] for field in fields]
        for combined in itertools.product(*values):
            members.setdefault(combined, []).append(view)
    return sorted((_group(values, some, query.metrics) for values, some in members.items()), key=_order)


def filter_row(view: ExperimentView) -> FilterRow:
    """What the grammar can ask of a view."""
    row = view.row
    return FilterRow(
        id=row.id,
        name=row.name,
        user=row.user,
        project=row.project,
        status=row.state.value,
        created=row.created,
        reason=None if row.reason is None else row.reason.value,
        nodes=row.nodes,
        gpus=row.gpus,
        attempts=row.attempts,
        started=row.started,
        ended=row.ended,
        tags=row.tags,
        metrics=row.metrics,
        config=view.config,
        env={} if view.spec is None else view.spec.env,
    )


def _group(values: Values, views: list[ExperimentView], metrics: Iterable[str]) -> ExperimentGroup:
    found = {name: [view.row.metrics[name] for view in views if name in view.row.metrics] for name in metrics}
    return ExperimentGroup(
        values=values,
        experiments=len(views),
        states=Counter(view.row.state for view in views),
        newest=max((view.row for view in views), key=lambda row: (row.created, row.id)).id,
        metrics={name: _aggregate(some) for name, some in found.items() if some},
    )


def _aggregate(values: list[float]) -> Aggregate:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    mean = statistics.fmean(values)
    return Aggregate(count=len(values), mean=mean, minimum=min(values), maximum=max(values), deviation=deviation)


def _order(group: ExperimentGroup) -> tuple[int, list[tuple[bool, bytes]]]:
    return -group.experiments, [(value is None, (value or "").encode()) for value in group.values]
