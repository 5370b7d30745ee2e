"""Records of a spool that are no scalars: configuration, alerts, dropped records. Files travel by the registry."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from incl_shared.telemetry.wire import Extra
from incl_tracker.domain.text import MAX_NAME, clean, clean_name

LEVELS = ("info", "warn", "error")
MAX_VALUE = 10_000
MAX_DROPPED = (1 << 31) - 1
"""What one record says of dropped ones, at most: sums of them stay below 64 bits."""


@dataclass(frozen=True, slots=True)
class Alert:
    """incl.alert(…). `sequence` is the record's number within its writer; no time: it did not say a sensible one."""

    sequence: int
    title: str
    text: str
    level: str
    time: float | None = None


@dataclass(slots=True)
class Said:
    """What the extras of a batch say. config: name -> (time, text)."""

    config: dict[str, tuple[float, str]] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)
    dropped: int = 0
    unreadable: int = 0


def read_extras(extras: Iterable[Extra]) -> Said:
    """Read them; one that cannot be read is counted, and costs no other."""
    said = Said()
    for extra in extras:
        try:
            _read(json.loads(extra.line), extra.sequence, said)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError, OverflowError):
            said.unreadable += 1
    return said


def _read(record: dict[str, Any], sequence: int, said: Said) -> None:
    match record["k"]:
        case "a":
            level = record.get("level", "info")
            said.alerts.append(
                Alert(
                    sequence,
                    clean(str(record["title"]), 500),
                    clean(str(record.get("text", "")), MAX_VALUE),
                    level if level in LEVELS else "info",
                    _moment(record.get("t")),
                )
            )
        case "p":
            time = _moment(float(record["t"])) or 0.0
            for name, text in flatten(record["v"]).items():
                if name not in said.config or said.config[name][0] <= time:
                    said.config[name] = (time, text)
        case "d":
            said.dropped += min(max(0, int(record["n"])), MAX_DROPPED)


def _moment(value: object) -> float | None:
    """A time that every database can hold, or none."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e12 else None


def flatten(values: dict[str, Any]) -> dict[str, str]:
    """{'model': {'depth': 3}} -> {'model.depth': '3'}; lists become JSON.

    The names of what lies deep are made of a prefix that was cut, so that a hostile record costs no more than its size.

    Raises:
        AttributeError: when it is no dictionary.
    """
    flat: dict[str, str] = {}
    levels = [("", iter(values.items()))]
    while levels:
        prefix, items = levels[-1]
        for name, value in items:
            if isinstance(value, dict) and value:
                inner = f"{prefix}{name}"
                levels.append((f"{inner if len(inner) <= MAX_NAME else clean_name(inner)}.", iter(value.items())))
                break
            flat[clean_name(f"{prefix}{name}")] = clean(_text(value), MAX_VALUE)
        else:
            levels.pop()
    return flat


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)
