"""Pages of log lines: by cursor, from the end, by rank, attempt, stream, time and text.

Heads of batches are read first, many at once; only batches that may have a wanted line are unpacked, and with a text
sought only those whose bytes may hold it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from incl_shared.errors import InvalidInput, NotFoundError
from incl_shared.queries.tracker import GetLogs, LogLine, LogPage
from incl_shared.telemetry.wire import Line
from incl_tracker import tables as t
from incl_tracker.domain.loglines import STREAMS, decompressed, joined, read_lines, shown, size_of
from incl_tracker.domain.search import Needle
from incl_tracker.store_views import row_in

PAGE_BYTES = 200_000
SCAN_S = 1.0
_HEADS, _BLOBS = 2000, 16
_l = t.log_batches.c
_MINE = sa.select(_l.start, _l.count, _l.attempt, _l.rank, _l.first_time, _l.last_time).where(
    _l.experiment == sa.bindparam("experiment")
)
_FORWARD = _MINE.where(_l.start >= sa.bindparam("start")).order_by(_l.start).limit(_HEADS)
_BACK = _MINE.where(_l.start < sa.bindparam("start")).order_by(_l.start.desc()).limit(_HEADS)
_BEFORE = sa.select(sa.func.max(_l.start)).where(
    _l.experiment == sa.bindparam("experiment"), _l.start <= sa.bindparam("start")
)
_LINES = sa.select(_l.start, _l.lines).where(
    _l.experiment == sa.bindparam("experiment"), _l.start.in_(sa.bindparam("starts", expanding=True))
)


def logs(connection: sa.Connection, project: str, query: GetLogs, scan_s: float = SCAN_S) -> LogPage:
    """A page of lines. When it ran into its time limit there is more, and the cursor is where it got to.

    Raises:
        NotFoundError: when the experiment is not of this project, or its lines are archived.
        InvalidInput: when both `after` and `tail` are asked for.
    """
    if query.tail is not None and query.after:
        raise InvalidInput("after and tail exclude each other", hint="leave one of them out")
    total = row_in(connection, project, query.experiment)["lines"]
    deadline = time.monotonic() + scan_s
    if query.tail is not None:
        return _tail(connection, query, total, deadline)
    return _page(connection, query, total, deadline)


class _Head(NamedTuple):
    start: int
    size: int
    attempt: int
    rank: int
    first_time: float
    last_time: float


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which lines are wanted."""

    query: GetLogs
    needle: Needle | None

    @classmethod
    def of(cls, query: GetLogs) -> _Wanted:
        """The lines of a query."""
        return cls(query, Needle(query.search) if query.search else None)

    def may_have(self, head: _Head) -> bool:
        """Whether a batch may have one."""
        query = self.query
        return (
            query.rank in (None, head.rank)
            and query.attempt in (None, head.attempt)
            and (query.since is None or head.last_time >= query.since)
            and (query.until is None or head.first_time < query.until)
        )

    def lines(self, blob: bytes) -> list[tuple[int, Line]]:
        """(place in the batch, line) of those that are wanted."""
        plain = decompressed(blob)
        if self.needle is not None and not self.needle.may_be_in(plain):
            return []
        return [(place, line) for place, line in enumerate(read_lines(plain)) if self._fits(line)]

    def _fits(self, line: Line) -> bool:
        query = self.query
        return (
            (query.stream is None or STREAMS[line.stream if 0 <= line.stream < len(STREAMS) else -1] == query.stream)
            and (query.since is None or line.time >= query.since)
            and (query.until is None or line.time < query.until)
            and (self.needle is None or self.needle.is_in(line.text))
        )


def _page(connection: sa.Connection, query: GetLogs, total: int, deadline: float) -> LogPage:
    lines: list[LogLine] = []
    wanted = _Wanted.of(query)
    cursor, size = query.after, 0
    for head, blob in _forward(connection, query, wanted):
        for place, line in wanted.lines(blob) if blob is not None else ():
            position = head.start + place
            if position < query.after:
                continue
            answer = shown(line, head.attempt, head.rank)
            size += size_of(answer)
            if lines and (size > PAGE_BYTES or len(lines) >= query.limit):
                return LogPage(lines=tuple(joined(lines)), cursor=cursor, more=True)
            lines.append(answer)
            cursor = position + 1
        cursor = max(cursor, head.start + head.size)
        if time.monotonic() > deadline:
            break
    else:
        cursor = max(cursor, total)
    return LogPage(lines=tuple(joined(lines)), cursor=cursor, more=cursor < total)


def _forward(connection: sa.Connection, query: GetLogs, wanted: _Wanted) -> Iterator[tuple[_Head, bytes | None]]:
    """Batches after the cursor; without its lines one that has no wanted line."""
    bound = {"experiment": query.experiment, "start": query.after}
    start = connection.execute(_BEFORE, bound).scalar() or 0
    while True:
        rows = connection.execute(_FORWARD, {"experiment": query.experiment, "start": start}).all()
        heads = [_Head(*row) for row in rows]
        yield from _with_blobs(connection, query, wanted, [h for h in heads if h.start + h.size > query.after])
        if len(heads) < _HEADS:
            return
        start = heads[-1].start + 1


def _with_blobs(
    connection: sa.Connection, query: GetLogs, wanted: _Wanted, heads: Sequence[_Head]
) -> Iterator[tuple[_Head, bytes | None]]:
    """The heads in their order, a few blobs read at once; of those passed over only the last of a row."""
    begin = 0
    while begin < len(heads):
        end = begin
        chosen: list[int] = []
        while end < len(heads) and len(chosen) < _BLOBS:
            if wanted.may_have(heads[end]):
                chosen.append(heads[end].start)
            end += 1
        bound = {"experiment": query.experiment, "starts": chosen}
        blobs = {row[0]: row[1] for row in connection.execute(_LINES, bound)} if chosen else {}
        if None in blobs.values():
            raise NotFoundError(
                f"the lines of experiment {query.experiment} lie in the archive",
                hint=f"incl restore {query.experiment} brings them back",
            )
        for place in range(begin, end):
            head = heads[place]
            if head.start in blobs or place == end - 1:
                yield head, blobs.get(head.start)
        begin = end


def _tail(connection: sa.Connection, query: GetLogs, total: int, deadline: float) -> LogPage:
    """The last lines, sought from the end; more: there was no time to look at all."""
    count, size, more = query.tail or 0, 0, False
    wanted = _Wanted.of(query)
    found: list[LogLine] = []
    for head, blob in _back(connection, query, wanted, total) if count else ():
        for _, line in reversed(wanted.lines(blob)) if blob is not None else ():
            answer = shown(line, head.attempt, head.rank)
            size += size_of(answer)
            if found and size > PAGE_BYTES:
                count = len(found)
                break
            found.append(answer)
            if len(found) >= count:
                break
        if len(found) >= count:
            break
        if time.monotonic() > deadline:
            more = True
            break
    return LogPage(lines=tuple(joined(reversed(found))), cursor=total, more=more)


def _back(
    connection: sa.Connection, query: GetLogs, wanted: _Wanted, below: int
) -> Iterator[tuple[_Head, bytes | None]]:
    while True:
        rows = connection.execute(_BACK, {"experiment": query.experiment, "start": below}).all()
        heads = [_Head(*row) for row in rows]
        yield from _with_blobs(connection, query, wanted, heads)
        if len(heads) < _HEADS:
            return
        below = heads[-1].start
