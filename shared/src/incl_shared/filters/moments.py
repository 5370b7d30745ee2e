"""Times and lengths of time as people write them: 2026-01-31, 2026-01-31T10:00, today, yesterday, now, 90s, 2h, 3d."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from incl_shared.filters.ast import Ago, Period, Today, Value

DAY = 86_400.0
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(w|d|h|ms|m|s)", re.IGNORECASE)
_UNITS = {"w": 7 * DAY, "d": DAY, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DATE = re.compile(r"^\d{4}-\d{2}-\d{2}$")


def parse_span(text: str) -> float | None:
    """Seconds of 90s, 15m, 2h, 1h30m, 3d, 1w, 200ms; None when it is none of these."""
    found = _SPAN.findall(text)
    if not found or _SPAN.sub("", text):
        return None
    return sum(float(number) * _UNITS[unit.lower()] for number, unit in found)


def parse_moment(text: str) -> Value | None:
    """A moment, a day, or so long ago; None when it is none of these. Without an offset it is UTC."""
    word = text.lower()
    if word == "now":
        return Ago(0.0)
    if word in ("today", "yesterday"):
        return Today(0 if word == "today" else 1)
    span = parse_span(text)
    if span is not None:
        return Ago(span)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    start = moment.timestamp()
    return Period(start, start + DAY if _DATE.fullmatch(text) else start)


def resolve(value: Value, now: float) -> Period:
    """The period that a value of a time field means; for a moment, start and end are equal."""
    match value:
        case Period():
            return value
        case Ago(seconds=seconds):
            return Period(now - seconds, now - seconds)
        case Today(days_ago=days):
            midnight = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
            start = (midnight - timedelta(days=days)).timestamp()
            return Period(start, start + DAY)
        case _:
            raise TypeError(f"not a time: {value!r}")


def print_span(seconds: float) -> str:
    """A span as text that parses to the same."""
    for unit in ("d", "h", "m"):
        whole = seconds / _UNITS[unit]
        if whole >= 1 and whole == int(whole):
            return f"{int(whole)}{unit}"
    text = f"{seconds:.12f}".rstrip("0").rstrip(".") if seconds < 1e15 else f"{seconds:.0f}"
    return f"{text}s"


def print_period(period: Period) -> str:
    """A period as text that parses to the same (to the microsecond)."""
    moment = datetime.fromtimestamp(period.start, UTC)
    if period.end > period.start:
        return moment.date().isoformat()
    return moment.replace(tzinfo=None).isoformat()
