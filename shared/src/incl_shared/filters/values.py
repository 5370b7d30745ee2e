"""The right side of a comparison, by the type of the field."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

from incl_shared.filters.ast import COLUMNS, Ago, Field, Kind, Number, Op, Period, Span, Text, Today, Type, Value
from incl_shared.filters.lexer import Token, TokenKind, problem
from incl_shared.filters.moments import parse_moment, parse_span
from incl_shared.states import EndReason, ExperimentState

_ORDERED = (Op.LT, Op.LE, Op.GT, Op.GE)


def as_number(text: str) -> float | None:
    """The number that a text is; NaN is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def parse_value(field: Field, op: Op, token: Token, source: str, place: Token) -> Value:
    """The value that a token is for this field and operator.

    Raises:
        InvalidInput: when it is none of the field's values.
    """
    match field.type:
        case Type.TEXT:
            return Text(token.text)
        case Type.STATE:
            return _choice(token, source, "status", ExperimentState)
        case Type.REASON:
            return _choice(token, source, "reason", EndReason)
        case Type.NUMBER:
            return _number(field, token, source, place)
        case Type.TIME:
            return _moment(token, source)
        case Type.DURATION:
            return _span(token, source)
        case Type.MIXED:
            return _mixed(op, token, source)


def _choice(token: Token, source: str, what: str, choices: Iterable[str]) -> Text:
    known = [str(choice) for choice in choices]
    word = token.text.lower()
    if word in known:
        return Text(word)
    near = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise problem(f"no such {what}: {token.text[:60]!r}", source, token.start, hint=f"{hint}known: {', '.join(known)}")


def _number(field: Field, token: Token, source: str, place: Token) -> Number:
    number = as_number(token.text)
    if number is not None:
        return Number(number)
    near = difflib.get_close_matches(place.text.lower(), list(COLUMNS), n=1) if field.kind is Kind.METRIC else []
    if near:
        raise problem(f"no field {place.text!r}", source, place.start, hint=f"did you mean {near[0]!r}?")
    what = "the metric" if field.kind is Kind.METRIC else "the field"
    hint = f"a metric compares with numbers; fields are: {', '.join(COLUMNS)}" if field.kind is Kind.METRIC else ""
    raise problem(f"{what} {field.name!r} needs a number, not {token.text[:60]!r}", source, token.start, hint=hint)


def _moment(token: Token, source: str) -> Ago | Today | Period:
    moment = parse_moment(token.text)
    if isinstance(moment, Ago | Today | Period):
        return moment
    hint = "write 2026-01-31, 2026-01-31T10:00, today, yesterday, or how long ago: 30m, 2h, 3d"
    raise problem(f"no time: {token.text[:60]!r}", source, token.start, hint=hint)


def _span(token: Token, source: str) -> Span:
    seconds = parse_span(token.text)
    if seconds is None:
        seconds = as_number(token.text)
    if seconds is None or not 0 <= seconds < math.inf:
        hint = "write a number of seconds, or 90s, 15m, 2h, 1h30m, 3d"
        raise problem(f"no duration: {token.text[:60]!r}", source, token.start, hint=hint)
    return Span(seconds)


def _mixed(op: Op, token: Token, source: str) -> Value:
    number = as_number(token.text) if token.kind is TokenKind.WORD and op is not Op.HAS else None
    if number is not None:
        return Number(number)
    if op in _ORDERED:
        raise problem(f"{op.value} needs a number, not {token.text[:60]!r}", source, token.start)
    return Text(token.text)
