"""What a shipper ships: batches of one writer in order, each cut once and for ever before it is sent.

A source remembers in a journal what is confirmed and how the batch in flight was cut, so that after a crash the same
records go out in the same batch again. Losing the journal costs repeats, which the tracker recognises by sequence.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from incl_shared.events.experiments import WriterCount
from incl_shared.telemetry import batcher
from incl_shared.telemetry.lines import MAX_PIECE_BYTES, MAX_PIECE_LINES
from incl_shared.telemetry.spool import Position, SpoolReader, after
from incl_shared.telemetry.tailer import LogTailer
from incl_shared.telemetry.wire import BATCH_VERSION, Extra, LogBatch

_log = logging.getLogger("incl.telemetry")

LOG_WRITER = "log"
Stream = Literal["metrics", "logs"]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A batch on its way. extras: records that are no scalars, for whoever uploads files."""

    writer: str
    first: int
    count: int
    payload: bytes
    end: Position
    extras: tuple[Extra, ...] = ()


class Source(Protocol):
    """Where a shipper gets its batches. poll() runs in a thread, the rest between two polls."""

    @property
    def stream(self) -> Stream:
        """The bus stream, as a message id names it."""
        ...

    def poll(self) -> list[Outgoing]:
        """The next batch of each writer; one that is not confirmed yet comes again as it was."""
        ...

    def confirm(self, outgoing: Outgoing) -> None:
        """It is stored in the bus: go on after it."""
        ...

    def seal(self) -> None:
        """Nothing more is written: what is unfinished at the ends counts as finished, or as lost."""
        ...

    def counts(self) -> tuple[WriterCount, ...]:
        """How many records each writer has, as far as they are confirmed."""
        ...


