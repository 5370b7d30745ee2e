"""What a shipper ships: batches of one writer in order, each cut once and for ever before it is sent.

A source remembers in a journal what is confirmed and how the batches in flight were cut, so that after a crash the same
records go out in the same batches again. Losing the journal costs repeats, which the tracker recognises by sequence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from incl_shared.events.experiments import WriterCount
from incl_shared.telemetry import batcher
from incl_shared.telemetry.journal import Journal, Noted
from incl_shared.telemetry.spool import Position, SpoolReader, after
from incl_shared.telemetry.wire import Extra

Stream = Literal["metrics", "logs"]
ROUND_BYTES = 2_000_000
"""About how many bytes of payload a source has in memory."""
AHEAD = 4
"""Batches of one writer that may be in flight."""
NO_SPOOL = "spool"
"""In whose name it is told that the spool itself was taken away, or has more writers than are taken."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A batch on its way. extras: records that are no scalars, for whoever uploads files. resend: see message_id."""

    writer: str
    first: int
    count: int
    payload: bytes
    end: Position
    extras: tuple[Extra, ...] = ()
    resend: int = 0

    @property
    def last(self) -> int:
        """The number of its last record."""
        return self.first + self.count - 1


class Source(Protocol):
    """Where a shipper gets its batches. poll(), rewind() and seal() run in a thread, the rest between two of them."""

    @property
    def stream(self) -> Stream:
        """The bus stream, as a message id names it."""
        ...

    def poll(self, room: int = ROUND_BYTES) -> list[Outgoing]:
        """Batches to send, those of a writer in order: about `room` bytes of payload, or one batch.

        What is not confirmed yet comes first, as it was.

        Raises:
            OSError: it cannot be read now.
        """
        ...

    def confirm(self, outgoing: Outgoing) -> None:
        """It is stored in the bus: go on after it, once all before it are too."""
        ...

    def positions(self) -> Mapping[str, int]:
        """Up to which record the bus has confirmed each writer."""
        ...

    def rewind(self, stored: Mapping[str, int]) -> int:
        """Send again all that the tracker does not have: the bus lost what it had confirmed. stored: its watermarks.

        Returns:
            How many records.
        """
        ...

    def seal(self) -> None:
        """Nothing more is written: what is unfinished at the ends counts as finished, or as lost.

        Raises:
            OSError: it cannot be written down now.
        """
        ...

    def save(self) -> None:
        """Write down what is not yet."""
        ...

    def counts(self) -> tuple[WriterCount, ...]:
        """How many records each writer has: as far as they are confirmed; once sealed, all of them."""
        ...


@dataclass(slots=True)
class Flight:
    """Batches of one writer that are cut and not confirmed."""

    queue: deque[Outgoing] = field(default_factory=deque)
    done: set[int] = field(default_factory=set)

    def cursor(self, noted: Noted) -> Position:
        """After the last of them."""
        return self.queue[-1].end if self.queue else noted.position

    def confirm(self, outgoing: Outgoing, noted: Noted) -> bool:
        """One is confirmed. Whether the writer's position moved."""
        self.done.add(outgoing.first)
        moved = False
        while self.queue and self.queue[0].first in self.done:
            head = self.queue.popleft()
            self.done.discard(head.first)
            noted.position = head.end
            del noted.planned[:1]
            moved = True
        return moved

    def plan(self, outgoing: Outgoing, noted: Noted) -> bool:
        """One more is cut. Whether that was not planned like this."""
        at = len(self.queue)
        self.queue.append(outgoing)
        if at < len(noted.planned) and noted.planned[at] == outgoing.count:
            return False
        noted.planned[at:] = [outgoing.count]
        return True


