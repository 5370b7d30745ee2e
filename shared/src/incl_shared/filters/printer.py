"""Tree -> text: the one form of a filter, which parses to the same tree."""

from __future__ import annotations

import re

from incl_shared.filters.ast import (
    ALIASES,
    COLUMNS,
    NAMED,
    Ago,
    And,
    Compare,
    Field,
    Filter,
    Kind,
    Not,
    Number,
    Op,
    Or,
    Period,
    SortKey,
    Span,
    Text,
    Today,
    Type,
    Value,
)
from incl_shared.filters.moments import print_period, print_span
from incl_shared.filters.values import as_number

_PLAIN = re.compile(r"^[^\W\d][\w./+@%:-]*$")
_KEYWORDS = ("and", "or", "not", "in", "ago")


def to_text(node: Filter) -> str:
    """The text of a filter."""
    match node:
        case Compare():
            return _comparison(node)
        case Not(inner=inner):
            return f"not {_inner(inner)}"
        case And(parts=parts):
            return " and ".join(_inner(part) for part in parts)
        case Or(parts=parts):
            return " or ".join(_inner(part) for part in parts)


def sort_text(keys: tuple[SortKey, ...]) -> str:
    """The text of an order."""
    return ",".join(("-" if key.descending else "") + field_text(key.field) for key in keys)


def field_text(field: Field) -> str:
    """A field as it is written, with quotes where it needs them."""
    if field.kind is Kind.COLUMN:
        return field.name
    if field.kind is Kind.METRIC:
        return field.name if _bare(field.name) else _quote(field.name)
    return f"{field.kind.value}.{field.name if _PLAIN.fullmatch(field.name) else _quote(field.name)}"


def _inner(node: Filter) -> str:
    return f"({to_text(node)})" if isinstance(node, And | Or) else to_text(node)


def _bare(name: str) -> bool:
    lower = name.lower()
    head = lower.partition(".")[0] if "." in lower else ""
    named = any(head in (kind.value, f"{kind.value}s") for kind in NAMED)
    return bool(_PLAIN.fullmatch(name)) and not named and lower not in (*COLUMNS, *ALIASES, *_KEYWORDS)


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _comparison(node: Compare) -> str:
    values = [_value(node.field, value) for value in node.values]
    if node.op is Op.IN:
        return f"{field_text(node.field)} in ({', '.join(values)})"
    return f"{field_text(node.field)} {node.op.value} {values[0]}"


def _value(field: Field, value: Value) -> str:
    match value:
        case Text(text=text):
            plain = _PLAIN.fullmatch(text) and text.lower() not in _KEYWORDS
            if plain and (field.type is not Type.MIXED or as_number(text) is None):
                return text
            return _quote(text)
        case Number(value=number):
            return repr(int(number)) if abs(number) < 1e15 and number == int(number) else repr(number)
        case Span(seconds=seconds) | Ago(seconds=seconds) if isinstance(value, Span) or seconds:
            return print_span(seconds)
        case Ago():
            return "now"
        case Today(days_ago=days):
            return "yesterday" if days else "today"
        case Period():
            return print_period(value)
        case _:
            raise TypeError(f"not a value: {value!r}")
