"""What a filter means, said once in Python: the measure for the fakes, and for the SQL of the tracker."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from incl_shared.filters.ast import (
    And,
    Compare,
    Field,
    Filter,
    Kind,
    Not,
    Number,
    Op,
    Or,
    SortKey,
    Span,
    Text,
    Type,
    Value,
)
from incl_shared.filters.moments import resolve
from incl_shared.filters.values import as_number

_UPPER_TO_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


@dataclass(frozen=True, slots=True)
class FilterRow:
    """What a filter can ask of an experiment. Times are seconds since the epoch."""

    id: str
    name: str
    user: str
    project: str
    status: str
    created: float
    reason: str | None = None
    nodes: int = 1
    gpus: int = 0
    attempts: int = 0
    started: float | None = None
    ended: float | None = None
    tags: tuple[str, ...] = ()
    sweep: str | None = None
    trial: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


def fold(text: str) -> str:
    """Capital letters A to Z made small: the folding that SQLite and PostgreSQL agree on."""
    return text.translate(_UPPER_TO_LOWER)


def matches(node: Filter, row: FilterRow, now: float) -> bool:
    """Whether an experiment passes the filter at this moment (seconds since the epoch)."""
    match node:
        case And(parts=parts):
            return all(matches(part, row, now) for part in parts)
        case Or(parts=parts):
            return any(matches(part, row, now) for part in parts)
        case Not(inner=inner):
            return not matches(inner, row, now)
        case Compare(op=Op.NE):
            return not _holds(node, Op.EQ, row, now)
        case Compare(op=op):
            return _holds(node, op, row, now)


def ordered(rows: Iterable[FilterRow], keys: tuple[SortKey, ...], now: float) -> list[FilterRow]:
    """Rows in the order of the keys; what is missing comes last; the newest id first where all are equal."""
    result = sorted(rows, key=lambda row: row.id, reverse=True)
    for key in reversed(keys):
        for part in (1, 0):
            result = _stable([(_sortable(row, key.field, now)[part], row) for row in result], key.descending)
    return result


def _stable(pairs: list[tuple[Any, FilterRow]], descending: bool) -> list[FilterRow]:
    present = sorted((pair for pair in pairs if pair[0] is not None), key=_first, reverse=descending)
    return [row for _, row in present] + [row for value, row in pairs if value is None]


def _first(pair: tuple[Any, FilterRow]) -> Any:
    return pair[0]


def values_of(row: FilterRow, field: Field, now: float) -> tuple[str | float, ...]:
    """The values of a field: none, one, or (tags) several."""
    match field.kind:
        case Kind.METRIC:
            value = row.metrics.get(field.name)
            return () if value is None or math.isnan(value) else (value,)
        case Kind.CONFIG:
            return _some(row.config.get(field.name))
        case Kind.ENV:
            return _some(row.env.get(field.name))
        case Kind.PARAM:
            return _some(row.config.get(field.name, row.env.get(field.name)))
        case Kind.COLUMN:
            return _column(row, field.name, now)


def _column(row: FilterRow, name: str, now: float) -> tuple[str | float, ...]:
    if name == "tag":
        return row.tags
    if name == "duration":
        return () if row.started is None else ((now if row.ended is None else row.ended) - row.started,)
    value: str | float | None = getattr(row, name)
    return _some(value)


def _some(value: str | float | None) -> tuple[str | float, ...]:
    return () if value is None else (value,)


def _sortable(row: FilterRow, field: Field, now: float) -> tuple[float | None, str | None]:
    found = values_of(row, field, now)
    if not found:
        return None, None
    value = found[0]
    if isinstance(value, str):
        return (as_number(value) if field.type is Type.MIXED else None), value
    return value, None


def _holds(node: Compare, op: Op, row: FilterRow, now: float) -> bool:
    found = values_of(row, node.field, now)
    return any(_compare(node.field, have, op, want, now) for have in found for want in node.values)


def _compare(field: Field, have: str | float, op: Op, want: Value, now: float) -> bool:
    if field.type is Type.TIME:
        return _compare_time(float(have), op, want, now)
    if isinstance(want, Text):
        text = str(have)
        return fold(want.text) in fold(text) if op is Op.HAS else text == want.text
    number = as_number(have) if isinstance(have, str) else have
    limit = want.value if isinstance(want, Number) else want.seconds if isinstance(want, Span) else math.nan
    return number is not None and _compare_number(number, op, limit)


def _compare_number(have: float, op: Op, want: float) -> bool:
    match op:
        case Op.LT:
            return have < want
        case Op.LE:
            return have <= want
        case Op.GT:
            return have > want
        case Op.GE:
            return have >= want
        case _:
            return have == want


def _compare_time(have: float, op: Op, want: Value, now: float) -> bool:
    period = resolve(want, now)
    day = period.end > period.start
    match op:
        case Op.LT:
            return have < period.start
        case Op.LE:
            return have < period.end if day else have <= period.start
        case Op.GT:
            return have >= period.end if day else have > period.start
        case Op.GE:
            return have >= period.start
        case _:
            return period.start <= have < period.end if day else have == period.start