class MetricSource:
    """The spool of the SDK on one node."""

    stream: Stream = "metrics"

    def __init__(self, spool: Path, journal: Path, *, max_records: int = batcher.MAX_RECORDS) -> None:
        self.reader = SpoolReader(spool)
        self.journal = Journal(journal)
        self.reader.know(self.journal.writers)
        self._max_records = max_records
        self._flights: dict[str, Flight] = {}
        self._turn = 0
        self._sealed = False

    def close(self) -> None:
        """Let the files go."""
        self.reader.close()

    def poll(self, room: int = ROUND_BYTES) -> list[Outgoing]:
        """See Source. Writers take turns; what is in flight takes of the room."""
        ready = [outgoing for flight in self._flights.values() for outgoing in flight.queue]
        room -= sum(len(outgoing.payload) for outgoing in ready)
        names = self.reader.writers()
        self._turn += 1
        begin = self._turn % max(1, len(names))
        waiting = names[begin:] + names[:begin]
        while waiting and (room > 0 or not ready):
            more = []
            for writer in waiting:
                flight = self._flights.setdefault(writer, Flight())
                outgoing = self._next(writer, flight) if len(flight.queue) < AHEAD else None
                if outgoing is not None:
                    self.journal.dirty |= flight.plan(outgoing, self.journal.of(writer))
                    ready.append(outgoing)
                    room -= len(outgoing.payload)
                    more.append(writer)
                    if room <= 0:
                        break
            waiting = more
        self._note_lost()
        self.save()
        return ready

    def _next(self, writer: str, flight: Flight) -> Outgoing | None:
        noted = self.journal.of(writer)
        cursor, at = flight.cursor(noted), len(flight.queue)
        planned = noted.planned[at] if at < len(noted.planned) else 0
        piece = self.reader.read(writer, cursor, max_records=planned or self._max_records)
        if piece is None:
            return None
        batch = batcher.build(piece, exactly=planned == piece.count)
        end = after(cursor, piece.cut(batch.count))
        payload = batcher.encode(batch)
        return Outgoing(writer, batch.first, batch.count, payload, end, tuple(batch.extras), noted.resends)

    def _note_lost(self) -> None:
        for writer, lost in self.reader.lost.items():
            noted = self.journal.of(writer)
            noted.lost, noted.whole, self.journal.dirty = noted.lost + lost, False, True
        self.reader.lost.clear()

    def confirm(self, outgoing: Outgoing) -> None:
        """See Source."""
        flight = self._flights.get(outgoing.writer)
        if flight is not None:
            self.journal.dirty |= flight.confirm(outgoing, self.journal.of(outgoing.writer))

    def positions(self) -> Mapping[str, int]:
        """See Source."""
        return {writer: noted.position.sequence for writer, noted in self.journal.writers.items()}

    def resume(self, stored: Mapping[str, int]) -> None:
        """Skip what the tracker has, for writers that the journal knows nothing of. stored: 'metrics/<writer>' -> n."""
        for writer in self.reader.writers():
            sequence = stored.get(f"metrics/{writer}", 0)
            if sequence and writer not in self.journal.writers:
                self.journal.of(writer).position = self.reader.seek(writer, sequence)

    def rewind(self, stored: Mapping[str, int]) -> int:
        """See Source."""
        again = 0
        for writer, noted in self.journal.writers.items():
            sequence = stored.get(f"metrics/{writer}", 0)
            if sequence >= noted.position.sequence or not noted.whole:
                continue
            at = self.reader.seek(writer, sequence)
            if at.sequence == sequence:
                again += noted.position.sequence - sequence
                self._flights.pop(writer, None)
                noted.position, noted.planned, noted.resends = at, [], noted.resends + 1
        self.journal.save()
        return again

    def seal(self) -> None:
        """See Source."""
        self._sealed = True

    def save(self) -> None:
        """See Source."""
        if self.journal.dirty:
            self.journal.save()

    def counts(self) -> tuple[WriterCount, ...]:
        """See Source. A writer that wrote nothing is not named."""
        found = []
        for writer in sorted({*self.journal.writers, *(self.reader.writers() if self._sealed else ())}):
            noted = self.journal.of(writer)
            at, lost = noted.position, noted.lost
            if self._sealed:
                at = self.reader.skip(writer, at)
                lost += self.reader.untold(writer, at)
                lost += bool(noted.position.offset and self.reader.gone(writer))
            if at.sequence or at.dropped or lost:
                dropped = at.dropped + lost
                found.append(WriterCount(writer=writer, records=at.sequence, dropped=dropped, stream="metrics"))
        lost = self.reader.missing + self.reader.refused() if self._sealed else 0
        if lost:
            found.append(WriterCount(writer=NO_SPOOL, records=0, dropped=lost, stream="metrics"))
        return tuple(found)