class Journal:
    """Positions of writers, and the size of the batch in flight of each, in one small file replaced in one step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.positions: dict[str, Position] = {}
        self.planned: dict[str, int] = {}
        self._load()

    def _load(self) -> None:
        try:
            rows = json.loads(self.path.read_bytes())
            for writer, (offset, sequence, dropped, planned) in rows.items():
                self.positions[writer] = Position(int(offset), int(sequence), int(dropped))
                if planned:
                    self.planned[writer] = int(planned)
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, AttributeError) as error:
            _log.warning("the journal %s is damaged, all is sent again: %s", self.path, error)
            self.positions, self.planned = {}, {}

    def save(self) -> None:
        """Write it down. A full disk is no reason to stop shipping: the worst is that batches are sent again."""
        rows = {
            writer: [position.offset, position.sequence, position.dropped, self.planned.get(writer, 0)]
            for writer, position in self.positions.items()
        }
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(rows, separators=(",", ":")))
            temporary.replace(self.path)
        except OSError as error:
            _log.warning("the journal %s cannot be written: %s", self.path, error)


class MetricSource:
    """The spool of the SDK on one node."""

    stream: Stream = "metrics"

    def __init__(self, spool: Path, journal: Path, *, max_records: int = batcher.MAX_RECORDS) -> None:
        self.reader = SpoolReader(spool)
        self.journal = Journal(journal)
        self._max_records = max_records
        self._pending: dict[str, Outgoing] = {}
        self._sealed = False

    def poll(self) -> list[Outgoing]:
        """See Source."""
        new = False
        for writer in self.reader.writers():
            if writer not in self._pending:
                outgoing = self._next(writer)
                if outgoing is not None:
                    self._pending[writer] = outgoing
                    new = new or self.journal.planned.get(writer) != outgoing.count
                    self.journal.planned[writer] = outgoing.count
        if new:
            self.journal.save()
        return list(self._pending.values())

    def _next(self, writer: str) -> Outgoing | None:
        position = self.journal.positions.setdefault(writer, Position())
        planned = self.journal.planned.get(writer, 0)
        piece = self.reader.read(writer, position, max_records=planned or self._max_records)
        if piece is None:
            return None
        batch = batcher.build(writer, piece.first, piece.lines, exactly=planned == len(piece.lines))
        if batch.count < len(piece.lines):
            piece = self.reader.read(writer, position, max_records=batch.count) or piece
        end = after(position, piece)
        return Outgoing(writer, batch.first, batch.count, batcher.encode(batch), end, tuple(batch.extras))

    def confirm(self, outgoing: Outgoing) -> None:
        """See Source."""
        self._pending.pop(outgoing.writer, None)
        self.journal.planned.pop(outgoing.writer, None)
        self.journal.positions[outgoing.writer] = outgoing.end
        self.journal.save()

    def resume(self, stored: Mapping[str, int]) -> None:
        """Skip what the tracker has, for writers that the journal knows nothing of. stored: 'metrics/<writer>' -> n."""
        for writer in self.reader.writers():
            sequence = stored.get(f"metrics/{writer}", 0)
            if sequence and writer not in self.journal.positions:
                self.journal.positions[writer] = self.reader.seek(writer, sequence)

    def rewind(self, stored: Mapping[str, int]) -> None:
        """Send again all that the tracker does not have: the bus lost what it had confirmed."""
        for writer, position in list(self.journal.positions.items()):
            sequence = stored.get(f"metrics/{writer}", 0)
            if sequence < position.sequence:
                self._pending.pop(writer, None)
                self.journal.planned.pop(writer, None)
                self.journal.positions[writer] = self.reader.seek(writer, sequence)
        self.journal.save()

    def seal(self) -> None:
        """See Source."""
        self._sealed = True

    def counts(self) -> tuple[WriterCount, ...]:
        """See Source. A writer that wrote nothing is not named."""
        found = []
        for writer, at in sorted(self.journal.positions.items()):
            dropped = at.dropped + self._torn(writer, at)
            if at.sequence or dropped:
                found.append(WriterCount(writer=writer, records=at.sequence, dropped=dropped, stream="metrics"))
        return tuple(found)

    def _torn(self, writer: str, at: Position) -> int:
        """A last line without its newline was torn by the death of its writer: one record is lost."""
        if not self._sealed or self.reader.tail(writer, at) == 0:
            return 0
        return 1 if self.reader.read(writer, at, max_records=1) is None else 0


class LogSource:
    """The output of one job, by its tailer. `tail` is what the agent says its own words with."""

    stream: Stream = "logs"

    def __init__(self, tailer: LogTailer, journal: Path, clock: _Now) -> None:
        self.tailer = tailer
        self.journal = Journal(journal)
        self._now = clock
        self._sealed = False
        self._pending: Outgoing | None = None

    def poll(self) -> list[Outgoing]:
        """See Source.

        Raises:
            OSError: the tailer's index cannot be written.
        """
        (self.tailer.finish if self._sealed else self.tailer.poll)(self._now.now())
        if self._pending is None:
            self._pending = self._next()
        return [self._pending] if self._pending is not None else []

    def _next(self) -> Outgoing | None:
        position = self.journal.positions.setdefault(LOG_WRITER, Position())
        planned = self.journal.planned.get(LOG_WRITER, 0)
        first, lines, offset = self.tailer.lines(
            position.offset,
            max_lines=planned or MAX_PIECE_LINES,
            max_bytes=2**62 if planned else MAX_PIECE_BYTES,
        )
        if not lines:
            return None
        if planned != len(lines):
            self.journal.planned[LOG_WRITER] = len(lines)
            self.journal.save()
        end = Position(offset, first + len(lines) - 1)
        payload = batcher.encode(LogBatch(BATCH_VERSION, LOG_WRITER, first, lines))
        return Outgoing(LOG_WRITER, first, len(lines), payload, end)

    def confirm(self, outgoing: Outgoing) -> None:
        """See Source."""
        self._pending = None
        self.journal.planned.pop(LOG_WRITER, None)
        self.journal.positions[LOG_WRITER] = outgoing.end
        self.journal.save()

    def rewind(self, stored: Mapping[str, int]) -> None:
        """Send again all that the tracker does not have: the bus lost what it had confirmed."""
        sequence = stored.get(f"logs/{LOG_WRITER}", 0)
        if sequence < self.journal.positions.get(LOG_WRITER, Position()).sequence:
            self._pending = None
            self.journal.planned.pop(LOG_WRITER, None)
            self.journal.positions[LOG_WRITER] = self.tailer.seek(sequence)
            self.journal.save()

    def seal(self) -> None:
        """See Source. The job has ended: its last line counts without a newline."""
        self._sealed = True

    def counts(self) -> tuple[WriterCount, ...]:
        """See Source."""
        at = self.journal.positions.get(LOG_WRITER, Position())
        if not at.sequence:
            return ()
        return (WriterCount(writer=LOG_WRITER, records=at.sequence, stream="logs"),)


class _Now(Protocol):
    def now(self) -> float:
        """Seconds since the epoch."""
        ...
