"""The history goes into the artifact store in segments and is read from there; what is purged leaves it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from incl_registry.testing.running import Store, close_store, open_store
from incl_shared.bus import envelope
from incl_shared.bus.delivery import Delivery
from incl_shared.db import Database, Transaction, migrate
from incl_shared.errors import UnavailableError
from incl_shared.events import ExperimentWaiting
from incl_shared.ids import new_id
from incl_shared.queries.registry import CommitArtifacts, DownloadGrant, ListArtifacts, UploadGrant
from incl_shared.subjects import Asker
from incl_shared.testing.clock import FakeClock
from incl_tracker import history
from incl_tracker.history import Historian


@dataclass
class Place:
    """A tracker's database and a registry. failing: a query that is not answered."""

    database: Database
    clock: FakeClock
    store: Store
    failing: type | None = None

    async def ask(self, query: Any, *, project: str, user: str) -> Any:
        if self.failing is not None and isinstance(query, self.failing):
            raise UnavailableError("the registry does not answer")
        handlers = self.store.handlers
        handle: dict[type, Any] = {
            UploadGrant: handlers.upload_grant,
            DownloadGrant: handlers.download_grant,
            CommitArtifacts: handlers.commit,
            ListArtifacts: handlers.files,
        }
        return await handle[type(query)](Asker(project, user), query)

    async def say(self, experiment: str, version: int) -> str:
        event = ExperimentWaiting(experiment=experiment, reason=str(version))
        said = envelope.Envelope(new_id(), "", event.type_name(), event.key, 1.0, version)
        payload, headers = envelope.encode(event, said)
        subject = envelope.subject_of(event, project="default")
        delivery = Delivery(subject, payload, headers, said.id, said.type, 1.0, version, "EVENTS", version, 1, None)
        await self.database.write(lambda tx: history.note(tx, delivery))
        return said.id

    async def stored(self, folder: Path) -> list[str]:
        """The ids in all segments, in their order."""
        found = []
        for entry in await history.segments(self.ask):
            path = folder / "segment"
            await history.fetch(self.ask, entry, path)
            found += [said.id for said in history.read_segment(path)]
        return found

    async def waiting(self) -> list[str]:
        return await self.database.read(lambda c: [said.id for said in history.rows_of(c)])


@pytest.fixture
async def place(tmp_path: Path, fake_clock: FakeClock) -> AsyncIterator[Place]:
    url = f"sqlite:///{tmp_path / 'tracker.db'}"
    migrate(url, "incl_tracker")
    database = Database(url, clock=fake_clock)
    await database.start()
    store = await open_store(f"sqlite:///{tmp_path / 'registry.db'}", tmp_path / "blobs")
    yield Place(database, fake_clock, store)
    await close_store(store)
    await database.stop()


async def test_into_segments_and_back(place: Place, tmp_path: Path) -> None:
    historian = Historian(place.database, place.ask, rows=3)
    assert await history.segments(place.ask) == []
    assert not await historian.step()
    ids = [await place.say(new_id(), 1) for _ in range(7)]
    for failing in (UploadGrant, CommitArtifacts):
        place.failing = failing
        with pytest.raises(UnavailableError):
            await historian.step()
        place.failing = None
        assert await place.waiting() == ids, "nothing is let go before it is listed"
    while await historian.step():
        pass
    assert await place.stored(tmp_path) == ids[:6]
    assert await place.waiting() == ids[6:]
    assert not await historian.step(), "the rest is young"
    place.clock.advance(3601)
    await historian.step()
    assert await place.stored(tmp_path) == ids
    assert await place.waiting() == []


async def test_what_is_purged_leaves_the_history(place: Place, tmp_path: Path) -> None:
    kept, gone = new_id(), new_id()
    historian = Historian(place.database, place.ask, rows=2)
    ids = {await place.say(one, version): one for version in (1, 2) for one in (kept, gone)}
    while await historian.step():
        pass
    ids |= {await place.say(one, 3): one for one in (kept, gone)}
    before = await history.segments(place.ask)
    assert len(before) == 2

    def forget(tx: Transaction) -> None:
        history.forget(tx, gone)

    await place.database.write(forget)
    left = [identifier for identifier, one in ids.items() if one == kept]
    assert await place.waiting() == left[2:]
    place.failing = CommitArtifacts
    with pytest.raises(UnavailableError):
        await historian.purge()
    place.failing = None
    await historian.purge()
    assert await place.stored(tmp_path) == left[:2]
    assert [entry.path for entry in await history.segments(place.ask)] == [entry.path for entry in before]
    place.failing = ListArtifacts
    await historian.purge()
