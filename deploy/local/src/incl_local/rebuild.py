"""Rebuilding the tracker of a stopped platform: its history is gathered from all places, and projected anew."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from incl_local.alone import bus_alone
from incl_local.backup import swap
from incl_local.layout import Layout
from incl_local.place import Place
from incl_local.platform import declare
from incl_local.running import end_leftovers, read
from incl_local.services import build
from incl_shared.bus import copying, topology
from incl_shared.bus.client import BusClient
from incl_shared.db import Database, migrate
from incl_shared.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from incl_tracker.rebuild import Rebuilt, Spool

Say = Callable[[str], None]


@dataclass(frozen=True)
class Done:
    """What became of it."""

    rebuilt: Rebuilt
    segments: int
    seconds: float


def rebuild_tracker(layout: Layout, say: Say, *, dry: bool = False) -> Done:
    """Make the tracker's projection anew from the history. dry: only see what would change.

    Raises:
        ConflictError: the platform runs.
        NotFoundError: there is none.
        InclError: the bus, the artifact store or the database cannot be used.
    """
    began = time.monotonic()
    if not (layout.root / "db").is_dir():
        raise NotFoundError(f"there is no platform in {layout.root}", hint="name it: --data DIR")
    running = read(layout)
    if running is not None and running.identity.alive():
        raise ConflictError(f"the platform in {layout.root} runs", hint="incl down; jobs go on, and are found again")
    with layout.locked():
        swap.finish(layout)
        end_leftovers(layout)
        rebuilt, segments = asyncio.run(_rebuild(layout, say, dry=dry))
    return Done(rebuilt, segments, time.monotonic() - began)


async def _rebuild(layout: Layout, say: Say, *, dry: bool) -> tuple[Rebuilt, int]:
    from incl_tracker.rebuild import Spool, rebuild

    url = layout.database("tracker")
    await asyncio.to_thread(migrate, url, "incl_tracker")
    database = Database(url)
    await database.start()
    with (
        tempfile.TemporaryDirectory(prefix="incl-rebuild-") as folder,
        contextlib.closing(Spool(Path(folder) / "said.db")) as spool,
    ):
        try:
            segments = await _gather(layout, database, spool, Path(folder), say)
            rebuilt = await rebuild(database, spool, dry=dry, say=lambda count: say(f"{count:,} experiments"))
        finally:
            await database.stop()
    return rebuilt, segments


async def _gather(layout: Layout, database: Database, spool: Spool, folder: Path, say: Say) -> int:
    """Segments, what lies in none yet, and what the bus has. Returns how many segments there are."""
    from incl_tracker import history

    async with bus_alone(layout) as place:
        await declare(place, layout.limits())
        registry = build("registry", place)
        await registry.start()
        try:
            async with await BusClient.connect(place.bus("tracker")) as tracker:
                entries = await history.segments(tracker.ask)
                for entry in entries:
                    path = folder / "segment"
                    await history.fetch(tracker.ask, entry, path)
                    await asyncio.to_thread(lambda path=path: spool.add(history.read_segment(path)))  # type: ignore[misc]
                    path.unlink()
        finally:
            await registry.stop()
        await database.read(lambda connection: spool.add(history.rows_of(connection)))
        count = await _events(place, spool)
    say(f"{len(entries):,} segments of the history, {count:,} events on the bus")
    return len(entries)


async def _events(place: Place, spool: Spool) -> int:
    from incl_tracker.history import Said

    async with await BusClient.connect(place.bus("admin")) as client:
        last = await copying.last_sequence(client, topology.EVENTS)
        batch: list[Said] = []
        count = 0
        async for message in copying.messages(client, topology.EVENTS, upto=last):
            identifier = message.headers.get("ce-id", f"{topology.EVENTS}-{message.sequence}")
            batch.append(Said(identifier, message.subject, message.headers, message.payload))
            count += 1
            if len(batch) == 5000:
                spool.add(batch)
                batch = []
        spool.add(batch)
    return count
