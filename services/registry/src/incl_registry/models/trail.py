"""The audit trail of a model: entries of which each has the hash of the one before in it. Pure.

An entry is hashed as it is stored: canonical JSON (sorted keys, no blanks, ASCII). So whatever is changed in it, taken
out, put in or moved, the hash of that entry or the link of the next one is wrong; what is cut off at the end does not
fit the length and the head that the model's own row has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from incl_shared.queries.models import TrailEntry

FIRST = ""
"""The link of the first entry."""


@dataclass(frozen=True, slots=True)
class Row:
    """An entry as it is stored."""

    sequence: int
    hash: str
    body: str


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody does with a model. time: seconds since the epoch."""

    by: str
    time: float
    action: str
    details: Mapping[str, Any]


def append(project: str, model: str, length: int, head: str, act: Act) -> Row:
    """The entry after `length` ones, of which the last has the hash `head`."""
    entry = {
        "project": project,
        "model": model,
        "sequence": length + 1,
        "time": act.time,
        "by": act.by,
        "action": act.action,
        "details": dict(act.details),
        "previous": head,
    }
    body = canonical(entry)
    return Row(length + 1, digest(body), body)


def canonical(value: Any) -> str:
    """JSON in the one form that is hashed.

    Raises:
        ValueError: NaN or an infinity, which JSON has not.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(text: str) -> str:
    """Its sha256."""
    return hashlib.sha256(text.encode("ascii", "backslashreplace")).hexdigest()


def read(row: Row) -> TrailEntry:
    """An entry as it is shown.

    Raises:
        ValueError: the body is none.
    """
    return TrailEntry.model_validate({**json.loads(row.body), "hash": row.hash})


@dataclass
class Checked:
    """What the chain is. entries: those that could be read, in their order; problems: what is wrong, each by itself."""

    length: int = 0
    head: str = FIRST
    entries: list[TrailEntry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    hashes: set[str] = field(default_factory=set)


def check(project: str, model: str, rows: Iterable[Row], length: int, head: str) -> Checked:
    """Look at every entry, in the order of their sequence. length, head: what the model's own row says."""
    found = Checked()
    for row in rows:
        found.problems.extend(_wrong(project, model, row, found))
        found.length, found.head = row.sequence, row.hash
        found.hashes.add(row.hash)
    if found.length != length:
        found.problems.append(f"the trail ends with entry {found.length}, and should with entry {length}")
    elif found.head != head:
        found.problems.append(f"the last entry, {length}, is not the one that the model remembers")
    return found


def _wrong(project: str, model: str, row: Row, before: Checked) -> Iterator[str]:
    expected = before.length + 1
    if row.sequence != expected:
        gap = (
            f"entry {expected} is" if row.sequence == expected + 1 else f"entries {expected} to {row.sequence - 1} are"
        )
        yield f"{gap} missing" if row.sequence > expected else f"entry {row.sequence} is there twice"
    if digest(row.body) != row.hash:
        yield f"entry {row.sequence} was changed: its hash is another one"
    try:
        entry, body = read(row), json.loads(row.body)
    except (ValueError, ValidationError, TypeError):
        yield f"entry {row.sequence} cannot be read"
        return
    if entry.sequence != row.sequence:
        yield f"entry {row.sequence} was moved: it was written as entry {entry.sequence}"
    if (body.get("project"), body.get("model")) != (project, model):
        yield f"entry {row.sequence} is of another model"
    if row.sequence == expected and entry.previous != before.head:
        yield f"entry {row.sequence} does not follow the one before it"
    before.entries.append(entry)
