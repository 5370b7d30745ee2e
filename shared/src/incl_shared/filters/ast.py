"""The tree of a filter: frozen values, the same for everyone who parses, prints, evaluates or compiles."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a field is: a column of its own, or one of the named sorts of values."""

    COLUMN = "column"
    METRIC = "metric"
    PARAM = "param"
    CONFIG = "config"
    ENV = "env"


class Type(StrEnum):
    """How the values of a field compare."""

    TEXT = "text"
    STATE = "state"
    REASON = "reason"
    NUMBER = "number"
    TIME = "time"
    DURATION = "duration"
    MIXED = "mixed"


COLUMNS: dict[str, Type] = {
    "id": Type.TEXT,
    "name": Type.TEXT,
    "user": Type.TEXT,
    "project": Type.TEXT,
    "tag": Type.TEXT,
    "sweep": Type.TEXT,
    "status": Type.STATE,
    "reason": Type.REASON,
    "nodes": Type.NUMBER,
    "gpus": Type.NUMBER,
    "attempts": Type.NUMBER,
    "trial": Type.NUMBER,
    "created": Type.TIME,
    "started": Type.TIME,
    "ended": Type.TIME,
    "duration": Type.DURATION,
}
"""The fields that every experiment has."""

ALIASES = {"state": "status", "tags": "tag", "finished_at": "ended"}
NAMED = (Kind.METRIC, Kind.PARAM, Kind.CONFIG, Kind.ENV)


@dataclass(frozen=True, slots=True)
class Field:
    """A column by its name, or a metric, parameter … by its own."""

    kind: Kind
    name: str

    @property
    def type(self) -> Type:
        """How its values compare."""
        if self.kind is Kind.COLUMN:
            return COLUMNS[self.name]
        return Type.NUMBER if self.kind is Kind.METRIC else Type.MIXED


class Op(StrEnum):
    """Comparisons. `!=` is the exact opposite of `=`: true where there is no value."""

    EQ = "="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="
    HAS = "~"
    IN = "in"


@dataclass(frozen=True, slots=True)
class Text:
    """A word."""

    text: str


@dataclass(frozen=True, slots=True)
class Number:
    """A number; also seconds, for a duration."""

    value: float


@dataclass(frozen=True, slots=True)
class Span:
    """A length of time in seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Ago:
    """So many seconds before now."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Today:
    """The day (UTC) so many days before today."""

    days_ago: int


@dataclass(frozen=True, slots=True)
class Period:
    """From start to end (excluded), seconds since the epoch; the two are equal for a moment."""

    start: float
    end: float


Value = Text | Number | Span | Ago | Today | Period


@dataclass(frozen=True, slots=True)
class Compare:
    """One comparison; `in` has one value or more, the others exactly one."""

    field: Field
    op: Op
    values: tuple[Value, ...]

    @property
    def value(self) -> Value:
        """The only value."""
        return self.values[0]


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    inner: Filter


@dataclass(frozen=True, slots=True)
class And:
    """All of them; of none, everything."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one of them."""

    parts: tuple[Filter, ...]


Filter = Compare | Not | And | Or

EVERYTHING: Filter = And(())
"""The empty filter."""


@dataclass(frozen=True, slots=True)
class SortKey:
    """One key of an order; experiments without the value come last, whichever way it goes."""

    field: Field
    descending: bool = False


def fields_of(node: Filter) -> tuple[Field, ...]:
    """Every field that a filter names, each once, in the order of the text."""
    found: dict[Field, None] = {}
    stack = [node]
    while stack:
        match stack.pop():
            case Compare(field=field):
                found[field] = None
            case Not(inner=inner):
                stack.append(inner)
            case And(parts=parts) | Or(parts=parts):
                stack.extend(reversed(parts))
    return tuple(found)
