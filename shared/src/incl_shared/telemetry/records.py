"""What the lines of a spool say: scalars, drops, files and whatever else; see `wire` for their form."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Annotated, Any, Protocol

import msgspec

INT64 = 2**63
MOST_DROPS = 2**31 - 1
DROPS = (b'"d"', rb"\u0064")
FILES = (b'"c"', b'"f"', b'"v"', rb"\u0063", rb"\u0066", rb"\u0076")
"""Bytes one of which every record of these kinds has, however its JSON is spelled."""
NO_RECORD = (msgspec.DecodeError, UnicodeDecodeError, ValueError, OverflowError, RecursionError)
"""What the decoders raise of lines that are none: nested without end, or with numbers without end, among others."""
_START = b'{"k":"'
_SCALARS = b'{"k":"m"'


class Lines(Protocol):
    """Consecutive lines of one writer, as a piece of a spool has them. first: the number of the first one."""

    @property
    def data(self) -> bytes:
        """All of them, each with its newline."""
        ...

    @property
    def first(self) -> int:
        """The number of the first one."""
        ...

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    @property
    def lines(self) -> list[bytes]:
        """Each without its newline."""
        ...


def candidates(piece: Lines, marks: tuple[bytes, ...]) -> Iterator[tuple[int, bytes]]:
    """(number, line) of what is worth being parsed as a record of a kind with these marks.

    Scalars as the SDK writes them, of which spools are full, are not, whatever their metrics are called; unless one was
    torn and another record stands behind it.
    """
    data = piece.data
    if not any(mark in data for mark in marks):
        return
    scalars = data.count(b"\n" + _SCALARS) + data.startswith(_SCALARS)
    glued = data.count(_START) > data.count(b"\n" + _START) + data.startswith(_START)
    if scalars == piece.count and not glued:
        return
    for number, line in enumerate(piece.lines, piece.first):
        if line.startswith(_SCALARS) and not (glued and line.find(_START, 1) > 0):
            continue
        if any(mark in line for mark in marks):
            yield number, line


Step = Annotated[int, msgspec.Meta(ge=-INT64, le=INT64 - 1)]


class Scalars(msgspec.Struct, tag_field="k", tag="m", gc=False):
    """An 'm' record: its values by name (v), or names (n) and packed values (b)."""

    t: float
    s: Step
    v: dict[str, float] | None = None
    n: list[str] = []
    b: bytes = b""

    @property
    def values(self) -> dict[str, float]:
        """By name.

        Raises:
            ValueError: it has none, or names and values do not match.
        """
        if self.v is not None:
            return self.v
        names = set(self.n)
        if not names or len(names) != len(self.n) or len(self.b) != 8 * len(self.n):
            raise ValueError("no values")
        return dict(zip(self.n, struct.unpack(f"<{len(self.n)}d", self.b), strict=True))


_scalars = msgspec.json.Decoder(Scalars)


def scalars(line: bytes) -> Scalars | None:
    """The scalars of a line, their values by name (v); None when it has none."""
    if line.startswith(b'{"k":"m"') and (found := _strict(line)) is not None:
        return found
    record = loads(line)
    if record is None or record.get("k") != "m":
        return None
    try:
        return _tolerant(record) if "v" in record else _strict(json.dumps(record).encode("ascii"))
    except NO_RECORD:
        return None


def _strict(line: bytes) -> Scalars | None:
    try:
        record = _scalars.decode(line)
        return Scalars(record.t, record.s, record.values) if record.v is None else record
    except NO_RECORD:
        return None


def loads(line: bytes) -> dict[str, Any] | None:
    """A record of any kind; None when the line is none. What stands after a torn line on the same line is found."""
    for text in (line, *_glued(line)):
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("k"), str):
            return record
    return None


def _glued(line: bytes) -> Iterator[bytes]:
    start = line.rfind(_START)
    if start > 0:
        yield line[start:]


def _tolerant(record: dict[str, Any]) -> Scalars | None:
    step, values, now = record.get("s"), record.get("v"), record.get("t")
    if type(step) is not int or not -INT64 <= step < INT64 or not isinstance(values, dict):
        return None
    if not isinstance(now, int | float):
        return None
    kept = {}
    for name, value in values.items():
        if isinstance(value, int | float):
            try:
                kept[name.encode("utf-8", "replace").decode()] = float(value)
            except OverflowError:
                continue
    return Scalars(float(now), step, kept)


def drops(line: bytes) -> int:
    """How many records a 'd' line says were lost; 0 when it is none."""
    record = loads(line)
    count = record.get("n") if record is not None and record.get("k") == "d" else None
    return min(count, MOST_DROPS) if type(count) is int and count > 0 else 0


def as_extra(line: bytes) -> bytes | None:
    """The line of a record that is no scalar, valid JSON but for a bare NaN; None: no record."""
    record = loads(line)
    if record is None or record["k"] == "m":
        return None
    try:
        return json.dumps(record, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    except NO_RECORD:
        return None
