"""A platform in memory that runs are shipped to, for tests: the fake beside the port `ship_link.Link`."""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from incl_cli.context import Context
from incl_cli.ship_link import Link
from incl_shared.errors import DeniedError, UnavailableError
from incl_shared.events import RunEnded, RunStarted
from incl_shared.queries.models import RegisterModel
from incl_shared.queries.registry import Entry
from incl_shared.telemetry.batcher import decode_metrics
from incl_shared.testing.telemetry import points_of

Point = tuple[int, float, float]
"""(step, time, value)."""


class Platform:
    """Keeps what a platform would, every record once; can be away, or refuse, or break off at a named call."""

    def __init__(self) -> None:
        self.begun: list[RunStarted] = []
        self.ended: list[RunEnded] = []
        self.batches: dict[str, bytes] = {}
        self.subjects: set[str] = set()
        self.blobs: dict[str, bytes] = {}
        self.entries: list[Entry] = []
        self.models: dict[str, RegisterModel] = {}
        self.stored: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
        self.points: dict[str, dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
        self.extras: dict[str, list[bytes]] = defaultdict(list)
        self.down = False
        self.refuses = False
        self.breaks_at: str | None = None

    async def begin(self, context: Context, event: RunStarted) -> Link:
        """What `BusLink.begin` does."""
        self.check("begin")
        if self.refuses:
            raise DeniedError("not allowed")
        if event not in self.begun:
            self.begun.append(event)
        return FakeLink(self, event.experiment)

    def check(self, what: str) -> None:
        """Raise where the platform is away."""
        if self.down or self.breaks_at == what:
            raise UnavailableError(f"away at {what}")

    def take(self, run: str, payload: bytes) -> None:
        """Store what is new of a batch, as the tracker does."""
        batch = decode_metrics(payload)
        known = self.stored[run][batch.writer]
        for name, found in points_of(batch).items():
            for place, step, time, value in found:
                if batch.first + place not in known:
                    self.points[run][name].append((step, time, value))
        self.extras[run] += [bytes(extra.line) for extra in batch.extras if extra.sequence not in known]
        known.update(range(batch.first, batch.first + batch.count))

    def watermarks(self, run: str) -> dict[str, int]:
        """Up to where each writer is stored without a hole."""
        marks = {}
        for writer, known in self.stored[run].items():
            mark = 0
            while mark + 1 in known:
                mark += 1
            marks[f"metrics/{writer}"] = mark
        return marks

    def values(self, name: str) -> list[float]:
        """The values of a metric, of every run."""
        return [value for points in self.points.values() for _, _, value in points.get(name, [])]

    def files(self) -> dict[tuple[str, str], bytes]:
        """(kind, path) -> bytes of what is listed."""
        return {(entry.kind, entry.path): self.blobs[entry.sha256] for entry in self.entries}

    def gaps(self, run: str) -> int:
        """Records that the end of a run named and that are not stored."""
        end = [event for event in self.ended if event.experiment == run][-1]
        return sum(writer.records - len(self.stored[run][writer.writer]) for writer in end.writers)


class FakeLink:
    """`Link` to a Platform."""

    def __init__(self, platform: Platform, run: str) -> None:
        self.platform = platform
        self.run = run

    async def publish_confirmed(
        self, subject: str, payload: bytes, *, message_id: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """See Link."""
        self.platform.check("publish")
        self.platform.subjects.add(subject)
        if self.platform.batches.setdefault(message_id, payload) != payload:
            raise AssertionError(f"another batch has the id {message_id}")
        self.platform.take(self.run, payload)

    async def watermarks(self) -> Mapping[str, int]:
        """See Link."""
        self.platform.check("watermarks")
        return self.platform.watermarks(self.run)

    async def listen(self, heard: Callable[[Mapping[str, int]], None]) -> None:
        """See Link. This platform says nothing unasked."""

    async def upload(self, path: Path) -> tuple[str, int]:
        """See Link."""
        self.platform.check("upload")
        data = await asyncio.to_thread(path.read_bytes)
        digest = hashlib.sha256(data).hexdigest()
        self.platform.blobs[digest] = data
        return digest, len(data)

    async def commit(self, entries: list[Entry]) -> None:
        """See Link."""
        self.platform.check("commit")
        self.platform.entries += entries

    async def register(self, query: RegisterModel) -> None:
        """See Link."""
        self.platform.check("register")
        self.platform.models[query.registration] = query

    async def end(self, event: RunEnded) -> None:
        """See Link."""
        self.platform.check("end")
        if event not in self.platform.ended:
            self.platform.ended.append(event)

    async def close(self) -> None:
        """See Link."""
