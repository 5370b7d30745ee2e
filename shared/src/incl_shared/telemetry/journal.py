"""What a source remembers across crashes: one small file a stream, replaced in one step."""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from incl_shared.telemetry.spool import Position

_log = logging.getLogger("incl.telemetry")


@dataclass(slots=True)
class Noted:
    """One writer. position: what the bus has; planned: records of each batch in flight, in order; resends: how often
    all was sent again from an earlier place; lost: records that went with a file, at least; whole: its file has all of
    its records, so that their numbers can be counted from the file's beginning."""

    position: Position = field(default_factory=Position)
    planned: list[int] = field(default_factory=list)
    resends: int = 0
    lost: int = 0
    whole: bool = True


class Journal:
    """Losing it costs repeats, which the tracker recognises by the records' numbers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writers: dict[str, Noted] = {}
        self.dirty = False
        self.failing = False
        """The last save failed: the disk is full, or gone."""
        self._load()

    def of(self, writer: str) -> Noted:
        """What is known of a writer; a new one begins at the beginning."""
        noted = self.writers.get(writer)
        if noted is None:
            noted = self.writers[writer] = Noted()
        return noted

    def _load(self) -> None:
        try:
            rows = json.loads(self.path.read_bytes())
            for writer, (offset, sequence, dropped, planned, resends, lost, whole) in rows.items():
                at = Position(int(offset), int(sequence), int(dropped))
                counts = [int(count) for count in planned]
                self.writers[writer] = Noted(at, counts, int(resends), int(lost), bool(whole))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, AttributeError) as error:
            _log.warning("the journal %s is damaged, all is sent again: %s", self.path, error)
            self.writers = {}

    def save(self) -> None:
        """Write it down. A full disk is no reason to stop shipping: the worst is that batches are sent again."""
        rows = {
            writer: [at.offset, at.sequence, at.dropped, noted.planned, noted.resends, noted.lost, noted.whole]
            for writer, noted in self.writers.items()
            for at in (noted.position,)
        }
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(rows, separators=(",", ":")))
            temporary.replace(self.path)
        except OSError as error:
            if not self.failing:
                _log.warning("the journal %s cannot be written: %s", self.path, error)
            self.failing = True
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            return
        self.dirty = self.failing = False
