"""The filter grammar as SQL: the same rows pass as by `incl_shared.filters.matches`, in SQLite and PostgreSQL.

Every comparison is either true or false, never NULL, so that `not` means the opposite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from incl_shared.filters import (
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
    fold,
    resolve,
)
from incl_tracker import tables as t

Condition = sa.ColumnElement[bool]


@dataclass(frozen=True, slots=True)
class Compiler:
    """Compiles for one dialect ('sqlite' or 'postgresql') and one moment."""

    dialect: str
    now: float

    def condition(self, node: Filter) -> Condition:
        """The WHERE of a filter over `experiments`."""
        match node:
            case And(parts=parts):
                return sa.and_(sa.true(), *(self.condition(part) for part in parts))
            case Or(parts=parts):
                return sa.or_(sa.false(), *(self.condition(part) for part in parts))
            case Not(inner=inner):
                return sa.not_(self.condition(inner))
            case Compare(op=Op.NE):
                return sa.not_(self._holds(node, Op.EQ))
            case Compare(op=op):
                return self._holds(node, op)

    def keys(self, key: SortKey) -> list[sa.ColumnElement[Any]]:
        """The expressions that a key orders by, one after the other."""
        field = key.field
        if field.kind is Kind.COLUMN:
            return [self._column(field)]
        if field.kind is Kind.METRIC:
            c = t.metrics.c
            query = sa.select(c.last).where(c.experiment == t.experiments.c.id, c.metric == field.name)
            return [query.scalar_subquery()]
        return [self._param(field, t.params.c.number), self._param(field, t.params.c.text)]

    def _holds(self, node: Compare, op: Op) -> Condition:
        field = node.field
        if field == Field(Kind.COLUMN, "tag"):
            some = sa.or_(*(self._test(field, t.tags.c.tag, op, value) for value in node.values))
            return sa.exists().where(t.tags.c.experiment == t.experiments.c.id, some)
        if field.kind is Kind.METRIC:
            c = t.metrics.c
            some = sa.or_(*(self._test(field, c.last, op, value) for value in node.values))
            return sa.exists().where(c.experiment == t.experiments.c.id, c.metric == field.name, some)
        if field.kind is Kind.COLUMN:
            column = self._column(field)
            some = sa.or_(*(self._test(field, column, op, value) for value in node.values))
            return sa.and_(column.is_not(None), some)
        some = sa.or_(*(self._test_param(op, value) for value in node.values))
        return sa.func.coalesce(self._param(field, some), sa.false(), type_=sa.Boolean())

    def _column(self, field: Field) -> sa.ColumnElement[Any]:
        if field.name == "duration":
            return sa.func.coalesce(t.experiments.c.ended, sa.literal(self.now)) - t.experiments.c.started
        return t.experiments.c["state" if field.name == "status" else field.name]

    def _param(self, field: Field, what: sa.ColumnElement[Any]) -> sa.ScalarSelect[Any]:
        """What the parameter's row says; a configuration goes before an environment variable of that name."""
        c = t.params.c
        kinds = ("config", "env") if field.kind is Kind.PARAM else (field.kind.value,)
        query = sa.select(what).where(c.experiment == t.experiments.c.id, c.name == field.name, c.kind.in_(kinds))
        return query.order_by(c.kind).limit(1).scalar_subquery()

    def _test_param(self, op: Op, value: Value) -> Condition:
        if isinstance(value, Number):
            number = t.params.c.number
            return sa.and_(number.is_not(None), _numeric(number, op, value.value))
        return self._text(t.params.c.text, op, value)

    def _test(self, field: Field, column: sa.ColumnElement[Any], op: Op, value: Value) -> Condition:
        if field.type is Type.TIME:
            return _time(column, op, value, self.now)
        if isinstance(value, Number):
            return _numeric(column, op, value.value)
        if isinstance(value, Span):
            return _numeric(column, op, value.seconds)
        return self._text(column, op, value)

    def _text(self, column: sa.ColumnElement[Any], op: Op, value: Value) -> Condition:
        if not isinstance(value, Text):
            raise TypeError(f"not a text: {value!r}")
        if op is not Op.HAS:
            return column == value.text
        wanted = fold(value.text)
        if self.dialect == "postgresql":
            return sa.func.strpos(sa.func.lower(sa.collate(column, "C")), wanted) > 0
        return sa.func.instr(sa.func.lower(column), wanted) > 0


def _numeric(column: sa.ColumnElement[Any], op: Op, value: float) -> Condition:
    match op:
        case Op.LT:
            return column < value
        case Op.LE:
            return column <= value
        case Op.GT:
            return column > value
        case Op.GE:
            return column >= value
        case _:
            return column == value


def _time(column: sa.ColumnElement[Any], op: Op, value: Value, now: float) -> Condition:
    period = resolve(value, now)
    day = period.end > period.start
    match op:
        case Op.LT:
            return column < period.start
        case Op.LE:
            return column < period.end if day else column <= period.start
        case Op.GT:
            return column >= period.end if day else column > period.start
        case Op.GE:
            return column >= period.start
        case _:
            return sa.and_(column >= period.start, column < period.end) if day else column == period.start
