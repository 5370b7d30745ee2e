"""Rows of summaries, and extremes computed anew from what is stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from incl_tracker import store_pieces
from incl_tracker import tables as t
from incl_tracker.domain.samples import Samples, from_records
from incl_tracker.domain.summaries import COLUMNS, Extreme, Summaries, extremes
from incl_tracker.memory import Known
from incl_tracker.statements import Insert
from incl_tracker.store_pieces import GREATEST, LEAST

_m = t.metrics.c
_SAVE = Insert(t.metrics, "experiment", "metric", *COLUMNS, replace=True)
_KNOW = Insert(t.known_metrics, "project", "metric", keep=True)
_LOAD = sa.select(_m.experiment, _m.metric, *(_m[name] for name in COLUMNS)).where(
    _m.experiment.in_(sa.bindparam("experiments", expanding=True))
)
_AT_ONCE = 200


def load(connection: sa.Connection, wanted: Sequence[tuple[str, Known]]) -> None:
    """Read the summaries of these experiments, where they are not known."""
    missing = {experiment: known for experiment, known in wanted if known.summaries is None}
    names = list(missing)
    for begin in range(0, len(names), _AT_ONCE):
        found: dict[str, list[Sequence[Any]]] = {name: [] for name in names[begin : begin + _AT_ONCE]}
        for row in connection.execute(_LOAD, {"experiments": list(found)}):
            found[row[0]].append(row[1:])
        for experiment, stored in found.items():
            summaries = missing[experiment].summaries = Summaries()
            summaries.load(stored)
            missing[experiment].size += len(stored)


def save(connection: sa.Connection, changed: Sequence[tuple[str, Summaries]]) -> None:
    """Write down what changed."""
    _SAVE.run(connection, [(experiment, *row) for experiment, s in changed for row in s.changed()])


def know(connection: sa.Connection, names: Sequence[tuple[str, str]]) -> None:
    """Remember that projects have these metrics: (project, metric)."""
    _KNOW.run(connection, sorted(set(names)))


def stored_extremes(
    connection: sa.Connection, experiment: str, metric: str, rank: int
) -> tuple[Extreme | None, Extreme | None]:
    """(least, greatest) of the points that count: of chunks by their levels, which hold their extremes."""
    pieces = store_pieces.pieces(connection, experiment, metric, rank, LEAST, GREATEST)
    heads = [head for head in pieces.heads if head.visible]
    whole = [head for head in heads if not pieces.is_hidden_by_tails(head)]
    found: list[tuple[int, Samples]] = [
        (head.attempt, from_records(blob)) for head, blob in store_pieces.levels(connection, whole, coarse=True)
    ]
    touched = [head for head in heads if pieces.is_hidden_by_tails(head)]
    archived = {(head.series, head.number): head for head in touched}
    for head, samples, mask in store_pieces.raw(connection, touched):
        del archived[(head.series, head.number)]
        found.append((head.attempt, pieces.visible(head, samples, mask)))
    for head, blob in store_pieces.levels(connection, list(archived.values()), coarse=False):
        found.append((head.attempt, pieces.visible(head, from_records(blob))))
    found += [(tail.attempt, tail.samples) for tail in pieces.tails()]
    return extremes(found)


@dataclass(frozen=True, slots=True)
class Summary:
    """A row of `metrics`. points: all that are stored of this rank, superseded ones included."""

    rank: int
    points: int
    last: float
    last_step: int
    last_time: float
    last_attempt: int
    minimum: Extreme | None
    maximum: Extreme | None


def summary_of(row: sa.RowMapping | dict[str, Any]) -> Summary:
    """Columns as a summary."""
    low, high = row["minimum"], row["maximum"]
    return Summary(
        rank=row["rank"],
        points=row["points"],
        last=math.nan if row["last"] is None else row["last"],
        last_step=row["last_step"],
        last_time=row["last_time"],
        last_attempt=row["last_attempt"],
        minimum=None if low is None else Extreme(low, row["min_step"], row["min_attempt"]),
        maximum=None if high is None else Extreme(high, row["max_step"], row["max_attempt"]),
    )
