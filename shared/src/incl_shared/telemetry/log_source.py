"""The output of one job as batches of lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from incl_shared.events.experiments import WriterCount
from incl_shared.telemetry import batcher
from incl_shared.telemetry.journal import Journal
from incl_shared.telemetry.sources import AHEAD, ROUND_BYTES, Flight, Outgoing, Stream
from incl_shared.telemetry.spool import Position
from incl_shared.telemetry.tailer import LogTailer
from incl_shared.telemetry.wire import BATCH_VERSION, LogBatch

LOG_WRITER = "log"
MAX_LINES = 5_000
MAX_BYTES = 280_000
"""Of the raw text of a batch: a byte that is no UTF-8 becomes three."""


class LogSource:
    """The output of one job, by its tailer. `tailer.say` is what the agent says its own words with."""

    stream: Stream = "logs"

    def __init__(self, tailer: LogTailer, journal: Path, clock: _Now) -> None:
        self.tailer = tailer
        self.journal = Journal(journal)
        self._now = clock
        self._flight = Flight()
        self._sealed = False

    def poll(self, room: int = ROUND_BYTES) -> list[Outgoing]:
        """See Source.

        Raises:
            OSError: the tailer's index cannot be written (a full disk), and all that it has is sent.
        """
        failed: OSError | None = None
        try:
            self._take_in()
        except OSError as error:
            failed = error
        queue, noted = self._flight.queue, self.journal.of(LOG_WRITER)
        room -= sum(len(outgoing.payload) for outgoing in queue)
        while len(queue) < AHEAD and (room > 0 or not queue):
            outgoing = self._next()
            if outgoing is None:
                break
            self.journal.dirty |= self._flight.plan(outgoing, noted)
            room -= len(outgoing.payload)
        self.save()
        if failed is not None and not queue:
            raise failed
        return list(queue)

    def _take_in(self) -> None:
        if self._sealed:
            self.tailer.finish(self._now.now())
        else:
            self.tailer.poll(self._now.now())

    def _next(self) -> Outgoing | None:
        noted = self.journal.of(LOG_WRITER)
        cursor, at = self._flight.cursor(noted), len(self._flight.queue)
        planned = noted.planned[at] if at < len(noted.planned) else 0
        first, lines, offset = self.tailer.lines(
            cursor.offset, max_lines=planned or MAX_LINES, max_bytes=2**62 if planned else MAX_BYTES
        )
        if not lines:
            return None
        end = Position(offset, first + len(lines) - 1)
        payload = batcher.encode(LogBatch(BATCH_VERSION, LOG_WRITER, first, lines))
        return Outgoing(LOG_WRITER, first, len(lines), payload, end, resend=noted.resends)

    def confirm(self, outgoing: Outgoing) -> None:
        """See Source."""
        self.journal.dirty |= self._flight.confirm(outgoing, self.journal.of(LOG_WRITER))

    def positions(self) -> Mapping[str, int]:
        """See Source."""
        return {LOG_WRITER: self.journal.of(LOG_WRITER).position.sequence}

    def rewind(self, stored: Mapping[str, int]) -> int:
        """See Source."""
        noted, sequence = self.journal.of(LOG_WRITER), stored.get(f"logs/{LOG_WRITER}", 0)
        again = noted.position.sequence - sequence
        if again <= 0:
            return 0
        self._flight = Flight()
        noted.position, noted.planned, noted.resends = self.tailer.seek(sequence), [], noted.resends + 1
        self.journal.save()
        return again

    def seal(self) -> None:
        """See Source. The job has ended: its last line counts without a newline."""
        self._sealed = True
        self._take_in()

    def save(self) -> None:
        """See Source."""
        if self.journal.dirty:
            self.journal.save()

    def counts(self) -> tuple[WriterCount, ...]:
        """See Source."""
        records = self.tailer.sequence if self._sealed else self.journal.of(LOG_WRITER).position.sequence
        return (WriterCount(writer=LOG_WRITER, records=records, stream="logs"),) if records else ()


class _Now(Protocol):
    def now(self) -> float:
        """Seconds since the epoch."""
        ...
